//! What tests read of decisions.

use std::time::Duration;

use traffik::{Decision, Outcome};

/// The wait of a hit that was denied for now.
pub fn wait_of(decision: &Decision) -> Option<Duration> {
    match decision.outcome() {
        Outcome::Denied { retry_after } => Some(retry_after),
        Outcome::Allowed | Outcome::Never => None,
    }
}
