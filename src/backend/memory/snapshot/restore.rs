//! Reads a snapshot into the memory of a backend that nobody uses yet.

use std::io::Read;
use std::sync::Arc;

use super::super::shard::NoRoom;
use super::super::slot::StateRef;
use super::super::state_ids::StateInfo;
use super::super::store::Store;
use super::super::stored_key::{HashedKey, StoredKey};
use super::fields::Fields;
use super::format::{Counts, Kind, NEVER};
use super::frame_reader::{FrameReader, Header};
use super::record::{KeyRecord, Placed};
use crate::clock::Timestamp;
use crate::error::RestoreError;

/// What a backend has from a snapshot: see [`InMemory::restored`](crate::InMemory::restored).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// Keys and values that it has from there. Whether a throttle goes on with one is another matter: its name, the
    /// period and the strategy must be as they were.
    pub kept: u64,
    /// Keys and values that were over by now.
    pub over: u64,
    /// Keys and values for which [`max_keys`](crate::backend::InMemoryBuilder::max_keys) had no room.
    pub left_out: u64,
}

impl Restored {
    /// Counts a key or a value that is kept or over, or for which there was no room.
    fn count(&mut self, is_kept: Result<bool, NoRoom>) {
        *match is_kept {
            Ok(true) => &mut self.kept,
            Ok(false) => &mut self.over,
            Err(NoRoom) => &mut self.left_out,
        } += 1;
    }
}

/// A snapshot whose header was read.
pub(super) struct Snapshot<R>(FrameReader<R>);

impl<R: Read> Snapshot<R> {
    pub(super) fn open(from: R) -> Result<Self, RestoreError> {
        FrameReader::new(from).map(Self)
    }

    /// Returns the secret by which the keys are digested.
    pub(super) const fn secret(&self) -> [u64; 2] {
        self.0.header().secret
    }

    /// Puts all that counts now into an empty store whose secret is this one's.
    pub(super) fn restore(
        mut self,
        store: &Store,
        now: Timestamp,
    ) -> Result<Restored, RestoreError> {
        let header = self.0.header();
        let mut reading = Reading::new(store, header, now);
        loop {
            let (kind, mut fields) = self.0.next()?;
            match kind {
                Kind::Throttle => reading.throttle(&mut fields)?,
                Kind::Keys => {
                    while !fields.is_empty() {
                        reading.key(&mut fields)?;
                    }
                }
                Kind::Values => {
                    while !fields.is_empty() {
                        reading.value(&mut fields)?;
                    }
                }
                Kind::End => {
                    reading.end(&mut fields)?;
                    self.0.end()?;
                    return Ok(reading.restored);
                }
            }
        }
    }
}

struct Reading<'s> {
    store: &'s Store,
    header: Header,
    now: Timestamp,
    throttles: Vec<Arc<str>>,
    /// What the snapshot was seen to hold.
    counts: Counts,
    restored: Restored,
}

impl<'s> Reading<'s> {
    fn new(store: &'s Store, header: Header, now: Timestamp) -> Self {
        let (throttles, counts) = (Vec::new(), Counts::default());
        Self { store, header, now, throttles, counts, restored: Restored::default() }
    }

    fn throttle(&mut self, fields: &mut Fields<'_>) -> Result<(), RestoreError> {
        let at = fields.at();
        let name = std::str::from_utf8(fields.all())
            .map_err(|error| RestoreError::damaged(at, format!("a throttle's name: {error}")))?;
        self.throttles.push(name.into());
        self.counts.throttles += 1;
        Ok(())
    }

    fn key(&mut self, fields: &mut Fields<'_>) -> Result<(), RestoreError> {
        let record = KeyRecord::decode(fields)?;
        let (at, key, number) = (record.at, record.key, record.throttle);
        let throttle = usize::try_from(number).ok().and_then(|number| self.throttles.get(number));
        let throttle = throttle.ok_or_else(|| {
            let known = self.throttles.len();
            let problem = format!(
                "a key of throttle {number}; below {known}, for so many came, would be right"
            );
            RestoreError::damaged(at, problem)
        })?;
        let states = record.place(throttle, &self.store.ids, self.now)?;
        self.restored.count(self.store.restore_key(&key, states, self.now));
        self.counts.keys += 1;
        Ok(())
    }

    fn value(&mut self, fields: &mut Fields<'_>) -> Result<(), RestoreError> {
        let length = fields.u64()?;
        let key = fields.bytes(length)?;
        let expires = self.expires(fields.u64()?);
        let length = fields.u64()?;
        let bytes = fields.bytes(length)?;
        let Store { values, budget, .. } = self.store;
        self.restored.count(values.restore(key, bytes, expires, self.now, budget));
        self.counts.values += 1;
        Ok(())
    }

    /// Of a clock that was set back a value keeps the time that it had left.
    fn expires(&self, micros: u64) -> Option<Timestamp> {
        if micros == NEVER {
            return None;
        }
        let ahead = self.header.taken_at.as_micros().saturating_sub(self.now.as_micros());
        Some(Timestamp::from_micros(micros.saturating_sub(ahead)))
    }

    fn end(&self, fields: &mut Fields<'_>) -> Result<(), RestoreError> {
        let at = fields.at();
        let said = Counts { throttles: fields.u64()?, keys: fields.u64()?, values: fields.u64()? };
        if said != self.counts || !fields.is_empty() {
            let right = self.counts;
            let problem =
                format!("the end counts {said:?}; {right:?}, and no more, would be right");
            return Err(RestoreError::damaged(at, problem));
        }
        Ok(())
    }
}

impl Store {
    /// Puts in a key with the states of a throttle, in place of what it has of that key. Returns whether there are any.
    fn restore_key(
        &self,
        key: &StoredKey,
        states: Vec<(Arc<StateInfo>, Placed)>,
        now: Timestamp,
    ) -> Result<bool, NoRoom> {
        let Some((first, _)) = states.first() else { return Ok(false) };
        let first = Arc::clone(first);
        let key = &HashedKey { stored: *key, hash: self.ids.hasher().hash(key) };
        let first = StateRef { key, info: &first, ids: &self.ids };
        let mut shard = self.shard_at(self.shard_of(key.hash)).lock();
        for info in self.ids.siblings_of(first.info) {
            shard.remove(StateRef { info, ..first }, None, &self.budget);
        }
        let mut counted = shard.take_place(first, 0, now, &self.budget)?;
        for (info, placed) in states {
            let state = StateRef { info: &info, ..first };
            match placed {
                Placed::Packed { count, last } => {
                    shard.write_small(state, (count, last), &mut counted);
                }
                Placed::Large(body) => {
                    if self.ids.blocks(info.id()).is_some() && !shard.has_block(state) {
                        self.ids.add_block(&info);
                    }
                    let slot = shard.large_slot(state, &mut counted);
                    (slot.state_id, slot.body) = (info.id(), body);
                }
            }
        }
        Ok(true)
    }
}
