//! Blocks, and what is known of a key: for an operator.

use super::budget::Budget;
use super::shard::{NoRoom, Shard};
use super::slot::{Body, StateRef};
use super::store::Store;
use super::stored_key::HashedKey;
use crate::clock::Timestamp;
use crate::step::{BlockChange, KeyState};
use crate::strategy::State;

impl Store {
    /// Changes a key's block. Returns whether the key was blocked.
    pub(super) fn change_block(
        &self,
        throttle: &str,
        key: &HashedKey,
        change: BlockChange,
        now: Timestamp,
    ) -> Result<bool, NoRoom> {
        let info = &*self.ids.block_of(throttle);
        let block = StateRef { key, info, ids: &self.ids };
        let attempt = || {
            let mut shard = self.shard_at(self.shard_of(key.hash)).lock();
            let before = shard.block(block).filter(|until| *until > now);
            match change.until(before, now) {
                after if after == before => {}
                None => shard.remove(block, None, &self.budget),
                Some(until) => {
                    let state = State::new(now, vec![change.word()]);
                    shard.set_block(
                        block,
                        Body::Words { state, reset_at: until },
                        now,
                        &self.budget,
                    )?;
                }
            }
            Ok(before.is_some())
        };
        attempt().or_else(|NoRoom| self.make_room_and(now, attempt))
    }

    /// Returns what is known of a key.
    pub(super) fn inspect(&self, throttle: &str, key: &HashedKey, now: Timestamp) -> KeyState {
        let mut found = KeyState::empty(now);
        let shard = self.shard_at(self.shard_of(key.hash)).lock();
        for info in self.ids.all_of(throttle) {
            shard.inspect(StateRef { key, info, ids: &self.ids }, &mut found);
        }
        found
    }
}

impl Shard {
    /// Returns until when a key is blocked, by any of its states; no matter whether that is over.
    #[cold]
    pub(super) fn blocked_until(&self, state: StateRef<'_>) -> Option<Timestamp> {
        let info = state.ids.block_beside(state.info)?;
        self.block(StateRef { info, ..state })
    }

    fn block(&self, block: StateRef<'_>) -> Option<Timestamp> {
        let slot = self.cold.large.find(block.hash(), |slot| block.is_large(slot))?;
        match slot.body {
            Body::Words { reset_at, .. } => Some(reset_at),
            Body::Brought(_) => None,
        }
    }

    /// Returns whether the key has a block, perhaps one that is over.
    pub(super) fn has_block(&self, block: StateRef<'_>) -> bool {
        self.block(block).is_some()
    }

    fn set_block(
        &mut self,
        block: StateRef<'_>,
        body: Body,
        now: Timestamp,
        budget: &Budget,
    ) -> Result<(), NoRoom> {
        let mut counted = false;
        if !self.has_block(block) {
            counted = self.take_place(block, 1, now, budget)?;
            block.ids.add_block(block.info);
        }
        self.large_slot(block, &mut counted).body = body;
        Ok(())
    }

    /// Adds what is known of one state.
    fn inspect(&self, state: StateRef<'_>, found: &mut KeyState) {
        let (hash, id) = (state.hash(), state.info.part());
        let mut add_packed = |writer: u32, count, last| {
            let reset_at = state.ids.get(writer).map(|writer| writer.reset_at(count, last));
            found.add(id, last, reset_at.unwrap_or(Timestamp::MAX));
        };
        if let Some(slot) = self.small.find(hash, |slot| state.is_small(slot)) {
            add_packed(slot.state_id(), slot.count(), slot.last());
        }
        let Some(slot) = self.cold.large.find(hash, |slot| state.is_large(slot)) else { return };
        match &slot.body {
            Body::Words { state, reset_at } => found.add(id, state.last(), *reset_at),
            Body::Brought(parts) => {
                for part in parts {
                    found.add(part.id, part.last(), part.reset_at);
                }
            }
        }
    }
}
