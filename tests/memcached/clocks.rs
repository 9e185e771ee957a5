//! Wall clocks of clients that jump. The server has none, so a key goes by the latest that was seen.

use std::time::Duration;

use traffik::strategy::Op;
use traffik::{
    FixedWindow, Gcra, LeakyBucket, Limit, ManualClock, Memcached, SlidingWindowCounter,
    SlidingWindowLog, TokenBucket,
};

use crate::world::{act, builder, hit, limit};
use test_support::servers::MemcachedServer;

const RATE: &str = "3/10s";
const HOUR: Duration = Duration::from_secs(3600);

/// Each strategy, under a name for its key.
fn limits() -> [(&'static str, Limit); 6] {
    [
        ("fixed", limit(RATE, FixedWindow::new())),
        ("counter", limit(RATE, SlidingWindowCounter::new())),
        ("log", limit(RATE, SlidingWindowLog::new())),
        ("bucket", limit(RATE, TokenBucket::new())),
        ("leaky", limit(RATE, LeakyBucket::new())),
        ("gcra", limit(RATE, Gcra::new())),
    ]
}

/// A client with a clock of its own.
fn client(server: &MemcachedServer) -> (Memcached, ManualClock) {
    let clock = ManualClock::new();
    (builder(server).clock(clock.clone()).build().unwrap(), clock)
}

/// How many of five hits pass.
async fn passed(backend: &Memcached, key: &str, limit: &Limit) -> usize {
    let mut passed = 0;
    for _ in 0..5 {
        let decision = hit(backend, key, std::slice::from_ref(limit)).await.unwrap();
        passed += usize::from(decision.is_allowed());
    }
    passed
}

#[tokio::test]
async fn f26_a_clock_ahead_ends_a_window_once_and_then_the_key_waits_for_the_others() {
    let server = MemcachedServer::start();
    for (key, limit) in &limits() {
        let (right, clock) = client(&server);
        let (wrong, stepped) = client(&server);
        assert_eq!(passed(&right, key, limit).await, 3, "{key}");
        stepped.advance(HOUR);
        assert_eq!(passed(&wrong, key, limit).await, 3, "{key}: the step ends it, once");
        assert_eq!(passed(&right, key, limit).await, 0, "{key}: its time stands at the step");
        // Back and forth: nothing is granted twice.
        for _ in 0..3 {
            stepped.set(traffik::Clock::now(&clock));
            assert_eq!(passed(&wrong, key, limit).await, 0, "{key}: back");
            stepped.advance(HOUR);
            assert_eq!(passed(&wrong, key, limit).await, 0, "{key}: ahead again");
        }
        clock.advance(HOUR - Duration::from_secs(1));
        assert_eq!(
            passed(&right, key, limit).await,
            0,
            "{key}: the other clocks are not there yet"
        );
        // Two periods, for the window that slides by a counter.
        clock.advance(Duration::from_secs(21));
        assert_eq!(passed(&right, key, limit).await, 3, "{key}: they are");
    }
}

#[tokio::test]
async fn f26_a_clock_that_goes_back_grants_nothing_and_takes_nothing() {
    let server = MemcachedServer::start();
    for (key, limit) in &limits() {
        let (backend, clock) = client(&server);
        let limits = std::slice::from_ref(limit);
        clock.advance(HOUR);
        let now = traffik::Clock::now(&clock);
        assert!(act(&backend, key, limits, 2, Op::Take).await.unwrap().is_allowed());
        clock.set(traffik::Timestamp::from_micros(now.as_micros() - 3_600_000_000));
        let peeked = act(&backend, key, limits, 1, Op::Peek).await.unwrap();
        assert_eq!(peeked.remaining(), 1, "{key}");
        assert_eq!(passed(&backend, key, limit).await, 1, "{key}: what was left, and no more");
        clock.set(now);
        assert_eq!(passed(&backend, key, limit).await, 0, "{key}: at the time it was before");
    }
}
