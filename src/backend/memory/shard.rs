//! One shard: the tables behind one lock, and what is done to them while it is held.

use super::budget::Budget;
use super::places::Orphans;
use super::slot::{self, Body, Brought, LargeSlot, Slot};
use super::sweep::Grace;
use super::table::Table;
use crate::clock::Timestamp;
use crate::key::{Key, Short};
use crate::strategy::codec::MAX_PARTS;
use crate::strategy::packed::{self, Admission, Demand, Packed, Settled};
use crate::strategy::{Cell, Core, Form, Interned, KEPT_MICROS, Limit, Meter, Op, interned, meter};

/// Buckets that are swept for each new key, so that a table cleans itself where it is used.
const SWEPT_PER_INSERT: usize = 4;

/// No more keys fit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// The state of one limit of one key.
#[derive(Clone, Copy)]
pub(super) struct Target<'t> {
    pub(super) key: &'t Key<'t>,
    pub(super) interned: &'static Interned,
}

impl Target<'_> {
    #[inline(always)]
    fn hash(&self) -> u64 {
        slot::hash_of(self.key, self.interned)
    }

    fn is_small(&self, slot: &Slot) -> bool {
        self.key.short().is_some_and(|short| slot.is_of(short, self.interned))
    }

    fn is_large(&self, slot: &LargeSlot) -> bool {
        slot.is_of(self.key, self.interned)
    }
}

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) small: Table<Slot>,
    pub(super) rare: Box<Rare>,
}

/// What most hits do not need; boxed, see [`Table`] on the cache line.
#[derive(Debug)]
pub(super) struct Rare {
    pub(super) large: Table<LargeSlot>,
    /// Buckets until the background sweep is through.
    pub(super) left_to_clean: usize,
    pub(super) grace: Grace,
}

/// With the lock it is one cache line.
const _: () = assert!(size_of::<Shard>() < 64);

impl Shard {
    pub(super) fn new(grace: Grace) -> Self {
        let rare = Rare { large: Table::new(), left_to_clean: 0, grace };
        Self { small: Table::new(), rare: Box::new(rare) }
    }

    #[cfg(all(test, traffik_model))]
    pub(super) fn len(&self) -> usize {
        self.small.len() + self.rare.large.len()
    }

    /// Counts the keys that it holds.
    pub(super) fn keys(&self) -> usize {
        self.small.count(Slot::is_counted) + self.rare.large.count(|slot| slot.counted)
    }

    pub(super) const fn grace(&self) -> Grace {
        self.rare.grace
    }

