//! Copies a shard, a few slots under each lock, while hits go on.
//!
//! A key is copied with all its slots under one lock, when the first of them is met, and all are marked. What is marked
//! when it is met has been copied: so a table that is replaced meanwhile is gone through anew, and no key comes twice. A
//! walk begins with taking off the marks of the last one, which may have ended anywhere.

use super::super::shard::Shard;
use super::super::slot::{Body, LargeSlot, StateRef};
use super::super::state_ids::StateIds;
use super::super::stored_key::{HashedKey, StoredKey};
use super::super::table::{Marked, Walk};
use crate::clock::Timestamp;

/// Buckets that are looked at under one lock.
const BUCKETS: usize = 1024;
/// States that are looked for under one lock, or some more: those that one key can have stay together.
const STATES: usize = 256;
/// Words that are copied under one lock, or those of one key more.
const WORDS: usize = 4096;

/// How far the walk through a shard is.
#[derive(Debug, Default)]
pub(super) struct ShardWalk {
    stage: Stage,
    walk: Walk,
}

#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    #[default]
    UnmarkSmall,
    UnmarkLarge,
    CopySmall,
    CopyLarge,
    Done,
}

/// What was copied under one lock.
#[derive(Debug, Default)]
pub(super) struct Copied {
    /// Each with the number of its states.
    pub(super) keys: Vec<(StoredKey, usize)>,
    /// By key, with the number of its writer.
    pub(super) states: Vec<(u32, CopiedState)>,
    looked_for: usize,
    words: usize,
}

#[derive(Debug)]
pub(super) enum CopiedState {
    Packed { count: u64, last: Timestamp },
    Large(Body),
}

impl Copied {
    /// With room for what is copied under one lock, so that none is made there.
    pub(super) fn new() -> Self {
        let (keys, states) = (Vec::with_capacity(STATES), Vec::with_capacity(STATES * 2));
        Self { keys, states, looked_for: 0, words: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.keys.clear();
        self.states.clear();
        (self.looked_for, self.words) = (0, 0);
    }

    const fn is_full(&self) -> bool {
        self.looked_for >= STATES || self.words >= WORDS
    }

    fn large(&mut self, slot: &LargeSlot) {
        self.words += match &slot.body {
            Body::Words { state, .. } => state.words().len(),
            // Some words each, in one or two allocations.
            Body::Brought(parts) => parts.len() * 16,
        };
        self.states.push((slot.state_id, CopiedState::Large(slot.body.clone())));
    }
}

impl Shard {
    /// Copies the next keys; returns whether the walk goes on, and what is to be freed outside of the lock.
    pub(super) fn copy_next(
        &mut self,
        walk: &mut ShardWalk,
        ids: &StateIds,
        copied: &mut Copied,
    ) -> (bool, impl Sized + use<>) {
        let (is_through, next) = match walk.stage {
            Stage::UnmarkSmall => {
                (self.small.unmark(&mut walk.walk, BUCKETS, ids), Stage::UnmarkLarge)
            }
            Stage::UnmarkLarge => {
                (self.cold.large.unmark(&mut walk.walk, BUCKETS, ids), Stage::CopySmall)
            }
            Stage::CopySmall => (self.copy_small(&mut walk.walk, ids, copied), Stage::CopyLarge),
            Stage::CopyLarge => (self.copy_large(&mut walk.walk, ids, copied), Stage::Done),
            Stage::Done => (true, Stage::Done),
        };
        if is_through {
            *walk = ShardWalk { stage: next, walk: Walk::default() };
        }
        let emptied = (self.small.move_on(0, ids), self.cold.large.move_on(0, ids));
        (!matches!(walk.stage, Stage::Done), emptied)
    }

    fn copy_small(&mut self, walk: &mut Walk, ids: &StateIds, copied: &mut Copied) -> bool {
        let Some(buckets) = self.small.walk(walk, BUCKETS, ids) else { return true };
        for bucket in buckets {
            let Some(slot) = self.small.bucket(bucket).filter(|slot| !slot.is_marked()) else {
                continue;
            };
            let (key, id) = (slot.key(), slot.state_id());
            self.copy_key(key, id, ids, copied);
            if copied.is_full() {
                walk.go_on_with(bucket + 1);
                break;
            }
        }
        false
    }

    fn copy_large(&mut self, walk: &mut Walk, ids: &StateIds, copied: &mut Copied) -> bool {
        let Some(buckets) = self.cold.large.walk(walk, BUCKETS, ids) else { return true };
        for bucket in buckets {
            let Some(slot) = self.cold.large.bucket(bucket).filter(|slot| !slot.marked) else {
                continue;
            };
            let (key, id) = (slot.key, slot.state_id);
            self.copy_key(key, id, ids, copied);
            if copied.is_full() {
                walk.go_on_with(bucket + 1);
                break;
            }
        }
        false
    }

    /// Copies and marks all states of a key, unless one is marked: then the others came after the key was copied.
    fn copy_key(&mut self, stored: StoredKey, id: u32, ids: &StateIds, copied: &mut Copied) {
        let Some(info) = ids.get(id) else { return };
        let key = &HashedKey { stored, hash: ids.hasher().hash(&stored) };
        let (before, mut was_copied) = (copied.states.len(), false);
        for info in ids.siblings_of(info) {
            copied.looked_for += 1;
            let state = StateRef { key, info, ids };
            let hash = state.hash();
            if let Some(slot) = self.small.find_mut(hash, |slot| state.is_small(slot)) {
                was_copied |= slot.is_marked();
                slot.mark(true);
                let packed = CopiedState::Packed { count: slot.count(), last: slot.last() };
                copied.states.push((slot.state_id(), packed));
            }
            if let Some(slot) = self.cold.large.find_mut(hash, |slot| state.is_large(slot)) {
                was_copied |= slot.marked;
                slot.mark(true);
                copied.large(slot);
            }
        }
        if was_copied {
            copied.states.truncate(before);
        } else {
            copied.keys.push((stored, copied.states.len() - before));
        }
    }
}
