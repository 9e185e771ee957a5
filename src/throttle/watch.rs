//! [`Watch`]: who looks on, and what they are told of a hit.

use super::Throttle;
use super::begun::BegunHit;
use crate::clock::monotonic_now;
use crate::decision::{DecidedBy, Decision, Denial};
use crate::error::BackendError;
use crate::key::{self, Key, KeyPart, ToKey};
use crate::observe::{
    BackendFailed, DecisionMade, DeniedDigest, DeniedKey, DeniedSketch, Event, NearLimit,
    Observers, Overflowed,
};
use crate::step::Step;
use crate::strategy::{Limit, Op};

/// Who looks on at the hits of a throttle.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) observers: Observers,
    /// Of the throttle's own limits: to make one takes memory.
    pub(super) limit_names: Box<[Box<str>]>,
    /// In percent of the burst.
    pub(super) near_limit: Option<u8>,
    pub(super) sees_keys: bool,
    pub(super) denied: Option<DeniedSketch>,
}

/// A hit that was decided.
#[derive(Clone, Copy)]
pub(super) struct DecidedHit<'a> {
    pub(super) hit: BegunHit,
    /// As it is stored; `None` if nobody was asked.
    pub(super) key: Option<&'a [KeyPart<'a>]>,
    pub(super) step: &'a Step<'a>,
    pub(super) decision: &'a Decision,
    /// It passed, and is given back because of another.
    pub(super) is_withdrawn: bool,
}

impl Watch {
    /// Tells of a decision, in which hits end; peeks are none.
    fn tell_of(&self, throttle: &Throttle, decided: &DecidedHit<'_>) {
        let DecidedHit { key, step, decision, .. } = *decided;
        if !matches!(step.op(), Op::Take | Op::TakeUpTo | Op::Reserve { .. }) {
            return;
        }
        if let (Some(denied), Some(key)) = (&self.denied, key) {
            let by = decision.denial_or_shadowed().filter(|_| !decision.is_reserved());
            // What a store that is down or full denies is not the key's doing.
            if matches!(by, Some(Denial::Limited | Denial::Never | Denial::Blocked)) {
                denied.count(key, decision.is_allowed());
            }
        }
        if self.observers.is_empty() {
            return;
        }
        let key = key.filter(|_| self.sees_keys).map(|key| Key::new(throttle.name(), key));
        self.tell_decision(throttle, decided, key);
        if decision.decided_by() == DecidedBy::Overflow {
            let is_allowed = decision.denial_or_shadowed().is_none();
            let overflowed = Overflowed { throttle: throttle.name(), is_allowed, key };
            self.observers.tell(&Event::Overflow(overflowed));
        }
        self.tell_near_limits(throttle, decided, key);
    }

    fn tell_decision(&self, throttle: &Throttle, decided: &DecidedHit<'_>, key: Option<Key<'_>>) {
        let DecidedHit { hit, step, decision, is_withdrawn, .. } = *decided;
        let limit =
            step.limits().get(decision.named()).filter(|_| is_about_limits(throttle, decision));
        self.with_name(throttle, decision.named(), limit, |name| {
            // Who waits for a turn that is reserved passes.
            let is_reserved = decision.is_reserved();
            let began = hit.began.unwrap_or_else(monotonic_now);
            self.observers.tell(&Event::Decision(DecisionMade {
                throttle: throttle.name(),
                outcome: decision.outcome_with_turn(),
                denial: decision.denial().filter(|_| !is_reserved),
                shadowed: decision.shadowed(),
                decided_by: decision.decided_by(),
                cost: step.cost(),
                limit: name,
                is_brought: limit.is_some_and(Limit::is_per_hit),
                withdrawn: is_withdrawn,
                elapsed: monotonic_now().saturating_duration_since(began),
                key,
            }));
        });
    }

