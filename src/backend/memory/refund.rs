//! Refunds of one limit with a packed count.

use super::budget::Budget;
use super::shard::Shard;
use super::slot::StateRef;
use super::state_ids::StateInfo;
use super::store::Store;
use super::stored_key::HashedKey;
use crate::clock::Timestamp;
use crate::strategy::meter::Demand;
use crate::strategy::{AnyMeter, CompiledLimit, Limit, Op};

impl Store {
    /// Gives back what a hit of one limit took. `None`, with nothing done, if its state is not a packed count that this
    /// limit wrote.
    pub(super) fn refund_one(
        &self,
        key: &HashedKey,
        limit: &Limit,
        info: &StateInfo,
        (cost, taken_at): (u32, Timestamp),
        asked_at: Timestamp,
    ) -> Option<()> {
        let CompiledLimit::Packed(meter) = limit.compiled() else { return None };
        let state = StateRef { key, info, ids: &self.ids };
        let mut shard = self.shard_at(self.shard_of(key.hash)).lock();
        if Self::is_special(&shard, state) {
            return None;
        }
        shard.refund_one(state, meter, (cost, taken_at), asked_at, &self.budget)
    }
}

impl Shard {
    fn refund_one(
        &mut self,
        state: StateRef<'_>,
        meter: &AnyMeter,
        (cost, taken_at): (u32, Timestamp),
        asked_at: Timestamp,
        budget: &Budget,
    ) -> Option<()> {
        // Of a key that is not known there is nothing to give back.
        let slot = self.small.find_mut(state.hash(), |slot| state.is_small(slot));
        let Some(slot) = slot else { return Some(()) };
        if slot.state_id() != state.info.id() {
            return None;
        }
        let at = asked_at.max(slot.last());
        let refund = Op::Refund { taken_at };
        let metered = meter.run((slot.count(), slot.last()), at, Demand::of(cost), refund);
        if metered.changed {
            match meter.reset_at(metered.count, at) <= at {
                // As where states are stored as bytes: what a refund made fresh is forgotten.
                true => self.remove(state, None, budget),
                false => slot.write(metered.count, at),
            }
        }
        Some(())
    }
}
