//! [`CircuitInfo`]: what a breaker says of itself.

use std::time::Duration;

use tokio::time::Instant;

use super::circuit::{Circuit, Phase};
use crate::observe::CircuitState;

/// What a [`CircuitBreaker`](super::CircuitBreaker) knows of its store, at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CircuitInfo {
    /// The state.
    pub state: CircuitState,
    /// How long the circuit is closed, or has not been.
    pub since: Duration,
    /// Failures in a row, while it is closed or when it opened.
    pub failures_in_a_row: u32,
    /// Calls of the window while it was closed, of which that many failed.
    pub calls: u64,
    /// Failures among these calls.
    pub failures: u64,
    /// When the next call is let through as a probe; `None` unless it is open.
    pub next_probe: Option<Duration>,
    /// The failure that opened it, or that of the last probe; `None` while it is closed.
    pub cause: Option<String>,
    /// How often it opened so far.
    pub times_opened: u64,
    /// Calls that it refused so far.
    pub refused: u64,
}

impl CircuitInfo {
    pub(super) fn of(circuit: &Circuit, refused: u64, now: Instant) -> Self {
        let (state, next_probe) = match circuit.state() {
            Phase::Closed => (CircuitState::Closed, None),
            Phase::Open { until } => {
                (CircuitState::Open, Some(until.saturating_duration_since(now)))
            }
            Phase::HalfOpen { .. } => (CircuitState::HalfOpen, None),
        };
        let tally = circuit.tally();
        let (calls, failures) = tally.in_window(now, circuit.settings());
        Self {
            state,
            since: now.saturating_duration_since(circuit.since()),
            failures_in_a_row: tally.failures_in_a_row(),
            calls,
            failures,
            next_probe,
            cause: circuit.cause().map(str::to_owned),
            times_opened: circuit.times_opened(),
            refused,
        }
    }
}
