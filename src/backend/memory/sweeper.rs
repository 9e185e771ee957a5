//! The background task that removes what says nothing any more. The only place that spawns.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::{AbortHandle, yield_now};
use tracing::{Instrument, debug, debug_span};

use super::Inner;

/// Buckets that are swept under one lock: some tens of microseconds, whatever the number of keys.
const CHUNK: usize = 512;

#[derive(Debug)]
pub(super) struct Sweeper {
    frequency: Option<Duration>,
    task: Mutex<Option<AbortHandle>>,
}

impl Sweeper {
    pub(super) const fn new(frequency: Option<Duration>) -> Self {
        Self { frequency, task: Mutex::new(None) }
    }

    /// Starts the task if it does not run and there is a runtime for it.
    pub(super) fn start(&self, inner: &Arc<Inner>) {
        let Some(frequency) = self.frequency else { return };
        let mut task = self.task.lock();
        if task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            debug!("no runtime for the cleanup task; new keys clean up alone");
            return;
        };
        let span = debug_span!("traffik_cleanup", namespace = inner.settings.namespace());
        let work = run(Arc::downgrade(inner), frequency).instrument(span);
        *task = Some(runtime.spawn(work).abort_handle());
    }

    /// Stops the task without waiting. Needs no runtime.
    pub(super) fn stop(&self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Sweeps now and then, until the backend is gone.
async fn run(backend: Weak<Inner>, frequency: Duration) {
    loop {
        tokio::time::sleep(frequency).await;
        if sweep(&backend).await.is_none() {
            return;
        }
    }
}

/// One sweep over everything, in chunks; `None` when the backend is gone.
async fn sweep(backend: &Weak<Inner>) -> Option<()> {
    let shards = backend.upgrade()?.store.shard_count();
    for shard in 0..shards {
        let mut left = backend.upgrade()?.store.buckets(shard);
        while left > 0 {
            let inner = backend.upgrade()?;
            inner.store.clean(shard, CHUNK, inner.now());
            drop(inner);
            left = left.saturating_sub(CHUNK);
            yield_now().await;
        }
    }
    let mut left = backend.upgrade()?.values.buckets();
    while left > 0 {
        let inner = backend.upgrade()?;
        inner.values.clean(CHUNK, inner.now(), &inner.store.budget);
        drop(inner);
        left = left.saturating_sub(CHUNK);
        yield_now().await;
    }
    Some(())
}
