//! Where state lives: the [`Backend`] trait and its implementations.
//!
//! | backend | what survives a restart | shared by | locks | a hit costs | feature |
//! | --- | --- | --- | --- | --- | --- |
//! | [`InMemory`] | nothing | one process | FIFO or not, in the process | well under a microsecond | none |
//! | `Redis` | what the server keeps | processes | on the server, with fencing; Redlock | one round trip | `redis` |
//! | `Memcached` | nothing of the server's | processes | best effort, no fencing token | two round trips, one if denied | `memcached` |
//!
//! A backend of your own implements [`Backend`]: the settings, the primitives, and a lock. The default
//! [`apply`](Backend::apply) makes decisions from the primitives. The suite in
//! `traffik::conformance` (feature `conformance`) checks it.

mod cas;
mod forward;
#[cfg(feature = "memcached")]
pub mod memcached;
mod memory;
#[cfg(any(feature = "redis", feature = "memcached", test))]
mod names;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub mod redis;
mod settings;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

#[cfg(feature = "memcached")]
pub use memcached::{Memcached, MemcachedBuilder};
pub use memory::{InMemory, InMemoryBuilder, LockKind, Overflow};
pub use settings::{Counter, Settings};

use crate::clock::Clock;
use crate::decision::Decision;
use crate::error::{BackendError, ErrorKind};
use crate::key::Key;
use crate::lock::{LockError, LockGuard, LockOptions};
use crate::on_error::OnError;
use crate::strategy::Step;

/// A result of a backend.
pub type Result<T, E = BackendError> = std::result::Result<T, E>;

/// The largest value of a counter: 2^63 - 1.
pub const MAX_COUNTER: u64 = i64::MAX as u64;

/// A store of limiter state.
///
/// Object-safe: it is used as `Arc<dyn Backend>`, and `Arc<B>` and `Box<B>` are backends if `B` is.
///
/// # Contract
///
/// * **Atomicity.** Each method takes effect at one instant, or not at all, unless its docs say else.
/// * **Keys.** Two keys that differ in any way never meet, whatever bytes they have. A key of one
///   namespace never meets one of another.
/// * **Expiry.** A value lives at least as long as its TTL says; a TTL is rounded up to what the store
///   can measure, and a TTL of zero removes the value at once. An expired value is as good as missing.
///   A store drops no value early, unless its docs say that it can (eviction).
/// * **Effect.** An error says whether the operation may have happened; see
///   [`Effect`](crate::Effect). Nothing ambiguous is tried again by itself.
/// * **Cancel safety.** A future of this trait may be dropped at any await. The operation may then
///   have happened or not; no later call sees its reply, and no lock stays held by it.
/// * **After [`close`](Backend::close)** every method fails with [`ErrorKind::Closed`], but for the
///   settings, [`initialize`](Backend::initialize), [`close`](Backend::close) and
///   [`abandon`](Backend::abandon). Who waits for a lock already goes on waiting.
#[async_trait]
pub trait Backend: Any + fmt::Debug + Send + Sync {
    /// The settings and counters.
    fn settings(&self) -> &Settings;

    // Lifecycle. Each of these may be called again.

    /// Connects, and starts background tasks. Opens a backend again that was closed; may be called
    /// while it is in use.
    ///
    /// Dropped or failed, it leaves the backend open, to connect when it is used: a lifespan that
    /// starts [degraded](crate::lifespan::Start::Degraded) gives it half a second, and then asks
    /// [`ready`](Backend::ready) until the store answers.
    async fn initialize(&self) -> Result<()> {
        Ok(())
    }

    /// Asks the store whether it is there and takes commands. A hit that has something to write may fail all
    /// the same, as on a server that is out of memory.
    async fn ready(&self) -> Result<()> {
        self.get(&Key::value("traffik:ready")).await.map(drop)
    }

    /// Removes this namespace's limiter states and values. Never its locks, never another namespace.
    async fn clear(&self) -> Result<()>;

    /// The same as [`clear`](Backend::clear).
    async fn reset(&self) -> Result<()> {
        self.clear().await
    }

    /// Stops background tasks and lets go of the store.
    async fn close(&self) -> Result<()>;

    /// Stops background tasks without waiting. Never blocks or panics, in or out of a runtime.
    fn abandon(&self) {}

    // Primitives, on the user's own values.

    /// The value; `None` if it is missing.
    async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>>;

