//! One shard: the tables behind one lock, and what is done to them while it is held.

use super::budget::Budget;
use super::slot::{self, Body, LargeSlot, Slot};
use super::table::Table;
use crate::clock::Timestamp;
use crate::key::{Key, Short};
use crate::strategy::packed::{self, Packed, Passed, Settled};
use crate::strategy::{Cell, Interned, Limit, Op, State, interned};

/// Buckets that are swept for each new key, so that a table cleans itself where it is used.
const SWEPT_PER_INSERT: usize = 4;
/// Buckets that are swept for a new key when no more fit.
const SWEPT_WHEN_FULL: usize = 128;
/// A spent count is kept this long after its last hit: taking it out and in again costs more than
/// letting it lie.
const GRACE_MICROS: u64 = 10_000_000;

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
        self.key.short().is_some_and(|short| slot.is(short, self.interned.id()))
    }

    fn is_large(&self, slot: &LargeSlot) -> bool {
        slot.is(self.key, self.interned.id())
    }
}

#[derive(Debug)]
pub(super) struct Shard {
    small: Table<Slot>,
    rare: Box<Rare>,
}

/// What most hits do not need; boxed, see [`Table`] on the cache line.
#[derive(Debug)]
struct Rare {
    large: Table<LargeSlot>,
    /// Buckets until the background sweep is through.
    left_to_clean: usize,
}

/// With the lock it is one cache line.
const _: () = assert!(size_of::<Shard>() < 64);

impl Shard {
    pub(super) fn new() -> Self {
        Self { small: Table::new(), rare: Box::new(Rare { large: Table::new(), left_to_clean: 0 }) }
    }

    pub(super) fn len(&self) -> usize {
        self.small.len() + self.rare.large.len()
    }

