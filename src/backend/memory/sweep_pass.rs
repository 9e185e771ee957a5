//! Sweeps a shard: removes expired entries, a few slots at a time.

use super::budget::Budget;
use super::grace::Grace;
use super::orphans::Orphans;
use super::shard::Shard;
use super::slot::{Body, LargeSlot, Slot};
use super::state_ids::StateIds;
use crate::clock::Timestamp;

impl Shard {
    /// Sweeps the next buckets in the background; returns whether both tables have been swept to their
    /// ends since the last time, and what is to be freed outside of the lock.
    pub(super) fn clean(
        &mut self,
        buckets: usize,
        now: Timestamp,
        ids: &StateIds,
        budget: &Budget,
    ) -> (bool, impl Sized + use<>) {
        self.sweep(buckets, now, self.cold.grace, ids, budget);
        let emptied = (self.small.move_on(0, ids), self.cold.large.move_on(0, ids));
        let left = match self.cold.left_to_clean {
            0 => self.small.buckets().max(self.cold.large.buckets()),
            left => left,
        };
        self.cold.left_to_clean = left.saturating_sub(buckets);
        (self.cold.left_to_clean == 0, emptied)
    }

    /// Sweeps up to `buckets` buckets of each table: removes what has expired.
    pub(super) fn sweep(
        &mut self,
        buckets: usize,
        now: Timestamp,
        grace: Grace,
        ids: &StateIds,
        budget: &Budget,
    ) {
        let mut orphans = Orphans::new(ids);
        self.small.sweep(buckets, ids, |slot| {
            small_is_spent(slot, grace, now, ids) && orphans.small(slot)
        });
        self.cold
            .large
            .sweep(buckets, ids, |slot| large_is_spent(slot, grace, now) && orphans.large(slot));
        self.settle(orphans, ids, budget);
    }

    /// Goes on to sweep one of the tables, since no more keys fit. Returns at how many buckets it looked,
    /// and whether all of the table were looked at since the last time.
    pub(super) fn sweep_on(
        &mut self,
        large: bool,
        buckets: usize,
        now: Timestamp,
        ids: &StateIds,
        budget: &Budget,
    ) -> (usize, bool) {
        let mut orphans = Orphans::new(ids);
        let (grace, cold) = (Grace::NONE, &mut *self.cold);
        let swept = match large {
            false => self.small.sweep_pass(&mut cold.passes[0], buckets, ids, |slot| {
                small_is_spent(slot, grace, now, ids) && orphans.small(slot)
            }),
            true => cold.large.sweep_pass(&mut cold.passes[1], buckets, ids, |slot| {
                large_is_spent(slot, grace, now) && orphans.large(slot)
            }),
        };
        self.settle(orphans, ids, budget);
        swept
    }
}

fn small_is_spent(slot: &Slot, grace: Grace, now: Timestamp, ids: &StateIds) -> bool {
    packed_is_spent((slot.state_id(), slot.count(), slot.last()), grace, now, ids)
}

fn large_is_spent(slot: &LargeSlot, grace: Grace, now: Timestamp) -> bool {
    match &slot.body {
        Body::Words { reset_at, .. } => grace.is_spent(Timestamp::ZERO, *reset_at, now),
        Body::Brought(parts) => {
            parts.iter().all(|part| grace.is_spent(part.last(), part.reset_at, now))
        }
    }
}

fn packed_is_spent(
    (id, count, last): (u32, u64, Timestamp),
    grace: Grace,
    now: Timestamp,
    ids: &StateIds,
) -> bool {
    let is_spent = |reset_at| grace.is_spent(last, reset_at, now);
    last.saturating_add_micros(grace.since_last) <= now
        && ids.get(id).is_some_and(|info| is_spent(info.reset_at(count, last)))
}
