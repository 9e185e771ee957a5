//! Time limits, and the check for a tokio runtime that can keep them.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep_until};

use crate::clock::monotonic_now;
use crate::error::{BackendError, Effect, ErrorKind};

/// The instant by which some work is over; `None` is never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

/// Why bounded work has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfinished {
    /// The time is over.
    Elapsed,
    /// It has to wait, and no runtime measures the time.
    NoTimer,
}

impl Unfinished {
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Elapsed => "its time is over",
            Self::NoTimer => "it has to wait, and there is no tokio runtime with a time driver",
        }
    }
}

impl Deadline {
    pub(crate) fn after(time: Duration) -> Self {
        Self(monotonic_now().checked_add(time))
    }

    /// Returns the one of two that comes first.
    pub(crate) fn earlier(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(one), Some(other)) => Self(Some(one.min(other))),
            (one, other) => Self(one.or(other)),
        }
    }

    pub(crate) fn is_over(self) -> bool {
        self.0.is_some_and(|deadline| deadline <= monotonic_now())
    }

    /// Runs `work` until the deadline. Work that has not to wait needs no runtime.
    pub(crate) async fn run<T>(self, work: impl Future<Output = T>) -> Result<T, Unfinished> {
        let mut work = pin!(work);
        if let Poll::Ready(output) = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
            return Ok(output);
        }
        let Some(deadline) = self.0 else { return Ok(work.await) };
        let Some(elapsed) = timer(|| sleep_until(deadline)) else {
            return Err(Unfinished::NoTimer);
        };
        // It counts also for work that uses up all of the task's budget whenever it is polled.
        let mut elapsed = pin!(unconstrained(elapsed));
        // By this task, just now.
        let mut is_polled = true;
        poll_fn(|cx| {
            if !std::mem::take(&mut is_polled)
                && let Poll::Ready(output) = work.as_mut().poll(cx)
            {
                return Poll::Ready(Ok(output));
            }
            elapsed.as_mut().poll(cx).map(|()| Err(Unfinished::Elapsed))
        })
        .await
    }

    /// Runs an operation of a backend until the deadline.
    pub(crate) async fn bound<T>(
        self,
        backend: &'static str,
        operation: &'static str,
        work: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        told(self.run(work).await, backend, operation)
    }
}

/// Returns what became of an operation of a backend that was run until a deadline.
pub(crate) fn told<T>(
    done: Result<Result<T, BackendError>, Unfinished>,
    backend: &'static str,
    operation: &'static str,
) -> Result<T, BackendError> {
    match done {
        Ok(done) => done,
        Err(Unfinished::Elapsed) => Err(BackendError::new(backend, operation, ErrorKind::Timeout)),
        // It was polled once, and may have gone some way.
        Err(Unfinished::NoTimer) => Err(missing(backend, operation).with_effect(Effect::Ambiguous)),
    }
}

/// The error of an operation that was not begun, because its time was over.
pub(crate) fn too_late(backend: &'static str, operation: &'static str) -> BackendError {
    BackendError::new(backend, operation, ErrorKind::Timeout).with_effect(Effect::NotApplied)
}

/// Makes a timer; `None` outside of a tokio runtime, or in one whose time driver is disabled.
fn timer<T>(make: impl FnOnce() -> T) -> Option<T> {
    // An id of a task tells nothing: tokio sets one also where it drops a task outside of its runtime.
    Handle::try_current().ok()?;
    // Tokio tells of a disabled time driver by a panic alone, before anything is registered.
    catch_unwind(AssertUnwindSafe(make)).ok()
}

/// Returns `true` in a tokio runtime whose time driver is enabled.
pub(crate) fn is_there() -> bool {
    timer(|| drop(tokio::time::sleep(Duration::ZERO))).is_some()
}

/// Fails an operation that needs a runtime and has none.
pub(crate) fn require(backend: &'static str, operation: &'static str) -> Result<(), BackendError> {
    if is_there() { Ok(()) } else { Err(missing(backend, operation)) }
}

/// The error of an operation that needs a runtime and has none.
fn missing(backend: &'static str, operation: &'static str) -> BackendError {
    BackendError::new(backend, operation, ErrorKind::Misconfigured).with_message(
        "needs a tokio runtime with its time driver; call it inside a runtime that was built with \
         enable_time() or enable_all()",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::LocalSet;

    use super::*;

    /// Asks when it is dropped.
    struct Asks(Arc<AtomicUsize>);

    impl Drop for Asks {
        fn drop(&mut self) {
            self.0.store(if is_there() { 1 } else { 2 }, Ordering::Relaxed);
        }
    }

    #[test]
    fn where_a_task_is_dropped_outside_of_its_runtime_there_is_none_and_no_panic() {
        let panics = Arc::new(AtomicUsize::new(0));
        let (here, before) = (std::thread::current().id(), std::panic::take_hook());
        let seen = Arc::clone(&panics);
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().id() == here {
                seen.fetch_add(1, Ordering::Relaxed);
            } else {
                before(panic);
            }
        }));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (local, told) = (LocalSet::new(), Arc::new(AtomicUsize::new(0)));
        let asks = Asks(Arc::clone(&told));
        local.spawn_local(async move {
            let _asks = asks;
            std::future::pending::<()>().await;
        });
        local.block_on(&runtime, tokio::task::yield_now());
        drop(local);
        assert_eq!((told.load(Ordering::Relaxed), panics.load(Ordering::Relaxed)), (2, 0));
    }
}
