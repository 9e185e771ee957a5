//! Waiting for what another process does, which no clock of ours can hurry.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a condition is looked at again.
const PAUSE: Duration = Duration::from_millis(5);

/// Real time: what other processes do is measured by it.
#[allow(clippy::disallowed_methods, reason = "a server does not run by our clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Waits until `condition` holds, at most `limit`; whether it does.
pub fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() >= limit {
            return false;
        }
        sleep(PAUSE);
    }
}

/// Waits until `condition` holds.
///
/// # Panics
///
/// After `limit`, with `what` was waited for.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, condition: impl FnMut() -> bool) {
    assert!(holds_within(limit, condition), "waited {limit:?} in vain: {what}");
}
