//! What holds for every strategy, line by line.

use std::time::Duration;

use traffik::{
    Backend, BuildError, DecidedBy, Denial, Error, ErrorKind, HitOptions, ManualClock, Rate,
    Throttle,
};

use crate::model::{KINDS, Kind, Rule};
use crate::place::{MICRO, Place, Said, millis, secs};
use crate::store::Bytes;
use crate::world::{SHORT_KEY, at_once, memory};
use test_support::wait_of;

/// Five units in ten seconds, by each strategy.
fn rules() -> impl Iterator<Item = Rule> {
    KINDS.into_iter().map(|kind| Rule::new(kind, 5, secs(10)))
}

fn capacity(rule: &Rule) -> u32 {
    u32::try_from(rule.capacity()).unwrap()
}

#[test]
fn a_denied_hit_consumes_nothing() {
    for rule in rules() {
        for (place, twin) in Place::each(&[rule]).iter().zip(Place::each(&[rule])) {
            place.take(capacity(&rule));
            twin.take(capacity(&rule));
            let stored = place.value();
            for tick in 0..100 {
                place.wait(millis(10));
                twin.wait(millis(10));
                assert!(place.hit_cost(1 + tick % 3).is_denied(), "{rule:?} in {}", place.label);
            }
            assert_eq!(place.value(), stored, "{rule:?}: a denial writes nothing");
            for _ in 0..60 {
                assert_eq!(place.says(), twin.says(), "{rule:?} in {}", place.label);
                place.wait(millis(331));
                twin.wait(millis(331));
            }
        }
    }
}

#[test]
fn a_client_that_keeps_trying_is_not_locked_out() {
    for rule in rules() {
        for place in Place::each(&[rule]) {
            place.take(capacity(&rule));
            let wait = place.says().retry_after.unwrap();
            let tries = 50;
            for _ in 0..tries {
                assert!(place.hit().is_denied());
                place.wait(wait / tries);
            }
            place.wait(wait - wait / tries * tries);
            assert!(place.hit().is_allowed(), "{rule:?} in {}", place.label);
        }
    }
}

#[test]
fn a_cost_above_the_capacity_is_never_also_on_the_first_hit() {
    for rule in rules() {
        for place in Place::each(&[rule]) {
            for too_much in [capacity(&rule) + 1, u32::MAX] {
                let fresh = place.says();
                let decision = place.hit_cost(too_much);
                assert_eq!(decision.denial(), Some(Denial::Never), "{rule:?} in {}", place.label);
                assert_eq!(wait_of(&decision), None);
                assert_eq!(decision.denied_by(), Some(0));
                assert!(place.is_empty(), "{rule:?} in {}", place.label);
                assert_eq!(place.says(), fresh);
            }
            // Of a key in use, and of one that is used up.
            for _ in 0..capacity(&rule) {
                assert!(place.hit().is_allowed());
                let before = place.says();
                assert_eq!(place.hit_cost(capacity(&rule) + 1).denial(), Some(Denial::Never));
                assert_eq!(place.says(), before, "{rule:?} in {}", place.label);
            }
            assert_eq!(place.hit_cost(capacity(&rule)).denial(), Some(Denial::Limited));
        }
    }
}

#[test]
fn a_cost_of_0_passes_and_leaves_no_trace() {
    for rule in rules() {
        for place in Place::each(&[rule]) {
            let free = place.hit_cost(0);
            assert!(free.is_allowed(), "{rule:?} in {}", place.label);
            assert_eq!(free.remaining(), 5);
            assert!(free.receipt().is_none(), "nothing was taken");
            assert!(place.is_empty(), "{rule:?} in {}", place.label);

            place.take(capacity(&rule));
            let stored = place.value();
            place.wait(millis(1));
            let before = place.says();
            let free = place.hit_cost(0);
            assert!(free.is_allowed(), "also of a key that is used up");
            assert_eq!((free.remaining(), wait_of(&free)), (0, None));
            assert_eq!(free.reset_after(), before.reset_after);
            assert_eq!(place.says(), before, "{rule:?} in {}", place.label);
            assert_eq!(place.value(), stored);
        }
    }
}

#[test]
fn a_peek_is_for_the_default_cost_and_creates_no_key() {
    for kind in KINDS {
        let clock = ManualClock::new();
        let backend = memory(&clock);
        let builder = Throttle::builder("semantics:cost").backend(backend.clone()).cost(3);
        let throttle = Rule::new(kind, 5, secs(10)).add_to(builder).build().unwrap();
        let peek = || at_once(throttle.peek(SHORT_KEY)).unwrap();
        assert!(peek().is_allowed());
        assert_eq!(peek().remaining(), 5, "{kind:?}: a peek consumes nothing");
        assert_eq!(backend.key_count(), 0);
        assert_eq!(at_once(throttle.hit(SHORT_KEY)).unwrap().remaining(), 2);
        let debt = matches!(kind, Kind::Token { debt: 3 });
        assert_eq!(peek().is_allowed(), debt, "{kind:?}: 2 remain, and 3 are asked for");
        assert_eq!(peek().remaining(), 2);
    }
}

