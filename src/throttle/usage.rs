//! Costs that are known afterwards, and what is left: [`Throttle::charge`], [`Throttle::settle`],
//! [`Throttle::take_up_to`] and [`Throttle::drain`].

use super::backend_call::AskedKey;
use super::{Mode, Throttle};
use crate::decision::{DecidedBy, Decision, Receipt, Taken};
use crate::error::Error;
use crate::key::ToKey;
use crate::step::Step;
use crate::strategy::{Limit, Op};

impl Throttle {
    /// Counts `units` that were used, whatever is left. Never denied: what has happened has happened.
    ///
    /// A bucket goes into debt, which must refill before anything passes; a window counts beyond its limit.
    /// So the hits that come next are denied for as long as the limits demand.
    ///
    /// ```
    /// use traffik::{InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let bytes = Throttle::builder("egress").rate("1000/s").backend(InMemory::new()).build()?;
    /// if bytes.peek("alice").await?.is_allowed() {
    ///     let sent = 2500; // as many as the answer turned out to have
    ///     let _ = bytes.charge("alice", sent).await?;
    /// }
    /// assert!(bytes.hit("alice").await?.is_denied());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the backend fails, or a full memory has no room for a new key: no policy applies, for there is
    /// nothing to decide. [`Error::Unsupported`] if a user's own strategy cannot count what it did not let
    /// pass.
    ///
    /// # Cancel safety
    ///
    /// On the in-memory backend it happens at the first poll or not at all. On a networked one, a dropped
    /// future may have charged.
    pub async fn charge(&self, key: impl ToKey, units: u32) -> Result<Decision, Error> {
        if self.mode() == Mode::Off {
            return Ok(Decision::pass(DecidedBy::Off));
        }
        self.require(&self.inner.limits, Op::Charge)?;
        self.count(&key, &Step::of_apart(&self.inner.limits, units, Op::Charge)).await
    }

    /// Replaces what a hit took by what it used: gives the rest back, or charges what is missing.
    ///
    /// For a cost that is known only afterwards, such as the tokens of a language model or the bytes of an
    /// answer: hit with an estimate as the cost, do the work, settle. Of several limits each is settled. A
    /// bucket takes back at any time, a window only while the window of the hit lasts; what is missing is
    /// charged now, and may exceed the limit. If it is never settled, the estimate stays counted.
    ///
    /// ```
    /// use traffik::{HitOptions, InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tokens = Throttle::builder("tokens").rate("1000/min").backend(InMemory::new()).build()?;
    /// let estimate = HitOptions::new().cost(400);
    /// let decision = tokens.enforce_with("alice", estimate).await?;
    /// let used = 150; // the model's answer says how many
    /// if let Some(receipt) = decision.receipt() {
    ///     tokens.settle("alice", receipt, used).await?;
    /// }
    /// assert_eq!(tokens.peek("alice").await?.remaining(), 850);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`refund`](Self::refund), and [`Error::Unsupported`] if more was used and a user's own strategy
    /// cannot charge that. The receipt is used up in any case.
    ///
    /// # Cancel safety
    ///
    /// When dropped, it may have been settled or not.
    pub async fn settle(&self, key: impl ToKey, receipt: Receipt, used: u32) -> Result<(), Error> {
        let limits = receipt.limits().unwrap_or(&self.inner.limits);
        let (units, op) = match receipt.cost().checked_sub(used) {
            Some(rest) => (rest, Op::Refund { taken_at: receipt.taken_at() }),
            None => (used - receipt.cost(), Op::Charge),
        };
        self.require(limits, op)?;
        let step = Step::of_apart(limits, units, op).taken_by(Some(receipt.taker()));
        self.change(&key, receipt.fingerprint(), &step).await
    }

    /// Takes as many units as would pass, up to `units`, in one step.
    ///
    /// Of several limits it takes as many as all of them have. If there is none it takes nothing, and the
    /// decision is the denial of a single unit, with its wait.
    ///
    /// ```
    /// use traffik::{InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mails = Throttle::builder("mails").rate("100/h").backend(InMemory::new()).build()?;
    /// let queue: Vec<u32> = (0..250).collect();
    /// let taken = mails.take_up_to("alice", 250).await?;
    /// let (now, later) = queue.split_at(taken.units() as usize);
    /// assert_eq!((now.len(), later.len()), (100, 150));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`hit`](Self::hit). Where the error policy lets a hit pass, all units are given.
    ///
    /// # Cancel safety
    ///
    /// As for [`hit`](Self::hit).
    pub async fn take_up_to(&self, key: impl ToKey, units: u32) -> Result<Taken, Error> {
        self.require(&self.inner.limits, Op::TakeUpTo)?;
        let step = Step::of_apart(&self.inner.limits, units, Op::TakeUpTo);
        let hit = self.begin();
        let taken = Taken::of(self.run(&key, &step, hit).await?, units);
        Ok(if hit.mode == Mode::Shadow { taken.in_shadow(units) } else { taken })
    }

    /// Uses up all that is left for a key, under each of the throttle's limits. For an operator.
    ///
    /// A hit is then denied until something comes back, as after as many hits. Takes nothing of a rate that
    /// hits bring, and nothing of an unlimited one.
    ///
    /// ```
    /// use traffik::{InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let throttle = Throttle::builder("doc:drain").rate("9/h").backend(InMemory::new()).build()?;
    /// throttle.drain("alice").await?;
    /// assert!(throttle.hit("alice").await?.is_denied());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the backend fails, or a full memory has no room for a new key. No policy applies.
    ///
    /// # Cancel safety
    ///
    /// When dropped, it may have happened or not.
    pub async fn drain(&self, key: impl ToKey) -> Result<(), Error> {
        self.require(&self.inner.limits, Op::Drain)?;
        self.count(&key, &Step::of_apart(&self.inner.limits, 0, Op::Drain)).await.map(drop)
    }

    /// Runs a step that counts what has happened: no policy decides about it.
    async fn count(&self, key: &(impl ToKey + ?Sized), step: &Step<'_>) -> Result<Decision, Error> {
        let (parts, mut room) = (key.to_key(), None);
        let key = match AskedKey::new(&parts, &mut room, step) {
            Ok(key) => key.stored,
            Err(unasked) => return unasked.into_decision(),
        };
        let backend = self.backend()?;
        let decision = self.apply(&**backend, key, step).await;
        let decision = decision.inspect_err(|error| self.tell_failure(error))?;
        let fingerprint = || self.fingerprint(key, &**backend);
        Ok(decision.map(|inline| self.finish(key, inline, fingerprint)))
    }

    /// Refuses an operation that a strategy does not do.
    pub(super) fn require(&self, limits: &[Limit], op: Op) -> Result<(), Error> {
        match limits.iter().find(|limit| !limit.strategy().supports(op)) {
            None => Ok(()),
            Some(limit) => Err(Error::Unsupported {
                throttle: self.inner.name.to_string(),
                limit: limit.name().into_owned(),
                op,
            }),
        }
    }
}
