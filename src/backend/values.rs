//! [`Values`]: bytes and counters under a key, with or without a TTL.

use std::time::Duration;

use async_trait::async_trait;

use super::change::{self, Change, Changed};
use super::optimistic::retry;
use super::{HasCore, Result};
use crate::clock::Timestamp;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::key::Key;

/// The largest value of a counter: 2^63 - 1.
pub const MAX_COUNTER: u64 = i64::MAX as u64;

/// The TTL of a value that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a backend has to keep each of them")]
pub enum Ttl {
    /// Keeps the expiry that the value has. A new value never expires.
    Keep,
    /// Sets this TTL if the value has none, because it is new or was written without one.
    IfNone(Duration),
    /// Sets this TTL, from now. A TTL of zero removes the value.
    After(Duration),
    /// The value never expires.
    Never,
}

impl Ttl {
    /// Returns when a value expires that is written now and would have expired at `old`. For a store that
    /// keeps the instant.
    #[must_use]
    pub fn expires_at(self, old: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Keep => old,
            Self::IfNone(ttl) => old.or(Some(now.saturating_add(ttl))),
            Self::After(ttl) => Some(now.saturating_add(ttl)),
            Self::Never => None,
        }
    }
}

impl From<Option<Duration>> for Ttl {
    /// A TTL from now, or none.
    fn from(ttl: Option<Duration>) -> Self {
        ttl.map_or(Self::Never, Self::After)
    }
}

/// The values and counters of a backend: what limiter states are made of, and a user's own values.
///
/// A backend implements [`get`](Self::get) and [`compare_and_set`](Self::compare_and_set). The others have
/// defaults, which read a value and replace it in a bounded loop with backoff; then they fail with
/// [`ErrorKind::Contended`]. A store that can do better overrides them.
///
/// The contract of [`Backend`](super::Backend) holds for each method: it takes effect at one instant or not
/// at all, unless its docs say otherwise.
#[async_trait]
pub trait Values: HasCore {
    /// Returns the value; `None` if it is missing.
    ///
    /// ```
    /// use traffik::{InMemory, Key, Values};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = InMemory::new();
    /// let key = Key::value("motd");
    /// assert_eq!(backend.get(&key).await?, None);
    /// backend.set(&key, b"hello", None).await?;
    /// assert_eq!(backend.get(&key).await?.as_deref(), Some(&b"hello"[..]));
    /// # Ok(())
    /// # }
    /// ```
    async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>>;

    /// Sets the value to `new` if it is `expected`, and returns whether it was. `None` is a missing value:
    /// so this creates, replaces and deletes.
    ///
    /// ```
    /// use traffik::{InMemory, Key, Ttl, Values};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = InMemory::new();
    /// let key = Key::value("leader");
    /// let ttl = Ttl::After(std::time::Duration::from_secs(30));
    /// assert!(backend.compare_and_set(&key, None, Some(b"a"), ttl).await?, "creates");
    /// assert!(!backend.compare_and_set(&key, None, Some(b"b"), ttl).await?, "there is one");
    /// assert!(backend.compare_and_set(&key, Some(b"a"), None, ttl).await?, "deletes");
    /// # Ok(())
    /// # }
    /// ```
    async fn compare_and_set(
        &self,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        ttl: Ttl,
    ) -> Result<bool>;

