//! [`MemoryLocks`]: the locks of one process.
//!
//! The holders are plain state under one mutex. A waiter stands in a queue and is woken when it may
//! be its turn; then it looks again. So a waiter that gives up takes nothing with it: its ticket
//! is removed, and the first of the queue is woken.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::builder::LockKind;
use super::{NAME, failed};
use crate::clock::monotonic_now;
use crate::error::{BackendError, ErrorKind};
use crate::lock::{HeldLock, LockError, LockGuard, LockRequest, MAX_WAITERS};
use crate::sync::Mutex;
use crate::timer;

#[derive(Debug)]
pub(super) struct MemoryLocks {
    kind: LockKind,
    queues: Mutex<LockTable>,
}

#[derive(Debug)]
struct LockTable {
    by_name: HashMap<Box<str>, NamedLock, ahash::RandomState>,
    /// The last fencing token; rises for all locks together, and over restarts of the process.
    fence: u64,
    next_waiter: u64,
}

#[derive(Debug, Default)]
struct NamedLock {
    holder: Option<Holder>,
    waiters: VecDeque<LockWaiter>,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    /// Tells one holding from another.
    fence: u64,
    until: Option<Instant>,
}

#[derive(Debug)]
struct LockWaiter {
    id: u64,
    wake: Arc<Notify>,
}

/// Whether a lock was taken.
enum TryTake {
    Taken(Holder),
    /// Held by another, until then if it expires.
    NotYet(Option<Instant>),
}

impl MemoryLocks {
    /// `first_fence` should be larger than any token that an earlier process gave out.
    pub(super) fn new(kind: LockKind, first_fence: u64) -> Self {
        let by_name = HashMap::default();
        let queues = LockTable { by_name, fence: first_fence, next_waiter: 0 };
        Self { kind, queues: Mutex::new(queues) }
    }

    pub(super) async fn lock(
        self: &Arc<Self>,
        name: &str,
        request: LockRequest,
    ) -> Result<LockGuard, LockError> {
        let deadline = request.deadline();
        let turn = self.queues.lock().try_take(name, request.ttl(), self.kind);
        let holder = match turn {
            TryTake::Taken(holder) => holder,
            TryTake::NotYet(_) if !request.waits() => return Err(request.refusal()),
            TryTake::NotYet(_) => self.wait(name, request, deadline).await?,
        };
        Ok(LockGuard::new(HeldInMemory {
            locks: Arc::clone(self),
            name: name.into(),
            holder: Mutex::new(holder),
        }))
    }

    async fn wait(
        &self,
        name: &str,
        request: LockRequest,
        deadline: Option<Instant>,
    ) -> Result<Holder, LockError> {
        let ticket = match LockTicket::last_in(self, name) {
            Ok(ticket) => ticket,
            Err(error) => {
                // A caller that retries at once must not keep the others from going on.
                tokio::task::yield_now().await;
                return Err(error);
            }
        };
        loop {
            let turn = self.queues.lock().turn(&ticket, request.ttl(), self.kind);
            let expires = match turn {
                TryTake::Taken(holder) => return Ok(holder),
                TryTake::NotYet(expires) => expires,
            };
            if deadline.is_some_and(|deadline| deadline <= monotonic_now()) {
                return Err(request.refusal());
            }
            let soonest = [expires, deadline].into_iter().flatten().min();
            match soonest {
                None => ticket.wake.notified().await,
                Some(instant) => {
                    timer::require(NAME, "lock")?;
                    drop(timeout_at(instant, ticket.wake.notified()).await);
                }
            }
        }
    }
}

/// A waiter's place in a queue. Leaving it wakes whoever is first then.
struct LockTicket<'a> {
    locks: &'a MemoryLocks,
    name: &'a str,
    id: u64,
    wake: Arc<Notify>,
}

impl<'a> LockTicket<'a> {
    fn last_in(locks: &'a MemoryLocks, name: &'a str) -> Result<Self, LockError> {
        let mut queues = locks.queues.lock();
        let id = queues.next_waiter;
        queues.next_waiter += 1;
        let wake = Arc::new(Notify::new());
        let waiters = &mut queues.queue(name).waiters;
        if waiters.len() >= MAX_WAITERS {
            return Err(failed("lock", ErrorKind::Overloaded).into());
        }
        waiters.push_back(LockWaiter { id, wake: Arc::clone(&wake) });
        Ok(Self { locks, name, id, wake })
    }
}

impl Drop for LockTicket<'_> {
    fn drop(&mut self) {
        self.locks.queues.lock().leave(self.name, self.id);
    }
}

