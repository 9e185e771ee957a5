//! What holds for windows: where they begin, how they fade, and when they are over.

use traffik::{BuildError, Denial, HitOptions, ManualClock, Rate, SlidingWindowLog, Throttle};

use crate::model::{Kind, Rule};
use crate::place::{MICRO, Place, millis, secs};
use crate::world::{SHORT_KEY, at_once, memory};
use test_support::wait_of;

#[test]
fn fixed_windows_are_aligned_to_the_epoch() {
    for (period, into) in [
        (secs(1), millis(1)),
        (millis(2_500), millis(2_499)),
        (secs(60), millis(59_999)),
        (secs(86_400), secs(3_600)),
    ] {
        for place in Place::each(&[Rule::new(Kind::Fixed, 3, period)]) {
            // The clock starts on a boundary: the first hit does not start the window.
            place.wait(into);
            let hit = place.hit_cost(3);
            assert_eq!((hit.remaining(), hit.reset_after()), (0, period - into));
            assert_eq!(place.says().retry_after, Some(period - into), "{}", place.label);
            place.wait(period - into - MICRO);
            assert_eq!(place.says().retry_after, Some(MICRO), "{}", place.label);
            place.wait(MICRO);
            assert_eq!(place.says().remaining, 3, "{period:?} in {}", place.label);
            assert_eq!(place.hit_cost(3).reset_after(), period, "{}", place.label);
        }
    }
}

/// By rates that a time to live in whole seconds would get wrong.
#[test]
fn a_window_lasts_exactly_as_long_as_it_says() {
    for kind in [Kind::Fixed, Kind::Log] {
        for period in [millis(1), millis(999), secs(1), millis(1_001), millis(2_500)] {
            for place in Place::each(&[Rule::new(kind, 1, period)]) {
                // To a boundary of the period, which need not divide a day.
                place.take(1);
                if kind == Kind::Fixed {
                    place.wait(place.says().retry_after.unwrap());
                    place.take(1);
                }
                assert_eq!(place.says().retry_after, Some(period), "{kind:?} {}", place.label);
                place.wait(period - MICRO);
                assert!(place.hit().is_denied(), "{kind:?} {period:?} in {}", place.label);
                place.wait(MICRO);
                assert!(place.hit().is_allowed(), "{kind:?} {period:?} in {}", place.label);
            }
        }
    }
}

#[test]
fn the_wait_of_a_fixed_window_never_grows() {
    for place in Place::each(&[Rule::new(Kind::Fixed, 1, secs(60))]) {
        place.wait(millis(58_999));
        place.take(1);
        for left in [1_001, 1_000, 1, 0] {
            let now = place.says();
            assert_eq!(now.retry_after, (left > 0).then_some(millis(left)), "{}", place.label);
            place.wait(millis(if left == 1_001 { 1 } else { left.min(999) }));
        }
    }
}

#[test]
fn the_sliding_counter_fades_the_last_window_evenly() {
    for place in Place::each(&[Rule::new(Kind::Counter, 100, secs(60))]) {
        place.wait(secs(30));
        place.take(80);
        // At the boundary all of it still counts.
        place.wait(secs(30));
        assert_eq!(place.says().remaining, 20, "{}", place.label);
        // 15 s into the window three quarters of it count.
        place.wait(secs(15));
        assert_eq!(place.says().remaining, 40);
        place.take(30);
        assert_eq!(place.says().remaining, 10);
        // floor(80 * (60 - e) / 60) + 30 + 12 <= 100 needs 80 * (60 - e) / 60 < 59, so e > 15.75 s.
        let denied = place.hit_cost(12);
        assert_eq!(wait_of(&denied), Some(millis(750) + MICRO), "{}", place.label);
        place.wait(millis(750));
        assert!(place.hit_cost(12).is_denied());
        place.wait(MICRO);
        assert!(place.hit_cost(12).is_allowed(), "{}", place.label);
    }
}

/// Where a limiter could say "wait 0", which means that the hit passes.
#[test]
fn the_wait_at_the_start_of_a_window_is_not_0() {
    for place in Place::each(&[Rule::new(Kind::Counter, 10, secs(60))]) {
        place.take(10);
        place.wait(secs(60));
        let denied = place.hit();
        assert_eq!(denied.denial(), Some(Denial::Limited), "{}", place.label);
        // floor(10 * (60 - e) / 60) <= 9 from the first microsecond on.
        assert_eq!(wait_of(&denied), Some(MICRO), "{}", place.label);
        place.wait(MICRO);
        assert!(place.hit().is_allowed());
        assert_eq!(place.says().remaining, 0);
    }
}

