//! Waiting for what another process does, which no clock of ours can hurry.

use std::fmt::Debug;
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

/// Waits in a task until `condition` holds.
///
/// # Panics
///
/// After `limit`, with `what` was waited for.
pub async fn eventually(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let start = now();
    while !condition().await {
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Calls in a task until it succeeds, and returns with what.
///
/// # Panics
///
/// After `limit`, with the last error.
pub async fn heals<T, E, F>(what: &str, limit: Duration, mut call: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, E>>,
    E: Debug,
{
    let start = now();
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) => assert!(start.elapsed() < limit, "{what} does not heal: {error:?}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
