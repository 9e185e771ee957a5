//! [`InFlight`]: counts the calls in flight, up to a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::failure::Failure;
use crate::error::{Effect, ErrorKind};

/// The number of calls that wait for the same thing.
#[derive(Debug, Default)]
pub(super) struct InFlight(Arc<AtomicUsize>);

/// One of them, as long as it lives.
#[derive(Debug)]
pub(super) struct InFlightCall(Arc<AtomicUsize>);

impl InFlight {
    /// Counts one more call in flight, unless the bound is reached.
    pub(super) async fn enter(&self, most: usize) -> Result<InFlightCall, Failure> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let place = InFlightCall(Arc::clone(&self.0));
        if before < most {
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
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
