//! All shards of an in-memory backend: which one a key is in, and how a step runs there.

use std::sync::atomic::Ordering;

use super::budget::Budget;
use super::builder::Overflow;
use super::shard::{Full, Shard, Target};
use super::sweep::Grace;
use super::values::Values;
use crate::clock::Timestamp;
use crate::decision::{Decision, Ruled};
use crate::key::{Key, Short};
use crate::strategy::packed::{self, Demand, Packed};
use crate::strategy::{Cell, Core, Limit, MAX_LIMITS, Meter, Op, Step, apply_healing, interned};
use crate::sync::{AtomicUsize, Mutex};

/// What a caller is told to wait when its key does not fit, in microseconds.
const OVERFLOW_WAIT_MICROS: u64 = 1_000_000;
/// Buckets that a call sweeps that finds no room.
const SWEPT_WHEN_FULL: usize = 512;

#[derive(Debug)]
pub(super) struct Store {
    shards: Box<[Aligned]>,
    pub(super) values: Values,
    pub(super) budget: Budget,
    overflow: Overflow,
    /// Where the next call that finds no room goes on to sweep: the two tables of each shard in turn.
    swept_when_full: AtomicUsize,
}

/// A shard whose lock shares a cache line with no other.
#[derive(Debug)]
#[repr(align(128))]
struct Aligned(Mutex<Shard>);

/// What a step came to.
#[derive(Debug)]
pub(super) enum Ruling {
    Decided(Decision),
    /// No more keys fit; the overflow rule decided.
    Overflowed(Decision),
    /// The state could not be read; it starts afresh.
    Corrupt,
    /// Hits brought more rates to the key than can count.
    TooManyRates,
}

impl Store {
    pub(super) fn new(
        shards: usize,
        most: Option<usize>,
        overflow: Overflow,
        grace: Grace,
    ) -> Self {
        let shards = (0..shards).map(|_| Aligned(Mutex::new(Shard::new(grace)))).collect();
        Self {
            shards,
            values: Values::new(),
            budget: Budget::new(most),
            overflow,
            swept_when_full: AtomicUsize::new(0),
        }
    }

