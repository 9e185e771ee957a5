//! What is neither a hit nor a peek, on one limit with a packed count: refunds, charges, and as many units as there
//! are.

use super::budget::Budget;
use super::shard::Shard;
use super::slot::{Slot, StateRef};
use super::state_ids::StateInfo;
use super::store::Store;
use super::stored_key::HashedKey;
use crate::clock::Timestamp;
use crate::decision::InlineDecision;
use crate::step::Step;
use crate::strategy::meter::{Demand, Metered};
use crate::strategy::{AnyMeter, CompiledLimit, Limit, Op};

impl Store {
    /// Decides such a step, or a hit that may wait if it passes now. `None`, without side effects, if it is not that, if
    /// its state is not a packed count that this limit wrote, or if the key is new and there is no room.
    pub(super) fn use_one(
        &self,
        key: &HashedKey,
        limit: &Limit,
        info: &StateInfo,
        step: &Step<'_>,
        asked_at: Timestamp,
    ) -> Option<InlineDecision> {
        let (demand, op) = (step.demand(), step.op());
        if let Op::Reserve { .. } = op {
            let taken = self.hit_one(key, limit, info, (demand, Op::Take), || asked_at);
            return taken.filter(InlineDecision::is_allowed);
        }
        let CompiledLimit::Packed(meter) = limit.compiled() else { return None };
        // What the answer is about, and what was taken.
        let (mut asked, mut took) = (demand, 0);
        let change = |counted: (u64, Timestamp), at: Timestamp| match op {
            Op::Refund { .. } => Some(meter.run(counted, at, demand, op)),
            Op::Charge => {
                (asked, took) = (Demand::of(0), demand.cost_u32());
                meter.charge(counted, at, demand.cost_u32())
            }
            Op::TakeUpTo => {
                let room = meter.room(counted, at).saturating_sub(demand.leave().into());
                took = u32::try_from(room).unwrap_or(u32::MAX).min(demand.cost_u32());
                let (units, op) = match took {
                    0 => (demand.cost_u32().min(1), Op::Peek),
                    units => (units, Op::Take),
                };
                asked = Demand::leaving(units, demand.leave());
                Some(meter.run(counted, at, asked, op))
            }
            _ => None,
        };
        let (metered, at) = self.change_one(key, limit, info, asked_at, change)?;
        let answer = meter.answer(metered, at, asked);
        Some(InlineDecision::of_one(limit, answer, (asked_at, at), took))
    }

    /// Gives back what a hit of one limit took. `None`, with nothing done, as of [`use_one`](Self::use_one).
    pub(super) fn refund_one(
        &self,
        key: &HashedKey,
        limit: &Limit,
        info: &StateInfo,
        (cost, taken_at): (u32, Timestamp),
        asked_at: Timestamp,
    ) -> Option<()> {
        let CompiledLimit::Packed(meter) = limit.compiled() else { return None };
        let (demand, op) = (Demand::of(cost), Op::Refund { taken_at });
        let change = |counted, at| Some(meter.run(counted, at, demand, op));
        self.change_one(key, limit, info, asked_at, change).map(drop)
    }

    fn change_one(
        &self,
        key: &HashedKey,
        limit: &Limit,
        info: &StateInfo,
        asked_at: Timestamp,
        change: impl FnOnce((u64, Timestamp), Timestamp) -> Option<Metered<u64>>,
    ) -> Option<(Metered<u64>, Timestamp)> {
        let CompiledLimit::Packed(meter) = limit.compiled() else { return None };
        if limit.is_per_hit() {
            return None;
        }
        let state = StateRef { key, info, ids: &self.ids };
        let mut shard = self.shard_at(self.shard_of(key.hash)).lock();
        if Self::is_special(&shard, state) {
            return None;
        }
        shard.change_one(state, meter, asked_at, change, &self.budget)
    }
}

impl Shard {
    /// Changes a packed count. What a refund made fresh is forgotten, as where states are stored as bytes.
    fn change_one(
        &mut self,
        state: StateRef<'_>,
        meter: &AnyMeter,
        asked_at: Timestamp,
        change: impl FnOnce((u64, Timestamp), Timestamp) -> Option<Metered<u64>>,
        budget: &Budget,
    ) -> Option<(Metered<u64>, Timestamp)> {
        let (hash, id) = (state.hash(), state.info.id());
        let is_fresh = |count, at| meter.reset_at(count, at) <= at;
        if let Some(slot) = self.small.find_mut(hash, |slot| state.is_small(slot)) {
            if slot.state_id() != id {
                return None;
            }
            let at = asked_at.max(slot.last());
            let metered = change((slot.count(), slot.last()), at)?;
            if metered.changed {
                match is_fresh(metered.count, at) {
                    true => self.remove(state, None, budget),
                    false => slot.write(metered.count, at),
                }
            }
            return Some((metered, at));
        }
        let metered = change((0, Timestamp::ZERO), asked_at)?;
        if metered.changed && !is_fresh(metered.count, asked_at) {
            let mut slot = Slot::new(&state.key.stored, id, metered.count, asked_at);
            if self.take_place(state, 1, asked_at, budget).ok()? {
                slot.count_it();
            }
            self.small.insert(hash, slot, state.ids);
        }
        Some((metered, asked_at))
    }
}
