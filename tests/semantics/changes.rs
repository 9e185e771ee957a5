//! What a key is told when its limits change, and when its clock goes back.

use std::time::Duration;

use traffik::step::{Step, Write};
use traffik::strategy::Op;
use traffik::{Error, ErrorKind, HitOptions, Rate, Timestamp};

use crate::model::{KINDS, Kind, Rule};
use crate::place::{MICRO, Place, millis, secs};
use test_support::wait_of;

const BUCKETS: [Kind; 3] = [Kind::Token { debt: 0 }, Kind::Leaky, Kind::Gcra];
const WINDOWS: [Kind; 3] = [Kind::Fixed, Kind::Counter, Kind::Log];

#[test]
fn a_changed_limit_of_a_window_acts_at_once() {
    for kind in WINDOWS {
        let of = |limit| [Rule::new(kind, limit, secs(60))];
        for place in Place::each(&of(10)) {
            place.take(10);
            assert!(place.hit().is_denied());
            let raised = place.changed_to(&of(15));
            assert_eq!(raised.says().remaining, 5, "{kind:?} in {}", place.label);
            raised.take(1);
            let lowered = place.changed_to(&of(4));
            assert_eq!(lowered.says().remaining, 0, "{kind:?} in {}", place.label);
            assert!(lowered.hit().is_denied());
            assert_eq!(raised.says().remaining, 4, "nothing was reset");
            // What was counted leaves as it would have.
            place.wait(secs(120));
            assert_eq!(lowered.says().remaining, 4, "{kind:?} in {}", place.label);
        }
    }
}

#[test]
fn a_changed_limit_or_burst_of_a_bucket_acts_at_once() {
    for kind in BUCKETS {
        let of = |limit| Rule::new(kind, limit, secs(60));
        for place in Place::each(&[of(10)]) {
            place.take(10);
            assert_eq!(place.says().retry_after, Some(secs(6)), "{kind:?} in {}", place.label);
            let faster = place.changed_to(&[of(20)]);
            assert_eq!(faster.says().remaining, 10, "the burst grew with the limit");
            let same_burst = place.changed_to(&[of(20).burst(10)]);
            assert_eq!(same_burst.says().remaining, 0);
            assert_eq!(same_burst.says().retry_after, Some(secs(3)), "{kind:?}");
            let slower = place.changed_to(&[of(5)]);
            // Ten are used of five: six would take 72 s to come back at five a minute. But all is
            // over after 60 s, as it was when it was counted.
            assert_eq!(slower.says().retry_after, Some(secs(60)), "{kind:?} in {}", place.label);
            place.wait(secs(60) - MICRO);
            assert!(slower.hit().is_denied());
            place.wait(MICRO);
            slower.take(5);
            assert_eq!(slower.says().remaining, 0);
            let larger = place.changed_to(&[of(5).burst(100)]);
            assert_eq!(larger.says().remaining, 95, "{kind:?} in {}", place.label);
        }
    }
}

/// A user who hits by a fast rate now and then must not refill a slow one, nor the other way round.
#[test]
fn a_rate_that_a_hit_brings_counts_for_itself_also_in_the_same_period() {
    for kind in KINDS {
        let debt = if kind == (Kind::Token { debt: 3 }) { 3 } else { 0 };
        for place in Place::each(&[Rule::new(kind, 5, secs(60))]) {
            place.take(5 + debt);
            assert!(place.hit().is_denied(), "{kind:?} in {}", place.label);
            let (mut fast, mut slow) = (0, 0);
            for _ in 0..59 {
                fast += u32::from(place.hit_rate(Rate::per_minute(6_000)).is_allowed());
                slow += u32::from(place.hit().is_allowed());
                place.wait(secs(1));
            }
            assert_eq!(fast, 59, "{kind:?} in {}", place.label);
            let refilled = if kind.is_bucket() { 4 } else { 0 };
            assert!(slow <= refilled, "{slow} of {kind:?} in {}", place.label);
        }
    }
}

