//! [`Permit`]: what a hit took, in a guard.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::Throttle;
use crate::background;
use crate::decision::{Decision, Receipt};
use crate::error::Error;
use crate::hit_options::HitOptions;
use crate::key::{OwnedKey, ToKey};

/// What happens to the units of a [`Permit`] that is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PermitDrop {
    /// They stay used. The default: work that was cut short may have happened.
    #[default]
    Keep,
    /// They are given back. In memory at once, and on a server by a task of the runtime in which it is
    /// dropped; if there is none, or the server does not answer, they stay used.
    Refund,
}

/// The units that a hit took, until it is known how many were used.
///
/// [`Throttle::reserve`] returns it. [`settle`](Self::settle) it with what was used,
/// [`refund`](Self::refund) it, or [`commit`](Self::commit) it, which keeps all. If it is dropped, the units
/// stay used, unless [`on_drop`](Self::on_drop) says otherwise.
#[must_use = "a permit that is dropped at once keeps its units used"]
pub struct Permit {
    throttle: Throttle,
    key: OwnedKey,
    units: u32,
    receipt: Option<Receipt>,
    on_drop: PermitDrop,
    /// Its units were taken before its turn came.
    has_waited: bool,
}

/// A decision whose units are given back if nobody claims it.
pub(super) struct Unclaimed(Option<(Throttle, OwnedKey, Decision)>);

impl Unclaimed {
    pub(super) const fn new(throttle: Throttle, key: OwnedKey, decision: Decision) -> Self {
        Self(Some((throttle, key, decision)))
    }

    /// Returns the decision, whose units are then the caller's matter.
    pub(super) fn claim(mut self) -> Option<Decision> {
        self.0.take().map(|(_, _, decision)| decision)
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some((throttle, key, decision)) = self.0.take() {
            drop(Permit::of(throttle, key, decision).on_drop(PermitDrop::Refund));
        }
    }
}

impl Throttle {
    /// Takes `units` for work whose cost is known only afterwards, or returns a denial as an error.
    ///
    /// ```
    /// use traffik::{InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tokens = Throttle::builder("tokens").rate("1000/min").backend(InMemory::new()).build()?;
    /// let permit = tokens.reserve("alice", 400).await?; // an estimate
    /// let used = 150; // the model's answer says how many
    /// permit.settle(used).await?;
    /// assert_eq!(tokens.peek("alice").await?.remaining(), 850);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Denied`] with the decision, and as for [`hit`](Self::hit).
    ///
    /// # Cancel safety
    ///
    /// As for [`hit`](Self::hit): a reservation whose future was dropped keeps its estimate.
    pub async fn reserve(&self, key: impl ToKey, units: u32) -> Result<Permit, Error> {
        self.reserve_with(key, HitOptions::new().cost(units)).await
    }

    /// Takes units as [`reserve`](Self::reserve) does, with the options of a hit.
    ///
    /// ```
    /// use traffik::{HitOptions, InMemory, PermitDrop, Rate, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let jobs = Throttle::builder("doc:reserve").rate("9/min").backend(InMemory::new()).build()?;
    /// let plan = HitOptions::new().replace_rates([Rate::per_minute(600)]).cost(100);
    /// let permit = jobs.reserve_with("alice", plan).await?.on_drop(PermitDrop::Refund);
    /// // ... work that gives all back if it fails ...
    /// permit.commit();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Denied`] with the decision, and as for [`hit_with`](Self::hit_with).
    ///
    /// # Cancel safety
    ///
    /// As for [`reserve`](Self::reserve).
    pub async fn reserve_with(
        &self,
        key: impl ToKey,
        options: HitOptions,
    ) -> Result<Permit, Error> {
        let owned = OwnedKey::new(&key)?;
        let decision = self.enforce_with(key, options).await?.into_decision();
        Ok(Permit::of(self.clone(), owned, decision))
    }
}

