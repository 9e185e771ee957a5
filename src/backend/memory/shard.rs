//! One shard: its tables, and the operations on them under its lock.

#![expect(
    clippy::inline_always,
    reason = "without it a hit takes 1.03x the time: docs/performance.md"
)]

use std::convert::Infallible;

use super::budget::Budget;
use super::grace::Grace;
use super::orphans::Orphans;
use super::slot::{Body, LargeSlot, Slot, StateRef};
use super::state_ids::{StateIds, StateInfo};
use super::table::{Pass, Table};
use crate::clock::Timestamp;
use crate::step::{Cell, Form, all_or_nothing};
use crate::strategy::meter::{self, Demand, Fit, Meter, Metered};
use crate::strategy::{AnyMeter, CompiledLimit, Limit, Op, words_of};

/// Buckets that are swept for each new key, so that a table cleans itself where it is used.
const SWEPT_PER_INSERT: usize = 4;

/// No more keys fit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) small: Table<Slot>,
    pub(super) cold: Box<Cold>,
}

/// What most hits do not need; boxed, see [`Table`] on the cache line.
#[derive(Debug)]
pub(super) struct Cold {
    pub(super) large: Table<LargeSlot>,
    /// Buckets until the background sweep is through.
    pub(super) left_to_clean: usize,
    pub(super) grace: Grace,
    /// How far the sweeps of a full memory are, in the small and the large table.
    pub(super) passes: [Pass; 2],
}

/// With the lock it is one cache line.
const _: () = assert!(size_of::<Shard>() < 64);

impl Shard {
    pub(super) fn new(grace: Grace) -> Self {
        let cold =
            Cold { large: Table::new(), left_to_clean: 0, grace, passes: [Pass::default(); 2] };
        Self { small: Table::new(), cold: Box::new(cold) }
    }

    #[cfg(all(test, traffik_model))]
    pub(super) fn len(&self) -> usize {
        self.small.len() + self.cold.large.len()
    }

    /// Counts the keys that it holds.
    pub(super) fn keys(&self) -> usize {
        self.small.count(Slot::is_counted) + self.cold.large.count(|slot| slot.counted)
    }

    /// Takes the blocks off their count: they are about to go with the shard.
    pub(super) fn leave_blocks(&self, ids: &StateIds) {
        self.cold.large.for_each(|slot| {
            if let Some(block) = ids.blocks(slot.state_id) {
                ids.remove_block(block);
            }
        });
    }

    pub(super) const fn grace(&self) -> Grace {
        self.cold.grace
    }

    /// One step on a packed count: the fast path of nearly every hit. `None`, with
    /// nothing done, if it is not that or if there is no room.
    #[inline(always)]
    pub(super) fn hit_one<P: Meter>(
        &mut self,
        meter: &P,
        state: StateRef<'_>,
        asked_at: Timestamp,
        (demand, op): (Demand, Op),
        budget: &Budget,
    ) -> Option<(Metered<P::Count>, Timestamp)> {
        let (hash, id) = (state.hash(), state.info.id());
        if let Some(slot) = self.small.find_mut(hash, |slot| state.is_small(slot)) {
            if slot.state_id() != id {
                // Written under another limit.
                return None;
            }
            let last = slot.last();
            let at = asked_at.max(last);
            let metered = meter::run(meter, P::unpack(slot.count()), last, at, demand, op);
            if metered.changed {
                slot.write(P::pack(metered.count), at);
            }
            return Some((metered, at));
        }
        let fresh = P::Count::default();
        let metered = meter::run(meter, fresh, Timestamp::ZERO, asked_at, demand, op);
        if metered.changed {
            let mut slot = Slot::new(&state.key.stored, id, P::pack(metered.count), asked_at);
            if self.take_place(state, 1, asked_at, budget).ok()? {
                slot.count_it();
            }
            self.small.insert(hash, slot, state.ids);
        }
        Some((metered, asked_at))
    }

