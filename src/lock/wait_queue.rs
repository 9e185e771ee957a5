//! The wait queue of a lock on a server: one waiter of each name asks the server, the others are queued.
//!
//! In the process it is first come, first served. Across processes nothing is promised: the client that
//! asks first after a release has the lock, and the pauses between are random so that nobody always
//! loses.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::{LockError, LockRequest, MAX_WAITERS};
use crate::clock::monotonic_now;
use crate::error::{BackendError, ErrorKind};
use crate::turns::Turns;
use crate::{random, timer};

const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// Minimum pause, for a lock that is about to expire.
const LEAST_PAUSE: Duration = Duration::from_millis(1);
/// Before the end of a wait, so that the last try has the time for its answer.
const LAST_TRY: Duration = Duration::from_millis(20);
/// The waiters of this process, by the lock's name.
#[derive(Debug)]
pub(crate) struct WaitQueue {
    backend: &'static str,
    turns: Turns,
}

/// What one try came to.
#[derive(Debug)]
pub(crate) enum Attempt<T> {
    Taken(T),
    /// Held by another, for at most that long if the server tells.
    Held(Option<Duration>),
}

impl WaitQueue {
    pub(crate) fn new(backend: &'static str) -> Self {
        Self { backend, turns: Turns::default() }
    }