    /// One step on the packed count of a short key: the fast path of nearly every hit. `None`, with
    /// nothing done, if it is not that or if there is no room.
    #[inline(always)]
    pub(super) fn step<P: Packed>(
        &mut self,
        meter: &P,
        (target, short): (Target<'_>, &Short),
        asked_at: Timestamp,
        (demand, op): (Demand, Op),
        budget: &Budget,
    ) -> Option<(Settled<P::Count>, Timestamp)> {
        let (hash, id) = (target.hash(), target.interned.id());
        if let Some(slot) = self.small.find_mut(hash, |slot| slot.is_of(short, target.interned)) {
            if slot.interned() != id {
                // Written under another limit.
                return None;
            }
            let last = slot.last();
            let at = asked_at.max(last);
            let settled = packed::run(meter, P::unpack(slot.count()), last, at, demand, op);
            if settled.changed {
                slot.write(P::pack(settled.count), at);
            }
            return Some((settled, at));
        }
        let fresh = P::Count::default();
        let settled = packed::run(meter, fresh, Timestamp::ZERO, asked_at, demand, op);
        if settled.changed {
            let mut slot = Slot::new(short, id, P::pack(settled.count), asked_at);
            if self.take_place(target, 1, asked_at, budget).ok()? {
                slot.count_it();
            }
            self.small.insert(hash, slot);
        }
        Some((settled, asked_at))
    }

    /// As [`step`](Self::step), for a long key; `None` also if it is new.
    #[inline(always)]
    pub(super) fn step_large(
        &mut self,
        meter: &Meter,
        target: Target<'_>,
        asked_at: Timestamp,
        (demand, op): (Demand, Op),
    ) -> Option<(Settled<u64>, Timestamp)> {
        let slot = self.rare.large.find_mut(target.hash(), |slot| target.is_large(slot))?;
        let Body::Packed { count, last } = &mut slot.body else { return None };
        if slot.interned != target.interned.id() || target.interned.is_wide() {
            return None;
        }
        let at = asked_at.max(*last);
        let settled = meter.run((*count, *last), at, demand, op);
        if settled.changed {
            (*count, *last) = (settled.count, at);
        }
        Some((settled, at))
    }

    /// One hit on the packed counts of two limits of a short key, all or nothing; `None`, with nothing
    /// done, if it is not that or if there is no room.
    #[inline(always)]
    pub(super) fn step_two(
        &mut self,
        meters: [&Meter; 2],
        targets: [Target<'_>; 2],
        short: &Short,
        asked_at: Timestamp,
        demand: Demand,
        budget: &Budget,
    ) -> Option<([Settled<u64>; 2], Timestamp)> {
        let found = targets.map(|target| {
            self.small.locate(target.hash(), |slot| slot.is_of(short, target.interned))
        });
        let mut states = [(0, Timestamp::ZERO); 2];
        for ((spot, target), state) in found.iter().zip(targets).zip(&mut states) {
            let Some(slot) = spot.and_then(|spot| self.small.at(spot)) else { continue };
            if slot.interned() != target.interned.id() {
                return None;
            }
            *state = (slot.count(), slot.last());
        }
        let at = asked_at.max(states[0].1).max(states[1].1);
        let run = |op| {
            let first = meters[0].run(states[0], at, demand, op);
            [first, meters[1].run(states[1], at, demand, op)]
        };
        let settled = run(Op::Take);
        if settled.iter().any(|settled| settled.passed != Admission::Pass) {
            return Some((run(Op::Peek), at));
        }
        if demand.cost_u32() == 0 {
            return Some((settled, at));
        }
        let missing = found.iter().filter(|found| found.is_none()).count();
        if missing == 0 {
            for (spot, settled) in found.into_iter().zip(settled) {
                if let Some(slot) = spot.and_then(|spot| self.small.at(spot)) {
                    slot.write(settled.count, at);
                }
            }
            return Some((settled, at));
        }
        // From here on items move, so what was found is looked for again.
        let mut counted = missing == 2 && self.take_place(targets[0], 2, asked_at, budget).ok()?;
        for (target, settled) in targets.into_iter().zip(settled) {
            self.write_small(target, short, (settled.count, at), &mut counted);
        }
        Some((settled, at))
    }

    /// Writes a packed count. If it is a new slot, it is the counted one of its key where `counted`.
    #[inline(always)]
    fn write_small(
        &mut self,
        target: Target<'_>,
        short: &Short,
        (count, last): (u64, Timestamp),
        counted: &mut bool,
    ) {
        let (hash, id) = (target.hash(), target.interned.id());
        if let Some(slot) = self.small.find_mut(hash, |slot| slot.is_of(short, target.interned)) {
            slot.write_by(id, count, last);
            return;
        }
        let mut slot = Slot::new(short, id, count, last);
        if std::mem::take(counted) {
            slot.count_it();
        }
        self.small.insert(hash, slot);
    }

    /// What is known of a limit's state, for a step on cells; `None` if nothing is.
    ///
    /// Where `moved`, words are taken out, not copied: they must come back by [`store`](Self::store) or
    /// [`put_back`](Self::put_back).
    pub(super) fn load(&mut self, target: Target<'_>, limit: &Limit, moved: bool) -> Option<Cell> {
        let hash = target.hash();
        let words = target.interned.is_wide();
        if !words && let Some(slot) = self.small.find(hash, |slot| target.is_small(slot)) {
            return Some(packed_cell(slot.interned(), slot.count(), slot.last(), target, words));
        }
        if let Some(slot) = self.rare.large.find_mut(hash, |slot| target.is_large(slot)) {
            let writer = slot.interned;
            return match &mut slot.body {
                Body::Words { state, fresh_at } => {
                    let state = if moved { std::mem::take(state) } else { state.clone() };
                    Some(Cell::words(state, *fresh_at))
                }
                Body::Packed { count, last } => {
                    Some(packed_cell(writer, *count, *last, target, words))
                }
                Body::Brought(parts) => {
                    let part = parts.iter().find(|part| part.id == limit.part())?;
                    let fresh_at = part.fresh_at;
                    Some(Cell { form: in_form_of(limit, &part.form)?, fresh_at })
                }
            };
        }
        // Written as a packed count, before a limit came that needs more.
        let slot = self.small.find(hash, |slot| target.is_small(slot))?;
        Some(packed_cell(slot.interned(), slot.count(), slot.last(), target, words))
    }

    /// Puts words back that a step left as they were.
    pub(super) fn put_back(&mut self, target: Target<'_>, cell: Cell) {
        if let Form::Words(words) = cell.form
            && let Some(slot) =
                self.rare.large.find_mut(target.hash(), |slot| target.is_large(slot))
            && let Body::Words { state, .. } = &mut slot.body
        {
            *state = words;
        }
    }

    /// Writes what a step made of a cell. If it is a new slot, it is the counted one of its key where
    /// `counted`, which is then used up.
    pub(super) fn store(
        &mut self,
        target: Target<'_>,
        limit: &Limit,
        (cell, fresh_at): (Cell, Timestamp),
        asked_at: Timestamp,
        counted: &mut bool,
    ) {
        if limit.is_per_hit() {
            return self.store_brought(target, limit, (cell, fresh_at), asked_at, counted);
        }
        let body = match (cell.form, target.key.short()) {
            (Form::Packed { count, last }, Some(short)) if !target.interned.is_wide() => {
                return self.write_small(target, short, (count, last), counted);
            }
            (Form::Packed { count, last }, _) => Body::Packed { count, last },
            (Form::Words(state), _) => Body::Words { state, fresh_at },
        };
        let slot = self.large_slot(target, counted);
        slot.interned = target.interned.id();
        slot.body = body;
    }

    /// Writes the state of a rate that a hit brought.
    fn store_brought(
        &mut self,
        target: Target<'_>,
        limit: &Limit,
        (cell, fresh_at): (Cell, Timestamp),
        asked_at: Timestamp,
        counted: &mut bool,
    ) {
        let slot = self.large_slot(target, counted);
        let Body::Brought(parts) = &mut slot.body else { return };
        let id = limit.part();
        let kept = |part: &Brought| part.fresh_at.plus_micros(KEPT_MICROS) > asked_at;
        parts.retain(|part| part.id != id && kept(part));
        // As where states are stored as bytes, what is over is kept only while there is room.
        if parts.len() >= MAX_PARTS
            && let Some((soonest, _)) =
                parts.iter().enumerate().min_by_key(|(_, part)| part.fresh_at)
        {
            parts.swap_remove(soonest);
        }
        parts.push(Brought { id, form: cell.form, fresh_at });
    }

    /// Returns the large slot of a state, and makes it if there is none.
    fn large_slot(&mut self, target: Target<'_>, counted: &mut bool) -> &mut LargeSlot {
        let hash = target.hash();
        if self.rare.large.find(hash, |slot| target.is_large(slot)).is_none() {
            // The small form of the same state, if there was one, gives way.
            let small = self.small.remove(hash, |slot| target.is_small(slot));
            let body = Body::Brought(Vec::new());
            let mut slot = LargeSlot::new(target.key, target.interned, body);
            slot.counted = match small {
                Some(small) => small.is_counted(),
                None => std::mem::take(counted),
            };
            self.rare.large.insert(hash, slot);
        }
        let found = self.rare.large.find_mut(hash, |slot| target.is_large(slot));
        found.expect("it was found or inserted just now")
    }

    /// The rates that hits brought to a key, and until when each counts.
    pub(super) fn brought(&self, target: Target<'_>) -> &[Brought] {
        match self.rare.large.find(target.hash(), |slot| target.is_large(slot)) {
            Some(LargeSlot { body: Body::Brought(parts), .. }) => parts,
            _ => &[],
        }
    }

    /// Forgets a limit's state; of a rate that a hit brought, that rate only.
    pub(super) fn remove(&mut self, target: Target<'_>, limit: Option<&Limit>, budget: &Budget) {
        let hash = target.hash();
        if let Some(limit) = limit.filter(|limit| limit.is_per_hit())
            && let Some(slot) = self.rare.large.find_mut(hash, |slot| target.is_large(slot))
            && let Body::Brought(parts) = &mut slot.body
        {
            parts.retain(|part| part.id != limit.part());
            if !parts.is_empty() {
                return;
            }
        }
        let mut orphans = Orphans::new();
        if let Some(slot) = self.small.remove(hash, |slot| target.is_small(slot)) {
            orphans.small(&slot);
        }
        if let Some(slot) = self.rare.large.remove(hash, |slot| target.is_large(slot)) {
            orphans.large(&slot);
        }
        self.settle(orphans, budget);
    }

    /// Takes a place in the budget if this is the first slot of its key, after sweeping a few buckets.
    /// Returns whether it took one.
    #[inline(always)]
    pub(super) fn take_place(
        &mut self,
        target: Target<'_>,
        slots: usize,
        now: Timestamp,
        budget: &Budget,
    ) -> Result<bool, Full> {
        self.sweep(SWEPT_PER_INSERT * slots, now, self.rare.grace, budget);
        if target.interned.has_siblings() && self.knows(target) {
            return Ok(false);
        }
        if budget.take(1) { Ok(true) } else { Err(Full) }
    }

    /// Whether there is any slot of the key.
    fn knows(&self, target: Target<'_>) -> bool {
        target.interned.family().any(|interned| {
            let target = Target { interned, ..target };
            let hash = target.hash();
            self.small.find(hash, |slot| target.is_small(slot)).is_some()
                || self.rare.large.find(hash, |slot| target.is_large(slot)).is_some()
        })
    }
}

/// The cell of a packed count that `writer` wrote.
fn packed_cell(writer: u32, count: u64, last: Timestamp, target: Target<'_>, words: bool) -> Cell {
    let own = writer == target.interned.id();
    let writer = if own { Some(target.interned) } else { interned::by_id(writer) };
    let fresh_at = writer.map_or(Timestamp::MAX, |writer| writer.fresh_at(count, last));
    match writer.and_then(Interned::meter) {
        Some(meter) if words => Cell::words(meter.words(count, last), fresh_at),
        _ if own => Cell { form: Form::Packed { count, last }, fresh_at: Timestamp::MAX },
        _ => Cell { form: Form::Packed { count, last }, fresh_at },
    }
}

/// A copy of the state of a rate that a hit brought, in a form in which that limit runs.
fn in_form_of(limit: &Limit, form: &Form) -> Option<Form> {
    match (form, limit.core()) {
        (Form::Packed { count, last }, Core::Wide(bucket)) => {
            Some(Form::Words(meter::words_of(bucket, *count, *last)))
        }
        _ => Some(form.clone()),
    }
}
