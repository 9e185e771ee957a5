//! The time of the runtime as a clock, for tests that hold it still.

use tokio::time::Instant;
use traffik::{Clock, InMemory, Timestamp};

/// The time of the runtime, which a test holds.
#[derive(Debug)]
pub struct RuntimeClock(Instant);

impl RuntimeClock {
    #[allow(clippy::disallowed_methods, reason = "it is the clock")]
    pub fn new() -> Self {
        Self(Instant::now())
    }

    /// A backend in memory with this clock.
    pub fn memory() -> InMemory {
        InMemory::builder().clock(Self::new()).build().unwrap()
    }
}

impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_704_067_200_000_000).saturating_add(self.0.elapsed())
    }
}
