//! Waiting for a lock that a server keeps: one waiter of each name asks it, the others stand in line.
//!
//! In the process it is first come, first served. Across processes nothing is promised: who asks first
//! after a release has the lock, and the pauses between are random so that nobody always loses.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::{LockError, LockOptions, MAX_WAITERS};
use crate::clock::monotonic_now;
use crate::error::{BackendError, ErrorKind};
use crate::{random, timer};

const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// Until a lock that is as good as free.
const LEAST_PAUSE: Duration = Duration::from_millis(1);
/// Before the end of a wait, so that the last try has the time for its answer.
const LAST_TRY: Duration = Duration::from_millis(20);

/// The lines of those who wait in this process, by the lock's name.
#[derive(Debug)]
pub(crate) struct Turns {
    backend: &'static str,
    lines: Mutex<HashMap<Box<str>, Arc<Line>, ahash::RandomState>>,
}

#[derive(Debug, Default)]
struct Line {
    /// Whose turn it is; waiters queue here in order.
    turn: tokio::sync::Mutex<()>,
    /// The lock was let go of in this process.
    freed: Notify,
}

/// What one try came to.
#[derive(Debug)]
pub(crate) enum Attempt<T> {
    Taken(T),
    /// Held by another, for at most that long if the server says so.
    Held(Option<Duration>),
}

impl Turns {
    pub(crate) fn new(backend: &'static str) -> Self {
        Self { backend, lines: Mutex::default() }
    }

    /// Tries until the lock is taken or the options' time is over, which ends a try that is under way too.
    /// Not blocking, or with no time at all to wait, it tries once.
    pub(crate) async fn take<T, F>(
        &self,
        name: &str,
        options: LockOptions,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, LockError>
    where
        F: Future<Output = Result<Attempt<T>, LockError>>,
    {
        timer::require(self.backend, "lock")?;
        let waits = options.is_blocking() && options.get_blocking_timeout() != Some(Duration::ZERO);
        let late = || LockError::timed_out(options.get_blocking_timeout().unwrap_or_default());
        if !waits {
            return match attempt().await? {
                Attempt::Taken(lock) => Ok(lock),
                Attempt::Held(_) if options.is_blocking() => Err(late()),
                Attempt::Held(_) => Err(LockError::Held),
            };
        }
        let deadline = options.deadline();
        let place = match self.join(name) {
            Ok(place) => place,
            Err(error) => {
                // Who tries again at once must not keep the others from going on.
                tokio::task::yield_now().await;
                return Err(error.into());
            }
        };
        let _turn = within(deadline, place.line.turn.lock()).await.ok_or_else(late)?;
        let mut longest = SHORTEST_PAUSE;
        loop {
            let free_in = match within(deadline, attempt()).await.ok_or_else(late)?? {
                Attempt::Taken(lock) => return Ok(lock),
                Attempt::Held(free_in) => free_in.unwrap_or(LONGEST_PAUSE),
            };
            longest = (longest * 2).min(LONGEST_PAUSE);
            let jittered = SHORTEST_PAUSE + random::up_to(longest - SHORTEST_PAUSE);
            // Never none at all: what is free in no time may be held again by then.
            let pause = jittered.min(free_in.max(LEAST_PAUSE));
            let left = deadline.map(|deadline| deadline.duration_since(monotonic_now()));
            let pause = match left {
                None => pause,
                Some(left) if left > LAST_TRY => pause.min(left - LAST_TRY),
                Some(left) => left,
            };
            // Woken early by a release in this process. If not, the pause is over: ask again.
            let woken = timeout(pause, place.line.freed.notified()).await.is_ok();
            if !woken && left.is_some_and(|left| left <= LAST_TRY) {
                return Err(late());
            }
        }
    }

    /// The lock was let go of: who waits for it here need not sleep on.
    pub(crate) fn freed(&self, name: &str) {
        if let Some(line) = self.lines.lock().get(name) {
            line.freed.notify_one();
        }
    }

    fn join(&self, name: &str) -> Result<Place<'_>, BackendError> {
        let mut lines = self.lines.lock();
        let line = match lines.get(name) {
            Some(line) => Arc::clone(line),
            None => Arc::clone(lines.entry(name.into()).or_default()),
        };
        // The map's own and one for each place.
        if Arc::strong_count(&line) > MAX_WAITERS {
            return Err(BackendError::new(self.backend, "lock", ErrorKind::Overloaded));
        }
        Ok(Place { turns: self, name: name.into(), line })
    }
}

