//! [`InMemory`]: state in the memory of this process.

mod all;
mod block;
mod brought;
mod budget;
mod builder;
mod counted_slots;
mod grace;
mod locks;
#[cfg(all(test, traffik_model))]
mod model;
mod orphans;
mod prepared;
mod several;
mod shard;
mod slot;
mod snapshot;
mod state_ids;
mod store;
mod stored_key;
mod sweep_pass;
mod sweep_task;
mod table;
mod usage;
mod values;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tracing::debug;

pub use builder::{InMemoryBuilder, LockKind, Overflow};
pub use prepared::Prepared;
pub use snapshot::Restored;

use super::change::{self, Changed};
use super::optimistic;
use super::{Answers, Backend, BackendCore, HasCore, Locks, Result, Stat, Ttl, Values};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::decision::Decision;
use crate::error::{BackendError, BuildError, ErrorKind};
use crate::key::Key;
use crate::lock::{LockError, LockGuard, LockOptions};
use crate::step::{BlockChange, KeyState, MAX_LIMITS, Step};
use crate::strategy::Limit;
use all::KeyedHit;
use grace::Grace;
use locks::MemoryLocks;
use shard::NoRoom;
use snapshot::Snapshots;
use state_ids::StateIds;
use store::{Ruling, Store};
use stored_key::KeyHasher;
use sweep_task::Sweeper;

const NAME: &str = "memory";

/// Creates an error of this backend.
fn failed(operation: &'static str, kind: ErrorKind) -> BackendError {
    BackendError::new(NAME, operation, kind)
}

/// A backend in this process's memory: fast, exact, and gone with the process, unless it has a
/// [`snapshot_file`](InMemoryBuilder::snapshot_file).
///
/// Cheap to clone; clones are the same backend. It works as soon as it is built. A
/// [`lifespan`](crate::LifespanExt::lifespan) adds the cleanup task and clears it at the end, unless it is
/// [`persistent`](InMemoryBuilder::persistent).
///
/// Each operation but [`clear`](Backend::clear) is atomic, also [`multi_get`](Values::multi_get) and
/// [`multi_set`](Values::multi_set). TTLs count in microseconds of the backend's clock; locks count
/// in the runtime's monotonic time. Memory is bounded by
/// [`max_keys`](InMemoryBuilder::max_keys).
#[derive(Clone)]
pub struct InMemory {
    inner: Arc<MemoryInner>,
}

struct MemoryInner {
    core: BackendCore,
    /// The same clock as in the core, without the detour, where nobody brought another.
    system_clock: Option<SystemClock>,
    store: Store,
    locks: Arc<MemoryLocks>,
    sweeper: Sweeper,
    closed: AtomicBool,
    snapshots: Snapshots,
}

impl Drop for MemoryInner {
    fn drop(&mut self) {
        if self.store.budget.used() > 0 {
            self.snapshots.tell_if_not_written();
        }
    }
}

impl InMemory {
    /// Default maximum number of keys: a million, which take some 80 MB with one rate each, however long they are; more with
    /// several rates, a sliding window log, or rates that hits bring.
    pub const DEFAULT_MAX_KEYS: usize = 1_000_000;

    /// Creates a backend with the default settings.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the default settings are valid")]
    pub fn new() -> Self {
        Self::builder().build().expect("the default settings are valid")
    }

    /// Starts from the default settings.
    pub fn builder() -> InMemoryBuilder {
        InMemoryBuilder::new()
    }

