//! [`LockOptions`], and [`LockRequest`]: the same with nothing left unset.

use std::time::Duration;

use tokio::time::Instant;

use super::LockError;
use crate::clock::monotonic_now;

/// Maximum length of a lock's name, in bytes.
pub const MAX_LOCK_NAME: usize = 200;

/// Options of taking a lock: its TTL, and whether and how long to wait.
///
/// What is not set comes from the backend's builder (`lock_ttl`, `lock_blocking`,
/// `lock_blocking_timeout`), and what is not set there either from the defaults below. A value that is
/// set, `None` included, always wins.
///
/// ```
/// use std::time::Duration;
/// use traffik::LockOptions;
///
/// // Frees itself after a minute, and gives up after a second.
/// let options = LockOptions::new()
///     .ttl(Some(Duration::from_secs(60)))
///     .blocking_timeout(Some(Duration::from_secs(1)));
/// # drop(options);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct LockOptions {
    ttl: Option<Option<Duration>>,
    blocking: Option<bool>,
    blocking_timeout: Option<Option<Duration>>,
}

impl LockOptions {
    /// Creates options in which everything is left to the backend's builder.
    pub const fn new() -> Self {
        Self { ttl: None, blocking: None, blocking_timeout: None }
    }

    /// Sets the time after which the lock expires, unless it is extended. A TTL of zero is an error, and on a server one
    /// below 5 ms.
    /// Defaults to the backend's `lock_ttl`, which defaults to `None`.
    ///
    /// `None` means no expiry in memory. On a server it means a lease, which is renewed while the guard
    /// lives, for a day at most.
    pub const fn ttl(mut self, ttl: Option<Duration>) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets whether to wait for a lock that is held. Defaults to the backend's `lock_blocking`, which
    /// defaults to `true`.
    pub const fn blocking(mut self, blocking: bool) -> Self {
        self.blocking = Some(blocking);
        self
    }

    /// Sets the longest wait, including the time that servers take to answer. `None` has no bound; zero
    /// tries once. Defaults to the backend's `lock_blocking_timeout`, which defaults to `None`.
    pub const fn blocking_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.blocking_timeout = Some(timeout);
        self
    }

    pub(crate) fn explicit_ttl(&self) -> Option<Duration> {
        self.ttl.flatten()
    }

    /// Returns the request for the lock called `name`, with `defaults` (a backend's
    /// [`lock_options`](crate::backend::BackendCore::lock_options)) for what is not set. For authors of
    /// backends.
    ///
    /// # Errors
    ///
    /// [`LockError::Invalid`] for a TTL of zero, and for a name that is empty or longer than
    /// [`MAX_LOCK_NAME`] bytes.
    pub fn resolve(self, name: &str, defaults: Self) -> Result<LockRequest, LockError> {
        let ttl = self.ttl.or(defaults.ttl).flatten();
        if ttl == Some(Duration::ZERO) {
            return Err(LockError::Invalid { problem: "a lock's ttl must be above zero" });
        }
        if name.is_empty() || name.len() > MAX_LOCK_NAME {
            return Err(LockError::Invalid { problem: "a lock's name has 1 to 200 bytes" });
        }
        Ok(LockRequest {
            ttl,
            blocking: self.blocking.or(defaults.blocking).unwrap_or(true),
            timeout: self.blocking_timeout.or(defaults.blocking_timeout).flatten(),
        })
    }
}

/// The options of a lock with the backend's defaults filled in, as [`LockOptions::resolve`] returns it.
/// For authors of backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRequest {
    ttl: Option<Duration>,
    blocking: bool,
    timeout: Option<Duration>,
}

impl LockRequest {
    /// Returns the TTL; `None` if the lock does not expire.
    #[must_use]
    pub const fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    /// Returns `true` if the caller waits for a lock that is held, and `false` if it tries once.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.blocking && self.timeout != Some(Duration::ZERO)
    }

    /// Returns when a wait that begins now ends: now if the caller does not wait, and `None` if the wait
    /// has no bound.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let wait = if self.blocking { self.timeout? } else { Duration::ZERO };
        monotonic_now().checked_add(wait)
    }

    /// Returns the error for a lock that stayed held until the wait was over.
    #[must_use]
    pub fn refusal(&self) -> LockError {
        match self.blocking {
            true => LockError::TimedOut { waited: self.timeout.unwrap_or_default() },
            false => LockError::Held,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_wins_also_if_it_is_none() {
        let defaults = LockOptions::new().ttl(Some(Duration::from_secs(3))).blocking(false);
        let request = LockOptions::new().resolve("a", defaults).unwrap();
        assert_eq!((request.ttl(), request.waits()), (Some(Duration::from_secs(3)), false));
        let own = LockOptions::new().ttl(None).blocking(true);
        let request = own.resolve("a", defaults).unwrap();
        assert_eq!((request.ttl(), request.waits()), (None, true));
    }

    #[test]
    fn a_wrong_name_or_ttl_is_refused() {
        let none = LockOptions::new();
        let zero = none.ttl(Some(Duration::ZERO));
        assert!(zero.resolve("a", none).is_err(), "its own");
        assert!(none.resolve("a", zero).is_err(), "the backend's");
        assert!(none.resolve("", none).is_err());
        assert!(none.resolve(&"n".repeat(MAX_LOCK_NAME), none).is_ok());
        assert!(none.resolve(&"n".repeat(MAX_LOCK_NAME + 1), none).is_err());
    }
}
