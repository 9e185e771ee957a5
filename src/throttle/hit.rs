//! The hits: [`Throttle::hit`], [`Throttle::peek`] and their forms.

use std::pin::Pin;

use super::backend_call::AskedKey;
use super::begun::BegunHit;
use super::{Mode, Throttle};
use crate::backend::Backend;
use crate::decision::{Allowed, Decision, InlineDecision};
use crate::error::{BackendError, Error};
use crate::hit_options::HitOptions;
use crate::key::{KeyPart, KeyParts, ToKey};
use crate::step::Step;
use crate::strategy::meter::Demand;
use crate::strategy::{Limit, Op};
use crate::timer::Deadline;

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
        mode: Mode,
        key: &impl ToKey,
        options: &HitOptions,
    ) -> Result<Decision, Error> {
        match mode {
            Mode::Enforce => self.hit_with(key, options.clone()).await,
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

    pub(super) async fn run(
        &self,
        key: &(impl ToKey + ?Sized),
        step: &Step<'_>,
        hit: BegunHit,
    ) -> Result<Decision, Error> {
        // In a box, or the future of each task that hits would have room for all that this may wait for.
        let waiting: Pin<Box<dyn Future<Output = _> + Send + '_>> = {
            let parts = key.to_key();
            match self.run_at_once(&parts, step, hit) {
                AtOnce::Decided(decided) => return decided,
                AtOnce::Answered(outcome) => Box::pin(self.go_on(parts, step, outcome, hit)),
                AtOnce::Unasked => Box::pin(self.ask(parts, step, hit)),
            }
        };
        waiting.await
    }

    /// Goes as far as it comes without an await, which costs a peek a tenth.
    pub(super) fn run_at_once(
        &self,
        parts: &KeyParts<'_>,
        step: &Step<'_>,
        hit: BegunHit,
    ) -> AtOnce {
        if hit.mode == Mode::Off {
            return AtOnce::Decided(Ok(self.end_off(hit, step)));
        }
        let mut room = None;
        let key = match AskedKey::new(parts, &mut room, step) {
            Ok(key) => key.stored,
            Err(unasked) => {
                let decided = unasked.into_decision();
                return AtOnce::Decided(
                    decided.map(|decision| self.end(hit, None, step, decision)),
                );
            }
        };
        let Some(prepared) = &self.inner.prepared else { return AtOnce::Unasked };
        match prepared.apply(key, step) {
            // Nobody counts it for a penalty.
            Ok(decision) if !self.is_penalized(hit) || decision.is_allowed() => {
                let hash = || prepared.hash_of(key) ^ self.inner.seed;
                let decision = decision.map(|inline| self.finish(key, inline, hash));
                AtOnce::Decided(Ok(self.end(hit, Some(key), step, decision)))
            }
            outcome => AtOnce::Answered(outcome),
        }
    }

    /// Asks the backend, and makes the decision.
    #[expect(
        clippy::manual_async_fn,
        reason = "that keeps twice what it is given, and a hit of a distant store pays for its future's size"
    )]
    fn ask<'a>(
        &'a self,
        parts: KeyParts<'a>,
        step: &'a Step<'a>,
        hit: BegunHit,
    ) -> impl Future<Output = Result<Decision, Error>> + Send + 'a {
        async move {
            let mut room = None;
            let key = match AskedKey::new(&parts, &mut room, step) {
                Ok(key) => key,
                Err(unasked) => return unasked.into_decision(),
            };
            let backend = self.backend()?;
            // That of a hit which waits is also that of its penalty.
            let deadline = self.is_penalized(hit).then(|| self.deadline());
            let decision = match self.apply_by(&**backend, key.stored, step, deadline).await {
                // Nobody counts it for a penalty.
                Ok(decision) if !self.is_penalized(hit) || decision.is_allowed() => {
                    self.finish_decision(&**backend, key, decision)
                }
                // In a box: it may wait for a policy, or for a block.
                outcome => {
                    let ends = (deadline, hit);
                    Box::pin(self.conclude(&**backend, key, step, outcome, ends)).await?
                }
            };
            Ok(self.end(hit, Some(key.stored), step, decision))
        }
    }

    /// Makes the decision of what the backend answered at once.
    async fn go_on(
        &self,
        parts: KeyParts<'_>,
        step: &Step<'_>,
        outcome: Result<Decision, BackendError>,
        hit: BegunHit,
    ) -> Result<Decision, Error> {
        let mut room = None;
        let key = match AskedKey::new(&parts, &mut room, step) {
            Ok(key) => key,
            Err(unasked) => return unasked.into_decision(),
        };
        let backend = self.backend()?;
        let deadline = self.is_penalized(hit).then(|| self.deadline());
        let decision = self.conclude(&**backend, key, step, outcome, (deadline, hit)).await?;
        Ok(self.end(hit, Some(key.stored), step, decision))
    }

    /// Asks for a caller that waits for its turn. To be told so is no misuse, and no penalty counts it. The hit does
    /// not end by it.
    pub(super) async fn run_patiently(
        &self,
        key: &(impl ToKey + ?Sized),
        step: &Step<'_>,
        hit: BegunHit,
    ) -> Result<Decision, Error> {
        let (parts, mut room) = (key.to_key(), None);
        let key = match AskedKey::new(&parts, &mut room, step) {
            Ok(key) => key,
            Err(unasked) => return unasked.into_decision(),
        };
        let backend = self.backend()?;
        let outcome = self.apply(&**backend, key.stored, step).await;
        self.decide(&**backend, key, step, outcome, hit).await
    }

    /// Makes the decision about a key of what the backend said, and counts a denial for the penalty, whose
    /// block is set by that deadline.
    pub(super) async fn conclude(
        &self,
        backend: &dyn Backend,
        key: AskedKey<'_>,
        step: &Step<'_>,
        outcome: Result<Decision, BackendError>,
        (deadline, hit): (Option<Deadline>, BegunHit),
    ) -> Result<Decision, Error> {
        let decision = self.decide(backend, key, step, outcome, hit).await?;
        Ok(match self.count_denial(backend, key.stored, (step.op(), hit), &decision) {
            None => decision,
            // In a box, as what a policy waits for, or each hit would have room for it.
            Some(blocking) => {
                let blocked =
                    self.block_for_penalty(blocking, backend, key.stored, decision, deadline);
                Box::pin(blocked).await
            }
        })
    }

    /// Makes the decision about a key of what the backend said.
    pub(super) async fn decide(
        &self,
        backend: &dyn Backend,
        key: AskedKey<'_>,
        step: &Step<'_>,
        outcome: Result<Decision, BackendError>,
        hit: BegunHit,
    ) -> Result<Decision, Error> {
        match outcome {
            Ok(decision) => Ok(self.finish_decision(backend, key, decision)),
            Err(error) => {
                self.tell_failure(&error);
                let decided = self.decide_by_policy(backend, key.own, step, error, hit);
                let decision = Box::pin(decided).await?;
                Ok(decision.map(|inline| inline.wait_at_least(self.inner.min_retry_after)))
            }
        }
    }

    fn finish_decision(
        &self,
        backend: &dyn Backend,
        key: AskedKey<'_>,
        decision: Decision,
    ) -> Decision {
        let fingerprint = || self.fingerprint(key.stored, backend);
        decision.map(|inline| self.finish(key.stored, inline, fingerprint))
    }

    /// Finishes a decision of the limits: binds it to this throttle, and a denial waits the least time.
    #[expect(
        clippy::inline_always,
        reason = "without it a hit takes 1.13x the time: docs/performance.md"
    )]
    #[inline(always)]
    pub(super) fn finish(
        &self,
        key: &[KeyPart<'_>],
        inline: InlineDecision,
        fingerprint: impl FnOnce() -> u64,
    ) -> InlineDecision {
        if inline.is_allowed() || inline.is_reserved() {
            return inline.bound_to(fingerprint());
        }
        let inline = inline.wait_at_least(self.inner.min_retry_after).bound_to(self.inner.id);
        if tracing::enabled!(tracing::Level::TRACE) {
            self.trace_denied(key, &inline.into());
        }
        inline
    }

    #[cold]
    fn trace_denied(&self, key: &[KeyPart<'_>], decision: &Decision) {
        tracing::trace!(
            throttle = &*self.inner.name,
            ?key,
            limit = self.denied_by(decision).map(|limit| limit.name().into_owned()),
            %decision,
            "denied"
        );
    }
}

/// How far a call comes without waiting.
pub(super) enum AtOnce {
    Decided(Result<Decision, Error>),
    /// The backend has answered, and more is to be done.
    Answered(Result<Decision, BackendError>),
    Unasked,
}
