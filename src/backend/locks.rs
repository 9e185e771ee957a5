//! [`Locks`]: the locks of a backend.

use async_trait::async_trait;

use super::HasCore;
use crate::error::{BackendError, ErrorKind};
use crate::lock::{LockError, LockGuard, LockOptions};

/// The locks of a backend. They are no values: [`clear`](super::Backend::clear) leaves them alone.
#[async_trait]
pub trait Locks: HasCore {
    /// Takes the lock called `name`. What the options leave unset comes from the backend's
    /// [core](super::BackendCore::lock_options), by [`LockOptions::resolve`].
    ///
    /// The default fails with [`ErrorKind::Unsupported`].
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] and [`LockError::TimedOut`] if another holds it,
    /// [`LockError::Invalid`] for a wrong name or TTL, and when the backend fails.
    ///
    /// # Cancel safety
    ///
    /// When dropped, no lock stays held by it, and its place among the waiters is free.
    ///
    /// ```
    /// use traffik::{InMemory, LockOptions, Locks};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = InMemory::new();
    /// let guard = backend.lock("nightly", LockOptions::new()).await?;
    /// // The work that only one may do.
    /// assert!(guard.release().await?, "it was ours to the end");
    /// # Ok(())
    /// # }
    /// ```
    async fn lock(&self, name: &str, options: LockOptions) -> Result<LockGuard, LockError> {
        let _ = (name, options);
        Err(BackendError::new(self.core().name(), "lock", ErrorKind::Unsupported).into())
    }
}