#[test]
fn a_rate_that_equals_a_limit_is_that_limit() {
    for kind in KINDS {
        for place in Place::each(&[Rule::new(kind, 5, secs(60))]) {
            place.take(2);
            let same = place.hit_rate(Rate::per_minute(5));
            assert_eq!((same.limit(), same.remaining()), (5, 2), "{kind:?} in {}", place.label);
            let twice = HitOptions::new().add_rates([Rate::per_minute(5), Rate::per_minute(5)]);
            assert_eq!(place.hit_with(twice).unwrap().answers().len(), 1, "it counts once");
            assert_eq!(place.says().remaining, 1, "{kind:?} in {}", place.label);
        }
    }
}

#[test]
fn rates_are_added_to_the_limits_or_replace_them() {
    for kind in KINDS {
        let debt = if kind == (Kind::Token { debt: 3 }) { 3 } else { 0 };
        for place in Place::each(&[Rule::new(kind, 4, secs(86_400))]) {
            let hourly = [Rate::per_hour(100)];
            let replaced = HitOptions::new().replace_rates(hourly);
            let added = HitOptions::new().add_rates(hourly);
            let passed = |options: &HitOptions| {
                let hits = 0..20;
                let hit = |_| place.hit_with(options.clone()).unwrap().is_allowed();
                hits.map(hit).filter(|allowed| *allowed).count()
            };
            assert_eq!(passed(&added), 4 + debt, "{kind:?} in {}", place.label);
            assert_eq!(passed(&replaced), 20, "{kind:?} in {}", place.label);
            let denied = place.hit_with(added).unwrap();
            let by = place.throttle.denied_by(&denied).unwrap();
            assert_eq!(by.rate().limit(), 4, "{kind:?} in {}", place.label);
        }
    }
}

#[test]
fn denied_by_names_the_rate_that_the_hit_brought() {
    for kind in KINDS {
        let debt = if kind == (Kind::Token { debt: 3 }) { 3 } else { 0 };
        for place in Place::each(&[Rule::new(kind, 10, secs(60))]) {
            let hourly = HitOptions::new().replace_rates([Rate::per_hour(1)]);
            for _ in 0..=debt {
                assert!(place.hit_with(hourly.clone()).unwrap().is_allowed());
            }
            for denied in [place.hit_with(hourly.clone()), place.peek_with(hourly.clone())] {
                let denied = denied.unwrap();
                let by = place.throttle.denied_by(&denied).unwrap();
                assert_eq!(*by.rate(), Rate::per_hour(1), "{kind:?} in {}", place.label);
                assert_eq!(by.name(), "places/h");
                let other = place.changed_to(&[Rule::new(kind, 10, secs(60))]);
                assert!(other.throttle.denied_by(&denied).is_none(), "not of another throttle");
            }
        }
    }
}

#[test]
fn the_33rd_rate_of_a_key_is_an_error_and_no_counter_is_dropped() {
    for kind in KINDS {
        for place in Place::each(&[Rule::new(kind, 5, secs(60))]) {
            let rate = |limit: u32| HitOptions::new().replace_rates([Rate::per_hour(limit)]);
            for limit in 1..=32 {
                assert!(place.hit_with(rate(limit)).unwrap().is_allowed(), "{kind:?} {limit}");
            }
            for refused in [place.hit_with(rate(33)), place.peek_with(rate(33))] {
                let kind_of = |error| match error {
                    Error::Backend(error) => error.kind(),
                    other => panic!("{other}"),
                };
                assert_eq!(refused.map_err(kind_of), Err(ErrorKind::TooManyRates), "{kind:?}");
            }
            let of_debt = matches!(kind, Kind::Token { debt: 3 });
            let first = place.hit_with(rate(1)).unwrap();
            assert_eq!(first.is_denied(), !of_debt, "{kind:?} in {}: it still counts", place.label);
            assert!(place.hit().is_allowed(), "the throttle's own is none of them");
            // Once they are over there is room again.
            place.wait(secs(5 * 3_600));
            assert!(place.hit_with(rate(33)).unwrap().is_allowed(), "{kind:?} in {}", place.label);
        }
    }
}

