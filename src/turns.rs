//! [`Turns`]: queues of waiters in this process, of which one of each name asks a store at a time.
//!
//! First come, first served. A future may be kept without being polled, and its runtime may stand idle.
//! Such a waiter cannot ask, so it is passed over when it is overdue, and does not keep what is free from
//! those behind it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::clock::monotonic_now;

/// How late a waiter may be to ask before those behind it pass it over.
pub(crate) const OVERDUE: Duration = Duration::from_millis(500);

/// The queues, by name.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<Box<[u8]>, Queue, ahash::RandomState>>);

/// The waiters of one name, in the order in which they came.
#[derive(Debug, Default)]
struct Queue {
    waiters: BTreeMap<u64, Waiter>,
    next: u64,
}

#[derive(Debug)]
struct Waiter {
    /// Notified when it may be its turn.
    wake: Arc<Notify>,
    /// When it asks the store next, if it is polled; `None` before its first turn.
    asks_at: Option<Instant>,
}

impl Turns {
    /// Joins a queue; how long it is if that is as long as it may be.
    pub(crate) fn join(&self, name: &[u8], most: usize) -> Result<Ticket<'_>, usize> {
        let mut queues = self.0.lock();
        let waiting = queues.get(name).map_or(0, |queue| queue.waiters.len());
        if waiting >= most {
            return Err(waiting);
        }
        let queue = match queues.get_mut(name) {
            Some(queue) => queue,
            None => queues.entry(name.into()).or_default(),
        };
        let (number, wake) = (queue.next, Arc::new(Notify::new()));
        queue.next += 1;
        queue.waiters.insert(number, Waiter { wake: Arc::clone(&wake), asks_at: None });
        Ok(Ticket { turns: self, name: name.into(), number, wake })
    }

    /// Wakes the first of a queue: what it waits for may be free.
    #[cfg(any(feature = "redis", feature = "memcached", test))]
    pub(crate) fn wake_first(&self, name: &[u8]) {
        if let Some(queue) = self.0.lock().get_mut(name) {
            queue.wake_first();
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

impl Queue {
    /// Returns when it is that waiter's turn if those before it are not polled; `None` if it is now.
    fn turn_of(&mut self, number: u64, now: Instant) -> Option<Instant> {
        for (_, waiter) in self.waiters.range_mut(..number) {
            // It can ask from now on.
            let overdue = *waiter.asks_at.get_or_insert(now) + OVERDUE;
            if overdue > now {
                return Some(overdue);
            }
        }
        None
    }

    /// Wakes the first, and those that come after it while it is overdue.
    fn wake_first(&mut self) {
        let now = monotonic_now();
        for waiter in self.waiters.values_mut() {
            waiter.wake.notify_one();
            if *waiter.asks_at.get_or_insert(now) + OVERDUE > now {
                return;
            }
        }
    }
}

/// A place in a queue. Leaving it wakes whoever is first then, and removes a queue that is empty.
pub(crate) struct Ticket<'a> {
    turns: &'a Turns,
    name: Box<[u8]>,
    number: u64,
    wake: Arc<Notify>,
}

impl Ticket<'_> {
    /// Waits for its turn to ask; `None` if the deadline comes first.
    pub(crate) async fn turn(&self, deadline: Option<Instant>) -> Option<()> {
        loop {
            let now = monotonic_now();
            let turn = match self.turns.0.lock().get_mut(&self.name) {
                Some(queue) => queue.turn_of(self.number, now),
                None => None,
            };
            let Some(turn) = turn else {
                self.asks_at(now);
                return Some(());
            };
            if deadline.is_some_and(|deadline| deadline <= now) {
                return None;
            }
            let until = deadline.map_or(turn, |deadline| deadline.min(turn));
            drop(timeout_at(until, self.wake.notified()).await);
        }
    }

    /// Waits until it is woken, because it may be its turn.
    #[cfg(any(feature = "redis", feature = "memcached", test))]
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Notes when it asks the store next.
    pub(crate) fn asks_at(&self, instant: Instant) {
        let mut queues = self.turns.0.lock();
        let waiter =
            queues.get_mut(&self.name).and_then(|queue| queue.waiters.get_mut(&self.number));
        if let Some(waiter) = waiter {
            waiter.asks_at = Some(instant);
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut queues = self.turns.0.lock();
        let Some(queue) = queues.get_mut(&self.name) else { return };
        queue.waiters.remove(&self.number);
        if queue.waiters.is_empty() {
            queues.remove(&self.name);
        } else {
            queue.wake_first();
        }
    }
}
