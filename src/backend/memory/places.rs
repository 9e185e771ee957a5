//! Keys whose counted slot was removed.
//!
//! A key takes one place in the budget, however many limits it has. One of its slots is marked as the
//! counted one. When that slot is removed, another slot of the key takes the mark over; only if there
//! is none the place is free.

use super::budget::Budget;
use super::shard::Shard;
use super::slot::{LargeSlot, Slot};
use super::table::Hashed;
use crate::key::Short;
use crate::strategy::{Interned, interned};

/// A key that lost its counted slot, and may have others.
#[derive(Debug)]
struct Orphan {
    /// Of the slot that was removed.
    hash: u64,
    interned: &'static Interned,
    /// The parts, each after its length.
    key: Vec<u8>,
}

/// The slots that one call removed.
#[derive(Debug)]
pub(super) struct Orphans {
    /// Places of keys that can have no other slot.
    free: usize,
    others: Vec<Orphan>,
}

impl Orphans {
    pub(super) const fn new() -> Self {
        Self { free: 0, others: Vec::new() }
    }

    /// Notes that a slot is removed. Returns `true`, to be used in a sweep.
    pub(super) fn small(&mut self, slot: &Slot) -> bool {
        if slot.is_counted() {
            self.note(slot.interned(), slot, || slot.key().encoded());
        }
        true
    }

    /// As [`small`](Self::small).
    pub(super) fn large(&mut self, slot: &LargeSlot) -> bool {
        if slot.counted {
            self.note(slot.interned, slot, || slot.key().to_vec());
        }
        true
    }

    fn note(&mut self, id: u32, slot: &impl Hashed, key: impl FnOnce() -> Vec<u8>) {
        match interned::by_id(id).filter(|interned| interned.has_siblings()) {
            Some(interned) => {
                self.others.push(Orphan { hash: slot.hash(), interned, key: key() });
            }
            None => self.free += 1,
        }
    }

    /// The places that are free, and the keys that may have other slots.
    fn into_parts(self) -> (usize, Vec<Orphan>) {
        (self.free, self.others)
    }
}

impl Shard {
    /// Hands the place of each key that lost its counted slot to another slot of the key, or back.
    pub(super) fn settle(&mut self, orphans: Orphans, budget: &Budget) {
        let (mut free, orphans) = orphans.into_parts();
        for orphan in orphans {
            free += usize::from(!self.adopt(&orphan));
        }
        budget.give_back(free);
    }

    /// Lets another slot of the key take its place in the budget; returns whether there is one.
    fn adopt(&mut self, orphan: &Orphan) -> bool {
        let short = Short::of_encoded(&orphan.key);
        for interned in orphan.interned.family() {
            let hash = orphan.hash ^ orphan.interned.salt() ^ interned.salt();
            if let Some(short) = &short
                && let Some(slot) = self.small.find_mut(hash, |slot| slot.is_of(short, interned))
            {
                slot.count_it();
                return true;
            }
            let same = |slot: &LargeSlot| slot.is_encoded(&orphan.key, interned);
            if let Some(slot) = self.rare.large.find_mut(hash, same) {
                slot.counted = true;
                return true;
            }
        }
        false
    }
}
