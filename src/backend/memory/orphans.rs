//! [`Orphans`]: keys whose marked slot was removed, and which may have others.

use super::slot::{LargeSlot, Slot};
use super::state_ids::{StateIds, StateInfo};
use super::stored_key::StoredKey;
use super::table::Hashed;

/// A key that lost its counted slot, and may have others.
#[derive(Debug)]
pub(super) struct Orphan<'i> {
    /// Of the slot that was removed.
    pub(super) hash: u64,
    pub(super) info: &'i StateInfo,
    pub(super) key: StoredKey,
}

/// The slots that one call removed.
#[derive(Debug)]
pub(super) struct Orphans<'i> {
    ids: &'i StateIds,
    /// Places of keys that can have no other slot.
    free: usize,
    others: Vec<Orphan<'i>>,
    /// Blocks among them, each as its throttle's blocks.
    blocks: Vec<&'i StateInfo>,
}

impl<'i> Orphans<'i> {
    pub(super) const fn new(ids: &'i StateIds) -> Self {
        Self { ids, free: 0, others: Vec::new(), blocks: Vec::new() }
    }

    /// Notes that a slot is removed. Returns `true`, to be used in a sweep.
    pub(super) fn small(&mut self, slot: &Slot) -> bool {
        if slot.is_counted() {
            self.note(slot.state_id(), slot, slot.key());
        }
        true
    }

    /// As [`small`](Self::small).
    pub(super) fn large(&mut self, slot: &LargeSlot) -> bool {
        self.blocks.extend(self.ids.blocks(slot.state_id));
        if slot.counted {
            self.note(slot.state_id, slot, slot.key);
        }
        true
    }

    fn note(&mut self, id: u32, slot: &impl Hashed<By = StateIds>, key: StoredKey) {
        match self.ids.get(id).filter(|info| info.has_siblings()) {
            Some(info) => {
                self.others.push(Orphan { hash: slot.hash(self.ids), info, key });
            }
            None => self.free += 1,
        }
    }

    /// The places that are free, the keys that may have other slots, and the blocks.
    pub(super) fn into_parts(self) -> (usize, Vec<Orphan<'i>>, Vec<&'i StateInfo>) {
        (self.free, self.others, self.blocks)
    }
}
