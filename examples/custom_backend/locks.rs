//! Locks in a map: who holds which, by the runtime's monotonic time.
//!
//! A waiter waits for any release, and for the holder's time to end, and then looks for itself. So one
//! that gives up, or whose future is dropped, takes nothing with it. All are woken by each release,
//! which is simple and right, and slow with thousands of waiters: those want a queue for each lock.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use traffik::lock::HeldLock;
use traffik::{BackendError, LockError, LockGuard, LockOptions};

#[derive(Debug)]
pub(super) struct Locks {
    state: Mutex<State>,
    released: Notify,
}

#[derive(Debug)]
struct State {
    held: HashMap<Box<str>, Holder>,
    /// The last fencing token; they rise over all locks together.
    fence: u64,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    fence: u64,
    /// `None` if it does not expire.
    until: Option<Instant>,
}

impl Holder {
    fn is_alive(&self) -> bool {
        self.until.is_none_or(|until| now() < until)
    }
}

impl Locks {
    /// `first_fence` is above every token that an earlier process gave out.
    pub(super) fn new(first_fence: u64) -> Self {
        let state = State { held: HashMap::new(), fence: first_fence };
        Self { state: Mutex::new(state), released: Notify::new() }
    }

    pub(super) async fn lock(
        self: &Arc<Self>,
        name: &str,
        options: LockOptions,
    ) -> Result<LockGuard, LockError> {
        options.check(name)?;
        let deadline = options.deadline();
        loop {
            let mut released = pin!(self.released.notified());
            // Before the look at the lock, or a release right after it would be missed.
            released.as_mut().enable();
            let expires = match self.try_take(name, options.get_ttl()) {
                Ok(held) => return Ok(LockGuard::new(held)),
                Err(holder) => holder.until,
            };
            if !options.is_blocking() {
                return Err(LockError::Held);
            }
            if deadline.is_some_and(|deadline| deadline <= now()) {
                return Err(LockError::timed_out(
                    options.get_blocking_timeout().unwrap_or_default(),
                ));
            }
            match [expires, deadline].into_iter().flatten().min() {
                None => released.await,
                Some(soonest) => drop(timeout_at(soonest, released).await),
            }
        }
    }

    /// Takes the lock, or says who holds it.
    fn try_take(self: &Arc<Self>, name: &str, ttl: Option<Duration>) -> Result<Held, Holder> {
        let mut state = self.state();
        if let Some(holder) = state.held.get(name).filter(|holder| holder.is_alive()) {
            return Err(*holder);
        }
        state.fence += 1;
        let fence = state.fence;
        // A TTL beyond the end of time is none.
        let until = ttl.and_then(|ttl| now().checked_add(ttl));
        state.held.insert(name.into(), Holder { fence, until });
        Ok(Held { locks: Arc::clone(self), name: name.into(), fence })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The holder of that token, if its time is not over.
    fn ours(&mut self, name: &str, fence: u64) -> Option<&mut Holder> {
        self.held.get_mut(name).filter(|holder| holder.fence == fence && holder.is_alive())
    }
}

/// A lock that was taken. Its token tells it from a later holding of the same lock.
#[derive(Debug)]
struct Held {
    locks: Arc<Locks>,
    name: Box<str>,
    fence: u64,
}

impl Held {
    /// Says whether it was still ours.
    fn let_go(&self) -> bool {
        let mut state = self.locks.state();
        let ours = state.ours(&self.name, self.fence).is_some();
        if ours {
            state.held.remove(&self.name);
        }
        drop(state);
        self.locks.released.notify_waiters();
        ours
    }
}

#[async_trait]
impl HeldLock for Held {
    fn fence(&self) -> Option<u64> {
        Some(self.fence)
    }

    fn valid_until(&self) -> Option<Instant> {
        match self.locks.state().ours(&self.name, self.fence) {
            Some(holder) => holder.until,
            None => Some(now()),
        }
    }

    async fn extend(&self, ttl: Duration) -> Result<bool, BackendError> {
        let mut state = self.locks.state();
        let Some(holder) = state.ours(&self.name, self.fence) else { return Ok(false) };
        // Without expiry it lasts longest already.
        if let Some(until) = holder.until {
            holder.until = now().checked_add(ttl).map(|then| then.max(until));
        }
        Ok(true)
    }

    async fn release(&self) -> Result<bool, BackendError> {
        Ok(self.let_go())
    }

    fn abandon(&self) {
        self.let_go();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a lock's time is the runtime's, which tests can pause"
)]
fn now() -> Instant {
    Instant::now()
}
