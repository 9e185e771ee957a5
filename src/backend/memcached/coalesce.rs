//! Hits on one key at the same time in one process are decided together.
//!
//! Two attempts at the same moment spoil each other: one of them read what the other is changing. So each
//! hit leaves what it asks for, and one task decides all that is there by one read and one write. A hot
//! key costs two round trips for a whole batch.
//!
//! The task is nobody's future: no caller that goes away takes the others' answers with it, and none that
//! is not polled makes them wait. It works for one runtime, for another one may stand still.

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::decide::{self, OPERATION};
use super::pace::Pace;
use super::{Inner, errors};
use crate::backend::Result;
use crate::background;
use crate::decision::Decision;
use crate::error::{BackendError, ErrorKind};
use crate::key;
use crate::strategy::{Limit, Op, Step};

/// The most that wait for one key.
const MAX_WAITING: usize = 65_536;
/// The most that are decided at once: what takes long between the read and the write fails the more often.
const MAX_BATCH: usize = 256;
const SHARDS: usize = 64;

/// The keys that are being decided on, by the hash of their name and runtime, and who waits for each.
#[derive(Debug)]
pub(super) struct Coalescer {
    shards: Box<[Mutex<Shard>]>,
}

type Shard = HashMap<u64, Vec<Pending>, ahash::RandomState>;

/// What somebody asks for, and where the answer goes.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) name: String,
    limits: Vec<Limit>,
    cost: u32,
    leave: u32,
    op: Op,
    answer: oneshot::Sender<Outcome>,
}

/// What became of a hit. If its strategy panicked, its caller alone must know.
pub(super) type Outcome = thread::Result<Result<Decision>>;

impl Coalescer {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    #[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[hash as usize % SHARDS]
    }

    /// Those who came meanwhile; with nobody there the key is free again.
    fn next(&self, hash: u64) -> Option<Vec<Pending>> {
        let mut shard = self.shard(hash).lock();
        let waiting = shard.get_mut(&hash)?;
        if waiting.is_empty() {
            shard.remove(&hash);
            return None;
        }
        let rest = waiting.split_off(waiting.len().min(MAX_BATCH));
        Some(std::mem::replace(waiting, rest))
    }

    /// Frees the key. Who waits gets no answer.
    fn leave(&self, hash: u64) {
        // They are woken when what they left is dropped: not under the lock.
        let waiting = self.shard(hash).lock().remove(&hash);
        drop(waiting);
    }
}

impl Inner {
    /// Decides a step, together with others on the same key.
    pub(super) async fn decide(
        self: &Arc<Self>,
        name: String,
        step: &Step<'_>,
    ) -> Result<Decision> {
        match self.enqueue(name, step)?.await {
            Ok(Ok(decision)) => decision,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_dropped) => Err(errors::runtime_is_gone(OPERATION)),
        }
    }

    fn enqueue(
        self: &Arc<Self>,
        name: String,
        step: &Step<'_>,
    ) -> Result<oneshot::Receiver<Outcome>> {
        let runtime = Handle::try_current().map_err(|_| errors::no_runtime(OPERATION))?.id();
        let hash = key::hasher().hash_one((runtime, &name));
        let (answer, receiver) = oneshot::channel();
        let pending = Pending {
            name,
            limits: step.limits().to_vec(),
            cost: step.cost(),
            leave: step.left(),
            op: step.op(),
            answer,
        };
        {
            let mut shard = self.coalescer.shard(hash).lock();
            if let Some(waiting) = shard.get_mut(&hash) {
                if waiting.len() >= MAX_WAITING {
                    return Err(BackendError::new(super::NAME, OPERATION, ErrorKind::Overloaded));
                }
                waiting.push(pending);
                return Ok(receiver);
            }
            shard.insert(hash, Vec::new());
        }
        let leader = Leader { inner: Arc::clone(self), hash, done: false };
        background::start_detached(leader.run(vec![pending]));
        Ok(receiver)
    }
}

impl Pending {
    pub(super) fn step(&self) -> Step<'_> {
        Step::of_apart(&self.limits, self.cost, self.op).leave(self.leave)
    }

    /// Whether the answer is still wanted.
    pub(super) fn is_wanted(&self) -> bool {
        !self.answer.is_closed()
    }

    pub(super) fn answer(self, outcome: Outcome) {
        // It may be unwanted by now.
        let _ = self.answer.send(outcome);
    }
}

/// Decides what is asked of a key until nobody waits.
struct Leader {
    inner: Arc<Inner>,
    hash: u64,
    done: bool,
}

impl Leader {
    async fn run(mut self, mut batch: Vec<Pending>) {
        let mut pace = Pace::default();
        loop {
            decide::batch(&self.inner, batch, &mut pace).await;
            match self.inner.coalescer.next(self.hash) {
                Some(next) => batch = next,
                None => break,
            }
        }
        self.done = true;
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        // Its runtime is shut down: the key must not stay busy for the next one.
        if !self.done {
            self.inner.coalescer.leave(self.hash);
        }
    }
}
