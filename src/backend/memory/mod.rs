//! [`InMemory`]: state in this process.

mod budget;
mod builder;
mod locks;
#[cfg(all(test, traffik_model))]
mod model;
mod places;
mod shard;
mod slot;
mod store;
mod sweep;
mod sweeper;
mod table;
mod values;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tracing::debug;

pub use builder::{InMemoryBuilder, LockKind, Overflow};

use super::{Backend, Counter, Result, Settings, counter};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::decision::{Decision, Ruled};
use crate::error::{BackendError, ErrorKind};
use crate::key::Key;
use crate::lock::{LockError, LockGuard, LockOptions};
use crate::strategy::{Limit, Step};
use locks::Locks;
use store::{Ruling, Store};
use sweep::Grace;
use sweeper::Sweeper;

const NAME: &str = "memory";

/// A backend in this process's memory: fast, exact, and gone with the process.
///
/// Cheap to clone; clones are the same backend. It works as soon as it is built. A
/// [`lifespan`](crate::LifespanExt::lifespan) adds the cleanup task and clears it at the end.
///
/// Each method of [`Backend`] is atomic, also [`multi_get`](Backend::multi_get) and
/// [`multi_set`](Backend::multi_set). TTLs count in microseconds of the backend's clock; locks count
/// in the runtime's monotonic time. Memory is bounded by
/// [`max_keys`](InMemoryBuilder::max_keys).
#[derive(Clone)]
pub struct InMemory {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    /// The same clock as in the settings, without the detour, where nobody brought another.
    system_clock: Option<SystemClock>,
    store: Store,
    locks: Arc<Locks>,
    sweeper: Sweeper,
    closed: AtomicBool,
}

impl InMemory {
    /// The most keys by default: a million, some 100 MB of short keys.
    pub const DEFAULT_MAX_KEYS: usize = 1_000_000;

    /// A backend with the default settings.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the default settings are valid")]
    pub fn new() -> Self {
        Self::builder().build().expect("the default settings are valid")
    }

    /// Starts from the default settings.
    pub fn builder() -> InMemoryBuilder {
        InMemoryBuilder::new()
    }

    /// Returns how many keys are held now: of throttles, however many limits each has, and the user's
    /// own values.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.inner.store.budget.used()
    }

    /// A hit of one or two limits on a short key, if that is all there is to it; `None`, with nothing
    /// done, if not.
    #[inline(always)]
    pub(crate) fn try_hit(&self, key: &Key<'_>, limits: &[Limit], cost: u32) -> Option<Ruled> {
        let inner = &*self.inner;
        if inner.closed.load(Ordering::Relaxed) {
            return None;
        }
        inner.store.try_hit(key, limits, cost, || inner.now())
    }

    /// Looks at the next 512 table slots and removes those that say nothing any more; says whether
    /// that was the last chunk of a round over everything. A table that is being moved to another size
    /// is moved on instead, and swept in the next round.
    ///
    /// The cleanup task does this by itself during a lifespan. Without one, or with a
    /// [`cleanup_frequency`](InMemoryBuilder::cleanup_frequency) of `None`, call it when it suits. It
    /// holds one lock for some tens of microseconds at most, whatever the number of keys.
    #[must_use = "says whether the round is over"]
    pub fn clean_some(&self) -> bool {
        self.inner.sweeper.step(&self.inner)
    }

    fn from_parts(
        builder: InMemoryBuilder,
        settings: Settings,
        system_clock: Option<SystemClock>,
    ) -> Self {
        let first_fence = settings.clock().now().as_micros();
        let grace = if system_clock.is_some() { Grace::MONOTONIC } else { Grace::STEPPING };
        let store = Store::new(builder.shards(), builder.max_keys, builder.overflow, grace);
        Self {
            inner: Arc::new(Inner {
                settings,
                system_clock,
                store,
                locks: Arc::new(Locks::new(builder.lock_kind, first_fence)),
                sweeper: Sweeper::new(builder.cleanup_frequency),
                closed: AtomicBool::new(false),
            }),
        }
    }

    /// The open backend and its time, for one operation.
    fn open(&self, operation: &'static str) -> Result<(&Inner, Timestamp)> {
        self.inner.check_open(operation)?;
        Ok((&self.inner, self.inner.now()))
    }
}

impl Inner {
    #[inline(always)]
    fn now(&self) -> Timestamp {
        match &self.system_clock {
            Some(clock) => clock.now(),
            None => self.settings.clock().now(),
        }
    }