impl Permit {
    pub(crate) fn of(throttle: Throttle, key: OwnedKey, decision: Decision) -> Self {
        let has_waited = decision.is_reserved();
        let receipt = decision.receipt();
        let units = receipt.as_ref().map_or(0, Receipt::cost);
        Self { throttle, key, units, receipt, on_drop: PermitDrop::default(), has_waited }
    }

    /// Returns whether its units were taken before its turn came.
    #[cfg(feature = "http-client")]
    pub(crate) const fn has_waited(&self) -> bool {
        self.has_waited
    }

    pub(super) const fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    /// Divides it into several of so many units, which are together all.
    pub(super) fn divide(mut self, units: &[u32]) -> Vec<Self> {
        let mut receipt = self.receipt.take();
        let part = |units: &u32| Self {
            throttle: self.throttle.clone(),
            key: self.key.clone(),
            units: if receipt.is_some() { *units } else { 0 },
            receipt: receipt.as_mut().and_then(|receipt| receipt.part(*units)),
            on_drop: self.on_drop,
            has_waited: self.has_waited,
        };
        units.iter().map(part).collect()
    }

    /// Sets what happens to the units if it is dropped. Defaults to [`PermitDrop::Keep`].
    pub const fn on_drop(mut self, on_drop: PermitDrop) -> Self {
        self.on_drop = on_drop;
        self
    }

    /// Returns the units that were taken; 0 where nothing was counted (an exempt key, an unlimited rate, an
    /// error policy that lets pass).
    #[must_use]
    pub const fn units(&self) -> u32 {
        self.units
    }

    /// Keeps all units used.
    pub fn commit(mut self) {
        self.receipt = None;
    }

    /// Replaces the units by those that were used, as [`Throttle::settle`] does.
    ///
    /// # Errors
    ///
    /// As for [`Throttle::settle`]. After an error the units are not given back by a drop: what may have
    /// happened is not done twice.
    ///
    /// # Cancel safety
    ///
    /// When dropped, it may have been settled or not.
    pub async fn settle(mut self, used: u32) -> Result<(), Error> {
        match self.receipt.take() {
            Some(receipt) => self.throttle.settle(&self.key, receipt, used).await,
            None => Ok(()),
        }
    }

    /// Gives all units back, as [`Throttle::refund`] does.
    ///
    /// # Errors
    ///
    /// As for [`Throttle::refund`].
    ///
    /// # Cancel safety
    ///
    /// When dropped, they may have been given back or not.
    pub async fn refund(mut self) -> Result<(), Error> {
        match self.receipt.take() {
            Some(receipt) => self.throttle.refund(&self.key, receipt).await,
            None => Ok(()),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.on_drop != PermitDrop::Refund {
            return;
        }
        let Some(receipt) = self.receipt.take() else { return };
        let (throttle, key) = (self.throttle.clone(), self.key.clone());
        let name = throttle.name().to_owned();
        let mut refund: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            if let Err(error) = throttle.refund(key, receipt).await
                && let Some(suppressed) = throttle.inner.log.pass()
            {
                let throttle = throttle.name();
                tracing::warn!(throttle, %error, suppressed, "a dropped permit was not refunded; it stays used");
            }
        });
        let mut first = || refund.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        // In memory that is all, in a runtime or not. A strategy that panics must not do so in a drop.
        match catch_unwind(AssertUnwindSafe(&mut first)) {
            Ok(Poll::Ready(())) => {}
            Ok(Poll::Pending) => {
                if !background::start_detached(refund) {
                    let throttle = name;
                    tracing::warn!(
                        throttle,
                        "no runtime to refund a dropped permit; it stays used"
                    );
                }
            }
            Err(_panic) => {
                tracing::warn!(
                    throttle = name,
                    "the refund of a dropped permit panicked; it stays used"
                );
            }
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut permit = f.debug_struct("Permit");
        permit.field("throttle", &self.throttle.name()).field("key", &self.key);
        permit.field("units", &self.units).field("on_drop", &self.on_drop).finish_non_exhaustive()
    }
}