#[test]
fn the_sliding_counter_may_need_the_window_after_this() {
    for place in Place::each(&[Rule::new(Kind::Counter, 10, secs(10))]) {
        place.wait(secs(2));
        place.take(10);
        // None of this window fades before the next: then floor(10 * (10 - e) / 10) <= 4 is first
        // true right after e = 5 s.
        assert_eq!(wait_of(&place.hit_cost(6)), Some(secs(13) + MICRO), "{}", place.label);
        // All of it, when less than one whole hit is left of the ten.
        assert_eq!(place.says().reset_after, secs(17) + MICRO, "{}", place.label);
        assert_eq!(wait_of(&place.hit_cost(10)), Some(secs(17) + MICRO));
        place.wait(secs(17));
        assert!(place.hit_cost(10).is_denied());
        place.wait(MICRO);
        assert!(place.hit_cost(10).is_allowed(), "{}", place.label);
    }
}

#[test]
fn an_entry_of_the_log_is_gone_at_exactly_one_period() {
    for place in Place::each(&[Rule::new(Kind::Log, 3, millis(2_500))]) {
        place.wait(MICRO);
        place.take(1);
        place.wait(MICRO);
        place.take(2);
        assert_eq!(wait_of(&place.hit()), Some(millis(2_500) - MICRO), "{}", place.label);
        assert_eq!(wait_of(&place.hit_cost(2)), Some(millis(2_500)), "the second entry too");
        place.wait(millis(2_500) - 2 * MICRO);
        assert_eq!(place.says().remaining, 0, "it counts on (now - period, now]");
        place.wait(MICRO);
        assert_eq!(place.says().remaining, 1, "{}", place.label);
        place.wait(MICRO);
        assert_eq!(place.says().remaining, 3, "{}", place.label);
    }
}

#[test]
fn in_no_period_more_than_the_limit_passes_a_log() {
    for place in Place::each(&[Rule::new(Kind::Log, 4, millis(20))]) {
        let mut passed = Vec::new();
        for tick in 0..400u32 {
            if place.hit().is_allowed() {
                passed.push(tick);
            }
            place.wait(millis(1 + u64::from(tick % 3)));
        }
        assert!(passed.len() > 100, "{}: {passed:?}", place.label);
        // Four ticks are at most 12 ms, and any 20 ms hold four hits at most.
        assert!(passed.windows(5).all(|five| five[4] - five[0] >= 9), "{passed:?}");
    }
}

#[test]
fn a_log_refuses_a_limit_above_its_entries() {
    let build = |strategy: SlidingWindowLog, limit| {
        let backend = memory(&ManualClock::new());
        let builder = Throttle::builder("semantics:entries").backend(backend);
        builder.limit(Rate::per_minute(limit), strategy).build()
    };
    let refused = |strategy, limit| matches!(build(strategy, limit), Err(BuildError::Limit { .. }));
    assert!(!refused(SlidingWindowLog::new(), 1_000));
    assert!(refused(SlidingWindowLog::new(), 1_001));
    assert!(!refused(SlidingWindowLog::new().max_entries(1_001), 1_001));
    assert!(refused(SlidingWindowLog::new().max_entries(10), 11));
    let throttle = build(SlidingWindowLog::new().max_entries(10), 10).unwrap();
    let more = HitOptions::new().replace_rates([Rate::per_minute(11)]);
    assert!(at_once(throttle.hit_with(SHORT_KEY, more)).is_err(), "also by a hit's own rate");
}

/// Two times the limit around a boundary is what a fixed window does, and the others do not.
#[test]
fn only_a_fixed_window_lets_twice_the_limit_pass_around_a_boundary() {
    for (kind, expected) in [(Kind::Fixed, 10), (Kind::Counter, 0), (Kind::Log, 0)] {
        for place in Place::each(&[Rule::new(kind, 10, secs(60))]) {
            place.wait(secs(59));
            place.take(10);
            place.wait(secs(1));
            let passed = (0..20).filter(|_| place.hit().is_allowed()).count();
            assert_eq!(passed, expected, "{kind:?} in {}", place.label);
        }
    }
}