    /// Returns the number of keys that are held: those of throttles, each once whatever limits it has,
    /// and the user's own values.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.inner.store.budget.used()
    }

    /// Sweeps the next 512 table slots and removes expired entries. Returns `true` when a full pass is
    /// complete. If a table is being resized, the call goes on with that, and the table is
    /// swept in the next pass.
    ///
    /// The cleanup task does this by itself during a lifespan. Without one, or with a
    /// [`cleanup_frequency`](InMemoryBuilder::cleanup_frequency) of `None`, call it when it suits. It
    /// holds one lock for some tens of microseconds at most, whatever the number of keys.
    #[must_use = "it may not be the last chunk of a pass"]
    pub fn sweep_chunk(&self) -> bool {
        self.inner.sweeper.sweep_chunk(&self.inner)
    }

    fn from_parts(
        mut builder: InMemoryBuilder,
        core: BackendCore,
        system_clock: Option<SystemClock>,
    ) -> Result<Self, BuildError> {
        let first_fence = core.clock().now().as_micros();
        let grace = if system_clock.is_some() { Grace::MONOTONIC } else { Grace::STEPPING };
        let (shards, snapshots) = (builder.shards(), std::mem::take(&mut builder.snapshots));
        let new = |hasher| Store::new(shards, builder.max_keys, builder.overflow, grace, hasher);
        let (store, snapshots) = snapshots.begin(new, || core.clock().now())?;
        Ok(Self {
            inner: Arc::new(MemoryInner {
                core,
                system_clock,
                store,
                locks: Arc::new(MemoryLocks::new(builder.lock_kind, first_fence)),
                sweeper: Sweeper::new(builder.cleanup_frequency),
                closed: AtomicBool::new(false),
                snapshots,
            }),
        })
    }

    fn state_ids(&self) -> &StateIds {
        &self.inner.store.ids
    }

    /// Does to a value what `change` says.
    fn update<T>(
        &self,
        operation: &'static str,
        key: &Key<'_>,
        change: impl Fn(Option<&[u8]>) -> Changed<T>,
    ) -> Result<T> {
        let (inner, now) = self.open(operation)?;
        let Store { values, budget, .. } = &inner.store;
        inner.with_room(now, || values.update((key, operation), &change, now, budget))
    }

    /// Returns the open backend and its time, for one operation.
    fn open(&self, operation: &'static str) -> Result<(&MemoryInner, Timestamp)> {
        self.inner.check_open(operation)?;
        Ok((&self.inner, self.inner.now()))
    }
}

impl MemoryInner {
    #[inline]
    fn now(&self) -> Timestamp {
        match &self.system_clock {
            Some(clock) => clock.now(),
            None => self.core.clock().now(),
        }
    }

    #[inline]
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn check_open(&self, operation: &'static str) -> Result<()> {
        if self.is_closed() {
            return Err(failed(operation, ErrorKind::Closed));
        }
        Ok(())
    }

    fn hasher(&self) -> &KeyHasher {
        self.store.ids.hasher()
    }

    /// Decides a step on a key whose throttle has not prepared.
    fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        self.check_open("apply")?;
        let throttle = key.throttle().unwrap_or_default();
        let of = |limit: &Limit| self.store.ids.of(throttle, limit);
        let infos: Vec<_> = step.limits().iter().map(of).collect();
        let mut states = [None; MAX_LIMITS];
        for (info, state) in infos.iter().zip(&mut states) {
            *state = Some(&**info);
        }
        let key = self.hasher().key(key.parts());
        self.conclude(self.store.apply(&key, step, &states[..infos.len()], self.now()))
    }

    fn conclude(&self, ruling: Ruling) -> Result<Decision> {
        match ruling {
            Ruling::Decided(decision) => Ok(decision),
            Ruling::Overflowed(decision) => {
                self.note_overflow();
                Ok(decision)
            }
            Ruling::Corrupt { is_replaced } => Err(optimistic::corrupt(&self.core, is_replaced)),
            Ruling::TooManyRates => Err(failed("apply", ErrorKind::TooManyRates)),
            Ruling::NoRoom => {
                self.note_overflow();
                let message = "max_keys is reached, so this cannot be counted; raise it";
                Err(failed("apply", ErrorKind::Full).with_message(message))
            }
        }
    }

    #[cold]
    fn note_overflow(&self) {
        self.core.record(Stat::Overflowed);
        debug!(
            namespace = self.core.namespace(),
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
            .field("namespace", &self.inner.core.namespace())
            .field("keys", &self.key_count())
            .finish_non_exhaustive()
    }
}

impl HasCore for InMemory {
    fn core(&self) -> &BackendCore {
        &self.inner.core
    }
}

