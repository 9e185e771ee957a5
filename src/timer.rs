//! Time limits, and whether there is a tokio runtime to keep them.

use std::future::{Future, poll_fn};
use std::panic::catch_unwind;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

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

impl Deadline {
    pub(crate) fn after(time: Duration) -> Self {
        Self(monotonic_now().checked_add(time))
    }

    /// Runs `work` until the deadline. Work that has not to wait needs no runtime.
    pub(crate) async fn run<T>(self, work: impl Future<Output = T>) -> Result<T, Unfinished> {
        let mut work = pin!(work);
        if let Poll::Ready(output) = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
            return Ok(output);
        }
        match self.0 {
            Some(_) if !is_there() => Err(Unfinished::NoTimer),
            Some(deadline) => timeout_at(deadline, work).await.map_err(|_| Unfinished::Elapsed),
            None => Ok(work.await),
        }
    }

    /// Runs an operation of a backend until the deadline.
    pub(crate) async fn bound<T>(
        self,
        backend: &'static str,
        operation: &'static str,
        work: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        match self.run(work).await {
            Ok(done) => done,
            Err(Unfinished::Elapsed) => {
                Err(BackendError::new(backend, operation, ErrorKind::Timeout))
            }
            // It was polled once, and may have gone some way.
            Err(Unfinished::NoTimer) => {
                Err(missing(backend, operation).with_effect(Effect::Ambiguous))
            }
        }
    }
}

/// Returns `true` if the current thread is in a tokio runtime whose time driver is enabled.
fn is_there() -> bool {
    // Tokio tells of a disabled time driver by a panic alone, and does so before anything is registered.
    Handle::try_current().is_ok()
        && catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO))).is_ok()
}

/// Fails an operation that needs a runtime and has none.
#[cfg(any(feature = "redis", feature = "memcached"))]
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
