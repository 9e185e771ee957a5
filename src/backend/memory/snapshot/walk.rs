//! Copies a shard, a few slots under each lock, while hits go on.
//!
//! A key is copied with all its slots under one lock, when the first of them is met, and all are marked. What is marked
//! when it is met has been copied: so a table that is replaced meanwhile is gone through anew, and no key comes twice. A
//! walk begins with taking off the marks of the last one, which may have ended anywhere.
//!
//! Of a key with many words these are copied ahead, some under each lock, and begun anew if somebody writes them before the
//! last are copied, until they have been begun too often. All else of the key is copied under the lock of the last.

use super::super::shard::Shard;
use super::super::slot::{Slot, StateRef};
use super::super::state_ids::{StateIds, StateInfo};
use super::super::stored_key::{HashedKey, StoredKey};
use super::super::table::{Marked, Walk};
use super::copied::{Ahead, Copied, Found};

/// Buckets that are looked at under one lock.
const BUCKETS: usize = 1024;

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
            if !self.copy_key(key, id, ids, copied) {
                walk.go_on_with(bucket);
                break;
            }
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
            if !self.copy_key(key, id, ids, copied) {
                walk.go_on_with(bucket);
                break;
            }
            if copied.is_full() {
                walk.go_on_with(bucket + 1);
                break;
            }
        }
        false
    }

    /// Copies and marks all states of a key, unless one is marked: then the others came after the key was copied. Returns
    /// `false` if that takes another lock.
    fn copy_key(
        &mut self,
        stored: StoredKey,
        id: u32,
        ids: &StateIds,
        copied: &mut Copied,
    ) -> bool {
        let Some(info) = ids.get(id) else { return true };
        let key = &HashedKey { stored, hash: ids.hasher().hash(&stored) };
        let mut was_copied = false;
        if self.cold.large.len() == 0 {
            copied.drop_ahead();
        } else {
            // Not the number that was met: another writer may come and leave its own.
            let of = (stored, ids.siblings_of(info).next().map_or(id, StateInfo::id));
            copied.turn_to(of);
            let found = self.look_at(key, info, ids);
            was_copied = found.is_marked;
            if !was_copied {
                let ahead = copied.ahead(of, found);
                if !self.copy_words((key, info, ids), ahead, copied) {
                    return false;
                }
            }
        }
        let before = copied.state_count();
        for info in ids.siblings_of(info) {
            copied.look_for();
            let state = StateRef { key, info, ids };
            let hash = state.hash();
            if let Some(slot) = self.small.find_mut(hash, |slot| state.is_small(slot)) {
                was_copied |= slot.is_marked();
                slot.mark(true);
                if !was_copied {
                    copied.small(slot);
                }
            }
            if let Some(slot) = self.cold.large.find_mut(hash, |slot| state.is_large(slot)) {
                slot.mark(true);
                if !was_copied {
                    copied.large(slot);
                }
            }
        }
        copied.end_key(stored, before, !was_copied);
        true
    }

    fn look_at(&self, key: &HashedKey, info: &StateInfo, ids: &StateIds) -> Found {
        let mut found = Found::default();
        for info in ids.siblings_of(info) {
            let state = StateRef { key, info, ids };
            let hash = state.hash();
            let small = self.small.find(hash, |slot| state.is_small(slot));
            found.is_marked |= small.is_some_and(Slot::is_marked);
            if let Some(slot) = self.cold.large.find(hash, |slot| state.is_large(slot)) {
                found.add(slot);
            }
        }
        found
    }

    /// Copies the next words of a key that has many. Returns whether its states can be copied under this lock.
    fn copy_words(
        &mut self,
        (key, info, ids): (&HashedKey, &StateInfo, &StateIds),
        ahead: Ahead,
        copied: &mut Copied,
    ) -> bool {
        match ahead {
            Ahead::NoRoom => return false,
            Ahead::NotNeeded => return true,
            Ahead::GoesOn => {}
            Ahead::Begins => {
                for info in ids.siblings_of(info) {
                    let state = StateRef { key, info, ids };
                    let hash = state.hash();
                    if let Some(slot) = self.cold.large.find_mut(hash, |slot| state.is_large(slot))
                    {
                        slot.changed = false;
                    }
                }
            }
        }
        let slots = ids.siblings_of(info).filter_map(|info| {
            let state = StateRef { key, info, ids };
            self.cold.large.find(state.hash(), |slot| state.is_large(slot))
        });
        copied.copy_ahead(slots.flat_map(|slot| slot.body.words()))
    }
}
