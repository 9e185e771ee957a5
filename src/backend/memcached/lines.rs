//! One attempt at a time on a key in this process.
//!
//! Two attempts at the same moment spoil each other: one of them read what the other is changing. So the
//! first decides for itself; who comes meanwhile leaves a note, and a task then decides all notes by
//! one read and one write. A hot key costs two round trips for a whole batch.
//!
//! The task is nobody's future: no caller that goes away takes the others' answers with it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{Inner, decide};
use crate::backend::Result;
use crate::background;
use crate::decision::Decision;
use crate::strategy::{Limit, Op, Step};

/// The most that wait for one key.
const MAX_WAITING: usize = 65_536;
const SHARDS: usize = 64;

/// The keys that are being decided on, by the hash of their name, and who waits for each.
#[derive(Debug)]
pub(super) struct Lines {
    shards: Box<[Mutex<Shard>]>,
}

type Shard = HashMap<u64, Vec<Note>, ahash::RandomState>;

/// What somebody asks for, and where the answer goes.
#[derive(Debug)]
pub(super) struct Note {
    pub(super) name: String,
    limits: Vec<Limit>,
    cost: u32,
    op: Op,
    answer: oneshot::Sender<Result<Decision>>,
}

/// Whose turn it is.
pub(super) enum Entered {
    Now(Turn),
    Later(oneshot::Receiver<Result<Decision>>),
    TooMany,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    #[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[hash as usize % SHARDS]
    }

    /// Whether somebody decides on the key right now.
    pub(super) fn is_busy(&self, hash: u64) -> bool {
        self.shard(hash).lock().contains_key(&hash)
    }

    /// The next notes; with none left the key is free again.
    pub(super) fn next(&self, hash: u64) -> Option<Vec<Note>> {
        let mut shard = self.shard(hash).lock();
        let notes = std::mem::take(shard.get_mut(&hash)?);
        if notes.is_empty() {
            shard.remove(&hash);
            return None;
        }
        Some(notes)
    }

    /// Frees the key. Who waits gets no answer.
    fn leave(&self, hash: u64) {
        // The notes wake their owners when they are dropped: not under the lock.
        let notes = self.shard(hash).lock().remove(&hash);
        drop(notes);
    }
}

impl Inner {
    /// Takes the turn of a key, or leaves a note.
    pub(super) fn enter(self: &Arc<Self>, hash: u64, name: &str, step: &Step<'_>) -> Entered {
        let mut shard = self.lines.shard(hash).lock();
        let Some(notes) = shard.get_mut(&hash) else {
            shard.insert(hash, Vec::new());
            return Entered::Now(Turn { inner: Arc::clone(self), hash });
        };
        if notes.len() >= MAX_WAITING {
            return Entered::TooMany;
        }
        let (answer, receiver) = oneshot::channel();
        notes.push(Note {
            name: name.into(),
            limits: step.limits().to_vec(),
            cost: step.cost(),
            op: step.op(),
            answer,
        });
        Entered::Later(receiver)
    }
}

impl Note {
    pub(super) fn step(&self) -> Step<'_> {
        Step::new(&self.limits, self.cost, self.op)
    }

    /// Whether the answer is still wanted.
    pub(super) fn is_wanted(&self) -> bool {
        !self.answer.is_closed()
    }

    pub(super) fn answer(self, answer: Result<Decision>) {
        // It may be unwanted by now.
        let _ = self.answer.send(answer);
    }
}

/// The first who came. When it goes, a task takes over if there are notes.
pub(super) struct Turn {
    inner: Arc<Inner>,
    hash: u64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let lines = &self.inner.lines;
        let waiting = {
            let mut shard = lines.shard(self.hash).lock();
            let waiting = shard.get(&self.hash).is_some_and(|notes| !notes.is_empty());
            if !waiting {
                shard.remove(&self.hash);
            }
            waiting
        };
        if !waiting {
            return;
        }
        // Without a runtime the work is dropped, and frees the key.
        let work = Work { inner: Arc::clone(&self.inner), hash: self.hash, done: false };
        background::start_detached(work.run());
    }
}

/// Decides the notes of a key until none is left.
struct Work {
    inner: Arc<Inner>,
    hash: u64,
    done: bool,
}

impl Work {
    async fn run(mut self) {
        while let Some(notes) = self.inner.lines.next(self.hash) {
            decide::all(&self.inner, notes).await;
        }
        self.done = true;
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Its runtime is shut down: the key must not stay busy for the next one.
        if !self.done {
            self.inner.lines.leave(self.hash);
        }
    }
}
