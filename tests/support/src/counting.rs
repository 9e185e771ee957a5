//! A backend that counts what it is asked, and hands all on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use traffik::backend::{Answers, BackendCore, Prepared, Result};
use traffik::step::{BlockChange, KeyState, Step};
use traffik::strategy::Limit;
use traffik::{
    Backend, Decision, HasCore, Key, LockError, LockGuard, LockOptions, Locks, Ttl, Values,
};

/// Counts the decisions that a backend is asked for. Clones count together.
#[derive(Clone, Debug)]
pub struct Counting<B> {
    backend: B,
    asked: Arc<AtomicUsize>,
    hands_on: bool,
}

impl<B> Counting<B> {
    pub fn new(backend: B) -> Self {
        Self { backend, asked: Arc::default(), hands_on: false }
    }

    /// One that hands on the backend's fast path, of which it counts nothing.
    pub fn prepared(backend: B) -> Self {
        Self { hands_on: true, ..Self::new(backend) }
    }

    /// How often it was asked for decisions so far; for many together once.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn count(&self) {
        self.asked.fetch_add(1, Ordering::SeqCst);
    }
}

impl<B: Backend> HasCore for Counting<B> {
    fn core(&self) -> &BackendCore {
        self.backend.core()
    }
}

#[async_trait]
impl<B: Backend> Values for Counting<B> {
    async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        self.backend.get(key).await
    }
    async fn compare_and_set(
        &self,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        ttl: Ttl,
    ) -> Result<bool> {
        self.backend.compare_and_set(key, expected, new, ttl).await
    }
}

#[async_trait]
impl<B: Backend> Locks for Counting<B> {
    async fn lock(&self, name: &str, options: LockOptions) -> Result<LockGuard, LockError> {
        self.backend.lock(name, options).await
    }
}

#[async_trait]
impl<B: Backend> Backend for Counting<B> {
    async fn initialize(&self) -> Result<()> {
        self.backend.initialize().await
    }
    async fn ready(&self) -> Result<()> {
        self.backend.ready().await
    }
    async fn clear(&self) -> Result<()> {
        self.backend.clear().await
    }
    async fn close(&self) -> Result<()> {
        self.backend.close().await
    }
    fn stop(&self) {
        self.backend.stop();
    }
    fn prepare(&self, throttle: &str, limits: &[Limit]) -> Option<Prepared> {
        if self.hands_on { self.backend.prepare(throttle, limits) } else { None }
    }
    async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        self.count();
        self.backend.apply(key, step).await
    }
    async fn apply_many(&self, steps: &[(Key<'_>, Step<'_>)], answers: &Answers) {
        self.count();
        self.backend.apply_many(steps, answers).await;
    }
    fn fallback_after(&self) -> Option<Duration> {
        self.backend.fallback_after()
    }
    async fn apply_all(&self, hits: &[(Key<'_>, Step<'_>)]) -> Option<Result<Vec<Decision>>> {
        self.count();
        self.backend.apply_all(hits).await
    }
    async fn change_block(&self, key: &Key<'_>, change: BlockChange) -> Result<bool> {
        self.backend.change_block(key, change).await
    }
    async fn inspect(&self, key: &Key<'_>) -> Result<KeyState> {
        self.backend.inspect(key).await
    }
    async fn forget(&self, key: &Key<'_>) -> Result<()> {
        self.backend.forget(key).await
    }
}
