//! State that belongs to one runtime: its connections, and the turns of its tasks.
//!
//! A socket and its timer work only while the runtime in which they were made runs, and who stands still
//! in one runtime must not hold up another. So each has its own, which ends with it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::runtime::{Handle, Id};
use tokio::sync::{Mutex, MutexGuard, oneshot};
use tokio::time::timeout;

use super::errors;
use super::pool::Pool;
use crate::backend::Result;
use crate::background;
use crate::random;

/// Values that are changed at the same time without waiting for each other.
const TURNS: usize = 256;

#[derive(Debug)]
pub(super) struct PerRuntime {
    /// One for each node.
    pub(super) pools: Box<[Pool]>,
    turns: Box<[Mutex<()>]>,
}

impl PerRuntime {
    /// Waits for the turn on a value, which keeps attempts of one process from spoiling each other; a few
    /// keys share one. It is waited for a while only: its holder may not be polled any more.
    #[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
    pub(super) async fn turn_of(&self, name: &str, most: Duration) -> Option<MutexGuard<'_, ()>> {
        let hash = random::hasher().hash_one(name) as usize;
        let turn = &self.turns[hash % self.turns.len()];
        match turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(_) => timeout(most, turn.lock()).await.ok(),
        }
    }
}

/// All runtimes in which the backend is used.
#[derive(Debug, Default)]
pub(super) struct Runtimes(Arc<RwLock<ByRuntime>>);

type ByRuntime = HashMap<Id, RuntimeEntry, ahash::RandomState>;

#[derive(Debug)]
struct RuntimeEntry {
    local: Arc<PerRuntime>,
    /// Ends the task that waits for the runtime's end.
    _ends: oneshot::Sender<()>,
}

impl Runtimes {
    /// Returns what belongs to the runtime in which it is called; with these pools, if there is nothing
    /// yet.
    pub(super) fn here(
        &self,
        operation: &'static str,
        pools: impl FnOnce() -> Box<[Pool]>,
    ) -> Result<Arc<PerRuntime>> {
        let runtime = Handle::try_current().map_err(|_| errors::no_runtime(operation))?.id();
        if let Some(running) = self.0.read().get(&runtime) {
            return Ok(Arc::clone(&running.local));
        }
        Ok(self.begin(runtime, pools()))
    }

    pub(super) fn for_each(&self, mut work: impl FnMut(&PerRuntime)) {
        self.0.read().values().for_each(|running| work(&running.local));
    }

    #[cold]
    fn begin(&self, runtime: Id, pools: Box<[Pool]>) -> Arc<PerRuntime> {
        let (ends, ended) = oneshot::channel::<()>();
        let local = match self.0.write().entry(runtime) {
            // Another thread of the runtime was faster.
            Entry::Occupied(there) => return Arc::clone(&there.get().local),
            Entry::Vacant(free) => {
                let turns = (0..TURNS).map(|_| Mutex::default()).collect();
                let local = Arc::new(PerRuntime { pools, turns });
                Arc::clone(&free.insert(RuntimeEntry { local, _ends: ends }).local)
            }
        };
        let forget = Forget { locals: Arc::downgrade(&self.0), runtime };
        background::start_detached(async move {
            // Only to be dropped: with the runtime, or when the backend is.
            let _forget = forget;
            let _ = ended.await;
        });
        local
    }
}

/// Forgets what belongs to a runtime when that ends.
struct Forget {
    locals: Weak<RwLock<ByRuntime>>,
    runtime: Id,
}

impl Drop for Forget {
    fn drop(&mut self) {
        let Some(locals) = self.locals.upgrade() else { return };
        // Sockets are closed after the lock is given back.
        let running = locals.write().remove(&self.runtime);
        drop(running);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn what_belongs_to_a_runtime_ends_with_it() {
        let locals = Runtimes::default();
        let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
        for _ in 0..3 {
            let (one, other) = (runtime(), runtime());
            for runtime in [&one, &other] {
                let _inside = runtime.enter();
                let first = locals.here("get", Box::default).unwrap();
                assert!(Arc::ptr_eq(&first, &locals.here("get", Box::default).unwrap()));
            }
            assert_eq!(locals.0.read().len(), 2);
            drop((one, other));
            assert_eq!(locals.0.read().len(), 0);
        }
        let error = locals.here("get", Box::default).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    }
}