    #[inline(always)]
    fn check_open(&self, operation: &'static str) -> Result<()> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(BackendError::new(NAME, operation, ErrorKind::Closed));
        }
        Ok(())
    }

    #[inline(always)]
    fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        self.check_open("apply")?;
        match self.store.apply(key, step, self.now()) {
            Ruling::Decided(decision) => Ok(decision),
            Ruling::Overflowed(decision) => {
                self.note_overflow();
                Ok(decision)
            }
            Ruling::Corrupt => {
                self.settings.increase(Counter::Corrupt);
                Err(BackendError::new(NAME, "apply", ErrorKind::Corrupt))
            }
            Ruling::TooManyRates => Err(BackendError::new(NAME, "apply", ErrorKind::TooManyRates)),
        }
    }

    #[cold]
    fn note_overflow(&self) {
        self.settings.increase(Counter::Overflowed);
        debug!(
            namespace = self.settings.namespace(),
            keys = self.store.budget.used(),
            "max_keys reached"
        );
    }

    /// Calls once more, after making room, if there was none.
    fn with_room<T>(&self, now: Timestamp, call: impl Fn() -> Result<T>) -> Result<T> {
        match call() {
            Err(error) if error.kind() == ErrorKind::Full => self.store.make_room_and(now, call),
            done => done,
        }
    }
}

impl Default for InMemory {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for InMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InMemory")
            .field("namespace", &self.inner.settings.namespace())
            .field("keys", &self.key_count())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Backend for InMemory {
    fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    async fn initialize(&self) -> Result<()> {
        self.inner.closed.store(false, Ordering::Relaxed);
        self.inner.sweeper.start(&self.inner);
        Ok(())
    }

    async fn ready(&self) -> Result<()> {
        self.inner.check_open("ready")
    }

    async fn clear(&self) -> Result<()> {
        let (inner, _) = self.open("clear")?;
        inner.store.clear();
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.inner.closed.store(true, Ordering::Relaxed);
        self.inner.sweeper.stop();
        Ok(())
    }

    fn abandon(&self) {
        self.inner.sweeper.stop();
    }

    async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        let (inner, now) = self.open("get")?;
        Ok(inner.store.values.get(key, now))
    }

    async fn set(&self, key: &Key<'_>, value: &[u8], ttl: Option<Duration>) -> Result<()> {
        let (inner, now) = self.open("set")?;
        let Store { values, budget, .. } = &inner.store;
        inner.with_room(now, || values.multi_set(&[(*key, value)], ttl, now, budget))
    }

    async fn delete(&self, key: &Key<'_>) -> Result<bool> {
        let (inner, now) = self.open("delete")?;
        Ok(inner.store.values.delete(key, now, &inner.store.budget))
    }

    async fn increment(&self, key: &Key<'_>, by: u64) -> Result<u64> {
        let (inner, now) = self.open("increment")?;
        let add = |number| counter::add(NAME, "increment", number, by);
        let Store { values, budget, .. } = &inner.store;
        inner.with_room(now, || values.count((key, "increment"), Some(0), add, None, now, budget))
    }

    async fn decrement(&self, key: &Key<'_>, by: u64) -> Result<u64> {
        let (inner, now) = self.open("decrement")?;
        let subtract = |number: u64| Ok(number.saturating_sub(by));
        inner.store.values.count((key, "decrement"), None, subtract, None, now, &inner.store.budget)
    }

    async fn increment_with_ttl(&self, key: &Key<'_>, by: u64, ttl: Duration) -> Result<u64> {
        const NAMED: &str = "increment_with_ttl";
        let (inner, now) = self.open(NAMED)?;
        let add = |number| counter::add(NAME, NAMED, number, by);
        let Store { values, budget, .. } = &inner.store;
        inner.with_room(now, || values.count((key, NAMED), Some(0), add, Some(ttl), now, budget))
    }

    async fn expire(&self, key: &Key<'_>, ttl: Duration) -> Result<bool> {
        let (inner, now) = self.open("expire")?;
        Ok(inner.store.values.expire(key, ttl, now, &inner.store.budget))
    }

    async fn compare_and_set(
        &self,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        ttl: Option<Duration>,
    ) -> Result<bool> {
        let (inner, now) = self.open("compare_and_set")?;
        let Store { values, budget, .. } = &inner.store;
        inner.with_room(now, || values.compare_and_set(key, expected, new, ttl, now, budget))
    }

    async fn multi_get(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Vec<u8>>>> {
        let (inner, now) = self.open("multi_get")?;
        Ok(inner.store.values.multi_get(keys, now))
    }

    async fn multi_set(&self, pairs: &[(Key<'_>, &[u8])], ttl: Option<Duration>) -> Result<()> {
        let (inner, now) = self.open("multi_set")?;
        let Store { values, budget, .. } = &inner.store;
        inner.with_room(now, || values.multi_set(pairs, ttl, now, budget))
    }

    async fn lock(&self, name: &str, options: LockOptions) -> Result<LockGuard, LockError> {
        self.inner.check_open("lock")?;
        let options = options.or(self.settings().lock_options());
        self.inner.locks.lock(name, options).await
    }

    #[inline]
    fn try_apply(&self, key: &Key<'_>, step: &Step<'_>) -> Option<Result<Decision>> {
        Some(self.inner.apply(key, step))
    }

    async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        self.inner.apply(key, step)
    }

    async fn forget(&self, key: &Key<'_>) -> Result<()> {
        let (inner, _) = self.open("forget")?;
        inner.store.forget(key);
        Ok(())
    }
}
