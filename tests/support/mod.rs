//! A backend that fails as told, for tests of what is around a backend.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use traffik::backend::{Result, Settings};
use traffik::strategy::Step;
use traffik::{
    Backend, BackendError, Decision, Effect, ErrorKind, InMemory, Key, LockError, LockGuard,
    LockOptions, ManualClock, OnError,
};

/// How it fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    /// With that kind of error.
    Fail(ErrorKind),
    /// After the operation may have happened.
    Ambiguous,
    /// Never answers.
    Hang,
}

/// Where a backend stops until it is let on, and what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    closed: parking_lot::Mutex<Vec<&'static str>>,
    asked: parking_lot::Mutex<Vec<&'static str>>,
    opened: tokio::sync::Notify,
}

impl Gates {
    /// From now on that operation waits.
    pub(crate) fn shut(&self, operation: &'static str) {
        self.closed.lock().push(operation);
    }

    pub(crate) fn open_all(&self) {
        self.closed.lock().clear();
        self.opened.notify_waiters();
    }

    /// How often it was asked so far.
    pub(crate) fn asked(&self, operation: &str) -> usize {
        self.asked.lock().iter().filter(|asked| **asked == operation).count()
    }

    async fn pass(&self, operation: &'static str) {
        self.asked.lock().push(operation);
        loop {
            let opened = self.opened.notified();
            if !self.closed.lock().contains(&operation) {
                return;
            }
            opened.await;
        }
    }

    fn note(&self, operation: &'static str) {
        self.asked.lock().push(operation);
    }
}

/// Fails decisions; the rest is an in-memory backend.
#[derive(Debug)]
pub(crate) struct Failing {
    mode: Mode,
    settings: Settings,
    inner: InMemory,
    calls: Arc<AtomicU32>,
    gates: Arc<Gates>,
}

impl Failing {
    pub(crate) fn new(mode: Mode) -> Self {
        let settings = Settings::new("failing", "tests", Arc::new(ManualClock::new())).unwrap();
        Self {
            mode,
            settings,
            inner: InMemory::new(),
            calls: Arc::default(),
            gates: Arc::default(),
        }
    }

    pub(crate) fn with_policy(mut self, policy: OnError) -> Self {
        self.settings = self.settings.on_error(policy);
        self
    }

    pub(crate) fn shared(mut self, persistent: bool) -> Self {
        self.settings = self.settings.shared(true).persistent(persistent);
        self
    }

    pub(crate) fn counting(mut self, calls: Arc<AtomicU32>) -> Self {
        self.calls = calls;
        self
    }

    pub(crate) fn with_gates(mut self, gates: Arc<Gates>) -> Self {
        self.gates = gates;
        self
    }

    async fn fail<T>(&self, operation: &'static str) -> Result<T> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        match self.mode {
            Mode::Fail(kind) => Err(BackendError::new("failing", operation, kind)),
            Mode::Ambiguous => {
                let error = BackendError::new("failing", operation, ErrorKind::Unavailable);
                Err(error.with_effect(Effect::Ambiguous))
            }
            Mode::Hang => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Backend for Failing {
    fn settings(&self) -> &Settings {
        &self.settings
    }
    async fn initialize(&self) -> Result<()> {
        self.inner.initialize().await?;
        self.gates.pass("initialize").await;
        Ok(())
    }
    async fn clear(&self) -> Result<()> {
        self.gates.pass("clear").await;
        self.inner.clear().await
    }
    async fn close(&self) -> Result<()> {
        self.gates.pass("close").await;
        self.inner.close().await
    }
    fn abandon(&self) {
        self.gates.note("abandon");
    }
    async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        self.inner.get(key).await
    }
    async fn set(&self, key: &Key<'_>, value: &[u8], ttl: Option<Duration>) -> Result<()> {
        self.inner.set(key, value, ttl).await
    }
    async fn delete(&self, key: &Key<'_>) -> Result<bool> {
        self.inner.delete(key).await
    }
    async fn increment(&self, key: &Key<'_>, by: u64) -> Result<u64> {
        self.inner.increment(key, by).await
    }
    async fn decrement(&self, key: &Key<'_>, by: u64) -> Result<u64> {
        self.inner.decrement(key, by).await
    }
    async fn increment_with_ttl(&self, key: &Key<'_>, by: u64, ttl: Duration) -> Result<u64> {
        self.inner.increment_with_ttl(key, by, ttl).await
    }
    async fn expire(&self, key: &Key<'_>, ttl: Duration) -> Result<bool> {
        self.inner.expire(key, ttl).await
    }
    async fn compare_and_set(
        &self,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        ttl: Option<Duration>,
    ) -> Result<bool> {
        self.inner.compare_and_set(key, expected, new, ttl).await
    }
    async fn lock(&self, name: &str, options: LockOptions) -> Result<LockGuard, LockError> {
        self.inner.lock(name, options).await
    }
    async fn apply(&self, _key: &Key<'_>, _step: &Step<'_>) -> Result<Decision> {
        self.fail("apply").await
    }
    async fn forget(&self, _key: &Key<'_>) -> Result<()> {
        self.fail("forget").await
    }
}
