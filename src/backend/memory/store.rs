//! All shards of an in-memory backend: finds the shard of a key, and runs a step there.

#![expect(
    clippy::inline_always,
    reason = "without it a hit of a key of 40 bytes takes 1.03x the time: docs/performance.md"
)]

use std::sync::atomic::Ordering;

use super::budget::Budget;
use super::builder::Overflow;
use super::grace::Grace;
use super::shard::{NoRoom, Shard};
use super::slot::StateRef;
use super::state_ids::{StateIds, StateInfo};
use super::stored_key::{HashedKey, KeyHasher};
use super::values::ValueTable;
use crate::clock::Timestamp;
use crate::decision::{Decision, InlineDecision};
use crate::step::{Cell, Form, MAX_LIMITS, Step, apply_healing};
use crate::strategy::meter::{self, Demand, Meter, Metered};
use crate::strategy::{AnyMeter, CompiledLimit, Limit, Op};
use crate::sync::{AtomicUsize, Mutex, unlock_fair};

/// What a caller is told to wait when its key does not fit, in microseconds.
const OVERFLOW_WAIT_MICROS: u64 = 1_000_000;
/// Buckets that a call sweeps that finds no room.
const SWEPT_WHEN_FULL: usize = 512;

#[derive(Debug)]
pub(super) struct Store {
    shards: Box<[Aligned]>,
    pub(super) values: ValueTable,
    pub(super) ids: StateIds,
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
    /// The state could not be read.
    Corrupt {
        is_replaced: bool,
    },
    /// Hits brought more rates to the key than can count.
    TooManyRates,
    /// No more keys fit, and what is to be counted can be neither denied nor let pass uncounted.
    NoRoom,
}

impl Store {
    pub(super) fn new(
        shards: usize,
        most: Option<usize>,
        overflow: Overflow,
        grace: Grace,
        hasher: KeyHasher,
    ) -> Self {
        let shards = (0..shards).map(|_| Aligned(Mutex::new(Shard::new(grace)))).collect();
        Self {
            shards,
            values: ValueTable::new(),
            ids: StateIds::new(hasher),
            budget: Budget::new(most),
            overflow,
            swept_when_full: AtomicUsize::new(0),
        }
    }

    /// The number of a key's shard, from bits of its hash that place nothing inside of a table: a table uses the
    /// lowest bits and the seven highest.
    #[inline]
    pub(super) fn shard_of(&self, hash: u64) -> usize {
        let bits = (hash >> 25) & 0xffff_ffff;
        let index = (bits * self.shards.len() as u64) >> 32;
        usize::try_from(index).unwrap_or(0)
    }

