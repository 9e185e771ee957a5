//! Locks for users: [`LockGuard`], [`LockOptions`] and the traits behind them.
//!
//! Limits need no lock. These are for work that only one may do at a time. A lock with a TTL is not
//! proof of being alone: a holder that was paused beyond its TTL still runs. Give the guard's
//! [`fence`](LockGuard::fence) to the resource that the lock protects, and let that refuse a token
//! lower than one it has seen.

#[cfg(any(feature = "redis", test))]
mod in_use;
#[cfg(any(feature = "redis", feature = "memcached", test))]
mod lease;
#[cfg(any(feature = "redis", feature = "memcached", test))]
mod releaser;
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

#[cfg(feature = "redis")]
pub(crate) use self::in_use::{InUse, User};
#[cfg(any(feature = "redis", feature = "memcached", test))]
#[cfg_attr(test, allow(unused_imports, reason = "for the backends on servers"))]
pub(crate) use self::{
    lease::Lease,
    releaser::{Asked, Lane, Outcome, Releaser, later},
    wait_queue::{Attempt, WaitQueue},
};

/// The most that wait for one lock in a process.
pub(crate) const MAX_WAITERS: usize = 65_536;
/// The most bytes of a lock's name.
pub const MAX_LOCK_NAME: usize = 200;

/// How a lock is taken and held.
///
/// What is not set comes from the backend's builder (`lock_ttl`, `lock_blocking`,
/// `lock_blocking_timeout`), and if that does not say either, from the defaults below. What is set, also
/// to `None`, always wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct LockOptions {
    ttl: Option<Option<Duration>>,
    blocking: Option<bool>,
    blocking_timeout: Option<Option<Duration>>,
}

impl LockOptions {
    /// Sets nothing: all is as the backend's builder says.
    pub const fn new() -> Self {
        Self { ttl: None, blocking: None, blocking_timeout: None }
    }

    /// Sets after how long the lock frees itself, unless it is extended. Defaults to the backend's
    /// `lock_ttl`, and that to none.
    ///
    /// `None` means no expiry in memory. On a server it means a lease that is renewed while the guard
    /// lives. A TTL of zero is an error.
    pub const fn ttl(mut self, ttl: Option<Duration>) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets whether to wait for a lock that is held. Defaults to the backend's `lock_blocking`, and that
    /// to true.
    pub const fn blocking(mut self, blocking: bool) -> Self {
        self.blocking = Some(blocking);
        self
    }

    /// Sets the longest wait, with the time that servers take to answer; `None` waits as long as it
    /// takes. With zero it tries once. Defaults to the backend's `lock_blocking_timeout`, and that to
    /// none.
    pub const fn blocking_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.blocking_timeout = Some(timeout);
        self
    }

    /// Returns these options, with those of `defaults` for what is not set. A backend calls it with its
    /// [settings' options](crate::backend::Settings::lock_options) before it does anything.
    pub const fn or(self, defaults: Self) -> Self {
        Self {
            ttl: if self.ttl.is_some() { self.ttl } else { defaults.ttl },
            blocking: if self.blocking.is_some() { self.blocking } else { defaults.blocking },
            blocking_timeout: if self.blocking_timeout.is_some() {
                self.blocking_timeout
            } else {
                defaults.blocking_timeout
            },
        }
    }

    /// Returns the TTL; none if it is not set.
    #[must_use]
    pub const fn get_ttl(&self) -> Option<Duration> {
        match self.ttl {
            Some(ttl) => ttl,
            None => None,
        }
    }

    /// Returns whether to wait; true if it is not set.
    #[must_use]
    pub const fn is_blocking(&self) -> bool {
        match self.blocking {
            Some(blocking) => blocking,
            None => true,
        }
    }

    /// Returns the longest wait; none if it is not set.
    #[must_use]
    pub const fn get_blocking_timeout(&self) -> Option<Duration> {
        match self.blocking_timeout {
            Some(timeout) => timeout,
            None => None,
        }
    }

    /// What every backend refuses before it does anything.
    ///
    /// # Errors
    ///
    /// [`LockError::Invalid`] for a TTL of zero, or a name that is empty or longer than
    /// [`MAX_LOCK_NAME`] bytes.
    pub fn check(&self, name: &str) -> Result<(), LockError> {
        if self.get_ttl() == Some(Duration::ZERO) {
            return Err(LockError::Invalid { problem: "a lock's ttl must be above zero" });
        }
        if name.is_empty() || name.len() > MAX_LOCK_NAME {
            return Err(LockError::Invalid { problem: "a lock's name has 1 to 200 bytes" });
        }
        Ok(())
    }

    /// When a wait that begins now ends: at once if not blocking, never if `None`. For authors of
    /// backends.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let wait = if self.is_blocking() { self.get_blocking_timeout()? } else { Duration::ZERO };
        monotonic_now().checked_add(wait)
    }
}

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

