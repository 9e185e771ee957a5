//! f32: a flood of different keys stays within the bound, and what lives is not forgotten.
//!
//! A process of its own, because it measures the process's memory. `TRAFFIK_SOAK=1` floods with ten
//! million keys instead of one: `scripts/test --soak`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::fmt::Write;
use std::time::Duration;

use traffik::backend::Stat;
use traffik::{DecidedBy, Denial, HasCore, HitOptions, InMemory, ManualClock, Rate, Throttle};

use test_support::{resident_kib, wait_of};

/// Returns the resident memory of this process, in bytes.
fn resident() -> usize {
    usize::try_from(resident_kib()).unwrap() * 1024
}

/// The tests measure the memory of the whole process.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn f32_a_flood_of_distinct_keys_is_bounded() {
    let _alone = ALONE.lock().await;
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
        if decision.decided_by() == DecidedBy::Overflow {
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
    assert_eq!(backend.core().stat(Stat::Overflowed), full as u64);
    let allowed = max_keys * 128 + (16 << 20);
    println!("{flood} keys, max_keys {max_keys}: {most} bytes more, {allowed} allowed");
    assert!(most <= allowed, "{most} bytes more, {allowed} allowed");

    // The flood is over: expired keys make room at once, and cleaning gives the memory back.
    // This clock could step back, so what is over is kept for an hour while there is room.
    clock.advance(Duration::from_secs(2 * 3600));
    assert!(throttle.hit("newcomer").await.unwrap().is_allowed());
    // Some rounds: a table that has become too large is first moved to a smaller one.
    for _ in 0..20 {
        while !backend.sweep_chunk() {}
    }
    assert_eq!(backend.key_count(), 1);
    let left = resident().saturating_sub(before);
    println!("{left} bytes more after the flood");
    assert!(left <= 16 << 20, "{left} bytes more after the flood");
    assert_eq!(throttle.peek("newcomer").await.unwrap().remaining(), 1, "kept all the time");
}

/// A customer's rate may differ from each other customer's, and change with each hit.
#[tokio::test]
async fn c4_a_million_rates_that_hits_bring_leave_nothing_behind() {
    let soak = std::env::var_os("TRAFFIK_SOAK").is_some();
    // Of each less than five bytes.
    let (rates, most_kib) = if soak { (1_000_000, 4 * 1024) } else { (300_000, 1_200) };
    let _alone = ALONE.lock().await;
    let clock = ManualClock::new();
    let backend = InMemory::builder().clock(clock).max_keys(Some(1_000)).build().unwrap();
    let throttle = Throttle::builder("t").rate("5/day").backend(backend.clone()).build().unwrap();
    let mut before = 0;
    for number in 1..=rates {
        if number == rates / 10 {
            before = resident_kib();
        }
        // Cost 0: nothing is stored, so nothing may stay.
        let options = HitOptions::new().cost(0).replace_rates([Rate::per_hour(number)]);
        let decision = throttle.hit_with("a", options).await.unwrap();
        assert!(decision.is_allowed());
    }
    assert_eq!(backend.key_count(), 0);
    let grown = resident_kib().saturating_sub(before);
    println!("{grown} KiB more after {rates} rates, {most_kib} allowed");
    assert!(grown < most_kib, "{grown} KiB more after {rates} rates");
    assert!(throttle.hit("a").await.unwrap().is_allowed());
    assert_eq!(backend.key_count(), 1);
}