/// The outcome, if it comes before the deadline.
async fn within<F: Future>(deadline: Option<Instant>, work: F) -> Option<F::Output> {
    match deadline {
        None => Some(work.await),
        Some(deadline) => timeout_at(deadline, work).await.ok(),
    }
}

/// A place in a line; leaving it removes a line that nobody stands in.
struct Place<'a> {
    turns: &'a Turns,
    name: Box<str>,
    line: Arc<Line>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut lines = self.turns.lines.lock();
        // The map's own and this one. Places come and go only under this lock.
        if Arc::strong_count(&self.line) == 2 {
            lines.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;

    fn within(millis: u64) -> LockOptions {
        LockOptions::new().blocking_timeout(Some(Duration::from_millis(millis)))
    }

    #[tokio::test(start_paused = true)]
    async fn one_waiter_asks_and_all_get_their_turn_in_order() {
        let turns = Arc::new(Turns::new("test"));
        let held = Arc::new(AtomicBool::new(true));
        let asked = Arc::new(AtomicU32::new(0));
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..20 {
            let (turns, held) = (Arc::clone(&turns), Arc::clone(&held));
            let (asked, order) = (Arc::clone(&asked), Arc::clone(&order));
            tasks.spawn(async move {
                let attempt = || async {
                    asked.fetch_add(1, Ordering::SeqCst);
                    let taken = !held.swap(true, Ordering::SeqCst);
                    Ok(if taken { Attempt::Taken(()) } else { Attempt::Held(None) })
                };
                turns.take("a", LockOptions::new(), attempt).await.unwrap();
                order.lock().push(number);
                held.store(false, Ordering::SeqCst);
                turns.freed("a");
            });
            tokio::task::yield_now().await;
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1, "only the first asks");
        held.store(false, Ordering::SeqCst);
        turns.freed("a");
        tasks.join_all().await;
        assert_eq!(*order.lock(), (0..20).collect::<Vec<_>>());
        assert!(turns.lines.lock().is_empty(), "no line is left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_in_time_in_line_and_at_its_head() {
        let turns = Turns::new("test");
        let never = || async { Ok(Attempt::<()>::Held(None)) };
        let start = monotonic_now();
        let (first, second) =
            tokio::join!(turns.take("a", within(700), never), turns.take("a", within(300), never));
        assert!(matches!(first, Err(LockError::TimedOut { .. })), "{first:?}");
        assert!(matches!(second, Err(LockError::TimedOut { .. })), "{second:?}");
        assert_eq!(start.elapsed().as_millis(), 700);
        assert!(turns.lines.lock().is_empty(), "no line is left");
    }

    #[tokio::test(start_paused = true)]
    async fn not_blocking_is_one_try() {
        let turns = Turns::new("test");
        let asked = AtomicU32::new(0);
        let attempt = || async {
            asked.fetch_add(1, Ordering::SeqCst);
            Ok(Attempt::<()>::Held(Some(Duration::from_secs(1))))
        };
        let taken = turns.take("a", LockOptions::new().blocking(false), attempt).await;
        assert!(matches!(taken, Err(LockError::Held)));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_is_bounded_by_the_callers_time() {
        let turns = Turns::new("test");
        let hangs = || std::future::pending::<Result<Attempt<()>, LockError>>();
        let start = monotonic_now();
        let taken = turns.take("a", within(50), hangs).await;
        assert!(matches!(taken, Err(LockError::TimedOut { .. })), "{taken:?}");
        assert_eq!(start.elapsed().as_millis(), 50);
        // No time to wait is no time to wait for others: the one try has the time that it needs.
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            Ok(Attempt::Taken(()))
        };
        turns.take("a", within(0), slow).await.unwrap();
    }

    #[test]
    fn outside_of_a_runtime_it_is_a_clear_error() {
        let turns = Turns::new("test");
        let never = || async { Ok(Attempt::<()>::Held(None)) };
        let mut taken = std::pin::pin!(turns.take("a", within(50), never));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let std::task::Poll::Ready(Err(error)) = taken.as_mut().poll(&mut context) else {
            panic!("it waits without a runtime");
        };
        assert!(error.to_string().contains("tokio runtime"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_ends_the_wait() {
        let turns = Turns::new("test");
        let broken = || async {
            Err::<Attempt<()>, _>(BackendError::new("test", "lock", ErrorKind::Other).into())
        };
        let taken = turns.take("a", LockOptions::new(), broken).await;
        assert!(matches!(taken, Err(LockError::Backend(_))), "{taken:?}");
    }
}
