//! Keys whose counted slot was removed.
//!
//! A key takes one place in the budget, however many limits it has. One of its slots is marked as the
//! counted one. When that slot is removed, another slot of the key takes the mark over; only if there
//! is none the place is free.

use super::slot::{LargeSlot, Slot};
use super::table::Hashed;
use crate::strategy::{Interned, interned};

/// A key that lost its counted slot, and may have others.
#[derive(Debug)]
pub(super) struct Orphan {
    /// Of the slot that was removed.
    pub(super) hash: u64,
    pub(super) interned: &'static Interned,
    /// The parts, each after its length.
    pub(super) key: Vec<u8>,
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
    pub(super) fn into_parts(self) -> (usize, Vec<Orphan>) {
        (self.free, self.others)
    }
}
