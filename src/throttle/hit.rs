//! The hits: [`Throttle::hit`], [`Throttle::peek`] and their forms.

use super::Throttle;
use super::begun::BegunHit;
use crate::decision::{Allowed, Decision};
use crate::error::Error;
use crate::hit_options::HitOptions;
use crate::key::ToKey;
use crate::step::Step;
use crate::strategy::meter::Demand;
use crate::strategy::{Limit, Op};

impl Throttle {
    /// Counts a hit of the default cost, and answers whether it passes. A hit that is denied consumes
    /// nothing.
    ///
    /// ```
    /// use traffik::{InMemory, Outcome, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let throttle = Throttle::builder("doc:hit").rate("1/min").backend(InMemory::new()).build()?;
    /// match throttle.hit("alice").await?.outcome() {
    ///     Outcome::Allowed => println!("served"),
    ///     Outcome::Denied { retry_after } => println!("429, retry after {retry_after:?}"),
    ///     Outcome::Never => println!("403"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the backend fails and the policy is [`OnError::Raise`](crate::OnError::Raise); for a mistake
    /// of the program (a closed backend, no backend, no tokio runtime for a backend on a server); for a
    /// key of too many parts. A key may have any length: see
    /// [`MAX_KEY_BYTES`](crate::key::MAX_KEY_BYTES).
    ///
    /// # Cancel safety
    ///
    /// On the in-memory backend a hit happens at the first poll or not at all. On a networked one, a
    /// dropped future may have consumed the cost.
    #[inline]
    pub async fn hit(&self, key: impl ToKey) -> Result<Decision, Error> {
        let demand = (Demand::of(self.inner.cost), Op::Take);
        if let Some(inline) = self.try_prepared(&key, demand) {
            return Ok(inline.into());
        }
        match self.try_several(&key, demand) {
            Some(decision) => Ok(decision),
            None => {
                let step = Step::of_apart(&self.inner.limits, self.inner.cost, Op::Take);
                self.run(&key, &step, self.begin()).await
            }
        }
    }

    /// Counts a hit with its own cost or rates.
    ///
    /// ```
    /// use traffik::{HitOptions, InMemory, Rate, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let throttle = Throttle::builder("doc:hit_with").rate("9/min").backend(InMemory::new()).build()?;
    /// let plan = HitOptions::new().replace_rates([Rate::per_minute(600)]).cost(5);
    /// let decision = throttle.hit_with("alice", plan).await?;
    /// assert_eq!(decision.remaining(), 595);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`hit`](Self::hit); when the strategy cannot keep a rate; when the hit has no rate or more
    /// than eight; when hits brought more than 32 different rates to the key.
    ///
    /// # Cancel safety
    ///
    /// As for [`hit`](Self::hit).
    pub async fn hit_with(&self, key: impl ToKey, options: HitOptions) -> Result<Decision, Error> {
        let demand = (options.demand(self.inner.cost), Op::Take);
        if !options.brings_rates()
            && let Some(inline) = self.try_prepared(&key, demand)
        {
            return Ok(inline.into());
        }
        match self.try_more(&key, &options, demand) {
            Some(decision) => Ok(decision),
            None => self.run_with(&key, &options, Op::Take, self.begin()).await,
        }
    }

    /// Answers as [`hit`](Self::hit) would, but consumes nothing, and needs no room in a full memory.
    ///
    /// ```
    /// use traffik::{InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let throttle = Throttle::builder("doc:peek").rate("9/min").backend(InMemory::new()).build()?;
    /// assert_eq!(throttle.peek("alice").await?.remaining(), 9);
    /// assert_eq!(throttle.peek("alice").await?.remaining(), 9);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Do not peek to decide: of many callers that peek at the same time each is told that there is
    /// room. Hit first, and [`refund`](Self::refund) what was not needed.
    ///
    /// # Errors
    ///
    /// As for [`hit`](Self::hit).
    ///
    /// # Cancel safety
    ///
    /// It changes nothing, so it may be dropped.
    pub async fn peek(&self, key: impl ToKey) -> Result<Decision, Error> {
        let demand = (Demand::of(self.inner.cost), Op::Peek);
        if let Some(inline) = self.try_prepared(&key, demand) {
            return Ok(inline.into());
        }
        match self.try_several(&key, demand) {
            Some(decision) => Ok(decision),
            None => {
                let step = Step::of_apart(&self.inner.limits, self.inner.cost, Op::Peek);
                self.run(&key, &step, self.begin()).await
            }
        }
    }

