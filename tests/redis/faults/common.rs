//! What the tests here share.

use std::future::Future;
use std::time::Duration;

pub(crate) use test_support::Dice;
use test_support::servers::wait;
use traffik::backend::redis::RedisBuilder;
use traffik::{
    BackendError, DecidedBy, Decision, Error, FixedWindow, HitOptions, ManualClock, OnError, Redis,
    Throttle, Timestamp,
};

/// Enough for whatever must happen at all.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// For what is slow only because the machine is busy.
pub(crate) const PATIENT: Duration = Duration::from_secs(10);
/// More than any test uses.
pub(crate) const PLENTY: u32 = 1_000_000;

/// Whether the long forms run.
pub(crate) fn soak() -> bool {
    std::env::var_os("TRAFFIK_SOAK").is_some()
}

/// A clock that stands still, at the same time in each process: so one window lasts for a whole test.
pub(crate) fn clock() -> ManualClock {
    ManualClock::at(Timestamp::from_micros(1_000_000_000_000_000))
}

pub(crate) fn builder(url: impl Into<String>) -> RedisBuilder {
    Redis::builder().url(url).namespace("faults").clock(clock())
}

/// One that answers also on a machine that does other things.
pub(crate) fn patient(url: impl Into<String>) -> Redis {
    builder(url).command_timeout(PATIENT).connect_timeout(PATIENT).build().unwrap()
}

/// A throttle that tells its errors, which waits longer than its backend.
pub(crate) fn throttle(backend: &Redis, limit: u32) -> Throttle {
    let builder =
        Throttle::builder("faults").limit(format!("{limit}/day").as_str(), FixedWindow::new());
    let builder = builder.backend(backend.clone()).on_error(OnError::Raise);
    builder.deadline(PATIENT * 2).build().unwrap()
}

/// A call that must end.
pub(crate) async fn ends<F: Future>(call: F) -> F::Output {
    tokio::time::timeout(SOON, call).await.expect("a call ends")
}

/// The backend's error of a hit.
#[track_caller]
pub(crate) fn error(result: Result<Decision, Error>) -> BackendError {
    match result.unwrap_err() {
        Error::Backend(error) => error,
        other => panic!("not of the backend: {other:?}"),
    }
}

/// Waits until the call succeeds.
pub(crate) async fn heals<T, E, F>(what: &str, mut call: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, E>>,
    E: std::fmt::Debug,
{
    wait::heals(what, SOON, || ends(call())).await
}

/// Waits until the server admits a hit.
pub(crate) async fn admits(throttle: &Throttle, key: &str) {
    let decision = heals("a hit", || throttle.hit(key)).await;
    assert!(decision.is_allowed() && decision.decided_by() == DecidedBy::Backend, "{decision:?}");
}

/// Waits in a task until the condition holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    wait::eventually(what, SOON, async || condition()).await;
}

/// How many units of a key are used, by what the server has.
pub(crate) async fn used(throttle: &Throttle, key: &str, limit: u32) -> u32 {
    let free = HitOptions::new().cost(0);
    limit - heals("reading", || throttle.hit_with(key, free.clone())).await.remaining()
}