#[test]
fn a_hit_without_any_rate_is_an_error_not_a_pass() {
    for place in Place::each(&[Rule::new(Kind::Fixed, 5, secs(60))]) {
        let none = place.hit_with(HitOptions::new().replace_rates([]));
        assert!(matches!(none, Err(Error::HitOptions { .. })), "{none:?}");
        let nine = (1..=9).map(Rate::per_hour);
        let many = place.hit_with(HitOptions::new().replace_rates(nine));
        assert!(matches!(many, Err(Error::HitOptions { .. })), "{many:?}");
        let eight = (1..=8).map(Rate::per_hour);
        let added = place.hit_with(HitOptions::new().add_rates(eight.clone()));
        assert!(matches!(added, Err(Error::HitOptions { .. })), "with the throttle's own: nine");
        let hit = place.hit_with(HitOptions::new().replace_rates(eight)).unwrap();
        assert_eq!((hit.answers().len(), hit.remaining()), (8, 0));
    }
}

#[test]
fn one_bucket_has_three_names() {
    let buckets = [Kind::Token { debt: 0 }, Kind::Leaky, Kind::Gcra];
    for kind in buckets {
        for place in Place::each(&[Rule::new(kind, 5, secs(60))]) {
            place.take(3);
            for other in buckets {
                let renamed = place.changed_to(&[Rule::new(other, 5, secs(60))]);
                assert_eq!(renamed.says(), place.says(), "{kind:?} as {other:?}");
            }
        }
    }
}

#[test]
fn two_rates_in_turn_on_one_key_reset_neither() {
    for kind in KINDS {
        let debt = if kind == (Kind::Token { debt: 3 }) { 3 } else { 0 };
        for place in Place::each(&[Rule::new(kind, 5, secs(3600))]) {
            let other = Rate::new(7, secs(1800)).unwrap();
            let (mut own, mut others) = (0, 0);
            for _ in 0..20 {
                own += u32::from(place.hit().is_allowed());
                others += u32::from(place.hit_rate(other).is_allowed());
                place.wait(millis(1));
            }
            assert_eq!((own, others), (5 + debt, 7 + debt), "{kind:?} in {}", place.label);
        }
    }
}

#[test]
fn a_changed_period_is_a_part_of_its_own() {
    for kind in KINDS {
        let debt = if kind == (Kind::Token { debt: 3 }) { 3 } else { 0 };
        let hourly = [Rule::new(kind, 5, secs(3600))];
        for place in Place::each(&hourly) {
            place.take(5 + debt);
            let daily = place.changed_to(&[Rule::new(kind, 5, secs(86_400))]);
            daily.take(5 + debt);
            assert!(place.hit().is_denied() && daily.hit().is_denied(), "{kind:?}");
            place.wait(secs(7200));
            assert_eq!(place.says().remaining, 5, "{kind:?} in {}", place.label);
            assert!(daily.hit().is_denied() || kind.is_bucket(), "{kind:?} in {}", place.label);
            place.take(1);
            assert!(daily.says().remaining < 5, "{kind:?} in {}", place.label);
        }
    }
}

#[test]
fn a_clock_that_goes_back_grants_nothing_and_takes_nothing_away() {
    for kind in KINDS {
        let rule = Rule::new(kind, 5, secs(60));
        let capacity = u32::try_from(rule.capacity()).unwrap();
        for (place, twin) in Place::each(&[rule]).iter().zip(Place::each(&[rule])) {
            for place in [place, &twin] {
                place.wait(secs(1));
                place.take(capacity);
                place.wait(secs(1));
            }
            for step in [MICRO, secs(1), secs(59), secs(61), secs(3_600), secs(86_400)] {
                let wait = twin.says().retry_after.unwrap();
                place.go_back(step);
                assert!(place.hit().is_denied(), "{kind:?} in {}", place.label);
                // The last hit was a second ago: where the clock is behind it, time stands still.
                let behind = step.saturating_sub(secs(1));
                let stood = step.min(secs(1));
                let left = place.says().retry_after.unwrap();
                assert_eq!(left, wait + stood + behind, "{kind:?} {step:?} in {}", place.label);
                assert_eq!(place.says().remaining, 0);
                place.wait(left - MICRO);
                assert!(place.peek().is_denied(), "{kind:?} {step:?} in {}", place.label);
                place.wait(MICRO);
                assert!(place.peek().is_allowed(), "{kind:?} {step:?} in {}", place.label);
                place.go_back(wait);
                assert_eq!(place.says(), twin.says(), "{kind:?} {step:?}: as if it never had");
            }
        }
    }
}

