//! Background tasks. The only place that spawns.

use std::future::Future;

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::timer;

/// A place for one background task, which ends with it.
#[derive(Debug, Default)]
pub(crate) struct Task(Mutex<Option<AbortHandle>>);

impl Task {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Starts the work unless it is under way; returns `true` if it is now. Outside of a runtime that can
    /// measure time it is not.
    ///
    /// A task that ended together with its runtime is started again by this.
    pub(crate) fn start<W>(&self, work: impl FnOnce() -> W) -> bool
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let mut task = self.0.lock();
        if task.as_ref().is_some_and(|task| !task.is_finished()) {
            return true;
        }
        if !timer::is_there() {
            return false;
        }
        *task = Some(tokio::spawn(work()).abort_handle());
        true
    }

    /// Stops the work at its next await, without waiting. Needs no runtime.
    pub(crate) fn stop(&self) {
        if let Some(task) = self.0.lock().take() {
            task.abort();
        }
    }
}

/// Starts work that ends by itself; says whether there is a runtime for it.
#[cfg(any(feature = "redis", feature = "memcached", test))]
pub(crate) fn start_detached(work: impl Future<Output = ()> + Send + 'static) -> bool {
    let runtime = tokio::runtime::Handle::try_current();
    runtime.map(|runtime| drop(runtime.spawn(work))).is_ok()
}

impl Drop for Task {
    fn drop(&mut self) {
        self.stop();
    }
}
