//! [`Lines`]: the waiters of a throttle in this process, by key, with the instants of their turns.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::clock::monotonic_now;

/// The lines of a throttle.
#[derive(Debug, Default)]
pub(super) struct Lines(Mutex<HashMap<Box<[u8]>, Line, ahash::RandomState>>);

/// Those who wait for one key, in the order in which they came.
#[derive(Debug, Default)]
struct Line {
    waiters: BTreeMap<u64, Arc<Reservation>>,
    next: u64,
    /// Held by whoever asks the store: one at a time, so that turns come in the order of the line.
    asking: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Reservation {
    /// When it is its turn; `None` until the store has said.
    turn: Mutex<Option<Instant>>,
    /// Notified when the turn has moved up.
    moved: Notify,
}

/// A place in a line, until it is dropped. Dropped before its turn it lets those behind it move up.
#[derive(Debug)]
pub(super) struct ReservationGuard<'a> {
    lines: &'a Lines,
    key: Box<[u8]>,
    number: u64,
    waiter: Arc<Reservation>,
    asking: Arc<tokio::sync::Mutex<()>>,
    /// By how much those behind it come sooner without it.
    saves: Duration,
}

impl Lines {
    /// Joins the line of a key; the length of the line if that is as long as it may be.
    pub(super) fn join(
        &self,
        key: Vec<u8>,
        most: usize,
        saves: Duration,
    ) -> Result<ReservationGuard<'_>, usize> {
        let mut lines = self.0.lock();
        let key: Box<[u8]> = key.into();
        let line = lines.entry(key.clone()).or_default();
        let waiting = line.waiters.len();
        if waiting >= most {
            if waiting == 0 {
                lines.remove(&key);
            }
            return Err(waiting);
        }
        let (number, waiter) = (line.next, Arc::new(Reservation::default()));
        line.next += 1;
        line.waiters.insert(number, Arc::clone(&waiter));
        let asking = Arc::clone(&line.asking);
        drop(lines);
        Ok(ReservationGuard { lines: self, key, number, waiter, asking, saves })
    }
}

impl ReservationGuard<'_> {
    /// Returns the lock under which the store is asked for this line.
    pub(super) fn asking(&self) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.asking)
    }

    /// Waits for its turn, which comes sooner when one before it goes away.
    pub(super) async fn wait_until(self, turn: Instant) {
        *self.waiter.turn.lock() = Some(turn);
        loop {
            let turn = self.waiter.turn.lock().unwrap_or(turn);
            if turn <= monotonic_now() {
                // Its turn has come: nobody moves up when it leaves.
                *self.waiter.turn.lock() = None;
                return;
            }
            drop(timeout_at(turn, self.waiter.moved.notified()).await);
        }
    }
}

impl Drop for ReservationGuard<'_> {
    fn drop(&mut self) {
        let mut lines = self.lines.0.lock();
        let Some(line) = lines.get_mut(&self.key) else { return };
        line.waiters.remove(&self.number);
        if let Some(mine) = self.waiter.turn.lock().take() {
            for waiter in line.waiters.values() {
                let mut turn = waiter.turn.lock();
                if let Some(turn) = turn.as_mut().filter(|turn| **turn > mine) {
                    *turn = turn.checked_sub(self.saves).unwrap_or(mine).max(mine);
                    waiter.moved.notify_one();
                }
            }
        }
        if line.waiters.is_empty() {
            lines.remove(&self.key);
        }
    }
}
