//! Values that only the holder of a lock writes: [`Redis::set_fenced`] and [`Redis::get_fenced`].

use std::time::Duration;

#[cfg(doc)]
use super::LockType;
use super::Redis;
use crate::backend::Result;
use crate::lock::LockGuard;

impl Redis {
    /// Sets a value that belongs to a lock, or with `None` deletes it, if the lock of `guard` is still
    /// held, and returns whether it was. The server checks that in the same step, so a holder that was
    /// paused beyond its TTL cannot overwrite what the next one wrote.
    ///
    /// The value lives beside the lock, under the lock's name and its own; read it with
    /// [`get_fenced`](Self::get_fenced). `clear` leaves it alone.
    ///
    /// ```no_run
    /// use traffik::{LockOptions, Locks, Redis};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = Redis::new("redis://127.0.0.1")?;
    /// let guard = backend.lock("report", LockOptions::new()).await?;
    /// if backend.set_fenced(&guard, "progress", Some(b"42"), None).await? {
    ///     println!("written, and the lock was ours");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the server fails; for a guard of another backend or of a [`LockType::Redlock`], which no
    /// single server can check.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the value may have been written or not.
    pub async fn set_fenced(
        &self,
        guard: &LockGuard,
        name: impl AsRef<[u8]> + Send,
        value: Option<&[u8]>,
        ttl: Option<Duration>,
    ) -> Result<bool> {
        let inner = self.open("set_fenced")?;
        inner.locks.write(guard, &inner.keys, name.as_ref(), value, ttl).await
    }

    /// Returns the value that the holders of `lock` wrote under `name`; `None` if there is none.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// # let backend = traffik::Redis::new("redis://127.0.0.1")?;
    /// let progress = backend.get_fenced("report", "progress").await?;
    /// # drop(progress);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the server fails.
    ///
    /// # Cancel safety
    ///
    /// It changes nothing, so it may be dropped.
    pub async fn get_fenced(
        &self,
        lock: &str,
        name: impl AsRef<[u8]> + Send,
    ) -> Result<Option<Vec<u8>>> {
        let inner = self.open("get_fenced")?;
        inner.get_raw("get_fenced", &inner.keys.guarded(lock, name.as_ref())).await
    }
}
