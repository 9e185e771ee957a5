//! [`MapBackend`]: state in a map under a mutex, with the fewest methods that make a backend.
//!
//! The settings, the lifecycle, the primitives and a lock; all else has a default. The default `apply`
//! makes exact decisions from `get` and `compare_and_set`.
//!
//! See `main.rs` for how to run it.

#[path = "locks.rs"]
mod locks;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use traffik::backend::{MAX_COUNTER, Result, Settings};
use traffik::{
    Backend, BackendError, BuildError, Clock, ErrorKind, Key, LockError, LockGuard, LockOptions,
    Timestamp,
};

use locks::Locks;

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
    settings: Settings,
    closed: AtomicBool,
    values: Mutex<Values>,
    locks: Arc<Locks>,
}

impl MapBackend {
    /// An empty backend.
    ///
    /// # Errors
    ///
    /// When the namespace is not 1 to 64 bytes of letters, digits and `_.:-`.
    pub(crate) fn new(
        namespace: impl Into<String>,
        clock: impl Clock,
    ) -> std::result::Result<Self, BuildError> {
        let settings = Settings::new(NAME, namespace, Arc::new(clock))?;
        // Tokens that rise over restarts too: nobody takes a million locks in a second for long.
        let locks = Arc::new(Locks::new(settings.clock().now().as_micros()));
        let values = Mutex::default();
        Ok(Self {
            inner: Arc::new(Inner { settings, closed: AtomicBool::new(false), values, locks }),
        })
    }

    /// The values as they are now, for one operation: an expired one is not seen.
    ///
    /// The guard is never held over an await, so a future that is dropped leaves nothing half done.
    fn open(&self, operation: &'static str) -> Result<Open<'_>> {
        if self.inner.closed.load(Ordering::SeqCst) {
            return Err(error(operation, ErrorKind::Closed));
        }
        // A panic with the guard would be in the map's own code; there is no half-made change to fear.
        let values = self.inner.values.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Open { values, now: self.inner.settings.clock().now(), operation })
    }
}

#[async_trait]
impl Backend for MapBackend {
    fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    async fn initialize(&self) -> Result<()> {
        self.inner.closed.store(false, Ordering::SeqCst);
        Ok(())
    }

    async fn clear(&self) -> Result<()> {
        self.open("clear")?.values.map.clear();
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.inner.closed.store(true, Ordering::SeqCst);
        Ok(())
    }

    async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        Ok(self.open("get")?.find(&key.encode()).map(|value| value.bytes.clone()))
    }

    async fn set(&self, key: &Key<'_>, value: &[u8], ttl: Option<Duration>) -> Result<()> {
        let mut open = self.open("set")?;
        let expires = open.expiry(ttl);
        open.put(key.encode(), value.to_vec(), expires);
        Ok(())
    }

    async fn delete(&self, key: &Key<'_>) -> Result<bool> {
        Ok(self.open("delete")?.remove(&key.encode()))
    }

    async fn increment(&self, key: &Key<'_>, by: u64) -> Result<u64> {
        self.open("increment")?.add(key.encode(), by, None)
    }

    async fn increment_with_ttl(&self, key: &Key<'_>, by: u64, ttl: Duration) -> Result<u64> {
        self.open("increment_with_ttl")?.add(key.encode(), by, Some(ttl))
    }

    async fn decrement(&self, key: &Key<'_>, by: u64) -> Result<u64> {
        let mut open = self.open("decrement")?;
        let Some(value) = open.find(&key.encode()) else {
            return Err(error("decrement", ErrorKind::NotFound));
        };
        let left = number("decrement", &value.bytes)?.saturating_sub(by);
        value.bytes = left.to_string().into_bytes();
        Ok(left)
    }

    async fn expire(&self, key: &Key<'_>, ttl: Duration) -> Result<bool> {
        let mut open = self.open("expire")?;
        let key = key.encode();
        let Some(value) = open.find(&key) else { return Ok(false) };
        let bytes = std::mem::take(&mut value.bytes);
        let expires = open.expiry(Some(ttl));
        open.put(key, bytes, expires);
        Ok(true)
    }

    async fn compare_and_set(
        &self,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        ttl: Option<Duration>,
    ) -> Result<bool> {
        let mut open = self.open("compare_and_set")?;
        let key = key.encode();
        if open.find(&key).map(|value| &*value.bytes) != expected {
            return Ok(false);
        }
        match new {
            Some(new) => {
                let expires = open.expiry(ttl);
                open.put(key, new.to_vec(), expires);
            }
            None => drop(open.remove(&key)),
        }
        Ok(true)
    }

    async fn lock(&self, name: &str, options: LockOptions) -> Result<LockGuard, LockError> {
        // Locks are no values: they live in a map of their own, so `clear` does not touch them.
        drop(self.open("lock")?);
        let options = options.or(self.settings().lock_options());
        self.inner.locks.lock(name, options).await
    }
}

/// All values, by the bytes that [`Key::encode`] gives: those differ for any two different keys.
#[derive(Debug, Default)]
struct Values {
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
    fn is_alive(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

/// The values while they are locked, at one instant.
struct Open<'a> {
    values: MutexGuard<'a, Values>,
    now: Timestamp,
    operation: &'static str,
}

impl Open<'_> {
    fn find(&mut self, key: &[u8]) -> Option<&mut Value> {
        self.values.map.get_mut(key).filter(|value| value.is_alive(self.now))
    }

    fn expiry(&self, ttl: Option<Duration>) -> Option<Timestamp> {
        ttl.map(|ttl| self.now.after(ttl))
    }

    /// A value that expires at once, by a TTL of zero, is removed: it must not come back with a clock
    /// that goes back.
    fn put(&mut self, key: Vec<u8>, bytes: Vec<u8>, expires: Option<Timestamp>) {
        let value = Value { bytes, expires };
        if value.is_alive(self.now) {
            self.sweep();
            self.values.map.insert(key, value);
        } else {
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        self.values.map.remove(key).is_some_and(|value| value.is_alive(self.now))
    }

    /// Adds to a counter. The TTL is for one that has none.
    fn add(&mut self, key: Vec<u8>, by: u64, ttl: Option<Duration>) -> Result<u64> {
        let operation = self.operation;
        let (old, expires) = match self.find(&key) {
            Some(value) => (number(operation, &value.bytes)?, value.expires),
            None => (0, None),
        };
        let sum = old.checked_add(by).filter(|sum| *sum <= MAX_COUNTER);
        let sum = sum.ok_or_else(|| error(operation, ErrorKind::OutOfRange))?;
        let expires = expires.or(self.expiry(ttl));
        self.put(key, sum.to_string().into_bytes(), expires);
        Ok(sum)
    }

    /// Removes what has expired each time the map has doubled, so that it costs little per value. One
    /// such sweep is long if the map is: a backend for many keys would do it in small steps.
    fn sweep(&mut self) {
        let now = self.now;
        if self.values.map.len() >= self.values.sweep_at.max(FIRST_SWEEP) {
            self.values.map.retain(|_, value| value.is_alive(now));
            self.values.sweep_at = self.values.map.len() * 2;
        }
    }
}

/// A counter is stored as decimal ASCII digits. `parse` alone would take a sign.
fn number(operation: &'static str, bytes: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(bytes).ok().filter(|_| bytes.iter().all(u8::is_ascii_digit));
    text.and_then(|text| text.parse().ok())
        .filter(|number| *number <= MAX_COUNTER)
        .ok_or_else(|| error(operation, ErrorKind::NotANumber))
}

fn error(operation: &'static str, kind: ErrorKind) -> BackendError {
    BackendError::new(NAME, operation, kind)
}
