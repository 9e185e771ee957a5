//! A backend that fails as told, for tests of what is around a backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use traffik::backend::{BackendCore, Result};
use traffik::step::{BlockChange, KeyState, Step};
use traffik::strategy::Op;
use traffik::{
    Backend, BackendError, Decision, Effect, ErrorKind, HasCore, InMemory, Key, LockError,
    LockGuard, LockOptions, Locks, ManualClock, OnError, Ttl, Values,
};

/// How it fails.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    /// With that kind of error.
    Fail(ErrorKind),
    /// After the operation may have happened.
    Ambiguous,
    /// Never answers.
    Hang,
    /// Is down for keys that begin with that part; others are decided in memory.
    DownFor(&'static str),
    /// Never answers for keys that begin with that part; others are decided in memory.
    SilentFor(&'static str),
    /// Takes what is asked for, and gives nothing back.
    NoRefunds,
    /// Does not fail, but waits at its gates.
    Slow,
}

/// Where a backend stops until it is let on, and what it was asked.
#[derive(Debug, Default)]
pub struct Gates {
    closed: parking_lot::Mutex<Vec<&'static str>>,
    asked: parking_lot::Mutex<Vec<&'static str>>,
    passing: parking_lot::Mutex<Vec<(&'static str, usize)>>,
    opened: tokio::sync::Notify,
}

impl Gates {
    /// From now on that operation waits.
    pub fn shut(&self, operation: &'static str) {
        self.closed.lock().push(operation);
    }

    /// ... but for the first calls, counted from the beginning.
    pub fn shut_after(&self, operation: &'static str, calls: usize) {
        self.passing.lock().push((operation, calls));
        self.shut(operation);
    }

    pub fn open_all(&self) {
        self.closed.lock().clear();
        self.passing.lock().clear();
        self.opened.notify_waiters();
    }

    /// How often it was asked so far.
    pub fn asked(&self, operation: &str) -> usize {
        self.asked.lock().iter().filter(|asked| **asked == operation).count()
    }

    async fn pass(&self, operation: &'static str) {
        self.asked.lock().push(operation);
        let number = self.asked(operation);
        if self.passing.lock().iter().any(|(name, calls)| *name == operation && number <= *calls) {
            return;
        }
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
pub struct Failing {
    mode: Mode,
    core: BackendCore,
    inner: InMemory,
    calls: Arc<AtomicU32>,
    gates: Arc<Gates>,
}

impl Failing {
    pub fn new(mode: Mode) -> Self {
        let core = BackendCore::new("failing", "tests", Arc::new(ManualClock::new())).unwrap();
        Self { mode, core, inner: InMemory::new(), calls: Arc::default(), gates: Arc::default() }
    }

    /// Around a backend whose statistics and settings are its own.
    pub fn around(inner: InMemory, mode: Mode) -> Self {
        Self { inner, ..Self::new(mode) }
    }

    pub fn with_policy(mut self, policy: OnError) -> Self {
        self.core = self.core.on_error(policy);
        self
    }

    pub fn shared(mut self, persistent: bool) -> Self {
        self.core = self.core.shared(true).persistent(persistent);
        self
    }

    pub fn counting(mut self, calls: Arc<AtomicU32>) -> Self {
        self.calls = calls;
        self
    }

    pub fn with_gates(mut self, gates: Arc<Gates>) -> Self {
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
            Mode::Hang | Mode::SilentFor(_) => std::future::pending().await,
            Mode::DownFor(_) | Mode::NoRefunds | Mode::Slow => {
                Err(BackendError::new("failing", operation, ErrorKind::Unavailable))
            }
        }
    }
}

impl HasCore for Failing {
    fn core(&self) -> &BackendCore {
        &self.core
    }
}

#[async_trait]
impl Values for Failing {
    async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        self.inner.get(key).await
    }
    async fn compare_and_set(
        &self,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        ttl: Ttl,
    ) -> Result<bool> {
        self.inner.compare_and_set(key, expected, new, ttl).await
    }
}

#[async_trait]
impl Locks for Failing {
    async fn lock(&self, name: &str, options: LockOptions) -> Result<LockGuard, LockError> {
        self.inner.lock(name, options).await
    }
}

#[async_trait]
impl Backend for Failing {
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
    fn stop(&self) {
        self.gates.note("stop");
    }
    async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        match self.mode {
            Mode::DownFor(part) | Mode::SilentFor(part)
                if key.parts()[0].as_bytes() != part.as_bytes() =>
            {
                self.inner.apply(key, step).await
            }
            Mode::NoRefunds if !matches!(step.op(), Op::Refund { .. }) => {
                self.gates.pass("apply").await;
                self.inner.apply(key, step).await
            }
            Mode::Slow => {
                self.gates.pass("apply").await;
                self.inner.apply(key, step).await
            }
            _ => self.fail("apply").await,
        }
    }
    async fn change_block(&self, key: &Key<'_>, change: BlockChange) -> Result<bool> {
        match self.mode {
            Mode::Slow => {
                self.gates.pass("change_block").await;
                self.inner.change_block(key, change).await
            }
            _ => self.fail("change_block").await,
        }
    }
    async fn inspect(&self, key: &Key<'_>) -> Result<KeyState> {
        match self.mode {
            Mode::Slow => {
                self.gates.pass("inspect").await;
                self.inner.inspect(key).await
            }
            _ => self.fail("inspect").await,
        }
    }
    async fn forget(&self, key: &Key<'_>) -> Result<()> {
        match self.mode {
            Mode::Slow => self.inner.forget(key).await,
            _ => self.fail("forget").await,
        }
    }
}
