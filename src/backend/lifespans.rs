//! [`Lifespans`]: counts the lifespans of a backend, and serializes its start and its end.

use std::fmt;

use parking_lot::Mutex;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The lifespans of one backend.
///
/// A lifespan is counted from before its backend is initialized, so one that ends beside it knows that
/// it is not the last. What opens the backend holds [`opening`](Self::opening), what closes it
/// [`closing`](Self::closing): a close that has begun is over before the next lifespan initializes.
#[derive(Default)]
pub(crate) struct Lifespans {
    state: Mutex<Counts>,
    turn: RwLock<()>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Those that are beginning are counted too.
    count: usize,
    /// Whether there is something to close.
    open: bool,
}

impl Lifespans {
    /// Counts a lifespan; returns `true` if it is the only one.
    pub(crate) fn begin(&self) -> bool {
        let mut state = self.state.lock();
        state.count += 1;
        state.open = true;
        state.count == 1
    }

    /// Ends a lifespan; returns `true` if it was the last.
    pub(crate) fn end(&self) -> bool {
        let mut state = self.state.lock();
        state.count -= 1;
        state.count == 0
    }

    /// Ends a lifespan, and runs `stop` if it was the last. Nothing begins meanwhile, so `stop` never
    /// hits what the next one started.
    pub(crate) fn end_and(&self, stop: impl FnOnce()) -> bool {
        let mut state = self.state.lock();
        state.count -= 1;
        let last = state.count == 0;
        if last {
            stop();
        }
        last
    }

    /// Runs `stop` if there is no lifespan. Nothing begins meanwhile.
    pub(crate) fn if_none(&self, stop: impl FnOnce()) {
        if self.state.lock().count == 0 {
            stop();
        }
    }

    /// Returns how many there are.
    pub(crate) fn count(&self) -> usize {
        self.state.lock().count
    }

    /// Returns `true` if nobody uses the backend, and nobody has closed it yet.
    pub(crate) fn is_left_open(&self) -> bool {
        let state = self.state.lock();
        state.count == 0 && state.open
    }

    /// Notes that the backend is closed, unless a lifespan is about to open it again.
    pub(crate) fn closed(&self) {
        let mut state = self.state.lock();
        state.open = state.count > 0;
    }

    /// Waits until nobody closes the backend. Several may open it at the same time.
    pub(crate) async fn opening(&self) -> RwLockReadGuard<'_, ()> {
        self.turn.read().await
    }

    /// Waits until nobody opens or closes the backend.
    pub(crate) async fn closing(&self) -> RwLockWriteGuard<'_, ()> {
        self.turn.write().await
    }
}

impl fmt::Debug for Lifespans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lifespans").field(&self.state.lock().count).finish()
    }
}
