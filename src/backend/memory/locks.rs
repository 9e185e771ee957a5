//! Locks in one process.
//!
//! Who holds what is plain state under one mutex. A waiter stands in a queue and is woken when it may
//! be its turn; it then looks for itself. So a waiter that gives up takes nothing with it: its place
//! is removed, and whoever is first then is woken.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::NAME;
use super::builder::LockKind;
use crate::clock::monotonic_now;
use crate::error::{BackendError, ErrorKind};
use crate::lock::{HeldLock, LockError, LockGuard, LockOptions, MAX_WAITERS};
use crate::sync::Mutex;
use crate::timer;

#[derive(Debug)]
pub(super) struct Locks {
    kind: LockKind,
    queues: Mutex<Queues>,
}

#[derive(Debug)]
struct Queues {
    by_name: HashMap<Box<str>, Queue, ahash::RandomState>,
    /// The last fencing token; rises for all locks together, and over restarts of the process.
    fence: u64,
    next_waiter: u64,
}

#[derive(Debug, Default)]
struct Queue {
    holder: Option<Holder>,
    waiters: VecDeque<Waiter>,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    /// Tells one holding from another.
    fence: u64,
    until: Option<Instant>,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    wake: Arc<Notify>,
}

/// Whether a lock was taken.
enum Turn {
    Taken(Holder),
    /// Held by another, until then if it expires.
    NotYet(Option<Instant>),
}

impl Locks {
    /// `first_fence` should be larger than any token that an earlier process gave out.
    pub(super) fn new(kind: LockKind, first_fence: u64) -> Self {
        let by_name = HashMap::default();
        let queues = Queues { by_name, fence: first_fence, next_waiter: 0 };
        Self { kind, queues: Mutex::new(queues) }
    }

    pub(super) async fn lock(
        self: &Arc<Self>,
        name: &str,
        options: LockOptions,
    ) -> Result<LockGuard, LockError> {
        options.check(name)?;
        let deadline = options.deadline();
        let turn = self.queues.lock().try_take(name, options.get_ttl(), self.kind);
        let holder = match turn {
            Turn::Taken(holder) => holder,
            Turn::NotYet(_) if !options.is_blocking() => return Err(LockError::Held),
            Turn::NotYet(_) => self.wait(name, options, deadline).await?,
        };
        Ok(LockGuard::new(Held {
            locks: Arc::clone(self),
            name: name.into(),
            holder: Mutex::new(holder),
        }))
    }

    async fn wait(
        &self,
        name: &str,
        options: LockOptions,
        deadline: Option<Instant>,
    ) -> Result<Holder, LockError> {
        let place = match Place::last_in(self, name) {
            Ok(place) => place,
            Err(error) => {
                // Who tries again at once must not keep the others from going on.
                tokio::task::yield_now().await;
                return Err(error);
            }
        };
        loop {
            let turn = self.queues.lock().turn(&place, options.get_ttl(), self.kind);
            let expires = match turn {
                Turn::Taken(holder) => return Ok(holder),
                Turn::NotYet(expires) => expires,
            };
            if deadline.is_some_and(|deadline| deadline <= monotonic_now()) {
                let waited = options.get_blocking_timeout().unwrap_or_default();
                return Err(LockError::timed_out(waited));
            }
            let soonest = [expires, deadline].into_iter().flatten().min();
            match soonest {
                None => place.wake.notified().await,
                Some(instant) => {
                    timer::require(NAME, "lock")?;
                    drop(timeout_at(instant, place.wake.notified()).await);
                }
            }
        }
    }
}

/// A place in a queue. Leaving it wakes whoever is first then.
struct Place<'a> {
    locks: &'a Locks,
    name: &'a str,
    id: u64,
    wake: Arc<Notify>,
}

impl<'a> Place<'a> {
    fn last_in(locks: &'a Locks, name: &'a str) -> Result<Self, LockError> {
        let mut queues = locks.queues.lock();
        let id = queues.next_waiter;
        queues.next_waiter += 1;
        let wake = Arc::new(Notify::new());
        let waiters = &mut queues.queue(name).waiters;
        if waiters.len() >= MAX_WAITERS {
            return Err(BackendError::new(NAME, "lock", ErrorKind::Overloaded).into());
        }
        waiters.push_back(Waiter { id, wake: Arc::clone(&wake) });
        Ok(Self { locks, name, id, wake })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.locks.queues.lock().leave(self.name, self.id);
    }
}

impl Queues {
    fn queue(&mut self, name: &str) -> &mut Queue {
        if !self.by_name.contains_key(name) {
            self.by_name.insert(name.into(), Queue::default());
        }
        self.by_name.get_mut(name).expect("inserted above")
    }

    /// For one who came just now: in a fair queue those who wait come first.
    fn try_take(&mut self, name: &str, ttl: Option<Duration>, kind: LockKind) -> Turn {
        let queue = self.queue(name);
        let passes = kind == LockKind::Unfair || queue.waiters.is_empty();
        match queue.holder() {
            None if passes => Turn::Taken(self.take(name, ttl)),
            holder => Turn::NotYet(holder.and_then(|holder| holder.until)),
        }
    }

    /// For one who waits: in a fair queue only the first may take.
    fn turn(&mut self, place: &Place<'_>, ttl: Option<Duration>, kind: LockKind) -> Turn {
        let queue = self.queue(place.name);
        let first = queue.waiters.front().is_some_and(|waiter| waiter.id == place.id);
        match queue.holder() {
            None if first || kind == LockKind::Unfair => {
                let holder = self.take(place.name, ttl);
                // Not woken by the leaving of this place, since the lock is held now.
                Turn::Taken(holder)
            }
            // Only the first sets a timer; it wakes the next when it leaves.
            Some(holder) if first => Turn::NotYet(holder.until),
            _ => Turn::NotYet(None),
        }
    }

    fn take(&mut self, name: &str, ttl: Option<Duration>) -> Holder {
        self.fence += 1;
        let until = ttl.and_then(|ttl| monotonic_now().checked_add(ttl));
        let holder = Holder { fence: self.fence, until };
        self.queue(name).holder = Some(holder);
        holder
    }

    /// Frees a lock; says whether it was still held so.
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

impl Queue {
    /// Who holds it, if the time is not over.
    fn holder(&mut self) -> Option<Holder> {
        self.holder =
            self.holder.filter(|holder| holder.until.is_none_or(|until| monotonic_now() < until));
        self.holder
    }
}

#[derive(Debug)]
struct Held {
    locks: Arc<Locks>,
    name: Box<str>,
    holder: Mutex<Holder>,
}

#[async_trait]
impl HeldLock for Held {
    fn fence(&self) -> Option<u64> {
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