    /// One step on the packed count of a short key: the way of nearly every hit.
    #[inline(always)]
    pub(super) fn step<P: Packed>(
        &mut self,
        meter: &P,
        (target, short): (Target<'_>, &Short),
        asked_at: Timestamp,
        (cost, op): (u32, Op),
        budget: &Budget,
    ) -> Result<(Settled<P::Count>, Timestamp), Full> {
        let (hash, id) = (target.hash(), target.interned.id());
        if let Some(slot) = self.small.find_mut(hash, |slot| slot.is(short, id)) {
            let last = slot.last();
            let at = asked_at.max(last);
            let settled = packed::run(meter, P::unpack(slot.count()), last, at, cost, op);
            if settled.changed {
                slot.write(P::pack(settled.count), at);
            }
            return Ok((settled, at));
        }
        let fresh = P::Count::default();
        let settled = packed::run(meter, fresh, Timestamp::ZERO, asked_at, cost, op);
        if settled.changed {
            self.make_room(1, asked_at, budget)?;
            let slot = Slot::new(short, id, P::pack(settled.count), asked_at);
            self.small.insert(hash, slot);
        }
        Ok((settled, asked_at))
    }

    /// One hit on the packed counts of two limits of a short key, all or nothing; `None`, with nothing
    /// done, if there is no room.
    #[inline(always)]
    pub(super) fn step_two(
        &mut self,
        limits: &[Limit; 2],
        targets: [Target<'_>; 2],
        short: &Short,
        asked_at: Timestamp,
        cost: u32,
        budget: &Budget,
    ) -> Option<([Settled<u64>; 2], Timestamp)> {
        let found = targets.map(|target| {
            let id = target.interned.id();
            self.small.locate(target.hash(), |slot| slot.is(short, id))
        });
        let [first, second] = found.map(|spot| {
            let slot = spot.and_then(|spot| self.small.at(spot));
            slot.map_or((0, Timestamp::ZERO), |slot| (slot.count(), slot.last()))
        });
        let at = asked_at.max(first.1).max(second.1);
        let run = |op| {
            let first = limits[0].core().run_packed(first.0, first.1, at, cost, op)?;
            let second = limits[1].core().run_packed(second.0, second.1, at, cost, op)?;
            Some([first, second])
        };
        let settled = run(Op::Take)?;
        if settled.iter().any(|settled| settled.passed != Passed::Yes) {
            return Some((run(Op::Peek)?, at));
        }
        if cost == 0 {
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
        self.make_room(missing, asked_at, budget).ok()?;
        let mut inserted = 0;
        for (target, settled) in targets.into_iter().zip(settled) {
            inserted += usize::from(self.write_small(target, short, settled.count, at));
        }
        budget.settle(missing, inserted);
        Some((settled, at))
    }

    /// Writes a packed count, and says whether that is one key more.
    #[inline(always)]
    fn write_small(
        &mut self,
        target: Target<'_>,
        short: &Short,
        count: u64,
        last: Timestamp,
    ) -> bool {
        let (hash, id) = (target.hash(), target.interned.id());
        if let Some(slot) = self.small.find_mut(hash, |slot| slot.is(short, id)) {
            slot.write(count, last);
            return false;
        }
        self.small.insert(hash, Slot::new(short, id, count, last));
        true
    }

    /// What is known of a limit's state, for a step on cells; `None` if nothing is.
    ///
    /// Words are taken out, not copied: they must come back by [`store`](Self::store) or
    /// [`put_back`](Self::put_back).
    pub(super) fn load(&mut self, target: Target<'_>, limit: &Limit) -> Option<Cell> {
        let hash = target.hash();
        if is_kept_small(target, limit) {
            let slot = self.small.find(hash, |slot| target.is_small(slot))?;
            return Some(Cell::Packed { count: slot.count(), last: slot.last() });
        }
        if let Some(slot) = self.rare.large.find_mut(hash, |slot| target.is_large(slot)) {
            return Some(match &mut slot.body {
                Body::Words { state, .. } => Cell::Words(std::mem::take(state)),
                Body::Packed { count, last } if target.interned.is_wide() => {
                    Cell::Words(target.interned.words(*count, *last))
                }
                Body::Packed { count, last } => Cell::Packed { count: *count, last: *last },
            });
        }
        // Written as a packed count, before a limit came that needs more.
        let slot = self.small.find(hash, |slot| target.is_small(slot))?;
        Some(Cell::Words(target.interned.words(slot.count(), slot.last())))
    }

    /// Puts words back that a step left as they were.
    pub(super) fn put_back(&mut self, target: Target<'_>, cell: Cell) {
        if let Cell::Words(words) = cell
            && let Some(slot) =
                self.rare.large.find_mut(target.hash(), |slot| target.is_large(slot))
            && let Body::Words { state, .. } = &mut slot.body
        {
            *state = words;
        }
    }

    /// Writes what a step made of a cell, and says whether that is one key more.
    pub(super) fn store(
        &mut self,
        target: Target<'_>,
        limit: &Limit,
        cell: Cell,
        fresh_at: Timestamp,
    ) -> bool {
        let hash = target.hash();
        let body = match cell {
            Cell::Packed { count, last } if is_kept_small(target, limit) => {
                let Some(short) = target.key.short() else {
                    unreachable!("only a short key is kept small")
                };
                return self.write_small(target, short, count, last);
            }
            Cell::Packed { count, last } => Body::Packed { count, last },
            Cell::Words(state) => Body::Words { state, fresh_at },
        };
        if let Some(slot) = self.rare.large.find_mut(hash, |slot| target.is_large(slot)) {
            slot.body = body;
            return false;
        }
        // The small form of the same state, if there was one, gives way.
        let replaced = self.small.remove(hash, |slot| target.is_small(slot)).is_some();
        self.rare.large.insert(hash, LargeSlot::new(target.key, target.interned, body));
        !replaced
    }

    /// Forgets a limit's state.
    pub(super) fn remove(&mut self, target: Target<'_>, budget: &Budget) {
        let hash = target.hash();
        let small = self.small.remove(hash, |slot| target.is_small(slot));
        let large = self.rare.large.remove(hash, |slot| target.is_large(slot));
        budget.give_back(usize::from(small.is_some()) + usize::from(large.is_some()));
    }

    /// Takes places for `count` new keys, after sweeping a few buckets; some more if none are left.
    pub(super) fn make_room(
        &mut self,
        count: usize,
        now: Timestamp,
        budget: &Budget,
    ) -> Result<(), Full> {
        self.sweep(SWEPT_PER_INSERT * count, now, GRACE_MICROS, budget);
        if budget.take(count) {
            return Ok(());
        }
        self.sweep(SWEPT_WHEN_FULL, now, 0, budget);
        if budget.take(count) { Ok(()) } else { Err(Full) }
    }

    /// Sweeps the next buckets in the background; says whether both tables have been swept to their
    /// ends since the last time, and gives what is to be freed outside of the lock.
    pub(super) fn clean(
        &mut self,
        buckets: usize,
        now: Timestamp,
        budget: &Budget,
    ) -> (bool, impl Sized + use<>) {
        self.sweep(buckets, now, GRACE_MICROS, budget);
        let emptied = (self.small.move_on(0), self.rare.large.move_on(0));
        let left = match self.rare.left_to_clean {
            0 => self.small.buckets().max(self.rare.large.buckets()),
            left => left,
        };
        self.rare.left_to_clean = left.saturating_sub(buckets);
        (self.rare.left_to_clean == 0, emptied)
    }

    fn sweep(&mut self, buckets: usize, now: Timestamp, grace: u64, budget: &Budget) {
        let spent = |id: u32, count: u64, last: Timestamp| {
            last.plus_micros(grace) <= now
                && interned::by_id(id).is_some_and(|interned| interned.is_spent(count, last, now))
        };
        let small =
            self.small.sweep(buckets, |slot| spent(slot.interned(), slot.count(), slot.last()));
        let large = self.rare.large.sweep(buckets, |slot| match &slot.body {
            Body::Packed { count, last } => spent(slot.interned(), *count, *last),
            Body::Words { fresh_at, .. } => *fresh_at <= now,
        });
        budget.give_back(small + large);
    }
}

/// Whether the state of a limit is kept in a [`Slot`].
#[inline(always)]
fn is_kept_small(target: Target<'_>, limit: &Limit) -> bool {
    target.key.short().is_some() && !target.interned.is_wide() && limit.core().is_packed()
}

/// The cell of a limit whose key was never seen.
pub(super) fn fresh_cell(target: Target<'_>) -> Cell {
    if target.interned.is_wide() { Cell::Words(State::default()) } else { Cell::FRESH }
}