impl LockError {
    /// The lock did not become free within `waited`. For authors of backends.
    #[must_use]
    pub const fn timed_out(waited: Duration) -> Self {
        Self::TimedOut { waited }
    }
}

/// A lock that is held. Dropping it lets go of it as well as can be done without waiting, with the TTL
/// as backstop; [`release`](Self::release) says whether it was still ours.
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
    fn fence(&self) -> Option<u64>;

    /// When it must be taken for lost, by a monotonic clock read before it was asked for; `None` if
    /// it does not expire.
    fn valid_until(&self) -> Option<Instant>;

    /// Makes it last for `ttl` from now, if it is still ours and would end sooner; says whether it is
    /// still ours.
    async fn extend(&self, ttl: Duration) -> Result<bool, BackendError>;

    /// Lets go of it; says whether it was still ours.
    async fn release(&self) -> Result<bool, BackendError>;

    /// Lets go of it as well as can be done without waiting. Never blocks or panics, and needs no
    /// runtime.
    fn abandon(&self);
}

impl LockGuard {
    /// A guard of a lock that was just taken. For authors of backends.
    pub fn new(lock: impl HeldLock + 'static) -> Self {
        let held = Held { lock: Box::new(lock), guards: AtomicUsize::new(1) };
        Self { held: Arc::new(held), released: false }
    }

    /// The lock, if it is of that type: for a backend that gets a guard of its own back.
    #[cfg(feature = "redis")]
    pub(crate) fn held_as<L: HeldLock>(&self) -> Option<&L> {
        let lock: &dyn Any = &*self.held.lock;
        lock.downcast_ref()
    }

    /// The fencing token: larger than that of every earlier holder of this lock. `None` if the backend
    /// cannot promise that.
    #[must_use]
    pub fn fence(&self) -> Option<u64> {
        self.held.lock.fence()
    }

    /// Returns whether the lock is still ours as far as this process can know: false from before the
    /// moment at which the backend frees it.
    ///
    /// It goes by this machine's monotonic clock. On many systems that clock stands still while the
    /// machine is suspended (a laptop that sleeps, a virtual machine that is paused or moved), and the
    /// server's does not: after such a pause it may say yes for as long as the machine slept. What counts
    /// then is what the server says, by [`extend`](Self::extend), and the [`fence`](Self::fence) at the
    /// resource.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.held.lock.valid_until().is_none_or(|until| monotonic_now() < until)
    }

    /// Makes the lock last for `ttl` from now; never shorter than it would. Says whether it is still
    /// ours: if not, nothing changed.
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

    /// Another guard of the same lock, for a nested call that takes it too. The lock is free when the
    /// last guard is gone.
    ///
    /// Entering again is explicit: who shares a task does not thereby share a lock.
    pub fn reenter(&self) -> Self {
        self.held.guards.fetch_add(1, Ordering::AcqRel);
        Self { held: Arc::clone(&self.held), released: false }
    }

    /// Lets go of the lock, and says whether it was still ours. If there are more guards of it, only
    /// the last lets go.
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
        // A release that is cancelled half-way still lets go, by the guard inside.
        let abandon = AbandonOnDrop(Some(&*self.held.lock));
        let still_ours = self.held.lock.release().await?;
        abandon.defuse();
        Ok(still_ours)
    }
}

impl Held {
    /// One guard less; says whether it was the last.
    fn leave(&self) -> bool {
        self.guards.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

struct AbandonOnDrop<'a>(Option<&'a dyn HeldLock>);

impl AbandonOnDrop<'_> {
    fn defuse(mut self) {
        self.0 = None;
    }
}

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(lock) = self.0 {
            lock.abandon();
        }
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
