//! f32: a flood of different keys stays within the bound, and what lives is not forgotten.
//!
//! A process of its own, because it measures the process's memory. `TRAFFIK_SOAK=1` floods with ten
//! million keys instead of one: `scripts/test --soak`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "support/decisions.rs"]
mod decisions;
use std::fmt::Write;
use std::time::Duration;

use traffik::backend::Counter;
use traffik::{Backend, Denial, InMemory, ManualClock, Source, Throttle};

use decisions::wait_of;

/// The process's resident memory, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kilobytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes * 1024
}

#[tokio::test]
async fn f32_a_flood_of_distinct_keys_is_bounded() {
    let soak = std::env::var_os("TRAFFIK_SOAK").is_some();
    let (flood, max_keys) = if soak { (10_000_000, 1_000_000) } else { (400_000, 100_000) };
    let clock = ManualClock::new();
    let builder = InMemory::builder().clock(clock.clone()).max_keys(Some(max_keys));
    let backend = builder.build().unwrap();
    let throttle =
        Throttle::builder("flood").rate("2/min").backend(backend.clone()).build().unwrap();
    // One who is limited already when the flood begins.
    assert!(throttle.hit("victim").await.unwrap().is_allowed());
    assert!(throttle.hit("victim").await.unwrap().is_allowed());

    let before = resident();
    let mut most = 0;
    let mut full = 0;
    let mut key = String::new();
    for number in 0..flood {
        key.clear();
        write!(key, "k{number:010}").unwrap();
        let decision = throttle.hit(key.as_str()).await.unwrap();
        if decision.source() == Source::Overflow {
            assert_eq!(decision.denial(), Some(Denial::Full), "denied by default");
            assert_eq!(wait_of(&decision), Some(Duration::from_secs(1)));
            full += 1;
        }
        if number % 100_000 == 0 {
            assert!(backend.key_count() <= max_keys);
            assert!(throttle.hit("victim").await.unwrap().is_denied(), "not forgotten");
            most = most.max(resident().saturating_sub(before));
        }
    }
    most = most.max(resident().saturating_sub(before));
    assert_eq!(full, flood + 1 - max_keys, "all that fit were counted");
    assert_eq!(backend.settings().count(Counter::Overflowed), full as u64);
    let allowed = max_keys * 128 + (16 << 20);
    println!("{flood} keys, max_keys {max_keys}: {most} bytes more, {allowed} allowed");
    assert!(most <= allowed, "{most} bytes more, {allowed} allowed");

    // The flood is over: expired keys make room at once, and cleaning gives the memory back.
    // This clock could step back, so what is over is kept for an hour while there is room.
    clock.advance(Duration::from_secs(2 * 3600));
    assert!(throttle.hit("newcomer").await.unwrap().is_allowed());
    // Some rounds: a table that has become too large is first moved to a smaller one.
    for _ in 0..20 {
        while !backend.clean_some() {}
    }
    assert_eq!(backend.key_count(), 1);
    let left = resident().saturating_sub(before);
    println!("{left} bytes more after the flood");
    assert!(left <= 16 << 20, "{left} bytes more after the flood");
    assert_eq!(throttle.peek("newcomer").await.unwrap().remaining(), 1, "kept all the time");
}
