//! The rates that hits bring to a key: a list beside its other states.

use super::shard::Shard;
use super::slot::{Body, Brought, LargeSlot, StateRef};
use super::state_ids::StateInfo;
use super::store::{Store, taken};
use super::stored_key::HashedKey;
use crate::clock::Timestamp;
use crate::decision::InlineDecision;
use crate::step::{Cell, Form, KEPT_MICROS, MAX_PARTS, MAX_RATES_PER_KEY};
use crate::strategy::meter::{Demand, Metered};
use crate::strategy::{AnyMeter, CompiledLimit, Limit, Op};

impl Store {
    /// Decides a hit or a peek of one rate that hits have brought before. `None`, without side effects, if it is not
    /// that.
    pub(super) fn hit_brought(
        &self,
        key: &HashedKey,
        limit: &Limit,
        info: &StateInfo,
        (demand, op): (Demand, Op),
        asked_at: Timestamp,
    ) -> Option<InlineDecision> {
        let CompiledLimit::Packed(meter) = limit.compiled() else { return None };
        let state = StateRef { key, info, ids: &self.ids };
        let (metered, at) = {
            let mut shard = self.shard_at(self.shard_of(key.hash)).lock();
            if info.may_be_blocked() && shard.blocked_until(state).is_some() {
                return None;
            }
            shard.hit_brought(state, limit, meter, asked_at, (demand, op))?
        };
        let answer = meter.answer(metered, at, demand);
        Some(InlineDecision::of_one(limit, answer, (asked_at, at), taken(demand, op)))
    }
}

impl Shard {
    fn hit_brought(
        &mut self,
        state: StateRef<'_>,
        limit: &Limit,
        meter: &AnyMeter,
        asked_at: Timestamp,
        (demand, op): (Demand, Op),
    ) -> Option<(Metered<u64>, Timestamp)> {
        let slot = self.cold.large.find_mut(state.hash(), |slot| state.is_large(slot))?;
        let Body::Brought(parts) = &mut slot.body else { return None };
        let id = limit.part();
        let others = parts.len() - 1;
        let part = parts.iter_mut().find(|part| part.id == id)?;
        let Form::Packed { count, last } = &mut part.form else { return None };
        let at = asked_at.max(*last);
        let counted = match part.reset_at > at {
            true => (*count, *last),
            // It may not count again beside as many others as can.
            false if others >= MAX_RATES_PER_KEY => return None,
            false => (0, Timestamp::ZERO),
        };
        let metered = meter.run(counted, at, demand, op);
        if metered.changed {
            // Parts that were over for long stay until another is added: a clock that steps back by more than an hour
            // may find one.
            (*count, *last) = (metered.count, at);
            part.reset_at = meter.reset_at(metered.count, at);
        }
        Some((metered, at))
    }

    /// Writes the state of a rate that a hit brought.
    pub(super) fn store_brought(
        &mut self,
        state: StateRef<'_>,
        limit: &Limit,
        (cell, reset_at): (Cell, Timestamp),
        asked_at: Timestamp,
        counted: &mut bool,
    ) {
        let slot = self.large_slot(state, counted);
        let Body::Brought(parts) = &mut slot.body else { return };
        let id = limit.part();
        let kept = |part: &Brought| part.reset_at.saturating_add_micros(KEPT_MICROS) > asked_at;
        parts.retain(|part| part.id != id && kept(part));
        // As where states are stored as bytes, what is over is kept only while there is room.
        if parts.len() >= MAX_PARTS
            && let Some((soonest, _)) =
                parts.iter().enumerate().min_by_key(|(_, part)| part.reset_at)
        {
            parts.swap_remove(soonest);
        }
        parts.push(Brought { id, form: cell.form, reset_at });
    }

    /// The rates that hits brought to a key, and until when each counts.
    pub(super) fn brought(&self, state: StateRef<'_>) -> &[Brought] {
        match self.cold.large.find(state.hash(), |slot| state.is_large(slot)) {
            Some(LargeSlot { body: Body::Brought(parts), .. }) => parts,
            _ => &[],
        }
    }
}