    /// The shard of a key, from bits of its hash that place nothing inside of a table: a table uses the
    /// lowest bits and the seven highest.
    #[inline(always)]
    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        let bits = (hash >> 25) & 0xffff_ffff;
        let index = (bits * self.shards.len() as u64) >> 32;
        &self.shards[usize::try_from(index).unwrap_or(0)].0
    }

    /// Decides one step, under one lock; once more, if there was no room and some was made.
    pub(super) fn apply(&self, key: &Key<'_>, step: &Step<'_>, asked_at: Timestamp) -> Ruling {
        if let ([limit], Op::Take | Op::Peek) = (step.limits(), step.op())
            && let Some(ruled) = self.single(key, limit, step.demand(), step.op(), || asked_at)
        {
            return Ruling::Decided(ruled.into());
        }
        let attempt = || {
            if step.limits().len() <= 2 {
                self.several::<2>(key, step, asked_at)
            } else {
                self.several::<MAX_LIMITS>(key, step, asked_at)
            }
        };
        match attempt() {
            Ok(ruling) => ruling,
            Err(Full) => self.make_room_and(asked_at, attempt).unwrap_or_else(|Full| {
                let admit = self.overflow == Overflow::Allow;
                let rate = step.limits()[0].rate();
                Ruling::Overflowed(Decision::overflow(rate, admit, OVERFLOW_WAIT_MICROS))
            }),
        }
    }

    /// A hit of one limit with a packed count, or of two on a short key: the fast path of nearly every
    /// hit.
    ///
    /// `None`, with nothing done, if it is not that, or if the key is new and there is no room.
    #[inline(always)]
    pub(super) fn try_hit(
        &self,
        key: &Key<'_>,
        limits: &[Limit],
        cost: u32,
        now: impl FnOnce() -> Timestamp,
    ) -> Option<Ruled> {
        let [limit] = limits else {
            return self.two(key, limits.try_into().ok()?, cost, now());
        };
        self.single(key, limit, Demand::of(cost), Op::Take, now)
    }

    /// A hit or a peek of one limit with a packed count.
    #[inline(always)]
    fn single(
        &self,
        key: &Key<'_>,
        limit: &Limit,
        demand: Demand,
        op: Op,
        now: impl FnOnce() -> Timestamp,
    ) -> Option<Ruled> {
        let Core::Packed(meter) = limit.core() else { return None };
        if limit.is_per_hit() {
            return None;
        }
        let target = Target { key, interned: limit.interned(key.throttle()?) };
        let Some(short) = key.short() else {
            return self.one_large(meter, limit, target, (demand, op), now());
        };
        let target = (target, short);
        match meter {
            Meter::Bucket(meter) => self.one(meter, limit, target, (demand, op), now()),
            Meter::Fixed(meter) => self.one(meter, limit, target, (demand, op), now()),
            Meter::Sliding(meter) => self.one(meter, limit, target, (demand, op), now()),
        }
    }

    /// One limit with a packed count on a long key that is known.
    #[inline(never)]
    fn one_large(
        &self,
        meter: &Meter,
        limit: &Limit,
        target: Target<'_>,
        (demand, op): (Demand, Op),
        asked_at: Timestamp,
    ) -> Option<Ruled> {
        let (settled, at) = {
            let mut shard = self.shard(target.key.hash()).lock();
            shard.step_large(meter, target, asked_at, (demand, op))?
        };
        let answer = meter.answer(settled, at, demand);
        Some(Ruled::of_one(limit, answer, (asked_at, at), taken(demand, op)))
    }

    /// Two limits with packed counts on a short key.
    fn two(
        &self,
        key: &Key<'_>,
        limits: &[Limit; 2],
        cost: u32,
        asked_at: Timestamp,
    ) -> Option<Ruled> {
        let (throttle, short) = (key.throttle()?, key.short()?);
        let [Core::Packed(first), Core::Packed(second)] = [limits[0].core(), limits[1].core()]
        else {
            return None;
        };
        let interned = [limits[0].interned(throttle), limits[1].interned(throttle)];
        let targets = interned.map(|interned| Target { key, interned });
        let demand = Demand::of(cost);
        let (settled, at) = {
            let mut shard = self.shard(key.hash()).lock();
            if interned.iter().any(|interned| interned.is_wide()) {
                return None;
            }
            let meters = [first, second];
            shard.step_two(meters, targets, short, asked_at, demand, &self.budget)?
        };
        let answers = [first.answer(settled[0], at, demand), second.answer(settled[1], at, demand)];
        Some(Ruled::of_two([&limits[0], &limits[1]], answers, (asked_at, at), cost))
    }

    #[inline(always)]
    fn one<P: Packed>(
        &self,
        meter: &P,
        limit: &Limit,
        target: (Target<'_>, &Short),
        (demand, op): (Demand, Op),
        asked_at: Timestamp,
    ) -> Option<Ruled> {
        let (settled, at) = {
            let mut shard = self.shard(target.0.key.hash()).lock();
            // Under the lock: whoever wrote the state in its other form did so after it became wide.
            if target.0.interned.is_wide() {
                return None;
            }
            shard.step(meter, target, asked_at, (demand, op), &self.budget)?
        };
        // All that follows needs the lock no more.
        let answer = packed::answer(meter, settled, at, demand);
        Some(Ruled::of_one(limit, answer, (asked_at, at), taken(demand, op)))
    }

    /// Any limits, up to `N` of them.
    ///
    /// A user's own strategy may panic in here. Nothing is lost by it: the budget is not touched before
    /// the step, and where such a strategy takes part words are copied, not moved out of the tables.
    #[inline(never)]
    fn several<const N: usize>(
        &self,
        key: &Key<'_>,
        step: &Step<'_>,
        asked_at: Timestamp,
    ) -> Result<Ruling, Full> {
        let limits = step.limits();
        let throttle = key.throttle().unwrap_or_default();
        let target = |limit: &Limit| Target { key, interned: limit.interned(throttle) };
        let moved = !limits.iter().any(|limit| limit.core().is_custom());
        let mut cells = [const { Cell::FRESH }; N];
        let cells = &mut cells[..limits.len()];
        let mut known = false;

        let mut shard = self.shard(key.hash()).lock();
        for (limit, cell) in limits.iter().zip(&mut *cells) {
            if !limit.has_state() {
                continue;
            }
            match shard.load(target(limit), limit, moved) {
                Some(found) => (*cell, known) = (found, true),
                None if target(limit).interned.is_wide() && !limit.core().is_packed() => {
                    *cell = Cell::fresh_words();
                }
                None => {}
            }
        }
        let (applied, corrupt) = apply_healing::<N>(step, cells, asked_at);
        let Some(applied) = applied else {
            put_back(&mut shard, limits, cells, moved, target);
            return Ok(Ruling::Corrupt);
        };
        if let Some(limit) = limits.iter().find(|limit| limit.is_per_hit()) {
            let parts = shard.brought(target(limit)).iter().map(|part| (part.id, part.fresh_at));
            if step.brings_too_many(&applied, parts) {
                put_back(&mut shard, limits, cells, moved, target);
                return Ok(Ruling::TooManyRates);
            }
        }
        let mut counted = false;
        if applied.is_changed() && !known {
            let first = limits.iter().find(|limit| limit.has_state());
            let first = target(first.unwrap_or(&limits[0]));
            counted = shard.take_place(first, limits.len(), asked_at, &self.budget)?;
        }
        for (index, (limit, cell)) in limits.iter().zip(&mut *cells).enumerate() {
            if !applied.has_changed(index) {
                continue;
            }
            let fresh_at = applied.answers[index].fresh_at;
            let cell = std::mem::replace(cell, Cell::FRESH);
            // As where states are stored as bytes: what a refund made fresh is forgotten.
            if cell.is_fresh() || fresh_at <= applied.at {
                shard.remove(target(limit), Some(limit), &self.budget);
            } else {
                shard.store(target(limit), limit, (cell, fresh_at), asked_at, &mut counted);
            }
        }
        // Nothing was left to store.
        self.budget.give_back(usize::from(counted));
        put_back(&mut shard, limits, cells, moved, target);
        drop(shard);
        Ok(match corrupt {
            Some(_) => Ruling::Corrupt,
            None => Ruling::Decided(applied.decision(step, asked_at)),
        })
    }

    /// Forgets all limits that a throttle ever had for a key.
    pub(super) fn forget(&self, key: &Key<'_>) {
        let Some(any) = interned::any_of(key.throttle().unwrap_or_default()) else { return };
        let mut shard = self.shard(key.hash()).lock();
        for interned in any.family() {
            shard.remove(Target { key, interned }, None, &self.budget);
        }
    }

    pub(super) fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.0.lock();
            let grace = shard.grace();
            let cleared = std::mem::replace(&mut *shard, Shard::new(grace));
            drop(shard);
            self.budget.give_back(cleared.keys());
        }
        self.values.clear(&self.budget);
    }

    #[cfg(all(test, traffik_model))]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.lock().len()).sum()
    }

    #[cfg(all(test, traffik_model))]
    pub(super) fn keys(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.lock().keys()).sum()
    }

    pub(super) fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Sweeps the next buckets of one shard; returns whether it has been swept to its end.
    pub(super) fn clean(&self, shard: usize, buckets: usize, now: Timestamp) -> bool {
        let Some(shard) = self.shards.get(shard) else { return true };
        let (done, emptied) = shard.0.lock().clean(buckets, now, &self.budget);
        // The lock is free again.
        drop(emptied);
        done
    }

    /// Makes room for a call that found none, by sweeping what is over, and lets it try once more.
    #[cold]
    pub(super) fn make_room_and<T, E>(
        &self,
        now: Timestamp,
        again: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        // The values are one table beside many, so they get a share of their own.
        let values = self.values.sweep(SWEPT_WHEN_FULL / 2, now, &self.budget);
        let mut left = SWEPT_WHEN_FULL - values;
        for _ in 0..2 * self.shards.len() {
            if left == 0 || self.budget.has_room() {
                break;
            }
            let next = self.swept_when_full.load(Ordering::Relaxed);
            let shard = &self.shards[next / 2 % self.shards.len()].0;
            let (looked, done) = shard.lock().sweep_on(next % 2 == 1, left, now, &self.budget);
            left -= looked;
            if done {
                let _ = self.swept_when_full.compare_exchange(
                    next,
                    next.wrapping_add(1),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
        }
        again()
    }
}

/// The cost that is taken if it passes.
#[inline(always)]
fn taken(demand: Demand, op: Op) -> u32 {
    if op == Op::Take { demand.cost_u32() } else { 0 }
}

fn put_back<'t>(
    shard: &mut Shard,
    limits: &[Limit],
    cells: &mut [Cell],
    moved: bool,
    target: impl Fn(&Limit) -> Target<'t>,
) {
    if !moved {
        return;
    }
    for (limit, cell) in limits.iter().zip(cells) {
        if limit.has_state() && !limit.is_per_hit() {
            shard.put_back(target(limit), std::mem::replace(cell, Cell::FRESH));
        }
    }
}