#[test]
fn a_limit_of_0_denies_all_that_costs_something() {
    for rule in rules().map(|rule| rule.limit(0)) {
        for place in Place::each(&[rule]) {
            let nothing = Said {
                denial: Some(Denial::Never),
                remaining: 0,
                retry_after: None,
                reset_after: Duration::ZERO,
            };
            assert_eq!(place.says(), nothing, "{rule:?} in {}", place.label);
            assert_eq!(Said::from(&place.hit()), nothing, "{rule:?} in {}", place.label);
            assert_eq!(Said::from(&place.hit_cost(u32::MAX)), nothing);
            assert!(place.hit_cost(0).is_allowed());
            assert!(place.is_empty(), "{rule:?} in {}", place.label);
        }
    }
    // Also as the rate of one hit, of a key that is counted.
    for rule in rules() {
        for place in Place::each(&[rule]) {
            place.take(1);
            let before = place.says();
            let denied = place.hit_rate(Rate::new(0, secs(10)).unwrap());
            assert_eq!((denied.denial(), denied.limit()), (Some(Denial::Never), 0), "{rule:?}");
            assert_eq!(place.says(), before, "{rule:?} in {}", place.label);
        }
    }
}

#[test]
fn an_unlimited_rate_never_touches_the_backend() {
    let closed = memory(&ManualClock::new());
    at_once(closed.close()).unwrap();
    for kind in KINDS {
        let of = |rate: Rate| {
            // With the strategy of that kind, also where it is the hit that brings the rate.
            let builder = Throttle::builder("semantics:unlimited").backend(closed.clone());
            let limited = Rule::new(kind, 5, secs(10)).add_to(builder).build().unwrap();
            at_once(limited.hit_with(SHORT_KEY, HitOptions::new().replace_rates([rate])))
        };
        let refused = of(Rate::per_second(5)).unwrap_err();
        assert!(
            matches!(&refused, Error::Backend(error) if error.kind() == ErrorKind::Closed),
            "a limited rate does ask: {refused:?}"
        );
        let decision = of(Rate::UNLIMITED).unwrap();
        assert!(decision.is_allowed());
        assert_eq!(decision.decided_by(), DecidedBy::Unlimited);
    }
    let builder = Throttle::builder("semantics:unlimited").backend(closed);
    let throttle = builder.rate(Rate::UNLIMITED).build().unwrap();
    for decision in [
        at_once(throttle.hit(SHORT_KEY)),
        at_once(throttle.peek(SHORT_KEY)),
        at_once(throttle.hit_with(SHORT_KEY, HitOptions::new().cost(u32::MAX))),
    ] {
        let decision = decision.unwrap();
        assert!(decision.is_allowed());
        assert_eq!((decision.decided_by(), decision.remaining()), (DecidedBy::Unlimited, u32::MAX));
        assert!(decision.receipt().is_none(), "nothing was taken");
    }
    let bytes = Bytes::that_keep(&ManualClock::new());
    let builder = Throttle::builder("semantics:unlimited").backend(bytes.clone());
    let throttle = builder.rate(Rate::UNLIMITED).build().unwrap();
    assert!(at_once(throttle.hit(SHORT_KEY)).unwrap().is_allowed());
    assert_eq!((bytes.asked(), bytes.value()), (0, None));
}

#[test]
fn an_unlimited_rate_does_not_stop_a_limited_one() {
    for rule in rules() {
        let clock = ManualClock::new();
        let builder = Throttle::builder("semantics:mixed").backend(memory(&clock));
        let throttle = rule.add_to(builder.rate(Rate::UNLIMITED)).build().unwrap();
        let all = HitOptions::new().cost(capacity(&rule));
        assert!(at_once(throttle.hit_with(SHORT_KEY, all)).unwrap().is_allowed());
        let denied = at_once(throttle.hit(SHORT_KEY)).unwrap();
        assert_eq!((denied.denial(), denied.limit()), (Some(Denial::Limited), 5), "{rule:?}");
    }
}

/// `Decision::denied_by` is an index in the order of the builder, where the unlimited rate is the first.
#[test]
fn denied_by_counts_unlimited_rates_too() {
    let builder = Throttle::builder("semantics:index").backend(memory(&ManualClock::new()));
    let throttle = builder.rate(Rate::UNLIMITED).rate(Rate::per_minute(1)).build().unwrap();
    assert!(at_once(throttle.hit(SHORT_KEY)).unwrap().is_allowed());
    assert_eq!(at_once(throttle.hit(SHORT_KEY)).unwrap().denied_by(), Some(1));
}