    /// Sets the value, with this TTL or without one.
    async fn set(&self, key: &Key<'_>, value: &[u8], ttl: Option<Duration>) -> Result<()>;

    /// Removes the value; says whether there was one.
    async fn delete(&self, key: &Key<'_>) -> Result<bool>;

    /// Adds to a counter and returns the sum. The TTL stays. A missing key counts as 0 and gets no
    /// TTL.
    ///
    /// Beyond [`MAX_COUNTER`] it fails with [`ErrorKind::OutOfRange`], on a value that is not a counter
    /// with [`ErrorKind::NotANumber`], and the value stays as it was. A counter is stored as decimal
    /// ASCII digits.
    async fn increment(&self, key: &Key<'_>, by: u64) -> Result<u64>;

    /// Subtracts from a counter, not below 0, and returns what is left. The TTL stays.
    ///
    /// A missing key fails with [`ErrorKind::NotFound`] and stays missing.
    async fn decrement(&self, key: &Key<'_>, by: u64) -> Result<u64>;

    /// As [`increment`](Backend::increment), and in the same step gives the key this TTL if it has
    /// none: because it is new, or was made without one.
    async fn increment_with_ttl(&self, key: &Key<'_>, by: u64, ttl: Duration) -> Result<u64>;

    /// Sets the TTL; says whether there is such a key.
    async fn expire(&self, key: &Key<'_>, ttl: Duration) -> Result<bool>;

    /// Sets the value to `new` if it is `expected`, and says whether it was. `None` is a missing key:
    /// so this creates, replaces and deletes. The TTL is that of the new value.
    async fn compare_and_set(
        &self,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        ttl: Option<Duration>,
    ) -> Result<bool>;

    /// The values, in the same order, `None` where one is missing.
    ///
    /// One round trip where the store can; the default gets one after the other, and each is read at
    /// its own instant.
    async fn multi_get(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            values.push(self.get(key).await?);
        }
        Ok(values)
    }

    /// Sets all values, with this TTL or without one.
    ///
    /// Atomic where the store can; the default sets one after the other, and stops at the first error.
    async fn multi_set(&self, pairs: &[(Key<'_>, &[u8])], ttl: Option<Duration>) -> Result<()> {
        for (key, value) in pairs {
            self.set(key, value, ttl).await?;
        }
        Ok(())
    }

    /// Takes the lock of that name.
    async fn lock(&self, name: &str, options: LockOptions) -> Result<LockGuard, LockError>;

    // Decisions.

    /// Decides at once where no waiting is needed; `None` to ask [`apply`](Backend::apply).
    ///
    /// A throttle asks this first, so a store in memory costs no boxed future.
    fn try_apply(&self, key: &Key<'_>, step: &Step<'_>) -> Option<Result<Decision>> {
        let _ = (key, step);
        None
    }

    /// Decides one step, atomically.
    ///
    /// The default reads the state, runs [`Step::decide`], and writes it back by
    /// [`compare_and_set`](Backend::compare_and_set), a bounded number of times with growing, jittered
    /// pauses; then it fails with [`ErrorKind::Contended`]. It is stored for an hour longer than it
    /// matters, so that a clock which steps back by less finds what counts again. A state that cannot be read is replaced by
    /// one that holds this hit, counted, and reported as [`ErrorKind::Corrupt`].
    async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        cas::apply(self.settings(), &cas::ByPrimitives(self), key, step).await
    }

    /// Forgets all limits of a throttle's key.
    async fn forget(&self, key: &Key<'_>) -> Result<()> {
        self.delete(key).await.map(drop)
    }

    // Accessors, of the settings.

    /// The namespace.
    fn namespace(&self) -> &str {
        self.settings().namespace()
    }

    /// Whether the end of a lifespan keeps what is stored.
    fn is_persistent(&self) -> bool {
        self.settings().is_persistent()
    }

    /// What is decided when this backend fails.
    fn error_policy(&self) -> &OnError {
        self.settings().error_policy()
    }

    /// The options of a lock where its user gives none.
    fn lock_options(&self) -> LockOptions {
        self.settings().lock_options()
    }

    /// The clock.
    fn clock(&self) -> &Arc<dyn Clock> {
        self.settings().clock()
    }
}

/// What a counter's arithmetic comes to, the same in every backend.
pub(crate) mod counter {
    use super::{BackendError, ErrorKind, MAX_COUNTER, Result};

    /// The number of a stored counter.
    pub(crate) fn parse(
        backend: &'static str,
        operation: &'static str,
        value: &[u8],
    ) -> Result<u64> {
        let number = std::str::from_utf8(value)
            .ok()
            .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
        number
            .and_then(|text| text.parse().ok())
            .filter(|number| *number <= MAX_COUNTER)
            .ok_or_else(|| BackendError::new(backend, operation, ErrorKind::NotANumber))
    }

    /// The sum, within the range.
    pub(crate) fn add(
        backend: &'static str,
        operation: &'static str,
        number: u64,
        by: u64,
    ) -> Result<u64> {
        number
            .checked_add(by)
            .filter(|sum| *sum <= MAX_COUNTER)
            .ok_or_else(|| BackendError::new(backend, operation, ErrorKind::OutOfRange))
    }
}
