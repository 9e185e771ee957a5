//! Decisions that are made at once, by a backend's fast path, where it has one: in memory.

#![expect(
    clippy::inline_always,
    reason = "without it a hit takes 1.13x the time: docs/performance.md"
)]

use super::Throttle;
#[cfg(feature = "http")]
use super::backend_call::AskedKey;
#[cfg(feature = "http")]
use super::run::AtOnce;
use crate::backend::Prepared;
use crate::decision::{Decision, InlineDecision};
use crate::hit_options::HitOptions;
use crate::key::{self, KeyParts, ToKey};
use crate::strategy::Op;
use crate::strategy::meter::Demand;

impl Throttle {
    /// Returns the backend's fast path, if it has one and may be taken.
    #[inline]
    pub(super) fn prepared(&self) -> Option<&Prepared> {
        // Another mode, a penalty and who looks on have to see more than the limits do.
        self.inner.prepared.as_ref().filter(|_| self.inner.mode.is_plain())
    }

    /// Decides by the backend's fast path, if it has one; `None`, with nothing done, to take the other.
    ///
    /// A key that is too long to be stored needs another digest, and takes the other way.
    #[inline(always)]
    pub(super) fn try_prepared(
        &self,
        key: &(impl ToKey + ?Sized),
        demand: (Demand, Op),
    ) -> Option<InlineDecision> {
        let prepared = self.prepared()?;
        self.try_prepared_of(prepared, &key.to_key(), demand)
    }

    #[inline(always)]
    fn try_prepared_of(
        &self,
        prepared: &Prepared,
        key: &KeyParts<'_>,
        demand: (Demand, Op),
    ) -> Option<InlineDecision> {
        let key = key::short_enough(key)?;
        let (inline, hash) = prepared.try_hit(key, &self.inner.limits, demand)?;
        Some(self.finish(key, inline, || hash ^ self.inner.seed))
    }

    /// As [`try_prepared`](Self::try_prepared), of three limits and more.
    #[inline(never)]
    pub(super) fn try_several(
        &self,
        key: &(impl ToKey + ?Sized),
        demand: (Demand, Op),
    ) -> Option<Decision> {
        if self.inner.limits.len() < 3 {
            return None;
        }
        let (prepared, key) = (self.prepared()?, key.to_key());
        let key = key::short_enough(&key)?;
        // Finished before it is put into a decision, which costs reads that wait for writes each time that it is moved.
        prepared.try_several(key, &self.inner.limits, demand, |inline, hash| {
            self.finish(key, inline, || hash ^ self.inner.seed)
        })
    }

    /// As [`try_prepared`](Self::try_prepared), of a hit that it does not decide: of three limits and more, or of a
    /// rate that the hit brings.
    #[inline(never)]
    pub(super) fn try_more(
        &self,
        key: &(impl ToKey + ?Sized),
        options: &HitOptions,
        demand: (Demand, Op),
    ) -> Option<Decision> {
        match options.brings_rates() {
            false => self.try_several(key, demand),
            true => self.try_brought(key, options, demand),
        }
    }

    /// Hits without waiting, where that is sure to succeed: in memory. `None`, with nothing done, to await it.
    #[cfg(feature = "http")]
    pub(crate) fn try_hit(&self, key: &KeyParts<'_>, options: &HitOptions) -> Option<Decision> {
        let Some(prepared) = self.prepared() else { return self.try_seen(key, options) };
        let demand = (options.demand(self.inner.cost), Op::Take);
        if !options.brings_rates()
            && let Some(inline) = self.try_prepared_of(prepared, key, demand)
        {
            return Some(inline.into());
        }
        if let Some(decision) = self.try_more(key, options, demand) {
            return Some(decision);
        }
        let brought = self.brought_by(options).ok()?;
        let step = self.step_of(options, brought.as_deref(), Op::Take);
        // A user's strategy may find a state corrupt, which counts the hit and is the policy's matter; and it may panic.
        if step.limits().iter().any(|limit| limit.compiled().is_custom()) {
            return None;
        }
        let mut room = None;
        let asked = AskedKey::new(key, &mut room, &step).ok()?;
        let decision = prepared.apply(asked.stored, &step).ok()?;
        let hash = || prepared.hash_of(asked.stored) ^ self.inner.seed;
        let decision = decision.map(|inline| self.finish(asked.stored, inline, hash));
        Some(match &brought {
            Some(brought) => self.with_brought(decision, brought),
            None => decision,
        })
    }

    /// As [`try_hit`](Self::try_hit), of a throttle that others look at.
    #[cfg(feature = "http")]
    #[inline(never)]
    fn try_seen(&self, key: &KeyParts<'_>, options: &HitOptions) -> Option<Decision> {
        // A denial may have to wait for its block.
        if self.inner.prepared.is_none() || self.inner.denials.is_some() {
            return None;
        }
        let brought = self.brought_by(options).ok()?;
        let step = self.step_of(options, brought.as_deref(), Op::Take);
        if step.limits().iter().any(|limit| limit.compiled().is_custom()) {
            return None;
        }
        let AtOnce::Decided(Ok(decision)) = self.run_at_once(key, &step, self.begin()) else {
            return None;
        };
        Some(match &brought {
            Some(brought) => self.with_brought(decision, brought),
            None => decision,
        })
    }
}
