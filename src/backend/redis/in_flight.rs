//! [`InFlight`]: counts the calls in flight, up to a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::failure::Failure;
use crate::error::{Effect, ErrorKind};

/// The number of calls that wait for the same thing.
#[derive(Debug, Default)]
pub(super) struct InFlight(Arc<AtomicUsize>);

/// Some of them, as long as it lives.
#[derive(Debug)]
pub(super) struct InFlightCall {
    all: Arc<AtomicUsize>,
    count: usize,
}

impl InFlight {
    /// Counts so many more calls in flight, unless there are then more than the bound.
    pub(super) async fn enter(&self, count: usize, most: usize) -> Result<InFlightCall, Failure> {
        let before = self.0.fetch_add(count, Ordering::Relaxed);
        let place = InFlightCall { all: Arc::clone(&self.0), count };
        if before + count <= most {
            return Ok(place);
        }
        drop(place);
        // A caller that retries at once must not keep the others from going on.
        tokio::task::yield_now().await;
        let failure = Failure::new(ErrorKind::Overloaded, Effect::NotApplied);
        Err(failure.with_message(format!(
            "{before} calls wait for their answers; max_in_flight is {most}"
        )))
    }
}

impl Drop for InFlightCall {
    fn drop(&mut self) {
        self.all.fetch_sub(self.count, Ordering::Relaxed);
    }
}
