//! [`MapBackend`]: state in a map under a mutex, with the fewest methods that make a backend.
//!
//! `get`, `compare_and_set`, `clear` and `close`; all else has a default. The default `apply` makes exact
//! decisions from the first two. Its locks are those of [`InMemory`]; a backend without locks leaves that
//! method out.
//!
//! See `main.rs` for how to run it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use traffik::backend::{BackendCore, Result};
use traffik::{
    Backend, BackendError, BuildError, Clock, ErrorKind, HasCore, InMemory, Key, LockError,
    LockGuard, LockOptions, Locks, Timestamp, Ttl, Values,
};

const NAME: &str = "map";
/// A map below this size is not worth a sweep.
const FIRST_SWEEP: usize = 1_024;

/// A backend in a map. Cheap to clone; clones are the same backend.
#[derive(Clone, Debug)]
pub(crate) struct MapBackend {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    core: BackendCore,
    closed: AtomicBool,
    values: Mutex<ValueMap>,
    locks: InMemory,
}

/// The values, by the bytes that [`Key::encode`] gives: those differ for any two different keys.
#[derive(Debug, Default)]
struct ValueMap {
    map: HashMap<Vec<u8>, Value>,
    /// The size at which expired values are looked for next.
    sweep_at: usize,
}

#[derive(Debug)]
struct Value {
    bytes: Vec<u8>,
    expires: Option<Timestamp>,
}

impl Value {
    fn is_live(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

impl MapBackend {
    /// Creates an empty backend.
    ///
    /// # Errors
    ///
    /// When the namespace is not 1 to 64 bytes of letters, digits and `_.:-`.
    pub(crate) fn new(
        namespace: impl Into<String>,
        clock: impl Clock,
    ) -> std::result::Result<Self, BuildError> {
        let core = BackendCore::new(NAME, namespace, Arc::new(clock))?;
        let (closed, values, locks) = (AtomicBool::new(false), Mutex::default(), InMemory::new());
        Ok(Self { inner: Arc::new(Inner { core, closed, values, locks }) })
    }

    /// Returns the values and the time, for one operation.
    ///
    /// The guard is never held over an await, so a future that is dropped leaves nothing half done.
    fn open(&self, operation: &'static str) -> Result<(MutexGuard<'_, ValueMap>, Timestamp)> {
        if self.inner.closed.load(Ordering::SeqCst) {
            return Err(BackendError::new(NAME, operation, ErrorKind::Closed));
        }
        // A panic with the guard would be in the map's own code; there is no half-made change to fear.
        let values = self.inner.values.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((values, self.inner.core.clock().now()))
    }
}

impl HasCore for MapBackend {
    fn core(&self) -> &BackendCore {
        &self.inner.core
    }
}

#[async_trait]
impl Values for MapBackend {
    async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        let (values, now) = self.open("get")?;
        let value = values.map.get(&key.encode()).filter(|value| value.is_live(now));
        Ok(value.map(|value| value.bytes.clone()))
    }

    async fn compare_and_set(
        &self,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        ttl: Ttl,
    ) -> Result<bool> {
        let (mut values, now) = self.open("compare_and_set")?;
        let key = key.encode();
        let live = values.map.get(&key).filter(|value| value.is_live(now));
        if live.map(|value| &*value.bytes) != expected {
            return Ok(false);
        }
        let expires = ttl.expires_at(live.and_then(|value| value.expires), now);
        let new = new.map(|new| Value { bytes: new.to_vec(), expires });
        match new.filter(|value| value.is_live(now)) {
            Some(value) => {
                values.sweep(now);
                values.map.insert(key, value);
            }
            // Deleted, or with a TTL of zero: it must not come back with a clock that goes back.
            None => drop(values.map.remove(&key)),
        }
        Ok(true)
    }
}

#[async_trait]
impl Locks for MapBackend {
    async fn lock(&self, name: &str, options: LockOptions) -> Result<LockGuard, LockError> {
        drop(self.open("lock")?);
        self.inner.locks.lock(name, options).await
    }
}

#[async_trait]
impl Backend for MapBackend {
    async fn initialize(&self) -> Result<()> {
        self.inner.closed.store(false, Ordering::SeqCst);
        Ok(())
    }

    async fn clear(&self) -> Result<()> {
        self.open("clear")?.0.map.clear();
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.inner.closed.store(true, Ordering::SeqCst);
        Ok(())
    }
}

impl ValueMap {
    /// Removes what has expired each time the map has doubled, so that it costs little per value. One
    /// such sweep is long if the map is: a backend for many keys would do it in small steps.
    fn sweep(&mut self, now: Timestamp) {
        if self.map.len() >= self.sweep_at.max(FIRST_SWEEP) {
            self.map.retain(|_, value| value.is_live(now));
            self.sweep_at = self.map.len() * 2;
        }
    }
}
