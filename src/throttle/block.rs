//! [`Throttle::block`] and [`Throttle::unblock`].

use std::time::Duration;

use super::Throttle;
use crate::error::Error;
use crate::key::{self, Key, ToKey};
use crate::step::BlockChange;

impl Throttle {
    /// Denies every hit on a key for that long, whatever its limits say. For an operator; a
    /// [`Penalty`](crate::Penalty) does it by a rule.
    ///
    /// A hit, a peek and a reservation are denied with [`Denial::Blocked`](crate::Denial::Blocked), of any cost,
    /// and take nothing; the wait is that of the block, or of the limits if that is longer, and what could never
    /// pass still never does. What was taken before can be refunded and settled, and who waits for a turn that
    /// [`acquire`](Self::acquire) reserved before gets it. Blocking again replaces the block, also by a shorter
    /// one. It is stored beside the counts, so it holds in all processes, and ends with
    /// [`unblock`](Self::unblock), [`reset`](Self::reset), or a clear of the backend.
    ///
    /// A hit whose rates are all unlimited asks nobody, so no block reaches it.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use traffik::{Denial, InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let api = Throttle::builder("doc:block").rate("9/min").backend(InMemory::new()).build()?;
    /// api.block("mallory", Duration::from_secs(3600)).await?;
    /// let decision = api.hit("mallory").await?;
    /// assert_eq!(decision.denial(), Some(Denial::Blocked));
    /// assert!(api.hit("alice").await?.is_allowed());
    /// assert!(api.unblock("mallory").await?, "it was blocked");
    /// assert!(api.hit("mallory").await?.is_allowed());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::CannotBlock`] if no block would reach the key: the throttle's rates are all unlimited, the key is
    /// exempt, or the time is zero. When the backend fails, or a full memory has no room. No policy applies.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the key may be blocked or not.
    pub async fn block(&self, key: impl ToKey, time: Duration) -> Result<(), Error> {
        self.block_by(&key, time, BlockChange::Replace(time)).await
    }

    /// As [`block`](Self::block), but a block that ends later stays.
    #[cfg(feature = "http-client")]
    pub(crate) async fn block_at_least(
        &self,
        key: impl ToKey,
        time: Duration,
    ) -> Result<(), Error> {
        self.block_by(&key, time, BlockChange::Lengthen(time)).await
    }

    async fn block_by(
        &self,
        key: &(impl ToKey + ?Sized),
        time: Duration,
        change: BlockChange,
    ) -> Result<(), Error> {
        let cannot = |problem| {
            let throttle = self.inner.name.to_string();
            Err(Error::CannotBlock { throttle, problem })
        };
        if self.inner.limits.iter().all(|limit| limit.rate().is_unlimited()) {
            return cannot("its rates are all unlimited, so hits ask nobody; give it a rate");
        }
        if time.is_zero() {
            return cannot("the time is zero; end a block with unblock");
        }
        match self.change_block(key, change).await? {
            Some(_was_blocked) => Ok(()),
            None => cannot("the key is exempt, so hits ask nobody"),
        }
    }

    /// Ends the block of a key, and leaves its counts alone. Returns whether it was blocked.
    ///
    /// ```
    /// # use traffik::{InMemory, Throttle};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let api = Throttle::builder("doc:unblock").rate("9/min").backend(InMemory::new()).build()?;
    /// assert!(!api.unblock("alice").await?, "there was no block");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the backend fails. No policy applies.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the block may have ended or not.
    pub async fn unblock(&self, key: impl ToKey) -> Result<bool, Error> {
        Ok(self.change_block(&key, BlockChange::Remove).await?.unwrap_or(false))
    }

    /// Returns whether the key was blocked; `None` if it is exempt.
    async fn change_block(
        &self,
        key: &(impl ToKey + ?Sized),
        change: BlockChange,
    ) -> Result<Option<bool>, Error> {
        let parts = key.to_key();
        let Some(parts) = parts.as_slice()? else { return Ok(None) };
        let mut room = None;
        let key = Key::new(&self.inner.name, key::bounded(parts, &mut room));
        let backend = self.backend()?;
        let changed = backend.change_block(&key, change);
        let changed = self.within_deadline(backend.core().name(), "change_block", changed).await;
        if change == BlockChange::Remove {
            // Also after an error: it may have happened.
            self.forget_denials(&key);
        }
        Ok(Some(changed?))
    }
}
