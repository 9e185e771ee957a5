//! The background task that removes expired entries.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::yield_now;
use tracing::{Instrument, debug, debug_span};

use super::MemoryInner;
use crate::background::Task;

/// Buckets that are swept under one lock: some tens of microseconds, whatever the number of keys.
const CHUNK: usize = 512;

#[derive(Debug)]
pub(super) struct Sweeper {
    frequency: Option<Duration>,
    task: Task,
    next: Mutex<Next>,
}

/// Where the sweep goes on.
#[derive(Clone, Copy, Debug)]
enum Next {
    Shard(usize),
    /// The user's values, and how many of their buckets were swept.
    Values(usize),
}

impl Sweeper {
    pub(super) const fn new(frequency: Option<Duration>) -> Self {
        Self { frequency, task: Task::new(), next: Mutex::new(Next::Shard(0)) }
    }

    /// Sweeps one chunk. Returns `true` if that was the last one of a pass.
    pub(super) fn sweep_chunk(&self, inner: &MemoryInner) -> bool {
        // Two who sweep at the same time take turns; neither does anything twice.
        let mut next = self.next.lock();
        let now = inner.now();
        let (then, is_last) = match *next {
            Next::Shard(shard) => match inner.store.clean(shard, CHUNK, now) {
                false => (Next::Shard(shard), false),
                true if shard + 1 < inner.store.shard_count() => (Next::Shard(shard + 1), false),
                true => (Next::Values(0), false),
            },
            Next::Values(swept) => {
                let all = inner.store.values.clean(CHUNK, now, &inner.store.budget);
                let swept = swept + CHUNK;
                if swept < all { (Next::Values(swept), false) } else { (Next::Shard(0), true) }
            }
        };
        *next = then;
        is_last
    }

    /// Starts the task if it does not run and there is a runtime for it.
    pub(super) fn start(&self, inner: &Arc<MemoryInner>) {
        let Some(frequency) = self.frequency else { return };
        let span = debug_span!("traffik_cleanup", namespace = inner.core.namespace());
        let started = self.task.start(|| run(Arc::downgrade(inner), frequency).instrument(span));
        if !started {
            debug!("no runtime for the cleanup task; expired entries go when new keys come");
        }
    }

    /// Stops the task without waiting. Needs no runtime.
    pub(super) fn stop(&self) {
        self.task.stop();
    }
}

/// Sweeps now and then, until the backend is gone.
async fn run(backend: Weak<MemoryInner>, frequency: Duration) {
    loop {
        tokio::time::sleep(frequency).await;
        loop {
            let Some(inner) = backend.upgrade() else { return };
            if inner.sweeper.sweep_chunk(&inner) {
                break;
            }
            drop(inner);
            yield_now().await;
        }
    }
}
