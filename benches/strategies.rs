//! What one hit costs with each strategy, in this process alone:
//!
//! ```sh
//! cargo bench --bench strategies
//! cargo bench --bench strategies -- allowed    # some of them
//! ```
//!
//! All of it goes through the public futures on the in-memory backend, with one thread and one key
//! that the backend knows: so it shows what the code takes, not what memory does. `docs/performance.md`
//! says how to read it, and how other limiters compare.

#![allow(missing_docs, reason = "a benchmark, nobody calls it")]

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use traffik::{
    Decision, Error, FixedWindow, Gcra, InMemory, LeakyBucket, ManualClock, Rate,
    SlidingWindowCounter, SlidingWindowLog, Strategy, Throttle, TokenBucket,
};

const KEY: &str = "key:0000042";
/// Longer than what is kept in a table slot.
const LONG_KEY: &str = "session:7f9c2ba4e88f827d616045507605853e";
/// Is never used up.
const ALLOWED: Rate = Rate::per_hour(1_000_000_000);
/// Is used up by one hit.
const DENIED: Rate = Rate::per_hour(1);

/// Polls a future that never waits: no runtime stands between it and the clock.
fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("memory never waits"),
    }
}

/// Reads the whole answer.
fn read(decision: Result<Decision, Error>) -> bool {
    let decision = decision.expect("memory does not fail");
    black_box((decision.remaining(), decision.outcome(), decision.reset_after()));
    decision.is_allowed()
}

fn throttle(strategy: impl Strategy, rates: &[Rate]) -> Throttle {
    let backend = InMemory::new();
    let builder = Throttle::builder("strategies").strategy(strategy).backend(backend);
    builder.rates(rates.iter().copied()).build().expect("valid rates")
}

/// Measures hits that all pass, or that are all denied.
fn hits(c: &mut Criterion, name: &str, throttle: &Throttle, key: &str, allowed: bool) {
    assert!(read(ready(throttle.hit(key))), "the first hit passes");
    assert_eq!(read(ready(throttle.hit(key))), allowed, "{name}");
    c.bench_function(name, |b| b.iter(|| read(ready(throttle.hit(black_box(key))))));
    assert_eq!(read(ready(throttle.hit(key))), allowed, "{name}");
}

fn each_strategy(c: &mut Criterion) {
    fn pair(c: &mut Criterion, name: &str, strategy: impl Strategy + Copy) {
        hits(c, &format!("allowed/{name}"), &throttle(strategy, &[ALLOWED]), KEY, true);
        hits(c, &format!("denied/{name}"), &throttle(strategy, &[DENIED]), KEY, false);
    }
    pair(c, "token bucket", TokenBucket::new());
    pair(c, "leaky bucket", LeakyBucket::new());
    pair(c, "gcra", Gcra::new());
    pair(c, "fixed window", FixedWindow::new());
    pair(c, "sliding window counter", SlidingWindowCounter::new());
    sliding_window_log(c);
}

/// Here each hit comes 11 ms after the last one, by a clock that is moved by hand: so the log is as
/// full as it can be while everything passes, 91 hits of 100, and each hit drops one and adds one.
fn sliding_window_log(c: &mut Criterion) {
    let clock = ManualClock::new();
    let backend = InMemory::builder().clock(clock.clone()).build().expect("valid settings");
    let throttle = Throttle::builder("strategies")
        .limit(Rate::per_second(100), SlidingWindowLog::new())
        .backend(backend)
        .build()
        .expect("a valid rate");
    let hit = || {
        clock.advance(Duration::from_millis(11));
        read(ready(throttle.hit(black_box(KEY))))
    };
    for _ in 0..200 {
        assert!(hit(), "allowed/sliding window log");
    }
    c.bench_function("allowed/sliding window log", |b| b.iter(hit));
    assert!(hit(), "allowed/sliding window log");
    let throttle = self::throttle(SlidingWindowLog::new(), &[DENIED]);
    hits(c, "denied/sliding window log", &throttle, KEY, false);
}

fn other_ways(c: &mut Criterion) {
    let one = throttle(TokenBucket::new(), &[ALLOWED]);
    assert!(read(ready(one.hit(KEY))), "the first hit passes");
    c.bench_function("peek", |b| b.iter(|| read(ready(one.peek(black_box(KEY))))));

    let two = throttle(TokenBucket::new(), &[ALLOWED, Rate::per_minute(1_000_000_000)]);
    hits(c, "two limits/short key", &two, KEY, true);
    hits(c, "two limits/long key", &two, LONG_KEY, true);
    hits(c, "long key", &one, LONG_KEY, true);

    let parts = (black_box("tenant-7"), black_box(42u32));
    assert!(read(ready(one.hit(parts))), "the first hit passes");
    c.bench_function("two parts", |b| b.iter(|| read(ready(one.hit(black_box(parts))))));
}

criterion_group!(benches, each_strategy, other_ways);
criterion_main!(benches);
