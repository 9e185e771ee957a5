//! Hits of three and more limits with packed counts.
//!
//! The counts are arrays of plain numbers: a struct that is copied just after it was written in pieces waits for the
//! writes, and a hit of eight limits has many.

use super::budget::Budget;
use super::shard::Shard;
use super::slot::StateRef;
use super::state_ids::{StateIds, StateInfo};
use super::store::{Store, taken};
use super::stored_key::HashedKey;
use super::table::Spot;
use crate::clock::Timestamp;
use crate::decision::{Decision, InlineDecision};
use crate::step::MAX_LIMITS;
use crate::strategy::meter::{Demand, Fit, Metered};
use crate::strategy::{AnyMeter, CompiledLimit, Limit, Op};

/// The limits of a hit, and their states of its key.
struct Several<'a> {
    limits: &'a [Limit],
    infos: [&'a StateInfo; MAX_LIMITS],
    key: &'a HashedKey,
    ids: &'a StateIds,
}

/// What a hit made of the counts, as of one instant.
struct SeveralMetered {
    counts: [u64; MAX_LIMITS],
    fits: [Fit; MAX_LIMITS],
    at: Timestamp,
}

impl<'a> Several<'a> {
    /// `None` if one of the limits has no packed count.
    fn new(
        limits: &'a [Limit],
        states: impl IntoIterator<Item = Option<&'a StateInfo>>,
        key: &'a HashedKey,
        ids: &'a StateIds,
    ) -> Option<Self> {
        let mut states = states.into_iter();
        let mut infos = [states.next()??; MAX_LIMITS];
        for (info, state) in infos[1..].iter_mut().zip(states) {
            *info = state?;
        }
        let is_packed = |limit: &Limit| limit.compiled().is_packed() && !limit.is_per_hit();
        limits.iter().all(is_packed).then_some(Self { limits, infos, key, ids })
    }

    fn meters(&self) -> impl Iterator<Item = &'a AnyMeter> {
        self.limits.iter().filter_map(|limit| match limit.compiled() {
            CompiledLimit::Packed(meter) => Some(meter),
            _ => None,
        })
    }

    fn states(&self) -> impl Iterator<Item = StateRef<'_>> {
        let infos = self.infos[..self.limits.len()].iter();
        infos.map(|info| StateRef { key: self.key, info, ids: self.ids })
    }
}

impl Store {
    /// Decides a hit or a peek of several limits with packed counts. `None`, without side effects, if it is not that,
    /// or if there is no room. `finish` completes the decision.
    #[inline]
    pub(super) fn hit_several<'a>(
        &'a self,
        key: &'a HashedKey,
        limits: &'a [Limit],
        states: impl IntoIterator<Item = Option<&'a StateInfo>>,
        (demand, op): (Demand, Op),
        asked_at: Timestamp,
        finish: impl FnOnce(InlineDecision) -> InlineDecision,
    ) -> Option<Decision> {
        let several = Several::new(limits, states, key, &self.ids)?;
        let SeveralMetered { counts, fits, at } = {
            let mut shard = self.shard_at(self.shard_of(key.hash)).lock();
            if several.states().any(|state| Self::is_special(&shard, state)) {
                return None;
            }
            shard.hit_several(&several, asked_at, (demand, op), &self.budget)?
        };
        let answers = several.meters().enumerate().map(|(index, meter)| {
            let metered = Metered { count: counts[index], fit: fits[index], changed: false };
            meter.answer(metered, at, demand)
        });
        let took = taken(demand, op);
        Some(Decision::over_many(limits, answers, (asked_at, at), took, finish))
    }
}

impl Shard {
    /// One hit or peek, all or nothing.
    #[inline(never)]
    fn hit_several(
        &mut self,
        several: &Several<'_>,
        asked_at: Timestamp,
        (demand, op): (Demand, Op),
        budget: &Budget,
    ) -> Option<SeveralMetered> {
        let mut spots = [None::<Spot>; MAX_LIMITS];
        let mut counts = [0; MAX_LIMITS];
        let mut lasts = [Timestamp::ZERO; MAX_LIMITS];
        let mut at = asked_at;
        let mut missing = 0;
        for (index, state) in several.states().enumerate() {
            let spot = self.small.locate(state.hash(), |slot| state.is_small(slot));
            let Some(slot) = spot.and_then(|spot| self.small.at(spot)) else {
                missing += 1;
                continue;
            };
            if slot.state_id() != state.info.id() {
                // Written under another limit.
                return None;
            }
            (spots[index], counts[index], lasts[index]) = (spot, slot.count(), slot.last());
            at = at.max(slot.last());
        }
        let mut afters = counts;
        let mut fits = [Fit::Now; MAX_LIMITS];
        let (mut all_fit, mut would_change) = (true, false);
        for (index, meter) in several.meters().enumerate() {
            let trial = meter.try_demand((counts[index], lasts[index]), at, demand);
            let (peeked, taken) = (trial.run(Op::Peek), trial.run(Op::Take));
            (counts[index], afters[index], fits[index]) = (peeked.count, taken.count, peeked.fit);
            all_fit &= peeked.fit == Fit::Now;
            would_change |= taken.changed;
        }
        // All or nothing, as `all_or_nothing` has it for states that cannot be tried.
        let is_taken = op == Op::Take && all_fit;
        let is_changed = is_taken && would_change;
        if is_taken {
            counts = afters;
        }
        if is_changed && missing == 0 {
            for (spot, count) in spots.into_iter().flatten().zip(counts) {
                if let Some(slot) = self.small.at(spot) {
                    slot.write(count, at);
                }
            }
        } else if is_changed {
            // From here on items move, so what was found is looked for again.
            let all = several.limits.len();
            let mut counted = match several.states().next() {
                Some(first) if missing == all => {
                    self.take_place(first, all, asked_at, budget).ok()?
                }
                _ => false,
            };
            for (state, count) in several.states().zip(counts) {
                self.write_small(state, (count, at), &mut counted);
            }
        }
        Some(SeveralMetered { counts, fits, at })
    }
}