    fn tell_near_limits(
        &self,
        throttle: &Throttle,
        decided: &DecidedHit<'_>,
        key: Option<Key<'_>>,
    ) {
        let DecidedHit { step, decision, is_withdrawn, .. } = *decided;
        let passed = decision.denial_or_shadowed().is_none()
            && decision.decided_by() != DecidedBy::Policy
            && !is_withdrawn;
        let Some(percent) = self.near_limit.filter(|_| passed) else { return };
        let answers = step.limits().iter().zip(decision.answers()).enumerate();
        for (index, (limit, answer)) in answers {
            let (remaining, burst) = (answer.remaining(), answer.burst());
            let is_near = u64::from(remaining) * 100 <= u64::from(burst) * u64::from(percent);
            if !is_near || limit.rate().is_unlimited() {
                continue;
            }
            self.with_name(throttle, index, Some(limit), |name| {
                self.observers.tell(&Event::NearLimit(NearLimit {
                    throttle: throttle.name(),
                    limit: name.unwrap_or_default(),
                    is_brought: limit.is_per_hit(),
                    remaining,
                    burst,
                    key,
                }));
            });
        }
    }

    /// Gives the name of a limit of the hit, which is kept if it is the throttle's own of that place.
    fn with_name(
        &self,
        throttle: &Throttle,
        index: usize,
        limit: Option<&Limit>,
        tell: impl FnOnce(Option<&str>),
    ) {
        let own = throttle.limits().get(index).zip(self.limit_names.get(index));
        match (limit, own) {
            (None, _) => tell(None),
            (Some(limit), Some((own, name))) if own.counts_like(limit) => tell(Some(name)),
            (Some(limit), _) => tell(Some(&limit.name())),
        }
    }
}

/// Returns whether a decision names a limit of the hit: a handler's may be about another throttle's.
fn is_about_limits(throttle: &Throttle, decision: &Decision) -> bool {
    match decision.decided_by() {
        DecidedBy::Policy => {
            decision.is_bound_to(throttle.inner.id) && decision.denied_by_or_shadowed().is_some()
        }
        _ => decision.answers().len() > 0,
    }
}

impl Throttle {
    /// Tells those who look on of a hit that was decided.
    #[inline]
    pub(super) fn tell_of(&self, decided: &DecidedHit<'_>) {
        if let Some(watch) = &self.inner.watch {
            watch.tell_of(self, decided);
        }
    }

    /// Tells those who look on of a failure.
    pub(super) fn tell_failure(&self, error: &BackendError) {
        if let Some(watch) = &self.inner.watch {
            watch.observers.tell(&Event::BackendFailed(BackendFailed {
                throttle: self.name(),
                backend: error.backend(),
                operation: error.operation(),
                kind: error.kind(),
                effect: error.effect(),
            }));
        }
    }

    /// Returns the keys that were denied most since the throttle was built or
    /// [`reset_top_denied`](Self::reset_top_denied) was called, at most `most`, the highest count first. Nothing if it
    /// does not [track them](crate::ThrottleBuilder::track_denied).
    ///
    /// What its limits and blocks denied in this process, [shadowed](crate::Decision::shadowed) denials too; not what
    /// an error policy or a full memory did.
    ///
    /// ```
    /// use traffik::observe::TrackDenied;
    /// use traffik::{InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let api = Throttle::builder("api")
    ///     .rate("1/min")
    ///     .track_denied(TrackDenied::new(1_000))
    ///     .backend(InMemory::new())
    ///     .build()?;
    /// for _ in 0..3 {
    ///     let _ = api.hit("mallory").await?;
    /// }
    /// let top = api.top_denied(10);
    /// assert_eq!((top.len(), top[0].denials()), (1, 2));
    /// // Who is it? Only digests are kept, unless `raw_keys` is set.
    /// assert_eq!(Some(top[0].digest()), api.denied_digest("mallory"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn top_denied(&self, most: usize) -> Vec<DeniedKey> {
        self.denied().map(|denied| denied.top(most)).unwrap_or_default()
    }

    /// Returns the digest under which denials of a key are tracked, to compare it with those of
    /// [`top_denied`](Self::top_denied). `None` if nothing is tracked, or the key is exempt.
    #[must_use]
    pub fn denied_digest(&self, key: impl ToKey) -> Option<DeniedDigest> {
        let (denied, parts, mut room) = (self.denied()?, key.to_key(), None);
        Some(denied.digest(key::bounded(parts.as_slice().ok()??, &mut room)))
    }

    /// Forgets who was denied so far. Counts do not decay by themselves.
    pub fn reset_top_denied(&self) {
        if let Some(denied) = self.denied() {
            denied.reset();
        }
    }

    fn denied(&self) -> Option<&DeniedSketch> {
        self.inner.watch.as_ref()?.denied.as_ref()
    }
}
