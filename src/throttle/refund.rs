//! [`Throttle::refund`] and [`Throttle::reset`].

use super::Throttle;
use crate::decision::Receipt;
use crate::error::Error;
use crate::key::{self, Key, ToKey};
use crate::step::Step;
use crate::strategy::Op;

impl Throttle {
    /// Gives back what a hit took: at most that, never above the capacity, and for a window strategy
    /// only while the window of the hit lasts. After that it does nothing.
    ///
    /// The key is asked for again because a decision does not keep it: so a hit allocates nothing.
    ///
    /// ```
    /// use traffik::{InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let throttle = Throttle::builder("doc:refund").rate("9/min").backend(InMemory::new()).build()?;
    /// let decision = throttle.hit("alice").await?;
    /// // Only failed attempts count, and this one succeeded.
    /// if let Some(receipt) = decision.receipt() {
    ///     throttle.refund("alice", receipt).await?;
    /// }
    /// assert_eq!(throttle.peek("alice").await?.remaining(), 9);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::WrongReceipt`] for a receipt of another key, of a throttle with another name or other
    /// strategies and periods, or of another store (shared ones are told
    /// apart by backend and namespace); when the backend fails. No policy applies. The receipt
    /// is used up in any case: what was ambiguous is not given back twice.
    ///
    /// # Cancel safety
    ///
    /// When dropped, it may have been given back or not.
    pub async fn refund(&self, key: impl ToKey, receipt: Receipt) -> Result<(), Error> {
        let parts = key.to_key();
        let Some(parts) = parts.as_slice()? else { return Err(Error::WrongReceipt) };
        let mut room = None;
        let key = key::bounded(parts, &mut room);
        let backend = self.backend()?;
        if self.fingerprint(key, &**backend) != receipt.fingerprint() {
            return Err(Error::WrongReceipt);
        }
        let limits = receipt.limits().unwrap_or(&self.inner.limits);
        let op = Op::Refund { taken_at: receipt.taken_at() };
        let step = Step::of_apart(limits, receipt.cost(), op);
        self.apply(&**backend, key, &step).await.map(drop).map_err(Error::from)
    }

    /// Forgets what was counted for a key, under every rate.
    ///
    /// ```
    /// use traffik::{InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let throttle = Throttle::builder("doc:reset").rate("1/min").backend(InMemory::new()).build()?;
    /// assert!(throttle.hit("alice").await?.is_allowed());
    /// throttle.reset("alice").await?;
    /// assert!(throttle.hit("alice").await?.is_allowed());
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
    /// When dropped, the key may have been forgotten or not.
    pub async fn reset(&self, key: impl ToKey) -> Result<(), Error> {
        let parts = key.to_key();
        let Some(parts) = parts.as_slice()? else { return Ok(()) };
        let mut room = None;
        let key = Key::new(&self.inner.name, key::bounded(parts, &mut room));
        let backend = self.backend()?;
        self.within_deadline(backend.core().name(), "forget", backend.forget(&key)).await?;
        Ok(())
    }
}
