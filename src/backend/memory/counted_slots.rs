//! Counts keys, not slots.
//!
//! A key takes one place in the budget, however many limits it has. One of its slots is marked as the
//! counted one. When that slot is removed, another slot of the key takes the mark over; if there is
//! none, the place is free.

use super::budget::Budget;
use super::orphans::{Orphan, Orphans};
use super::shard::Shard;
use super::slot::StateRef;
use super::state_ids::StateIds;
use super::stored_key::HashedKey;

impl Shard {
    /// Hands the place of each key that lost its counted slot to another slot of the key, or back.
    pub(super) fn settle(&mut self, orphans: Orphans<'_>, ids: &StateIds, budget: &Budget) {
        let (mut free, orphans, blocks) = orphans.into_parts();
        blocks.into_iter().for_each(|block| ids.remove_block(block));
        for orphan in orphans {
            free += usize::from(!self.adopt(&orphan, ids));
        }
        budget.give_back(free);
    }

    /// Lets another slot of the key take its place in the budget; returns whether there is one.
    fn adopt(&mut self, orphan: &Orphan<'_>, ids: &StateIds) -> bool {
        for info in ids.siblings_of(orphan.info) {
            let key = &HashedKey { stored: orphan.key, hash: orphan.hash ^ orphan.info.salt() };
            let state = StateRef { key, info, ids };
            let hash = state.hash();
            if let Some(slot) = self.small.find_mut(hash, |slot| state.is_small(slot)) {
                slot.count_it();
                return true;
            }
            if let Some(slot) = self.cold.large.find_mut(hash, |slot| state.is_large(slot)) {
                slot.counted = true;
                return true;
            }
        }
        false
    }
}
