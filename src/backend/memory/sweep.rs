//! Sweeping a shard: what is over goes, a few slots at a time.

use super::budget::Budget;
use super::places::Orphans;
use super::shard::Shard;
use super::slot::{Body, LargeSlot, Slot};
use crate::clock::Timestamp;
use crate::strategy::{KEPT_MICROS, interned};

/// When a state that is over is swept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grace {
    /// Microseconds since the last hit.
    since_last: u64,
    /// Microseconds since it was over.
    since_over: u64,
}

impl Grace {
    /// At once: no more keys fit.
    pub(super) const NONE: Self = Self { since_last: 0, since_over: 0 };

    /// Under a clock that never steps back: taking a count out and in again costs more than letting it
    /// lie for ten seconds.
    pub(super) const MONOTONIC: Self = Self { since_last: 10_000_000, since_over: 0 };

    /// Under a clock that may step back: what was over may count again.
    pub(super) const STEPPING: Self = Self { since_last: 0, since_over: KEPT_MICROS };

    fn is_spent(self, last: Timestamp, fresh_at: Timestamp, now: Timestamp) -> bool {
        last.plus_micros(self.since_last) <= now && fresh_at.plus_micros(self.since_over) <= now
    }
}

impl Shard {
    /// Sweeps the next buckets in the background; returns whether both tables have been swept to their
    /// ends since the last time, and what is to be freed outside of the lock.
    pub(super) fn clean(
        &mut self,
        buckets: usize,
        now: Timestamp,
        budget: &Budget,
    ) -> (bool, impl Sized + use<>) {
        self.sweep(buckets, now, self.rare.grace, budget);
        let emptied = (self.small.move_on(0), self.rare.large.move_on(0));
        let left = match self.rare.left_to_clean {
            0 => self.small.buckets().max(self.rare.large.buckets()),
            left => left,
        };
        self.rare.left_to_clean = left.saturating_sub(buckets);
        (self.rare.left_to_clean == 0, emptied)
    }

    /// Looks at up to that many buckets of each table and removes what is over.
    pub(super) fn sweep(&mut self, buckets: usize, now: Timestamp, grace: Grace, budget: &Budget) {
        let mut orphans = Orphans::new();
        self.small.sweep(buckets, |slot| small_is_spent(slot, grace, now) && orphans.small(slot));
        let large = &mut self.rare.large;
        large.sweep(buckets, |slot| large_is_spent(slot, grace, now) && orphans.large(slot));
        self.settle(orphans, budget);
    }

    /// Goes on to sweep one of the tables, since no more keys fit. Returns at how many buckets it looked,
    /// and whether all of the table were looked at since the last time.
    pub(super) fn sweep_on(
        &mut self,
        large: bool,
        buckets: usize,
        now: Timestamp,
        budget: &Budget,
    ) -> (usize, bool) {
        let mut orphans = Orphans::new();
        let grace = Grace::NONE;
        let swept = match large {
            false => self.small.sweep_pass(buckets, |slot| {
                small_is_spent(slot, grace, now) && orphans.small(slot)
            }),
            true => self.rare.large.sweep_pass(buckets, |slot| {
                large_is_spent(slot, grace, now) && orphans.large(slot)
            }),
        };
        self.settle(orphans, budget);
        swept
    }
}

fn small_is_spent(slot: &Slot, grace: Grace, now: Timestamp) -> bool {
    packed_is_spent(slot.interned(), slot.count(), slot.last(), grace, now)
}

fn large_is_spent(slot: &LargeSlot, grace: Grace, now: Timestamp) -> bool {
    let is_over = |fresh_at| grace.is_spent(Timestamp::ZERO, fresh_at, now);
    match &slot.body {
        Body::Packed { count, last } => packed_is_spent(slot.interned, *count, *last, grace, now),
        Body::Words { fresh_at, .. } => is_over(*fresh_at),
        Body::Brought(parts) => parts.iter().all(|part| is_over(part.fresh_at)),
    }
}

fn packed_is_spent(id: u32, count: u64, last: Timestamp, grace: Grace, now: Timestamp) -> bool {
    last.plus_micros(grace.since_last) <= now
        && interned::by_id(id)
            .is_some_and(|interned| grace.is_spent(last, interned.fresh_at(count, last), now))
}
