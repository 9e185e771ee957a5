//! Costs and durations at the edge of their range.

use std::time::Duration;

use traffik::{
    Backend, Denial, FixedWindow, Gcra, HitOptions, InMemory, Key, LeakyBucket, Limit, LockOptions,
    Locks, ManualClock, OnError, Rate, RateError, SlidingWindowCounter, SlidingWindowLog, Strategy,
    Throttle, Timestamp, TokenBucket, Values,
};

use test_support::wait_of;

fn throttle(rate: Rate, strategy: impl Strategy) -> (Throttle, ManualClock) {
    let clock = ManualClock::new();
    let backend = InMemory::builder().clock(clock.clone()).build().unwrap();
    let builder = Throttle::builder("extremes").limit(rate, strategy).backend(backend);
    (builder.build().unwrap(), clock)
}

async fn hit(throttle: &Throttle, cost: u32) -> Result<u32, Denial> {
    let decision = throttle.hit_with("a", HitOptions::new().cost(cost)).await.unwrap();
    match decision.denial() {
        None => Ok(decision.remaining()),
        Some(denial) => Err(denial),
    }
}

async fn counts_to_the_end_of_the_range(rate: Rate, strategy: impl Strategy) {
    let (throttle, _clock) = throttle(rate, strategy);
    let most = rate.limit();
    assert_eq!(hit(&throttle, most - 1).await, Ok(1));
    assert_eq!(hit(&throttle, most).await, Err(Denial::Limited), "no sum wraps around");
    assert_eq!(hit(&throttle, 2).await, Err(Denial::Limited));
    assert_eq!(hit(&throttle, 1).await, Ok(0));
    assert_eq!(hit(&throttle, u32::MAX).await, Err(Denial::Limited));
}

#[tokio::test]
async fn f33_sums_at_the_largest_number_do_not_wrap() {
    for rate in [
        Rate::per_second(u32::MAX),
        Rate::per_day(u32::MAX),
        Rate::new(u32::MAX, Rate::MAX_PERIOD).unwrap(),
        Rate::new(u32::MAX, Rate::MIN_PERIOD).unwrap(),
    ] {
        counts_to_the_end_of_the_range(rate, TokenBucket::new()).await;
        counts_to_the_end_of_the_range(rate, LeakyBucket::new()).await;
        counts_to_the_end_of_the_range(rate, Gcra::new()).await;
        counts_to_the_end_of_the_range(rate, FixedWindow::new()).await;
        counts_to_the_end_of_the_range(rate, SlidingWindowCounter::new()).await;
        let log = SlidingWindowLog::new().max_entries(u32::MAX);
        counts_to_the_end_of_the_range(rate, log).await;
    }
}

#[tokio::test]
async fn f33_a_cost_above_the_capacity_is_never() {
    let rate = Rate::per_second(5);
    let strategies: [(Throttle, ManualClock); 5] = [
        throttle(rate, TokenBucket::new()),
        throttle(Rate::per_second(5), TokenBucket::new().max_debt(u32::MAX - 5)),
        throttle(rate, FixedWindow::new()),
        throttle(rate, SlidingWindowCounter::new()),
        throttle(rate, SlidingWindowLog::new()),
    ];
    for (index, (throttle, _)) in strategies.iter().enumerate() {
        // With the debt it fits, just.
        let expected = if index == 1 { Ok(0) } else { Err(Denial::Never) };
        assert_eq!(hit(throttle, u32::MAX).await, expected, "{:?}", throttle.limits());
    }
}

#[test]
fn f34_periods_and_bursts_outside_of_the_domain_are_refused() {
    for period in [
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_micros(999),
        Rate::MAX_PERIOD + Duration::from_millis(1),
        Duration::MAX,
    ] {
        let refused = Rate::new(1, period);
        assert!(matches!(refused, Err(RateError::PeriodRange { .. })), "{period:?}");
    }
    for period in [Duration::from_micros(1_500), Duration::from_nanos(1_000_000_001)] {
        let refused = Rate::new(1, period);
        assert!(matches!(refused, Err(RateError::PeriodFraction { .. })), "{period:?}");
    }
    let hundred_years = Rate::new(1, Duration::from_secs(86_400 * 365)).unwrap();
    assert!(Limit::new(hundred_years.burst(100), Gcra::new()).is_ok());
    assert!(Limit::new(hundred_years.burst(101), Gcra::new()).is_err());
    assert!(Limit::new(Rate::per_second(1).burst(u32::MAX), Gcra::new()).is_err());
    assert!(Limit::new(Rate::per_second(2).burst(u32::MAX), Gcra::new()).is_ok());
}

#[tokio::test]
async fn f34_waits_round_up() {
    // 7 in a second: a unit takes 142,857.14 microseconds.
    let (throttle, clock) = throttle(Rate::per_second(7).burst(1), TokenBucket::new());
    assert_eq!(hit(&throttle, 1).await, Ok(0));
    let wait = wait_of(&throttle.peek("a").await.unwrap()).unwrap();
    assert_eq!(wait, Duration::from_micros(142_858));
    clock.advance(wait - Duration::from_micros(1));
    assert_eq!(hit(&throttle, 1).await, Err(Denial::Limited));
    clock.advance(Duration::from_micros(1));
    assert_eq!(hit(&throttle, 1).await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn f34_the_largest_durations_are_held_at_the_end_of_time() {
    let clock = ManualClock::new();
    let backend = InMemory::builder()
        .clock(clock.clone())
        .cleanup_frequency(Some(Duration::MAX))
        .build()
        .unwrap();
    backend.initialize().await.unwrap();
    let throttle = Throttle::builder("forever")
        .rate("1/h")
        .backend(backend.clone())
        .deadline(Duration::MAX)
        .min_retry_after(Duration::MAX)
        .on_error(OnError::throttle(Duration::MAX))
        .build()
        .unwrap();
    assert!(throttle.hit("a").await.unwrap().is_allowed());
    let denied = throttle.hit("a").await.unwrap();
    assert!(wait_of(&denied) > Some(Duration::from_secs(1 << 40)));

    backend.set(&Key::value("v"), b"1", Some(Duration::MAX)).await.unwrap();
    clock.advance(Duration::from_secs(86_400 * 365 * 100));
    assert!(backend.get(&Key::value("v")).await.unwrap().is_some());

    let options = LockOptions::new().ttl(Some(Duration::MAX)).blocking_timeout(Some(Duration::MAX));
    let guard = backend.lock("l", options).await.unwrap();
    assert!(guard.is_valid());
    assert!(guard.extend(Duration::MAX).await.unwrap());
    assert!(guard.release().await.unwrap());

    // Sub-microsecond TTLs live for a microsecond, and a clock at its end stands.
    backend.set(&Key::value("short"), b"1", Some(Duration::from_nanos(1))).await.unwrap();
    assert!(backend.get(&Key::value("short")).await.unwrap().is_some());
    clock.advance(Duration::from_micros(1));
    assert!(backend.get(&Key::value("short")).await.unwrap().is_none());
    clock.set(Timestamp::MAX);
    assert!(throttle.hit("b").await.unwrap().is_allowed());
    assert!(throttle.hit("b").await.unwrap().is_denied());
}