    /// Answers as [`hit_with`](Self::hit_with) would, but consumes nothing.
    ///
    /// ```
    /// use traffik::{HitOptions, InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let throttle = Throttle::builder("doc:peek_with").rate("9/min").backend(InMemory::new()).build()?;
    /// let decision = throttle.peek_with("alice", HitOptions::new().cost(10)).await?;
    /// assert!(decision.is_denied());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`hit_with`](Self::hit_with).
    ///
    /// # Cancel safety
    ///
    /// It changes nothing, so it may be dropped.
    pub async fn peek_with(&self, key: impl ToKey, options: HitOptions) -> Result<Decision, Error> {
        let demand = (options.demand(self.inner.cost), Op::Peek);
        if !options.brings_rates()
            && let Some(inline) = self.try_prepared(&key, demand)
        {
            return Ok(inline.into());
        }
        match self.try_more(&key, &options, demand) {
            Some(decision) => Ok(decision),
            None => self.run_with(&key, &options, Op::Peek, self.begin()).await,
        }
    }

    /// Counts a hit as [`hit`](Self::hit) does, and returns a denial as an error, for `?`.
    ///
    /// ```
    /// use traffik::{Error, InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let throttle = Throttle::builder("doc:enforce").rate("0/min").backend(InMemory::new()).build()?;
    /// assert!(matches!(throttle.enforce("alice").await, Err(Error::Denied(_))));
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
    /// As for [`hit`](Self::hit).
    pub async fn enforce(&self, key: impl ToKey) -> Result<Allowed, Error> {
        Allowed::of(self.hit(key).await?).map_err(|denied| Error::Denied(Box::new(denied)))
    }

    /// Counts a hit as [`hit_with`](Self::hit_with) does, and returns a denial as an error, for `?`.
    ///
    /// ```
    /// use traffik::{Error, HitOptions, InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let throttle = Throttle::builder("doc:enforce_with").rate("9/min").backend(InMemory::new()).build()?;
    /// throttle.enforce_with("alice", HitOptions::new().cost(5)).await?;
    /// let again = throttle.enforce_with("alice", HitOptions::new().cost(5)).await;
    /// assert!(matches!(again, Err(Error::Denied(_))));
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
    /// As for [`hit`](Self::hit).
    pub async fn enforce_with(
        &self,
        key: impl ToKey,
        options: HitOptions,
    ) -> Result<Allowed, Error> {
        let decision = self.hit_with(key, options).await?;
        Allowed::of(decision).map_err(|denied| Error::Denied(Box::new(denied)))
    }

    /// As [`hit_with`](Self::hit_with), in a mode that may be another than the throttle's.
    #[cfg(feature = "http")]
    pub(crate) async fn hit_in(
        &self,
        mode: super::Mode,
        key: &impl ToKey,
        options: &HitOptions,
    ) -> Result<Decision, Error> {
        match mode {
            super::Mode::Enforce => self.hit_with(key, options.clone()).await,
            mode => self.run_with(key, options, Op::Take, self.begin_in(mode)).await,
        }
    }

    async fn run_with(
        &self,
        key: &(impl ToKey + ?Sized),
        options: &HitOptions,
        op: Op,
        hit: BegunHit,
    ) -> Result<Decision, Error> {
        let Some(limits) = self.brought_by(options)? else {
            return self.run(key, &self.step_of(options, None, op), hit).await;
        };
        let decision = self.run(key, &self.step_of(options, Some(&limits), op), hit).await?;
        Ok(self.with_brought(decision, &limits))
    }

    /// Returns the step of a hit with these options, and with these limits if it brought some.
    #[inline]
    pub(super) fn step_of<'a>(
        &'a self,
        options: &HitOptions,
        brought: Option<&'a [Limit]>,
        op: Op,
    ) -> Step<'a> {
        let limits = brought.unwrap_or(&self.inner.limits);
        let cost = options.cost.unwrap_or(self.inner.cost);
        Step::of_apart(limits, cost, op).leave(options.leave)
    }
}
