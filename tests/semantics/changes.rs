//! What a key is told when its limits change, and when its clock goes back.

use std::time::Duration;

use traffik::strategy::{Op, Step, Write};
use traffik::{HitOptions, Rate, Timestamp};

use crate::model::{KINDS, Kind, Rule};
use crate::place::{MICRO, Place, millis, secs};

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
            // Ten are used of five: six must come back at five a minute.
            assert_eq!(slower.says().retry_after, Some(secs(72)), "{kind:?} in {}", place.label);
            place.wait(secs(72) - MICRO);
            assert!(slower.hit().is_denied());
            place.wait(MICRO);
            slower.take(1);
            assert_eq!(slower.says().remaining, 0);
            let larger = place.changed_to(&[of(5).burst(100)]);
            assert_eq!(larger.says().remaining, 95, "{kind:?} in {}", place.label);
        }
    }
}

#[test]
fn a_hit_with_a_rate_of_its_own_shares_what_was_counted_in_the_same_period() {
    for kind in KINDS {
        let debt = if kind == (Kind::Token { debt: 3 }) { 3 } else { 0 };
        for place in Place::each(&[Rule::new(kind, 5, secs(60))]) {
            place.take(5 + debt);
            assert!(place.hit().is_denied(), "{kind:?} in {}", place.label);
            let premium = place.hit_rate(Rate::per_minute(20));
            assert!(premium.is_allowed(), "{kind:?} in {}", place.label);
            assert_eq!((premium.limit(), premium.remaining()), (20, 14 - debt));
            assert!(place.hit().is_denied(), "it counts for the others too");
            let more = HitOptions::new().rate(Rate::per_minute(20)).cost(15 + debt);
            let denied = place.hit_with(more).unwrap();
            assert!(denied.is_denied() || debt > 0, "{kind:?}: {denied:?} in {}", place.label);
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
            let outcome = step.decide(stored.as_deref(), at(seconds));
            if let Some(Write::Put { value, .. }) = outcome.write {
                stored = Some(value);
            }
            outcome.decision
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
            let wait = place.hit().retry_after().unwrap();
            place.wait(wait - MICRO);
            assert!(place.hit().is_denied(), "{kind:?} in {}", place.label);
            place.wait(MICRO);
            assert!(place.hit().is_allowed(), "{kind:?} in {}", place.label);
        }
    }
}
