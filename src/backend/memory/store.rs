//! All shards of an in-memory backend: which one a key is in, and how a step runs there.

use std::time::Duration;

use super::budget::Budget;
use super::builder::Overflow;
use super::shard::{Full, Shard, Target, fresh_cell};
use crate::clock::Timestamp;
use crate::decision::{Decision, Tally};
use crate::error::{BackendError, ErrorKind};
use crate::key::{Key, Short};
use crate::strategy::packed::{self, Packed};
use crate::strategy::{Cell, Core, Limit, MAX_LIMITS, Op, Step, apply_healing, interned};
use crate::sync::Mutex;

/// What a caller is told to wait when its key does not fit, in microseconds.
const OVERFLOW_WAIT_MICROS: u64 = 1_000_000;

#[derive(Debug)]
pub(super) struct Store {
    shards: Box<[Aligned]>,
    pub(super) budget: Budget,
    overflow: Overflow,
}

/// A shard whose lock shares a cache line with no other.
#[derive(Debug)]
#[repr(align(128))]
struct Aligned(Mutex<Shard>);

/// What happened to a step beside its decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Nothing,
    Overflowed,
    Corrupt,
}

impl Store {
    pub(super) fn new(shards: usize, most: Option<usize>, overflow: Overflow) -> Self {
        let shards = (0..shards).map(|_| Aligned(Mutex::new(Shard::new()))).collect();
        Self { shards, budget: Budget::new(most), overflow }
    }

