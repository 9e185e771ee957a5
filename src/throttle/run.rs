//! The way of a hit: whether the backend is asked, and the decision that is made of its answer.

use std::pin::Pin;

use super::backend_call::AskedKey;
use super::begun::BegunHit;
use super::{Mode, Throttle};
use crate::backend::Backend;
use crate::decision::{Decision, InlineDecision};
use crate::error::{BackendError, Error};
use crate::key::{KeyPart, KeyParts, ToKey};
use crate::step::Step;
use crate::timer::Deadline;

impl Throttle {
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