#[test]
fn hits_on_a_clock_that_goes_back_are_counted_as_of_the_latest_instant() {
    for kind in KINDS {
        let rule = Rule::new(kind, 5, secs(60));
        let capacity = u32::try_from(rule.capacity()).unwrap();
        for (place, twin) in Place::each(&[rule]).iter().zip(Place::each(&[rule])) {
            place.take(1);
            twin.take(1);
            let mut passed = 1;
            for step in 1..50 {
                place.go_back(secs(step));
                let decision = place.hit();
                passed += u32::from(decision.is_allowed());
                place.wait(secs(step));
                let _ = twin.hit();
                assert_eq!(place.says(), twin.says(), "{kind:?} in {}", place.label);
            }
            assert_eq!(passed, capacity, "{kind:?} in {}", place.label);
        }
    }
}

#[test]
fn a_clock_that_jumps_ahead_and_back_strands_nobody_but_till_then() {
    for kind in BUCKETS {
        for place in Place::each(&[Rule::new(kind, 2, secs(10))]) {
            place.take(1);
            place.wait(secs(3600));
            place.take(1);
            place.go_back(secs(3600));
            // One of two is used as of an hour ahead, where it is made whole after 5 s.
            let says = place.says();
            assert_eq!((says.denial, says.remaining), (None, 1), "{kind:?} in {}", place.label);
            assert_eq!(says.reset_after, secs(3605));
            place.take(1);
            assert_eq!(place.says().retry_after, Some(secs(3605)), "{kind:?} in {}", place.label);
        }
    }
}

/// A part of the state that is over by the state's own latest instant is not over for a caller whose
/// clock is behind it.
#[test]
fn a_hit_on_a_clock_that_went_back_drops_no_part_that_still_counts() {
    for kind in KINDS {
        let rule = |period| Rule::new(kind, 5, period).to_limit();
        let (short, long) = ([rule(secs(1))], [rule(secs(3600))]);
        let at = |seconds: u64| Timestamp::from_micros(1_704_067_200_000_000 + seconds * 1_000_000);
        let mut stored: Option<Vec<u8>> = None;
        let mut hit = |limits: &[_], seconds, cost| {
            let step = Step::new(limits, cost, Op::Take);
            let evaluation = step.evaluate(stored.as_deref(), at(seconds)).unwrap();
            if let Some(Write::Put { value, .. }) = evaluation.write {
                stored = Some(value);
            }
            evaluation.decision
        };
        assert!(hit(&long, 100, 1).is_allowed());
        // Here the clock is set back. The short limit has not seen the later instant.
        assert!(hit(&short, 0, 5).is_allowed());
        assert!(hit(&short, 0, 5).is_denied(), "{kind:?}");
        assert!(hit(&long, 0, 1).is_allowed());
        assert!(hit(&short, 0, 5).is_denied(), "{kind:?}: five passed at this instant before");
    }
}

#[test]
fn a_wait_is_true_however_far_the_clock_went_back() {
    for kind in KINDS {
        for place in Place::each(&[Rule::new(kind, 1, secs(10))]) {
            place.take(1);
            if kind == (Kind::Token { debt: 3 }) {
                place.take(3);
            }
            place.go_back(Duration::from_secs(20_000));
            let wait = wait_of(&place.hit()).unwrap();
            place.wait(wait - MICRO);
            assert!(place.hit().is_denied(), "{kind:?} in {}", place.label);
            place.wait(MICRO);
            assert!(place.hit().is_allowed(), "{kind:?} in {}", place.label);
        }
    }
}