    /// The shard of a key, from bits of its hash that place nothing inside of a table: a table uses the
    /// lowest bits and the seven highest.
    #[inline(always)]
    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        let bits = (hash >> 25) & 0xffff_ffff;
        let index = (bits * self.shards.len() as u64) >> 32;
        &self.shards[usize::try_from(index).unwrap_or(0)].0
    }

    /// Decides one step, under one lock.
    pub(super) fn apply(
        &self,
        key: &Key<'_>,
        step: &Step<'_>,
        asked_at: Timestamp,
    ) -> (Decision, Event) {
        if step.limits().len() <= 2 {
            self.several::<2>(key, step, asked_at)
        } else {
            self.several::<MAX_LIMITS>(key, step, asked_at)
        }
    }

    /// A hit of one or two limits with packed counts on a short key: the way of nearly every hit.
    ///
    /// `None`, with nothing done, if it is not that, or if the key is new and there is no room.
    #[inline(always)]
    pub(super) fn try_hit(
        &self,
        key: &Key<'_>,
        limits: &[Limit],
        cost: u32,
        now: impl FnOnce() -> Timestamp,
    ) -> Option<Decision> {
        let [limit] = limits else {
            return self.two(key, limits.try_into().ok()?, cost, now());
        };
        let interned = limit.interned(key.throttle()?);
        let target = (Target { key, interned }, key.short()?);
        match limit.core() {
            Core::Bucket(meter) => self.one(meter, limit, target, cost, now()),
            Core::Fixed(meter) => self.one(meter, limit, target, cost, now()),
            Core::Sliding(meter) => self.one(meter, limit, target, cost, now()),
            Core::Unlimited | Core::DenyAll | Core::Words { .. } => None,
        }
    }

    /// Two limits with packed counts on a short key.
    fn two(
        &self,
        key: &Key<'_>,
        limits: &[Limit; 2],
        cost: u32,
        asked_at: Timestamp,
    ) -> Option<Decision> {
        let (throttle, short) = (key.throttle()?, key.short()?);
        let interned = [limits[0].interned(throttle), limits[1].interned(throttle)];
        if !limits.iter().all(|limit| limit.core().is_packed()) {
            return None;
        }
        let targets = interned.map(|interned| Target { key, interned });
        let (settled, at) = {
            let mut shard = self.shard(key.hash()).lock();
            if interned.iter().any(|interned| interned.is_wide()) {
                return None;
            }
            shard.step_two(limits, targets, short, asked_at, cost, &self.budget)?
        };
        let mut tally = Tally::new();
        for (index, (limit, settled)) in limits.iter().zip(settled).enumerate() {
            tally.add(index, limit, limit.core().answer_packed(settled, at, cost)?);
        }
        Some(tally.decision(asked_at, at, cost))
    }

    #[inline(always)]
    fn one<P: Packed>(
        &self,
        meter: &P,
        limit: &Limit,
        target: (Target<'_>, &Short),
        cost: u32,
        asked_at: Timestamp,
    ) -> Option<Decision> {
        let (settled, at) = {
            let mut shard = self.shard(target.0.key.hash()).lock();
            // Under the lock: whoever wrote the state in its other form did so after it became wide.
            if target.0.interned.is_wide() {
                return None;
            }
            shard.step(meter, target, asked_at, (cost, Op::Take), &self.budget).ok()?
        };
        // All that follows needs the lock no more.
        let mut tally = Tally::new();
        tally.add(0, limit, packed::answer(meter, settled, at, cost));
        Some(tally.decision(asked_at, at, cost))
    }

    /// Any limits, up to `N` of them.
    #[inline(never)]
    fn several<const N: usize>(
        &self,
        key: &Key<'_>,
        step: &Step<'_>,
        asked_at: Timestamp,
    ) -> (Decision, Event) {
        let limits = step.limits();
        let throttle = key.throttle().unwrap_or_default();
        let target = |limit: &Limit| Target { key, interned: limit.interned(throttle) };
        let mut cells = [const { Cell::FRESH }; N];
        let cells = &mut cells[..limits.len()];
        let mut missing = 0;

        let mut shard = self.shard(key.hash()).lock();
        for (limit, cell) in limits.iter().zip(&mut *cells) {
            if limit.core().is_stateless() {
                continue;
            }
            *cell = shard.load(target(limit), limit).unwrap_or_else(|| {
                missing += 1;
                fresh_cell(target(limit))
            });
        }
        let take = step.op() == Op::Take && step.cost() > 0;
        let taken = if take { missing } else { 0 };
        if taken > 0 && shard.make_room(taken, asked_at, &self.budget) == Err(Full) {
            put_back(&mut shard, limits, cells, target);
            return self.overflow(&limits[0]);
        }
        let (applied, corrupt) = apply_healing(step, cells, asked_at);
        let event = if corrupt.is_some() { Event::Corrupt } else { Event::Nothing };
        let Some(applied) = applied else {
            put_back(&mut shard, limits, cells, target);
            drop(shard);
            self.budget.give_back(taken);
            return (Decision::deny(Duration::ZERO), event);
        };
        let mut inserted = 0;
        if applied.changed {
            for ((limit, cell), fresh_at) in limits.iter().zip(cells).zip(applied.fresh_at) {
                let cell = std::mem::replace(cell, Cell::FRESH);
                if limit.core().is_stateless() {
                    continue;
                }
                // As where states are stored as bytes: what a refund made fresh is forgotten.
                let fresh = matches!(&cell, Cell::Words(state) if state.is_fresh());
                if fresh || fresh_at <= applied.at {
                    shard.remove(target(limit), &self.budget);
                } else {
                    let more = shard.store(target(limit), limit, cell, fresh_at);
                    inserted += usize::from(more);
                }
            }
        } else {
            put_back(&mut shard, limits, cells, target);
        }
        drop(shard);
        self.budget.settle(taken, inserted);
        (applied.decision(step, asked_at), event)
    }

    /// Forgets all limits that a throttle ever had for a key.
    pub(super) fn forget(&self, key: &Key<'_>) {
        let mut shard = self.shard(key.hash()).lock();
        for interned in interned::of_throttle(key.throttle().unwrap_or_default()) {
            shard.remove(Target { key, interned }, &self.budget);
        }
    }

    pub(super) fn clear(&self) {
        for shard in &self.shards {
            let cleared = std::mem::replace(&mut *shard.0.lock(), Shard::new());
            self.budget.give_back(cleared.len());
        }
    }

    #[cfg(all(test, traffik_model))]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.lock().len()).sum()
    }

    pub(super) fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Sweeps the next buckets of one shard; says whether it has been swept to its end.
    pub(super) fn clean(&self, shard: usize, buckets: usize, now: Timestamp) -> bool {
        let Some(shard) = self.shards.get(shard) else { return true };
        let (done, emptied) = shard.0.lock().clean(buckets, now, &self.budget);
        // The lock is free again.
        drop(emptied);
        done
    }

    #[cold]
    fn overflow(&self, limit: &Limit) -> (Decision, Event) {
        let admit = self.overflow == Overflow::Allow;
        (Decision::overflow(limit.rate(), admit, OVERFLOW_WAIT_MICROS), Event::Overflowed)
    }
}

fn put_back<'t>(
    shard: &mut Shard,
    limits: &[Limit],
    cells: &mut [Cell],
    target: impl Fn(&Limit) -> Target<'t>,
) {
    for (limit, cell) in limits.iter().zip(cells) {
        if !limit.core().is_stateless() {
            shard.put_back(target(limit), std::mem::replace(cell, Cell::FRESH));
        }
    }
}

/// The error for a state that could not be read.
pub(super) fn corrupt_error() -> BackendError {
    BackendError::new(super::NAME, "apply", ErrorKind::Corrupt)
}