#[async_trait]
impl Values for InMemory {
    async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        let (inner, now) = self.open("get")?;
        Ok(inner.store.values.get(key, now))
    }

    async fn compare_and_set(
        &self,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        ttl: Ttl,
    ) -> Result<bool> {
        self.update("compare_and_set", key, change::replace(expected, new, ttl))
    }

    async fn set(&self, key: &Key<'_>, value: &[u8], ttl: Option<Duration>) -> Result<()> {
        self.update("set", key, change::set(value, ttl))
    }

    async fn delete(&self, key: &Key<'_>) -> Result<bool> {
        self.update("delete", key, change::delete())
    }

    async fn increment(&self, key: &Key<'_>, by: u64) -> Result<u64> {
        const OPERATION: &str = "increment";
        self.update(OPERATION, key, change::add((NAME, OPERATION), by, Ttl::Keep))
    }

    async fn increment_with_ttl(&self, key: &Key<'_>, by: u64, ttl: Duration) -> Result<u64> {
        const OPERATION: &str = "increment_with_ttl";
        self.update(OPERATION, key, change::add((NAME, OPERATION), by, Ttl::IfNone(ttl)))
    }

    async fn decrement(&self, key: &Key<'_>, by: u64) -> Result<u64> {
        const OPERATION: &str = "decrement";
        self.update(OPERATION, key, change::subtract((NAME, OPERATION), by))
    }

    async fn expire(&self, key: &Key<'_>, ttl: Duration) -> Result<bool> {
        self.update("expire", key, change::expire(ttl))
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
}

#[async_trait]
impl Locks for InMemory {
    async fn lock(&self, name: &str, options: LockOptions) -> Result<LockGuard, LockError> {
        self.inner.check_open("lock")?;
        let request = options.resolve(name, self.core().lock_options())?;
        self.inner.locks.lock(name, request).await
    }
}

#[async_trait]
impl Backend for InMemory {
    async fn initialize(&self) -> Result<()> {
        self.inner.closed.store(false, Ordering::Relaxed);
        self.inner.sweeper.start(&self.inner);
        self.inner.snapshots.start(&self.inner);
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
        // Before it is closed: the next lifespan, which may begin meanwhile, has an end of its own.
        let lifespan = self.inner.snapshots.lifespan();
        self.inner.closed.store(true, Ordering::Relaxed);
        self.stop();
        self.inner.snapshots.finish(&self.inner, lifespan).await
    }

    fn stop(&self) {
        self.inner.sweeper.stop();
        self.inner.snapshots.stop();
    }

    fn prepare(&self, throttle: &str, limits: &[Limit]) -> Option<Prepared> {
        Some(Prepared::new(self.clone(), throttle, limits))
    }

    fn try_apply(&self, key: &Key<'_>, step: &Step<'_>) -> Option<Result<Decision>> {
        Some(self.inner.apply(key, step))
    }

    async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        self.inner.apply(key, step)
    }

    async fn apply_many(&self, steps: &[(Key<'_>, Step<'_>)], answers: &Answers) {
        for (index, (key, step)) in steps.iter().enumerate() {
            answers.put(index, self.inner.apply(key, step));
        }
    }

    async fn apply_all(&self, hits: &[(Key<'_>, Step<'_>)]) -> Option<Result<Vec<Decision>>> {
        let (inner, now) = match self.open("apply") {
            Ok(open) => open,
            Err(closed) => return Some(Err(closed)),
        };
        let keyed = hits.iter().map(|(key, step)| {
            let hashed = inner.hasher().key(key.parts());
            KeyedHit::new(&inner.store, key.throttle().unwrap_or_default(), hashed, step)
        });
        inner.store.apply_all(&keyed.collect::<Vec<_>>(), now).map(Ok)
    }

    async fn change_block(&self, key: &Key<'_>, change: BlockChange) -> Result<bool> {
        let (inner, now) = self.open("change_block")?;
        let hashed = inner.hasher().key(key.parts());
        let throttle = key.throttle().unwrap_or_default();
        inner.store.change_block(throttle, &hashed, change, now).map_err(|NoRoom| {
            inner.note_overflow();
            let message = "max_keys is reached, so this key cannot be blocked; raise it";
            failed("change_block", ErrorKind::Full).with_message(message)
        })
    }

    async fn inspect(&self, key: &Key<'_>) -> Result<KeyState> {
        let (inner, now) = self.open("inspect")?;
        let hashed = inner.hasher().key(key.parts());
        Ok(inner.store.inspect(key.throttle().unwrap_or_default(), &hashed, now))
    }

    async fn forget(&self, key: &Key<'_>) -> Result<()> {
        let (inner, _) = self.open("forget")?;
        let hashed = inner.hasher().key(key.parts());
        inner.store.forget(key.throttle().unwrap_or_default(), &hashed);
        Ok(())
    }
}
