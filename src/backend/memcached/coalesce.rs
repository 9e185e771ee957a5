//! Coalesces concurrent hits on one key in one process.
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

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::decide::{self, OPERATION};
use super::pace::Pace;
use super::pending::{HitResult, PendingHit};
use super::{MemcachedInner, errors};
use crate::backend::Result;
use crate::background;
use crate::decision::Decision;
use crate::error::ErrorKind;
use crate::on_drop::OnDrop;
use crate::random;
use crate::step::Step;

/// The most that wait for one key.
const MAX_WAITING: usize = 65_536;
/// The most that are decided at once: what takes long between the read and the write fails the more often.
const MAX_BATCH: usize = 256;
const SHARDS: usize = 64;

/// The keys that are being decided on, by the hash of their name and runtime, with the waiters for each.
#[derive(Debug)]
pub(super) struct Coalescer {
    shards: Box<[Mutex<WaitingHits>]>,
}

type WaitingHits = HashMap<u64, Vec<PendingHit>, ahash::RandomState>;

impl Coalescer {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    #[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
    fn shard(&self, hash: u64) -> &Mutex<WaitingHits> {
        &self.shards[hash as usize % SHARDS]
    }

    /// Returns the hits that came meanwhile; if there are none, the key is free again.
    fn next(&self, hash: u64) -> Option<Vec<PendingHit>> {
        let mut shard = self.shard(hash).lock();
        let waiting = shard.get_mut(&hash)?;
        if waiting.is_empty() {
            shard.remove(&hash);
            return None;
        }
        let rest = waiting.split_off(waiting.len().min(MAX_BATCH));
        Some(std::mem::replace(waiting, rest))
    }

    /// Frees the key. Its waiters get no answer.
    fn leave(&self, hash: u64) {
        // They are woken when what they left is dropped: not under the lock.
        let waiting = self.shard(hash).lock().remove(&hash);
        drop(waiting);
    }
}

impl MemcachedInner {
    /// Decides a step, together with others on the same key.
    pub(super) async fn decide(
        self: &Arc<Self>,
        name: String,
        step: &Step<'_>,
    ) -> Result<Decision> {
        let (pending, receiver) = PendingHit::new(name, step);
        self.enqueue(pending);
        answer_of(receiver).await
    }

    /// Leaves a hit to the task that decides on its key.
    pub(super) fn enqueue(self: &Arc<Self>, pending: PendingHit) {
        let Ok(runtime) = Handle::try_current() else {
            return pending.fail(&errors::no_runtime(OPERATION));
        };
        let hash = random::hasher().hash_one((runtime.id(), &pending.name));
        {
            let mut shard = self.coalescer.shard(hash).lock();
            if let Some(waiting) = shard.get_mut(&hash) {
                if waiting.len() < MAX_WAITING {
                    return waiting.push(pending);
                }
                drop(shard);
                return pending.fail(&errors::failed(OPERATION, ErrorKind::Overloaded));
            }
            shard.insert(hash, Vec::new());
        }
        let inner = Arc::clone(self);
        // If its runtime is shut down, the key must not stay busy for the next one.
        let leave = OnDrop::new(move || inner.coalescer.leave(hash));
        let inner = Arc::clone(self);
        background::start_detached(async move {
            inner.lead(hash, vec![pending]).await;
            leave.defuse();
        });
    }

    /// Decides what is asked of a key until nobody waits.
    async fn lead(self: &Arc<Self>, hash: u64, mut batch: Vec<PendingHit>) {
        let mut pace = Pace::default();
        loop {
            decide::decide_batch(self, batch, &mut pace).await;
            match self.coalescer.next(hash) {
                Some(next) => batch = next,
                None => return,
            }
        }
    }
}

/// Waits for the answer to a hit. A panic of its strategy goes on here.
pub(super) async fn answer_of(receiver: oneshot::Receiver<HitResult>) -> Result<Decision> {
    match receiver.await {
        Ok(Ok(decision)) => decision,
        Ok(Err(panic)) => resume_unwind(panic),
        Err(_dropped) => Err(errors::runtime_is_gone(OPERATION)),
    }
}
