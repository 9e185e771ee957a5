//! f26: the clock that the in-memory backend has by default goes on by itself when the wall clock jumps.
//!
//! The wall clock of a process of its own is shifted, by a library that `scripts/servers` installs.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by it, and the clocks of the system are its subject"
)]

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use test_support::servers::{FakeTime, Workers, wait, workers};
use test_support::wait_of;
use traffik::{
    FixedWindow, Gcra, InMemory, LeakyBucket, Rate, SlidingWindowCounter, SlidingWindowLog,
    Strategy, Throttle, TokenBucket,
};

const HOUR: i64 = 3600;
/// Forward, back to where it was, and back further.
const SHIFTS: [i64; 3] = [HOUR, 0, -HOUR];
const LIMIT: u32 = 3;
/// Far more than a short period, and far less than an hour.
const PATIENCE: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(200);
/// By which two clocks that go on by themselves may differ in the time of a test.
const APART: Duration = Duration::from_secs(1);

fn wall_clock() -> i64 {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(time.as_secs()).unwrap()
}

/// Several of them are in an hour, and a window of it that has begun ends after the test has.
fn long() -> Duration {
    let now = wall_clock();
    let seconds = (600..).find(|seconds| now % seconds < seconds / 2).unwrap();
    Duration::from_secs(seconds.unsigned_abs())
}

/// A throttle of each strategy, all on one backend whose clock nobody has chosen.
fn throttles(backend: &InMemory, limit: u32, period: Duration) -> Vec<Throttle> {
    let strategies: [(&str, Arc<dyn Strategy>); 6] = [
        ("fixed", Arc::new(FixedWindow::new())),
        ("counter", Arc::new(SlidingWindowCounter::new())),
        ("log", Arc::new(SlidingWindowLog::new())),
        ("bucket", Arc::new(TokenBucket::new())),
        ("leaky", Arc::new(LeakyBucket::new())),
        ("gcra", Arc::new(Gcra::new())),
    ];
    let throttle = |(name, strategy): (&str, Arc<dyn Strategy>)| {
        let rate = Rate::new(limit, period).unwrap();
        let throttle = Throttle::builder(format!("{name} {limit}")).rate(rate).strategy(strategy);
        throttle.backend(backend.clone()).build().unwrap()
    };
    strategies.into_iter().map(throttle).collect()
}

async fn passes(throttle: &Throttle) -> bool {
    throttle.hit("key").await.unwrap().is_allowed()
}

/// A key that is used up, and how long it was told to wait when.
struct UsedUp {
    throttle: Throttle,
    wait: Duration,
    asked: Instant,
}

impl UsedUp {
    async fn new(throttle: Throttle) -> Self {
        for _ in 0..LIMIT {
            assert!(passes(&throttle).await, "{}", throttle.name());
        }
        let asked = Instant::now();
        let wait = wait_of(&throttle.hit("key").await.unwrap()).unwrap();
        Self { throttle, wait, asked }
    }

    /// It is denied as before, and for as much less as time has passed.
    async fn waits_on(&self, shift: i64) {
        let name = self.throttle.name();
        let decision = self.throttle.hit("key").await.unwrap();
        let passed = self.asked.elapsed() + APART;
        let wait = wait_of(&decision).unwrap_or_else(|| panic!("{name}: admitted at {shift}"));
        let told = (self.wait.saturating_sub(passed))..=self.wait;
        assert!(told.contains(&wait), "{name}: {wait:?} at {shift}, not of {told:?}");
    }
}

#[tokio::test]
#[ignore = "run by another test as a process of its own"]
async fn worker() {
    if workers::number().is_none() {
        return;
    }
    let backend = InMemory::new();
    let mut used_up = Vec::new();
    for throttle in throttles(&backend, LIMIT, long()) {
        used_up.push(UsedUp::new(throttle).await);
    }
    let short = throttles(&backend, 1, SHORT);
    for throttle in &short {
        assert!(passes(throttle).await, "{}", throttle.name());
    }
    let start = (wall_clock(), Instant::now());
    for shift in SHIFTS {
        workers::say(&format!("READY {shift}"));
        std::io::stdin().read_line(&mut String::new()).unwrap();
        let passed = i64::try_from(start.1.elapsed().as_secs()).unwrap();
        let jumped = wall_clock() - start.0 - passed;
        assert!((jumped - shift).abs() < 10, "the wall clock has jumped by {jumped} s");
        for used_up in &used_up {
            used_up.waits_on(shift).await;
        }
        for throttle in &short {
            let what = format!("{} passes at {shift}", throttle.name());
            wait::eventually(&what, PATIENCE, async || passes(throttle).await).await;
        }
    }
    workers::report("done");
}

#[test]
fn f26_a_wall_clock_that_jumps_changes_nothing_in_memory() {
    let time = FakeTime::new();
    let env = time.env();
    let envs: Vec<(&str, &str)> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
    let mut workers = Workers::spawn(1, "worker", &envs);
    for shift in SHIFTS {
        workers.wait_for_line(0, &format!("READY {shift}"));
        time.shift(shift);
        workers.send(0, "shifted");
    }
    assert_eq!(workers.results(), ["done"]);
}
