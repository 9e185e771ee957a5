//! Backoff between attempts to connect: exponential and jittered, so that many clients of a server that
//! comes back do not all come at once.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::failure::Failure;
use crate::clock::monotonic_now;
use crate::random;

const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// ... while the server refuses our credentials: it will not change its mind at once.
const LONGEST_REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// A connection that lived shorter counts as a failed attempt.
const SHORTEST_LIFE: Duration = Duration::from_millis(100);

/// Growing, jittered backoff between attempts.
pub(super) struct Backoff {
    longest: Duration,
    connected_at: Option<Instant>,
    /// Attempts since the last connection.
    failures: u32,
}

impl Backoff {
    pub(super) const fn new() -> Self {
        Self { longest: SHORTEST_PAUSE, connected_at: None, failures: 0 }
    }

    pub(super) fn connected(&mut self, source: &dyn fmt::Debug) {
        if self.failures > 0 {
            info!(?source, failed_attempts = self.failures, "connected again");
        }
        self.connected_at = Some(monotonic_now());
        self.failures = 0;
    }

    /// Returns whether the connection lasted; then there is no need for a pause.
    pub(super) fn lived_long(&mut self) -> bool {
        let long = self.connected_at.is_some_and(|start| start.elapsed() >= SHORTEST_LIFE);
        if long {
            self.longest = SHORTEST_PAUSE;
        }
        long
    }

    pub(super) fn next(&mut self, source: &dyn fmt::Debug, failure: Option<&Failure>) -> Duration {
        if let Some(failure) = failure {
            if self.failures == 0 {
                let error = failure.clone().into_error("connect");
                warn!(?source, %error, "no connection; trying again in the background");
            }
            self.failures = self.failures.saturating_add(1);
        }
        let most = match failure {
            Some(failure) if failure.is_misconfiguration() => LONGEST_REFUSED_PAUSE,
            _ => LONGEST_PAUSE,
        };
        let pause = self.longest / 2 + random::up_to(self.longest / 2);
        self.longest = (self.longest * 2).min(most);
        pause
    }
}
