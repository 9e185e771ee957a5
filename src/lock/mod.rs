//! Locks for users: [`LockGuard`], [`LockOptions`] and the traits behind them.
//!
//! Limits need no lock. These are for work that only one may do at a time. A lock with a TTL is not proof
//! of being alone: a holder that was paused beyond its TTL still runs. Give the guard's
//! [`fencing_token`](LockGuard::fencing_token) to the resource that the lock protects, and let that
//! refuse a token lower than one it has seen.

#[cfg(any(feature = "redis", test))]
mod in_use;
#[cfg(any(feature = "redis", feature = "memcached", test))]
mod lease;
mod options;
#[cfg(any(feature = "redis", feature = "memcached", test))]
mod releaser;
#[cfg(any(feature = "redis", feature = "memcached"))]
mod server_lock;
#[cfg(any(feature = "redis", feature = "memcached", test))]
mod wait_queue;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;
use tokio::time::Instant;

use crate::clock::monotonic_now;
use crate::error::BackendError;
use crate::on_drop::OnDrop;

pub use self::options::{LockOptions, LockRequest, MAX_LOCK_NAME};

#[cfg(feature = "redis")]
pub(crate) use self::in_use::{InUse, User};
#[cfg(any(feature = "redis", feature = "memcached"))]
pub(crate) use self::server_lock::{
    SHORTEST_TTL, ServerHolding, ServerLock, server_ttl, valid_until,
};

#[cfg(any(feature = "redis", feature = "memcached", test))]
#[cfg_attr(test, allow(unused_imports, reason = "for the backends on servers"))]
pub(crate) use self::{
    lease::Lease,
    releaser::{Lane, ReleaseOutcome, Releaser, ToRelease, later},
    wait_queue::{Attempt, WaitQueue},
};

/// The most that wait for one lock in a process.
pub(crate) const MAX_WAITERS: usize = 65_536;
/// Why a lock was not taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another holds it, and the options say not to wait.
    #[error("the lock is held by another")]
    Held,
    /// It did not become free in time.
    #[error("the lock did not become free within {waited:?}")]
    #[non_exhaustive]
    TimedOut {
        /// The longest wait of the options.
        waited: Duration,
    },
    /// The name or the options are wrong.
    #[error("{problem}")]
    #[non_exhaustive]
    Invalid {
        /// What would be right.
        problem: &'static str,
    },
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// A lock that is held. Dropping the guard releases the lock in the background; if that fails, the TTL
/// frees it. [`release`](Self::release) tells whether it was still ours.
#[must_use = "a guard that is dropped at once protects nothing"]
pub struct LockGuard {
    held: Arc<Held>,
    released: bool,
}

struct Held {
    lock: Box<dyn HeldLock>,
    guards: AtomicUsize,
}

/// A lock that is held, as its backend sees it. For authors of backends.
#[async_trait]
pub trait HeldLock: Any + fmt::Debug + Send + Sync {
    /// A number larger than that of every earlier holder; `None` if the backend cannot promise it.
    fn fencing_token(&self) -> Option<u64>;

    /// Returns when it must be taken for lost, by a monotonic clock read before it was asked for; `None` if
    /// it does not expire.
    fn valid_until(&self) -> Option<Instant>;

    /// Makes it last for `ttl` from now, if it is still ours and would end sooner. Returns whether it is
    /// still ours.
    async fn extend(&self, ttl: Duration) -> Result<bool, BackendError>;

    /// Releases it. Returns `true` if it was still ours.
    async fn release(&self) -> Result<bool, BackendError>;

    /// Releases it as well as can be done without waiting. Never blocks or panics, and needs no
    /// runtime.
    fn abandon(&self);
}

impl LockGuard {
    /// Creates the guard of a lock that was just taken. For authors of backends.
    pub fn new(lock: impl HeldLock + 'static) -> Self {
        let held = Held { lock: Box::new(lock), guards: AtomicUsize::new(1) };
        Self { held: Arc::new(held), released: false }
    }

    /// Returns the lock, if it is of that type: for a backend that is given one of its guards.
    #[cfg(feature = "redis")]
    pub(crate) fn held_as<L: HeldLock>(&self) -> Option<&L> {
        let lock: &dyn Any = &*self.held.lock;
        lock.downcast_ref()
    }

    /// Returns the fencing token: larger than that of every earlier holder of this lock. `None` if the
    /// backend cannot promise that.
    #[must_use]
    pub fn fencing_token(&self) -> Option<u64> {
        self.held.lock.fencing_token()
    }

    /// Returns `true` if the lock is still ours, as far as this process can tell; turns `false` before the
    /// backend frees the lock.
    ///
    /// It goes by this machine's monotonic clock. On many systems that clock stands still while the
    /// machine is suspended (a laptop that sleeps, a virtual machine that is paused or moved), and the
    /// server's does not: after such a pause it may say yes for as long as the machine slept. What counts
    /// then is what the server says, by [`extend`](Self::extend), and the
    /// [`fencing_token`](Self::fencing_token) at the resource.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.held.lock.valid_until().is_none_or(|until| monotonic_now() < until)
    }

    /// Makes the lock last for `ttl` from now; never shorter than it would. Returns whether it is still
    /// ours: if not, nothing changed, or the answer came only when all of its time was over.
    ///
    /// ```
    /// use traffik::{InMemory, LockOptions, Locks};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = InMemory::new();
    /// let minute = std::time::Duration::from_secs(60);
    /// let guard = backend.lock("nightly", LockOptions::new().ttl(Some(minute))).await?;
    /// assert!(guard.extend(10 * minute).await?, "it was still ours");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the backend fails, or for a TTL of zero.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the lock may have been extended or not.
    pub async fn extend(&self, ttl: Duration) -> Result<bool, LockError> {
        if ttl.is_zero() {
            return Err(LockError::Invalid { problem: "a lock's ttl must be above zero" });
        }
        Ok(self.held.lock.extend(ttl).await?)
    }

    /// Returns another guard of the same lock, for a nested call that takes it too. The lock is free when
    /// the last guard is gone.
    ///
    /// Re-entry is explicit: code in the same task does not share the lock by itself.
    pub fn reenter(&self) -> Self {
        self.held.guards.fetch_add(1, Ordering::AcqRel);
        Self { held: Arc::clone(&self.held), released: false }
    }

    /// Releases the lock, and returns `true` if it was still ours. If there are more guards of it, only
    /// the last releases it.
    ///
    /// ```
    /// use traffik::{InMemory, LockOptions, Locks};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = InMemory::new();
    /// let guard = backend.lock("nightly", LockOptions::new()).await?;
    /// assert!(guard.release().await?, "it was ours to the end");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the backend fails. The release then goes on in the background until the server answers or
    /// the lock's TTL is over, as it does for a guard that is dropped.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the lock may have been released or not; it is then released in the background.
    pub async fn release(mut self) -> Result<bool, LockError> {
        self.released = true;
        if !self.held.leave() {
            return Ok(self.is_valid());
        }
        // A release that is cancelled half-way goes on in the background.
        let abandon = OnDrop::new(|| self.held.lock.abandon());
        let still_ours = self.held.lock.release().await?;
        abandon.defuse();
        Ok(still_ours)
    }
}

impl Held {
    /// Counts one guard less. Returns `true` if it was the last.
    fn leave(&self) -> bool {
        self.guards.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if !self.released && self.held.leave() {
            self.held.lock.abandon();
        }
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard")
            .field("lock", &self.held.lock)
            .field("guards", &self.held.guards)
            .finish_non_exhaustive()
    }
}