    /// Sets the value, with this TTL or without one.
    ///
    /// ```
    /// use traffik::{InMemory, Key, Values};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = InMemory::new();
    /// let key = Key::value("motd");
    /// backend.set(&key, b"hello", Some(std::time::Duration::from_secs(60))).await?;
    /// assert!(backend.get(&key).await?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    async fn set(&self, key: &Key<'_>, value: &[u8], ttl: Option<Duration>) -> Result<()> {
        update(self, "set", key, change::set(value, ttl)).await
    }

    /// Removes the value, and returns whether there was one.
    ///
    /// ```
    /// use traffik::{InMemory, Key, Values};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = InMemory::new();
    /// let key = Key::value("motd");
    /// backend.set(&key, b"hello", None).await?;
    /// assert!(backend.delete(&key).await?);
    /// assert!(!backend.delete(&key).await?, "there was none any more");
    /// # Ok(())
    /// # }
    /// ```
    async fn delete(&self, key: &Key<'_>) -> Result<bool> {
        update(self, "delete", key, change::delete()).await
    }

    /// Adds to a counter and returns the sum. The TTL stays. A missing value counts as 0 and gets no TTL.
    ///
    /// Beyond [`MAX_COUNTER`] it fails with [`ErrorKind::OutOfRange`], on a value that is not a counter
    /// with [`ErrorKind::NotANumber`], and the value stays as it was. A counter is stored as decimal ASCII
    /// digits.
    ///
    /// ```
    /// use traffik::{InMemory, Key, Values};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = InMemory::new();
    /// let key = Key::value("visits");
    /// assert_eq!(backend.increment(&key, 1).await?, 1);
    /// assert_eq!(backend.increment(&key, 5).await?, 6);
    /// # Ok(())
    /// # }
    /// ```
    async fn increment(&self, key: &Key<'_>, by: u64) -> Result<u64> {
        const OPERATION: &str = "increment";
        let add = change::add((self.core().name(), OPERATION), by, Ttl::Keep);
        update(self, OPERATION, key, add).await
    }

    /// Adds as [`increment`](Self::increment) does, and in the same step gives the counter this TTL if it
    /// has none: because it is new, or was made without one.
    ///
    /// ```
    /// use traffik::{InMemory, Key, Values};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = InMemory::new();
    /// let key = Key::value("visits");
    /// let minute = std::time::Duration::from_secs(60);
    /// // The minute begins with the first of them.
    /// assert_eq!(backend.increment_with_ttl(&key, 1, minute).await?, 1);
    /// assert_eq!(backend.increment_with_ttl(&key, 1, minute).await?, 2);
    /// # Ok(())
    /// # }
    /// ```
    async fn increment_with_ttl(&self, key: &Key<'_>, by: u64, ttl: Duration) -> Result<u64> {
        const OPERATION: &str = "increment_with_ttl";
        let add = change::add((self.core().name(), OPERATION), by, Ttl::IfNone(ttl));
        update(self, OPERATION, key, add).await
    }

    /// Subtracts from a counter, not below 0, and returns what is left. The TTL stays.
    ///
    /// A missing value fails with [`ErrorKind::NotFound`] and stays missing.
    ///
    /// ```
    /// use traffik::{InMemory, Key, Values};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = InMemory::new();
    /// let key = Key::value("seats");
    /// assert!(backend.decrement(&key, 1).await.is_err(), "there is no such counter");
    /// backend.increment(&key, 3).await?;
    /// assert_eq!(backend.decrement(&key, 5).await?, 0, "not below 0");
    /// # Ok(())
    /// # }
    /// ```
    async fn decrement(&self, key: &Key<'_>, by: u64) -> Result<u64> {
        const OPERATION: &str = "decrement";
        let subtract = change::subtract((self.core().name(), OPERATION), by);
        update(self, OPERATION, key, subtract).await
    }

    /// Sets the TTL, and returns whether there is such a value.
    ///
    /// ```
    /// use traffik::{InMemory, Key, Values};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = InMemory::new();
    /// let key = Key::value("motd");
    /// backend.set(&key, b"hello", None).await?;
    /// assert!(backend.expire(&key, std::time::Duration::from_secs(60)).await?);
    /// # Ok(())
    /// # }
    /// ```
    async fn expire(&self, key: &Key<'_>, ttl: Duration) -> Result<bool> {
        update(self, "expire", key, change::expire(ttl)).await
    }

    /// Returns the values in the order of the keys, `None` where one is missing.
    ///
    /// One round trip where the store can; the default gets one after the other, and each is read at its
    /// own instant.
    ///
    /// ```
    /// use traffik::{InMemory, Key, Values};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = InMemory::new();
    /// let keys = [Key::value("a"), Key::value("b")];
    /// backend.set(&keys[1], b"2", None).await?;
    /// assert_eq!(backend.multi_get(&keys).await?, [None, Some(b"2".to_vec())]);
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// ```
    /// use traffik::{InMemory, Key, Values};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = InMemory::new();
    /// backend.multi_set(&[(Key::value("a"), b"1"), (Key::value("b"), b"2")], None).await?;
    /// assert!(backend.get(&Key::value("b")).await?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    async fn multi_set(&self, pairs: &[(Key<'_>, &[u8])], ttl: Option<Duration>) -> Result<()> {
        for (done, (key, value)) in pairs.iter().enumerate() {
            self.set(key, value, ttl).await.map_err(|error| error.after(done))?;
        }
        Ok(())
    }
}

/// Reads a value, asks what becomes of it, and writes that, until nobody wrote in between.
async fn update<V: Values + ?Sized, T: Send>(
    values: &V,
    operation: &'static str,
    key: &Key<'_>,
    change: impl Fn(Option<&[u8]>) -> Changed<T> + Send + Sync,
) -> Result<T> {
    let change = &change;
    retry(values.core(), operation, || async move {
        let found = values.get(key).await?;
        let expected = found.as_deref();
        let (outcome, change) = change(expected)?;
        let is_written = match change {
            Change::Keep => true,
            Change::Remove => values.compare_and_set(key, expected, None, Ttl::Never).await?,
            Change::Put(new, ttl) => values.compare_and_set(key, expected, Some(&new), ttl).await?,
        };
        Ok(is_written.then_some(outcome))
    })
    .await
}