impl LockTable {
    fn queue(&mut self, name: &str) -> &mut NamedLock {
        if !self.by_name.contains_key(name) {
            self.by_name.insert(name.into(), NamedLock::default());
        }
        self.by_name.get_mut(name).expect("inserted above")
    }

    /// For a caller that does not wait yet: in a fair queue the waiters come first.
    fn try_take(&mut self, name: &str, ttl: Option<Duration>, kind: LockKind) -> TryTake {
        let queue = self.queue(name);
        let passes = kind == LockKind::Unfair || queue.waiters.is_empty();
        match queue.holder() {
            None if passes => TryTake::Taken(self.take(name, ttl)),
            holder => TryTake::NotYet(holder.and_then(|holder| holder.until)),
        }
    }

    /// For a waiter: in a fair queue only the first may take.
    fn turn(&mut self, ticket: &LockTicket<'_>, ttl: Option<Duration>, kind: LockKind) -> TryTake {
        let queue = self.queue(ticket.name);
        let first = queue.waiters.front().is_some_and(|waiter| waiter.id == ticket.id);
        match queue.holder() {
            None if first || kind == LockKind::Unfair => {
                let holder = self.take(ticket.name, ttl);
                TryTake::Taken(holder)
            }
            // Only the first sets a timer; it wakes the next when it leaves.
            Some(holder) if first => TryTake::NotYet(holder.until),
            _ => TryTake::NotYet(None),
        }
    }

    fn take(&mut self, name: &str, ttl: Option<Duration>) -> Holder {
        self.fence += 1;
        let until = ttl.and_then(|ttl| monotonic_now().checked_add(ttl));
        let holder = Holder { fence: self.fence, until };
        self.queue(name).holder = Some(holder);
        holder
    }

    /// Frees a lock. Returns `true` if it was still held under that token.
    fn release(&mut self, name: &str, fence: u64) -> bool {
        let Some(queue) = self.by_name.get_mut(name) else { return false };
        let ours = queue.holder().is_some_and(|holder| holder.fence == fence);
        if ours {
            queue.holder = None;
        }
        self.tidy(name);
        ours
    }

    fn extend(&mut self, name: &str, fence: u64, ttl: Duration) -> Option<Holder> {
        let queue = self.by_name.get_mut(name)?;
        queue.holder().filter(|holder| holder.fence == fence)?;
        let holder = queue.holder.as_mut()?;
        let until = monotonic_now().checked_add(ttl);
        // No expiry is the longest.
        holder.until = holder.until.and_then(|now| until.map(|then| now.max(then)));
        Some(*holder)
    }

    fn leave(&mut self, name: &str, id: u64) {
        if let Some(queue) = self.by_name.get_mut(name) {
            queue.waiters.retain(|waiter| waiter.id != id);
        }
        self.tidy(name);
    }

    /// Wakes the first in the queue, to take the lock or to wait for its expiry; removes what nobody
    /// holds or waits for.
    fn tidy(&mut self, name: &str) {
        let Some(queue) = self.by_name.get_mut(name) else { return };
        if let Some(first) = queue.waiters.front() {
            first.wake.notify_one();
        } else if queue.holder().is_none() {
            self.by_name.remove(name);
        }
    }
}

impl NamedLock {
    /// Returns the holder, if it has not expired.
    fn holder(&mut self) -> Option<Holder> {
        self.holder =
            self.holder.filter(|holder| holder.until.is_none_or(|until| monotonic_now() < until));
        self.holder
    }
}

#[derive(Debug)]
struct HeldInMemory {
    locks: Arc<MemoryLocks>,
    name: Box<str>,
    holder: Mutex<Holder>,
}

#[async_trait]
impl HeldLock for HeldInMemory {
    fn fencing_token(&self) -> Option<u64> {
        Some(self.holder.lock().fence)
    }

    fn valid_until(&self) -> Option<Instant> {
        self.holder.lock().until
    }

    async fn extend(&self, ttl: Duration) -> Result<bool, BackendError> {
        let mut holder = self.holder.lock();
        let extended = self.locks.queues.lock().extend(&self.name, holder.fence, ttl);
        if let Some(extended) = extended {
            *holder = extended;
        }
        Ok(extended.is_some())
    }

    async fn release(&self) -> Result<bool, BackendError> {
        let fence = self.holder.lock().fence;
        Ok(self.locks.queues.lock().release(&self.name, fence))
    }

    fn abandon(&self) {
        let fence = self.holder.lock().fence;
        self.locks.queues.lock().release(&self.name, fence);
    }
}