    /// One hit or peek on the packed counts of two limits, all or nothing; `None`, with nothing
    /// done, if it is not that or if there is no room.
    #[inline(always)]
    pub(super) fn hit_pair(
        &mut self,
        meters: [&AnyMeter; 2],
        states: [StateRef<'_>; 2],
        asked_at: Timestamp,
        (demand, op): (Demand, Op),
        budget: &Budget,
    ) -> Option<([Metered<u64>; 2], Timestamp)> {
        let found =
            states.map(|state| self.small.locate(state.hash(), |slot| state.is_small(slot)));
        let mut stored = [(0, Timestamp::ZERO); 2];
        for ((spot, state), stored) in found.iter().zip(states).zip(&mut stored) {
            let Some(slot) = spot.and_then(|spot| self.small.at(spot)) else { continue };
            if slot.state_id() != state.info.id() {
                return None;
            }
            *stored = (slot.count(), slot.last());
        }
        let at = asked_at.max(stored[0].1).max(stored[1].1);
        let first = meters[0].try_demand(stored[0], at, demand);
        let second = meters[1].try_demand(stored[1], at, demand);
        let Ok(metered) = all_or_nothing::<_, Infallible>(
            op,
            |op| Ok([first.run(op), second.run(op)]),
            |[first, second]| first.fit == Fit::Now && second.fit == Fit::Now,
        );
        if !metered.iter().any(|metered| metered.changed) {
            return Some((metered, at));
        }
        let missing = found.iter().filter(|found| found.is_none()).count();
        if missing == 0 {
            for (spot, metered) in found.into_iter().zip(metered) {
                if let Some(slot) = spot.and_then(|spot| self.small.at(spot)) {
                    slot.write(metered.count, at);
                }
            }
            return Some((metered, at));
        }
        // From here on items move, so what was found is looked for again.
        let mut counted = missing == 2 && self.take_place(states[0], 2, asked_at, budget).ok()?;
        for (state, metered) in states.into_iter().zip(metered) {
            self.write_small(state, (metered.count, at), &mut counted);
        }
        Some((metered, at))
    }

    /// Writes a packed count. If it is a new slot, it is the counted one of its key where `counted`.
    #[inline]
    pub(super) fn write_small(
        &mut self,
        state: StateRef<'_>,
        (count, last): (u64, Timestamp),
        counted: &mut bool,
    ) {
        let (hash, id) = (state.hash(), state.info.id());
        if let Some(slot) = self.small.find_mut(hash, |slot| state.is_small(slot)) {
            slot.write_by(id, count, last);
            return;
        }
        let mut slot = Slot::new(&state.key.stored, id, count, last);
        if std::mem::take(counted) {
            slot.count_it();
        }
        self.small.insert(hash, slot, state.ids);
    }

    /// Returns what is known of a limit's state, for a step on cells; `None` if nothing is.
    ///
    /// Where `moved`, words are taken out, not copied: they must come back by [`store`](Self::store) or
    /// [`restore`](Self::restore).
    pub(super) fn load(&mut self, state: StateRef<'_>, limit: &Limit, moved: bool) -> Option<Cell> {
        let hash = state.hash();
        let words = state.info.needs_words();
        if !words && let Some(slot) = self.small.find(hash, |slot| state.is_small(slot)) {
            return Some(packed_cell(slot.state_id(), slot.count(), slot.last(), state, words));
        }
        if let Some(slot) = self.cold.large.find_mut(hash, |slot| state.is_large(slot)) {
            return match &mut slot.body {
                Body::Words { state, reset_at } => {
                    let state = if moved { std::mem::take(state) } else { state.clone() };
                    Some(Cell::words(state, *reset_at))
                }
                Body::Brought(parts) => {
                    let part = parts.iter().find(|part| part.id == limit.part())?;
                    let reset_at = part.reset_at;
                    Some(Cell { form: in_form_of(limit, &part.form)?, reset_at })
                }
            };
        }
        // Written as a packed count, before a limit came that needs more.
        let slot = self.small.find(hash, |slot| state.is_small(slot))?;
        Some(packed_cell(slot.state_id(), slot.count(), slot.last(), state, words))
    }

    /// Puts words back that a step left as they were.
    pub(super) fn restore(&mut self, state: StateRef<'_>, cell: Cell) {
        if let Form::Words(words) = cell.form
            && let Some(slot) = self.cold.large.find_mut(state.hash(), |slot| state.is_large(slot))
            && let Body::Words { state, .. } = &mut slot.body
        {
            *state = words;
        }
    }

    /// Writes what a step made of a cell. If it is a new slot, it is the counted one of its key where
    /// `counted`, which is then used up.
    pub(super) fn store(
        &mut self,
        state: StateRef<'_>,
        limit: &Limit,
        (cell, reset_at): (Cell, Timestamp),
        asked_at: Timestamp,
        counted: &mut bool,
    ) {
        if limit.is_per_hit() {
            return self.store_brought(state, limit, (cell, reset_at), asked_at, counted);
        }
        let body = match cell.form {
            Form::Words(state) => Body::Words { state, reset_at },
            Form::Packed { count, last } => match state.info.meter() {
                Some(meter) if state.info.needs_words() => {
                    Body::Words { state: meter.words(count, last), reset_at }
                }
                _ => return self.write_small(state, (count, last), counted),
            },
        };
        let slot = self.large_slot(state, counted);
        slot.state_id = state.info.id();
        slot.body = body;
    }

    /// Returns the large slot of a state, which is to be written, and makes it if there is none.
    pub(super) fn large_slot(&mut self, state: StateRef<'_>, counted: &mut bool) -> &mut LargeSlot {
        let hash = state.hash();
        if self.cold.large.find(hash, |slot| state.is_large(slot)).is_none() {
            // The small form of the same state, if there was one, gives way.
            let small = self.small.remove(hash, |slot| state.is_small(slot));
            let body = Body::Brought(Vec::new());
            let mut slot = LargeSlot::new(state, body);
            (slot.counted, slot.marked) = match small {
                Some(small) => (small.is_counted(), small.is_marked()),
                None => (std::mem::take(counted), false),
            };
            self.cold.large.insert(hash, slot, state.ids);
        }
        let found = self.cold.large.find_mut(hash, |slot| state.is_large(slot));
        let slot = found.expect("it was found or inserted just now");
        slot.changed = true;
        slot
    }

    /// Forgets a limit's state; of a rate that a hit brought, that rate only.
    pub(super) fn remove(&mut self, state: StateRef<'_>, limit: Option<&Limit>, budget: &Budget) {
        let hash = state.hash();
        if let Some(limit) = limit.filter(|limit| limit.is_per_hit())
            && let Some(slot) = self.cold.large.find_mut(hash, |slot| state.is_large(slot))
            && let Body::Brought(parts) = &mut slot.body
        {
            parts.retain(|part| part.id != limit.part());
            if !parts.is_empty() {
                return;
            }
        }
        let mut orphans = Orphans::new(state.ids);
        if let Some(slot) = self.small.remove(hash, |slot| state.is_small(slot)) {
            orphans.small(&slot);
        }
        if let Some(slot) = self.cold.large.remove(hash, |slot| state.is_large(slot)) {
            orphans.large(&slot);
        }
        self.settle(orphans, state.ids, budget);
    }

    /// Takes a place in the budget if this is the first slot of its key, after sweeping a few buckets.
    /// Returns whether it took one.
    #[inline]
    pub(super) fn take_place(
        &mut self,
        state: StateRef<'_>,
        slots: usize,
        now: Timestamp,
        budget: &Budget,
    ) -> Result<bool, NoRoom> {
        self.sweep(SWEPT_PER_INSERT * slots, now, self.cold.grace, state.ids, budget);
        if state.info.has_siblings() && self.knows(state) {
            return Ok(false);
        }
        if budget.take(1) { Ok(true) } else { Err(NoRoom) }
    }

    /// Returns whether there is any slot of the key.
    fn knows(&self, state: StateRef<'_>) -> bool {
        state.ids.siblings_of(state.info).any(|info| {
            let state = StateRef { info, ..state };
            let hash = state.hash();
            self.small.find(hash, |slot| state.is_small(slot)).is_some()
                || self.cold.large.find(hash, |slot| state.is_large(slot)).is_some()
        })
    }
}

/// The cell of a packed count that `writer` wrote.
fn packed_cell(writer: u32, count: u64, last: Timestamp, state: StateRef<'_>, words: bool) -> Cell {
    let own = writer == state.info.id();
    let writer = if own { Some(state.info) } else { state.ids.get(writer) };
    let reset_at = writer.map_or(Timestamp::MAX, |writer| writer.reset_at(count, last));
    match writer.and_then(StateInfo::meter) {
        Some(meter) if words => Cell::words(meter.words(count, last), reset_at),
        _ if own => Cell { form: Form::Packed { count, last }, reset_at: Timestamp::MAX },
        _ => Cell { form: Form::Packed { count, last }, reset_at },
    }
}

/// A copy of the state of a rate that a hit brought, in a form in which that limit runs.
fn in_form_of(limit: &Limit, form: &Form) -> Option<Form> {
    match (form, limit.compiled()) {
        (Form::Packed { count, last }, CompiledLimit::Wide(bucket)) => {
            Some(Form::Words(words_of(bucket, *count, *last)))
        }
        _ => Some(form.clone()),
    }
}
