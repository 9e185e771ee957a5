//! Writes a snapshot while hits go on.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::MemoryInner;
use super::super::state_ids::StateIds;
use super::super::store::Store;
use super::super::values::ValueWalk;
use super::copied::Copied;
use super::format::{Counts, Kind, NEVER};
use super::frame_writer::FrameWriter;
use super::record;
use super::walk::ShardWalk;
use crate::clock::Timestamp;
use crate::step::KEPT_MICROS;
use crate::sync::unlock_fair;

/// Writes all that the backend has. Two who do so at the same time take turns.
pub(super) fn write<W: Write>(
    inner: &MemoryInner,
    out: W,
    cancelled: &AtomicBool,
) -> io::Result<W> {
    // The marks are those of one walk.
    let _turn = inner.snapshots.turn.lock();
    let now = inner.now();
    let frames = FrameWriter::new(out, inner.hasher().secret(), now)?;
    let mut writing =
        Writing { frames, now, throttles: HashMap::default(), counts: Counts::default() };
    writing.keys(&inner.store, cancelled)?;
    writing.values(&inner.store, cancelled)?;
    writing.frames.end(writing.counts)
}

struct Writing<W> {
    frames: FrameWriter<W>,
    now: Timestamp,
    throttles: HashMap<Arc<str>, u32, ahash::RandomState>,
    counts: Counts,
}

impl<W: Write> Writing<W> {
    fn keys(&mut self, store: &Store, cancelled: &AtomicBool) -> io::Result<()> {
        let (mut copied, mut payload) = (Copied::new(), Vec::new());
        for shard in 0..store.shard_count() {
            let mut walk = ShardWalk::default();
            while copy_next(store, shard, &mut walk, &mut copied) {
                check(cancelled)?;
                self.encode(&copied, &store.ids, &mut payload)?;
                self.send(Kind::Keys, &mut payload)?;
            }
        }
        Ok(())
    }

    fn encode(&mut self, copied: &Copied, ids: &StateIds, payload: &mut Vec<u8>) -> io::Result<()> {
        copied.for_each(|key, states| {
            let Some(info) = states.first().and_then(|(id, _)| ids.get(*id)) else { return Ok(()) };
            let parts = record::parts_of(states, ids, self.now);
            if !parts.is_empty() {
                let throttle = self.number(info.throttle())?;
                record::encode(payload, throttle, key, parts);
                self.counts.keys += 1;
            }
            Ok(())
        })
    }

    /// Returns the number of a throttle, and writes its name before the first key that needs it.
    fn number(&mut self, throttle: &Arc<str>) -> io::Result<u32> {
        if let Some(number) = self.throttles.get(throttle) {
            return Ok(*number);
        }
        let number = u32::try_from(self.throttles.len()).map_err(io::Error::other)?;
        self.frames.frame(Kind::Throttle, throttle.as_bytes())?;
        self.throttles.insert(Arc::clone(throttle), number);
        self.counts.throttles += 1;
        Ok(number)
    }

    fn values(&mut self, store: &Store, cancelled: &AtomicBool) -> io::Result<()> {
        let (mut walk, mut payload) = (ValueWalk::default(), Vec::new());
        loop {
            check(cancelled)?;
            let mut copied = Vec::new();
            let goes_on = store.values.copy_next(&mut walk, &mut copied);
            for (key, bytes, expires) in copied {
                if expires.is_some_and(|at| at.saturating_add_micros(KEPT_MICROS) <= self.now) {
                    continue;
                }
                payload.extend_from_slice(&(key.len() as u64).to_le_bytes());
                payload.extend_from_slice(&key);
                let expires = expires.map_or(NEVER, Timestamp::as_micros);
                payload.extend_from_slice(&expires.to_le_bytes());
                payload.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
                payload.extend_from_slice(&bytes);
                self.counts.values += 1;
            }
            self.send(Kind::Values, &mut payload)?;
            if !goes_on {
                return Ok(());
            }
        }
    }

    fn send(&mut self, kind: Kind, payload: &mut Vec<u8>) -> io::Result<()> {
        if !payload.is_empty() {
            self.frames.frame(kind, payload)?;
            payload.clear();
        }
        Ok(())
    }
}

/// Copies the next keys of a shard, under one lock; returns whether there are more.
pub(super) fn copy_next(
    store: &Store,
    shard: usize,
    walk: &mut ShardWalk,
    copied: &mut Copied,
) -> bool {
    copied.clear();
    let mut shard = store.shard_at(shard).lock();
    let (goes_on, emptied) = shard.copy_next(walk, &store.ids, copied);
    // To who waits, for the next keys are mostly of the same shard.
    unlock_fair(shard);
    drop(emptied);
    goes_on
}

pub(super) fn check(cancelled: &AtomicBool) -> io::Result<()> {
    match cancelled.load(Ordering::Relaxed) {
        true => Err(io::Error::other("the caller went away")),
        false => Ok(()),
    }
}