    #[inline]
    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        self.shard_at(self.shard_of(hash))
    }

    #[inline]
    pub(super) fn shard_at(&self, index: usize) -> &Mutex<Shard> {
        &self.shards[index].0
    }

    /// Decides one step, under one lock; once more, if there was no room and some was made. `states` are
    /// those of the step's limits, in their order.
    pub(super) fn apply(
        &self,
        key: &HashedKey,
        step: &Step<'_>,
        states: &[Option<&StateInfo>],
        asked_at: Timestamp,
    ) -> Ruling {
        if let ([limit], [Some(state)]) = (step.limits(), states) {
            let demand = (step.demand(), step.op());
            let decision = match step.op() {
                Op::Take | Op::Peek => self.hit_one(key, limit, state, demand, || asked_at),
                _ => self.use_one(key, limit, state, step, asked_at),
            };
            if let Some(decision) = decision {
                return Ruling::Decided(decision.into());
            }
        }
        if step.limits().len() > 2
            && matches!(step.op(), Op::Take | Op::Peek)
            && let states = states.iter().copied()
            && let demand = (step.demand(), step.op())
            && let Some(decision) =
                self.hit_several(key, step.limits(), states, demand, asked_at, |inline| inline)
        {
            return Ruling::Decided(decision);
        }
        let attempt = || {
            let mut shard = self.shard(key.hash).lock();
            self.apply_in(&mut shard, key, step, states, asked_at)
        };
        match attempt() {
            Ok(ruling) => ruling,
            Err(NoRoom) => self.make_room_and(asked_at, attempt).unwrap_or_else(|NoRoom| {
                if matches!(step.op(), Op::Charge | Op::Drain) {
                    return Ruling::NoRoom;
                }
                let admit = self.overflow == Overflow::Allow;
                let rate = step.limits()[0].rate();
                Ruling::Overflowed(Decision::overflow(rate, admit, OVERFLOW_WAIT_MICROS))
            }),
        }
    }

    /// Decides a hit or a peek of one limit with a packed count. `None`, without side effects, if it is not
    /// that, or if the key is new and there is no room.
    #[inline(always)]
    pub(super) fn hit_one(
        &self,
        key: &HashedKey,
        limit: &Limit,
        info: &StateInfo,
        demand: (Demand, Op),
        now: impl FnOnce() -> Timestamp,
    ) -> Option<InlineDecision> {
        let CompiledLimit::Packed(meter) = limit.compiled() else { return None };
        if limit.is_per_hit() {
            return None;
        }
        let state = StateRef { key, info, ids: &self.ids };
        match meter {
            AnyMeter::Bucket(meter) => self.hit_one_by(meter, limit, state, demand, now()),
            AnyMeter::Fixed(meter) => self.hit_one_by(meter, limit, state, demand, now()),
            AnyMeter::Sliding(meter) => self.hit_one_by(meter, limit, state, demand, now()),
        }
    }

    /// One limit with a packed count of that kind.
    #[inline(always)]
    fn hit_one_by<M: Meter>(
        &self,
        meter: &M,
        limit: &Limit,
        state: StateRef<'_>,
        (demand, op): (Demand, Op),
        asked_at: Timestamp,
    ) -> Option<InlineDecision> {
        let (metered, at) = {
            let mut shard = self.shard(state.key.hash).lock();
            // Under the lock: whoever wrote the state as words did so after it began to need them.
            if Self::is_special(&shard, state) {
                return None;
            }
            shard.hit_one(meter, state, asked_at, (demand, op), &self.budget)?
        };
        // All that follows needs the lock no more.
        let answer = meter::answer(meter, metered, at, demand);
        Some(InlineDecision::of_one(limit, answer, (asked_at, at), taken(demand, op)))
    }

    /// Returns whether more than packed counts has to do with a key: a block, perhaps one that is over, or a
    /// state of words.
    #[inline]
    pub(super) fn is_special(shard: &Shard, state: StateRef<'_>) -> bool {
        #[cold]
        #[inline(never)]
        fn look(shard: &Shard, state: StateRef<'_>) -> bool {
            state.info.needs_words() || shard.blocked_until(state).is_some()
        }
        !state.info.is_plain() && look(shard, state)
    }

    /// As [`hit_one`](Self::hit_one), of two limits.
    #[inline(always)]
    pub(super) fn hit_two(
        &self,
        key: &HashedKey,
        limits: [&Limit; 2],
        infos: [&StateInfo; 2],
        (demand, op): (Demand, Op),
        asked_at: Timestamp,
    ) -> Option<InlineDecision> {
        let [CompiledLimit::Packed(first), CompiledLimit::Packed(second)] =
            limits.map(Limit::compiled)
        else {
            return None;
        };
        let (metered, at) = self.hit_pair([first, second], key, infos, (demand, op), asked_at)?;
        let answers = [first.answer(metered[0], at, demand), second.answer(metered[1], at, demand)];
        Some(InlineDecision::of_two(limits, answers, (asked_at, at), taken(demand, op)))
    }

    /// Hits two counts. Out of line, and the decision is not: what is handed on is small.
    #[inline(never)]
    fn hit_pair(
        &self,
        meters: [&AnyMeter; 2],
        key: &HashedKey,
        infos: [&StateInfo; 2],
        demand: (Demand, Op),
        asked_at: Timestamp,
    ) -> Option<([Metered<u64>; 2], Timestamp)> {
        let states = infos.map(|info| StateRef { key, info, ids: &self.ids });
        let mut shard = self.shard(key.hash).lock();
        if states.iter().any(|state| Self::is_special(&shard, *state)) {
            return None;
        }
        shard.hit_pair(meters, states, asked_at, demand, &self.budget)
    }

    /// Decides one step in the shard of its key.
    pub(super) fn apply_in(
        &self,
        shard: &mut Shard,
        key: &HashedKey,
        step: &Step<'_>,
        states: &[Option<&StateInfo>],
        asked_at: Timestamp,
    ) -> Result<Ruling, NoRoom> {
        if step.limits().len() <= 2 {
            self.apply_any::<2>(shard, key, step, states, asked_at)
        } else {
            self.apply_any::<MAX_LIMITS>(shard, key, step, states, asked_at)
        }
    }

    /// Any limits, up to `N` of them.
    ///
    /// A user's own strategy may panic in here. Nothing is lost by it: the budget is not touched before
    /// the step, and where such a strategy takes part words are copied, not moved out of the tables.
    #[inline(never)]
    fn apply_any<const N: usize>(
        &self,
        shard: &mut Shard,
        key: &HashedKey,
        step: &Step<'_>,
        states: &[Option<&StateInfo>],
        asked_at: Timestamp,
    ) -> Result<Ruling, NoRoom> {
        let limits = step.limits();
        // Those that have a state.
        let stored = || {
            let pairs = limits.iter().zip(states).enumerate();
            pairs.filter(|(_, (limit, _))| limit.has_state()).filter_map(
                |(index, (limit, info))| {
                    let info = (*info)?;
                    Some((index, limit, StateRef { key, info, ids: &self.ids }))
                },
            )
        };
        let moved = !limits.iter().any(|limit| limit.compiled().is_custom());
        let mut cells = [const { Cell::FRESH }; N];
        let cells = &mut cells[..limits.len()];
        let mut known = false;

        for (index, limit, state) in stored() {
            match shard.load(state, limit, moved) {
                Some(found) => (cells[index], known) = (found, true),
                None if state.info.needs_words() && !limit.compiled().is_packed() => {
                    cells[index] = Cell::fresh_words();
                }
                None => {}
            }
        }
        let restore = |shard: &mut Shard, cells: &mut [Cell]| {
            for (index, limit, state) in stored() {
                if moved && !limit.is_per_hit() {
                    shard.restore(state, std::mem::replace(&mut cells[index], Cell::FRESH));
                }
            }
        };
        if let Some(info) = states.iter().flatten().next().filter(|info| info.may_be_blocked())
            && let until = shard.blocked_until(StateRef { key, info, ids: &self.ids })
            && let Some(decided) = step.decide_blocked(cells, until, asked_at)
        {
            restore(shard, cells);
            return Ok(decided.map_or(Ruling::Corrupt { is_replaced: false }, Ruling::Decided));
        }
        let (applied, corrupt) = apply_healing::<N>(step, cells, asked_at);
        let Some(applied) = applied else {
            restore(shard, cells);
            return Ok(Ruling::Corrupt { is_replaced: false });
        };
        if let Some((_, _, state)) = stored().find(|(_, limit, _)| limit.is_per_hit()) {
            let parts = shard.brought(state).iter().map(|part| (part.id, part.reset_at));
            if step.brings_too_many(&applied, parts) {
                restore(shard, cells);
                return Ok(Ruling::TooManyRates);
            }
        }
        let mut counted = false;
        if applied.is_changed()
            && !known
            && let Some((_, _, first)) = stored().next()
        {
            counted = shard.take_place(first, limits.len(), asked_at, &self.budget)?;
        }
        for (index, limit, state) in stored() {
            if !applied.has_changed(index) {
                continue;
            }
            let reset_at = applied.answers[index].reset_at;
            let cell = std::mem::replace(&mut cells[index], Cell::FRESH);
            // As where states are stored as bytes: what a refund made fresh is forgotten.
            if cell.is_fresh() || reset_at <= applied.at {
                shard.remove(state, Some(limit), &self.budget);
            } else {
                if limit.compiled().is_packed() && matches!(cell.form, Form::Words(_)) {
                    // A charge made it more than a packed count can hold.
                    self.ids.require_words(state.info);
                }
                shard.store(state, limit, (cell, reset_at), asked_at, &mut counted);
            }
        }
        // Nothing was left to store.
        self.budget.give_back(usize::from(counted));
        restore(shard, cells);
        Ok(match corrupt {
            Some(_) => Ruling::Corrupt { is_replaced: applied.is_changed() },
            None => Ruling::Decided(applied.decision(step, asked_at)),
        })
    }

    /// Forgets all limits that throttles called `throttle` have had for a key.
    pub(super) fn forget(&self, throttle: &str, key: &HashedKey) {
        let mut shard = self.shard(key.hash).lock();
        for info in self.ids.all_of(throttle) {
            shard.remove(StateRef { key, info, ids: &self.ids }, None, &self.budget);
        }
    }

    pub(super) fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.0.lock();
            let grace = shard.grace();
            let cleared = std::mem::replace(&mut *shard, Shard::new(grace));
            drop(shard);
            self.budget.give_back(cleared.keys());
            cleared.leave_blocks(&self.ids);
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
        let mut shard = shard.0.lock();
        let (done, emptied) = shard.clean(buckets, now, &self.ids, &self.budget);
        // The next chunk is mostly of the same shard.
        unlock_fair(shard);
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
            let (looked, done) =
                shard.lock().sweep_on(next % 2 == 1, left, now, &self.ids, &self.budget);
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
#[inline]
pub(super) fn taken(demand: Demand, op: Op) -> u32 {
    if op == Op::Take { demand.cost_u32() } else { 0 }
}