    /// Tries until the lock is taken or the request's time is over, which ends a try that is under way too.
    /// Not blocking, or with no time at all to wait, it tries once.
    pub(crate) async fn acquire<T, F>(
        &self,
        name: &str,
        request: LockRequest,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, LockError>
    where
        F: Future<Output = Result<Attempt<T>, LockError>>,
    {
        timer::require(self.backend, "lock")?;
        if !request.waits() {
            return match attempt().await? {
                Attempt::Taken(lock) => Ok(lock),
                Attempt::Held(_) => Err(request.refusal()),
            };
        }
        let late = || request.refusal();
        let deadline = request.deadline();
        let Ok(ticket) = self.turns.join(name.as_bytes(), MAX_WAITERS) else {
            // A caller that retries at once must not keep the others from going on.
            tokio::task::yield_now().await;
            return Err(BackendError::new(self.backend, "lock", ErrorKind::Overloaded).into());
        };
        let mut longest = SHORTEST_PAUSE;
        loop {
            ticket.turn(deadline).await.ok_or_else(late)?;
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
            ticket.asks_at(monotonic_now() + pause);
            // Woken early by a release in this process. If not, the pause is over: ask again.
            let woken = timeout(pause, ticket.woken()).await.is_ok();
            if !woken && left.is_some_and(|left| left <= LAST_TRY) {
                return Err(late());
            }
        }
    }

    /// Wakes the waiters of this process: the lock was released in it.
    pub(crate) fn released(&self, name: &str) {
        self.turns.wake_first(name.as_bytes());
    }
}

/// The outcome, if it comes before the deadline.
async fn within<F: Future>(deadline: Option<Instant>, work: F) -> Option<F::Output> {
    match deadline {
        None => Some(work.await),
        Some(deadline) => timeout_at(deadline, work).await.ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use parking_lot::Mutex;

    use super::*;
    use crate::lock::LockOptions;
    use crate::turns::OVERDUE;

    fn request(options: LockOptions) -> LockRequest {
        options.resolve("a", LockOptions::new()).unwrap()
    }

    fn within(millis: u64) -> LockRequest {
        request(LockOptions::new().blocking_timeout(Some(Duration::from_millis(millis))))
    }

    #[tokio::test(start_paused = true)]
    async fn one_waiter_asks_and_all_get_their_turn_in_order() {
        let queue = Arc::new(WaitQueue::new("test"));
        let held = Arc::new(AtomicBool::new(true));
        let asked = Arc::new(AtomicU32::new(0));
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..20 {
            let (queue, held) = (Arc::clone(&queue), Arc::clone(&held));
            let (asked, order) = (Arc::clone(&asked), Arc::clone(&order));
            tasks.spawn(async move {
                let attempt = || async {
                    asked.fetch_add(1, Ordering::SeqCst);
                    let taken = !held.swap(true, Ordering::SeqCst);
                    Ok(if taken { Attempt::Taken(()) } else { Attempt::Held(None) })
                };
                queue.acquire("a", request(LockOptions::new()), attempt).await.unwrap();
                order.lock().push(number);
                held.store(false, Ordering::SeqCst);
                queue.released("a");
            });
            tokio::task::yield_now().await;
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1, "only the first asks");
        held.store(false, Ordering::SeqCst);
        queue.released("a");
        tasks.join_all().await;
        assert_eq!(*order.lock(), (0..20).collect::<Vec<_>>());
        assert!(queue.turns.is_empty(), "no queue is left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_in_time_in_the_queue_and_at_its_head() {
        let queue = WaitQueue::new("test");
        let never = || async { Ok(Attempt::<()>::Held(None)) };
        let start = monotonic_now();
        let (first, second) = tokio::join!(
            queue.acquire("a", within(700), never),
            queue.acquire("a", within(300), never)
        );
        assert!(matches!(first, Err(LockError::TimedOut { .. })), "{first:?}");
        assert!(matches!(second, Err(LockError::TimedOut { .. })), "{second:?}");
        assert_eq!(start.elapsed().as_millis(), 700);
        assert!(queue.turns.is_empty(), "no queue is left");
    }

    #[tokio::test(start_paused = true)]
    async fn not_blocking_is_one_try() {
        let queue = WaitQueue::new("test");
        let asked = AtomicU32::new(0);
        let attempt = || async {
            asked.fetch_add(1, Ordering::SeqCst);
            Ok(Attempt::<()>::Held(Some(Duration::from_secs(1))))
        };
        let taken = queue.acquire("a", request(LockOptions::new().blocking(false)), attempt).await;
        assert!(matches!(taken, Err(LockError::Held)));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_is_bounded_by_the_callers_time() {
        let queue = WaitQueue::new("test");
        let hangs = || std::future::pending::<Result<Attempt<()>, LockError>>();
        let start = monotonic_now();
        let taken = queue.acquire("a", within(50), hangs).await;
        assert!(matches!(taken, Err(LockError::TimedOut { .. })), "{taken:?}");
        assert_eq!(start.elapsed().as_millis(), 50);
        // No time to wait is no time to wait for others: the one try has the time that it needs.
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            Ok(Attempt::Taken(()))
        };
        queue.acquire("a", within(0), slow).await.unwrap();
    }

    #[test]
    fn outside_of_a_runtime_it_is_a_clear_error() {
        let queue = WaitQueue::new("test");
        let never = || async { Ok(Attempt::<()>::Held(None)) };
        let mut taken = std::pin::pin!(queue.acquire("a", within(50), never));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let std::task::Poll::Ready(Err(error)) = taken.as_mut().poll(&mut context) else {
            panic!("it waits without a runtime");
        };
        assert!(error.to_string().contains("tokio runtime"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_ends_the_wait() {
        let queue = WaitQueue::new("test");
        let broken = || async {
            Err::<Attempt<()>, _>(BackendError::new("test", "lock", ErrorKind::Other).into())
        };
        let taken = queue.acquire("a", request(LockOptions::new()), broken).await;
        assert!(matches!(taken, Err(LockError::Backend(_))), "{taken:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_is_not_polled_is_passed_over() {
        let queue = Arc::new(WaitQueue::new("test"));
        let held = AtomicBool::new(true);
        let attempt = || async {
            let taken = !held.swap(true, Ordering::SeqCst);
            Ok(if taken { Attempt::Taken(()) } else { Attempt::Held(None) })
        };
        let mut still = Box::pin(queue.acquire("a", request(LockOptions::new()), attempt));
        let mut also_still = Box::pin(queue.acquire("a", request(LockOptions::new()), attempt));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(still.as_mut().poll(&mut context).is_pending());
        assert!(also_still.as_mut().poll(&mut context).is_pending());
        held.store(false, Ordering::SeqCst);
        queue.released("a");
        for _ in 0..3 {
            let start = monotonic_now();
            queue.acquire("a", within(5_000), attempt).await.unwrap();
            assert!(start.elapsed() <= OVERDUE * 3, "{:?}", start.elapsed());
            held.store(false, Ordering::SeqCst);
            queue.released("a");
        }
        // Polled again, it has its turn.
        still.await.unwrap();
        drop(also_still);
        assert!(queue.turns.is_empty(), "no queue is left");
    }
}
