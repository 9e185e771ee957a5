//! [`Throttle::refund`] and [`Throttle::reset`].

use super::{Mode, Throttle};
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
        if let Some(is_right) = self.try_refund(&key, &receipt) {
            return if is_right { Ok(()) } else { Err(Error::WrongReceipt) };
        }
        let limits = receipt.limits().unwrap_or(&self.inner.limits);
        let op = Op::Refund { taken_at: receipt.taken_at() };
        let step = Step::of_apart(limits, receipt.cost(), op).taken_by(Some(receipt.taker()));
        self.change(&key, receipt.fingerprint(), &step).await
    }

    /// Gives back without waiting, where that is sure to succeed: in memory. Returns whether the receipt is of the key;
    /// `None`, with nothing done, to take the other way.
    fn try_refund(&self, key: &(impl ToKey + ?Sized), receipt: &Receipt) -> Option<bool> {
        let (prepared, key) = (self.prepared()?, key.to_key());
        let key = key::short_enough(&key)?;
        if receipt.limits().is_some() {
            return None;
        }
        let is_right = |hash| hash ^ self.inner.seed == receipt.fingerprint();
        let taken = (receipt.cost(), receipt.taken_at());
        prepared.try_refund(key, &self.inner.limits, taken, is_right)
    }

    /// Gives back some units of what a hit took, by the rules of [`refund`](Self::refund). The receipt keeps
    /// the others.
    ///
    /// ```
    /// use traffik::{HitOptions, InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let throttle = Throttle::builder("doc:part").rate("9/min").backend(InMemory::new()).build()?;
    /// let batch = throttle.enforce_with("alice", HitOptions::new().cost(5)).await?;
    /// if let Some(mut receipt) = batch.receipt() {
    ///     throttle.refund_part("alice", &mut receipt, 2).await?; // three were enough
    ///     assert_eq!(receipt.cost(), 3);
    /// }
    /// assert_eq!(throttle.peek("alice").await?.remaining(), 6);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::ReceiptUnits`] if the receipt has fewer, and as for [`refund`](Self::refund). The units are off
    /// the receipt also when the backend fails.
    ///
    /// # Cancel safety
    ///
    /// When dropped, they may have been given back or not; they are off the receipt once it was polled.
    pub async fn refund_part(
        &self,
        key: impl ToKey,
        receipt: &mut Receipt,
        units: u32,
    ) -> Result<(), Error> {
        let taken = receipt.cost();
        if !receipt.spend(units) {
            return Err(Error::ReceiptUnits { taken, asked: units });
        }
        let limits = receipt.limits().unwrap_or(&self.inner.limits);
        let op = Op::Refund { taken_at: receipt.taken_at() };
        let step = Step::of_apart(limits, units, op).taken_by(Some(receipt.taker()));
        self.change(&key, receipt.fingerprint(), &step).await
    }

    /// Changes what a receipt of that fingerprint stands for. No policy applies, and nobody is asked while it is off.
    pub(super) async fn change(
        &self,
        key: &(impl ToKey + ?Sized),
        fingerprint: u64,
        step: &Step<'_>,
    ) -> Result<(), Error> {
        if self.mode() == Mode::Off {
            return Ok(());
        }
        let parts = key.to_key();
        let Some(parts) = parts.as_slice()? else { return Err(Error::WrongReceipt) };
        let mut room = None;
        let key = key::bounded(parts, &mut room);
        let backend = self.backend()?;
        if self.fingerprint(key, &**backend) != fingerprint {
            return Err(Error::WrongReceipt);
        }
        if step.cost() == 0 {
            return Ok(());
        }
        let changed = self.apply(&**backend, key, step).await;
        Ok(changed.map(drop).inspect_err(|error| self.tell_failure(error))?)
    }

    /// Forgets what was counted for a key, under every rate, and ends its block.
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
        let name = backend.core().name();
        let forgotten = self.within_deadline(name, "forget", backend.forget(&key)).await;
        // Also after an error: it may have happened.
        self.forget_denials(&key);
        Ok(forgotten?)
    }
}