fn refused(kind: Kind, rate: Rate) -> bool {
    let rule = Rule::new(kind, 1, secs(1));
    // The rule gives the strategy, the hit the rate; and once more as the throttle's own.
    let builder = Throttle::builder("semantics:refused").backend(memory(&ManualClock::new()));
    let throttle = rule.add_to(builder).build().unwrap();
    let hit = at_once(throttle.hit_with(SHORT_KEY, HitOptions::new().replace_rates([rate])));
    let by_hit = matches!(hit, Err(Error::Limit { .. }));
    let built = kind.keep(rate, Throttle::builder("semantics:refused"));
    let by_builder = matches!(built.build(), Err(BuildError::Limit { .. }));
    assert_eq!(by_hit, by_builder, "{kind:?} {rate}");
    by_builder
}

#[test]
fn a_burst_belongs_to_buckets_and_is_the_limit_by_default() {
    for kind in KINDS {
        let bucket = kind.is_bucket();
        assert_eq!(refused(kind, Rate::per_minute(5).burst(8)), !bucket, "{kind:?}");
        assert_eq!(refused(kind, Rate::per_minute(5).burst(5)), !bucket, "{kind:?}");
        assert_eq!(refused(kind, Rate::per_minute(5).burst(1)), !bucket, "{kind:?}");
        assert!(refused(kind, Rate::per_minute(5).burst(0)), "{kind:?}: a burst of 0");
        assert!(refused(kind, Rate::per_minute(0).burst(5)), "{kind:?}: a burst on a limit of 0");
        assert!(refused(kind, Rate::UNLIMITED.burst(5)), "{kind:?}: a burst without a limit");
        assert!(!refused(kind, Rate::per_minute(5)), "{kind:?}");
    }
    for kind in [Kind::Token { debt: 0 }, Kind::Leaky, Kind::Gcra] {
        for (rule, at_once) in [
            (Rule::new(kind, 5, secs(10)), 5),
            (Rule::new(kind, 5, secs(10)).burst(2), 2),
            (Rule::new(kind, 5, secs(10)).burst(9), 9),
        ] {
            for place in Place::each(&[rule]) {
                let passed = (0..20).filter(|_| place.hit().is_allowed()).count();
                assert_eq!(passed, at_once, "{rule:?} in {}", place.label);
                // The limit alone sets the pace.
                assert_eq!(place.says().retry_after, Some(secs(2)));
            }
        }
    }
}

#[test]
fn a_bucket_that_takes_over_100_years_to_fill_is_refused() {
    let day = 36_525;
    for kind in [Kind::Token { debt: 0 }, Kind::Leaky, Kind::Gcra] {
        assert!(!refused(kind, Rate::per_day(1).burst(day)), "{kind:?}");
        assert!(refused(kind, Rate::per_day(1).burst(day + 1)), "{kind:?}");
    }
    let debt = Kind::Token { debt: day };
    assert!(refused(debt, Rate::per_day(1)), "the debt is to be earned back too");
    assert!(!refused(debt, Rate::per_day(2)));
}

#[test]
fn a_denial_waits_at_least_min_wait_and_nothing_else_waits() {
    for rule in rules() {
        let builder = Throttle::builder("semantics:wait").backend(memory(&ManualClock::new()));
        let throttle = rule.add_to(builder).min_retry_after(secs(60)).build().unwrap();
        let hit =
            |cost| at_once(throttle.hit_with(SHORT_KEY, HitOptions::new().cost(cost))).unwrap();
        for _ in 0..capacity(&rule) {
            assert_eq!(wait_of(&at_once(throttle.hit(SHORT_KEY)).unwrap()), None, "{rule:?}");
        }
        assert_eq!(wait_of(&at_once(throttle.hit(SHORT_KEY)).unwrap()), Some(secs(60)));
        assert_eq!(wait_of(&hit(1)), Some(secs(60)), "{rule:?}");
        assert_eq!(wait_of(&at_once(throttle.peek(SHORT_KEY)).unwrap()), Some(secs(60)));
        assert_eq!(wait_of(&hit(0)), None, "it passes");
        assert_eq!(wait_of(&hit(1_000)), None, "{rule:?}: no wait helps");
    }
    // A longer wait stays as it is.
    let rule = Rule::new(Kind::Fixed, 1, secs(10));
    let builder = Throttle::builder("semantics:wait").backend(memory(&ManualClock::new()));
    let throttle = rule.add_to(builder).min_retry_after(secs(10) - MICRO).build().unwrap();
    assert!(at_once(throttle.hit(SHORT_KEY)).unwrap().is_allowed());
    assert_eq!(wait_of(&at_once(throttle.hit(SHORT_KEY)).unwrap()), Some(secs(10)));
}

#[test]
fn the_longest_min_wait_is_still_a_wait() {
    let builder = Throttle::builder("semantics:wait").backend(memory(&ManualClock::new()));
    let throttle =
        builder.rate(Rate::per_minute(1)).min_retry_after(Duration::MAX).build().unwrap();
    assert!(at_once(throttle.hit(SHORT_KEY)).unwrap().is_allowed());
    let denied = at_once(throttle.hit(SHORT_KEY)).unwrap();
    assert_eq!(denied.denial(), Some(Denial::Limited));
    assert!(wait_of(&denied) >= Some(secs(60)), "{denied:?}");
}
