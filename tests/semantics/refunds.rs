//! What a receipt gives back, and what it does not.

use proptest::prelude::*;
use traffik::{Error, HitOptions, ManualClock, Rate, Throttle, TokenBucket, ambient};

use crate::mixes::small_rule;
use crate::model::{KINDS, Kind, Rule};
use crate::place::{MICRO, Place, secs};
use crate::waits::hits;
use crate::world::{LONG_KEY, SHORT_KEY, at_once, check, memory};

#[test]
fn a_refund_gives_back_what_the_hit_took() {
    for kind in KINDS {
        for place in Place::each(&[Rule::new(kind, 5, secs(60))]) {
            let only = place.take_for(5);
            assert_eq!((only.cost(), only.taken_at()), (5, traffik::Clock::now(&place.clock)));
            assert_eq!(place.says().remaining, 0);
            place.refund(only);
            let says = place.says();
            assert_eq!((says.remaining, says.denial), (5, None), "{kind:?} in {}", place.label);
            assert_eq!(says.reset_after, secs(0), "{kind:?} in {}: as fresh", place.label);

            let (first, second) = (place.take_for(2), place.take_for(1));
            place.refund(first);
            assert_eq!(place.says().remaining, 4, "{kind:?} in {}", place.label);
            place.refund(second);
            assert_eq!(place.says().remaining, 5, "{kind:?} in {}", place.label);
            assert!(place.hit_cost(5).is_allowed());
        }
    }
}

#[test]
fn what_was_refunded_is_not_kept() {
    for kind in KINDS {
        for place in Place::each(&[Rule::new(kind, 5, secs(60))]) {
            place.refund(place.take_for(3));
            assert!(place.is_empty(), "{kind:?} in {}", place.label);
        }
    }
}

#[test]
fn only_what_took_something_has_a_receipt() {
    for kind in KINDS {
        let rule = Rule::new(kind, 2, secs(60));
        for place in Place::each(&[rule]) {
            assert!(place.hit_cost(0).receipt().is_none(), "{kind:?}: nothing to give back");
            assert!(place.peek().receipt().is_none());
            assert!(place.hit_cost(100).receipt().is_none(), "never");
            place.take(u32::try_from(rule.capacity()).unwrap());
            assert!(place.hit().receipt().is_none(), "denied");
        }
    }
}

#[test]
fn a_refund_never_goes_above_the_capacity() {
    for kind in [Kind::Token { debt: 0 }, Kind::Token { debt: 3 }, Kind::Leaky, Kind::Gcra] {
        for place in Place::each(&[Rule::new(kind, 5, secs(10))]) {
            let receipt = place.take_for(5);
            // Three are back by themselves.
            place.wait(secs(6));
            place.take(1);
            place.refund(receipt);
            assert_eq!(place.says().remaining, 5, "{kind:?} in {}", place.label);
            let passed = (0..20).filter(|_| place.hit().is_allowed()).count();
            let debt = if kind == (Kind::Token { debt: 3 }) { 3 } else { 0 };
            assert_eq!(passed, 5 + debt, "{kind:?} in {}", place.label);
        }
    }
}

#[test]
fn a_bucket_takes_a_refund_at_any_time() {
    for kind in [Kind::Token { debt: 0 }, Kind::Leaky, Kind::Gcra] {
        for place in Place::each(&[Rule::new(kind, 5, secs(10))]) {
            let receipt = place.take_for(2);
            place.wait(secs(1_000));
            place.take(5);
            place.refund(receipt);
            assert_eq!(place.says().remaining, 2, "{kind:?} in {}", place.label);
        }
    }
}

#[test]
fn a_window_takes_a_refund_only_while_it_lasts() {
    for (kind, over_after) in
        [(Kind::Fixed, secs(10)), (Kind::Counter, secs(10)), (Kind::Log, secs(60))]
    {
        for place in Place::each(&[Rule::new(kind, 5, secs(60))]) {
            place.wait(secs(50));
            let (in_time, too_late) = (place.take_for(1), place.take_for(1));
            place.wait(over_after - MICRO);
            place.refund(in_time);
            assert_eq!(place.says().remaining, 4, "{kind:?} in {}", place.label);
            place.wait(MICRO);
            place.take(3);
            let before = place.says();
            place.refund(too_late);
            assert_eq!(place.says(), before, "{kind:?} in {}: it is over", place.label);
        }
    }
}

/// A window that is over fades as it was counted.
#[test]
fn a_late_refund_changes_nothing_that_fades() {
    for place in Place::each(&[Rule::new(Kind::Counter, 60, secs(60))]) {
        let receipt = place.take_for(60);
        place.wait(secs(90));
        assert_eq!(place.says().remaining, 30, "{}", place.label);
        place.refund(receipt);
        assert_eq!(place.says().remaining, 30, "{}", place.label);
    }
}

#[test]
fn a_refund_of_debt_pays_the_debt() {
    for place in Place::each(&[Rule::new(Kind::Token { debt: 10 }, 5, secs(10))]) {
        let receipt = place.take_for(15);
        place.refund(receipt);
        assert_eq!(place.says().remaining, 5, "{}", place.label);
        let (small, large) = (place.take_for(3), place.take_for(12));
        place.refund(small);
        assert_eq!(place.says().remaining, 0, "{}: 12 of 15 are used still", place.label);
        place.refund(large);
        assert_eq!(place.says().remaining, 5, "{}", place.label);
    }
}

#[test]
fn of_several_limits_each_takes_the_refund_by_its_own_rule() {
    let rules =
        [Rule::new(Kind::Fixed, 5, secs(1)), Rule::new(Kind::Token { debt: 0 }, 5, secs(60))];
    for place in Place::each(&rules) {
        let receipt = place.take_for(3);
        place.wait(secs(1));
        place.take(1);
        place.refund(receipt);
        // The window of the hit is over, and holds the later one; the bucket is full but for that.
        let window = place.changed_to(&rules[..1]);
        let bucket = place.changed_to(&rules[1..]);
        assert_eq!(window.says().remaining, 4, "{}", place.label);
        assert_eq!(bucket.says().remaining, 4, "{}", place.label);
    }
}

#[test]
fn a_hit_with_a_rate_of_its_own_is_refunded_there() {
    for kind in KINDS {
        for place in Place::each(&[Rule::new(kind, 5, secs(60))]) {
            place.take(2);
            let other = HitOptions::new().replace_rates([Rate::new(9, secs(30)).unwrap()]).cost(4);
            let receipt = place.hit_with(other.clone()).unwrap().receipt().unwrap();
            let of_other = || place.hit_with(other.clone().cost(0)).unwrap().remaining();
            assert_eq!((of_other(), place.says().remaining), (5, 3), "{kind:?}");
            place.refund(receipt);
            assert_eq!((of_other(), place.says().remaining), (9, 3), "{kind:?} {}", place.label);
        }
    }
}

/// A receipt keeps no burst: what was allowed as a rate must be as a refund.
#[test]
fn a_hit_whose_burst_made_its_debt_fit_can_be_refunded() {
    // 997 units at 10 in 366 days fill in less than 100 years, and 1,006 do not.
    let strategy = TokenBucket::new().max_debt(996);
    let builder = Throttle::builder("semantics:debt").backend(memory(&ManualClock::new()));
    let throttle = builder.limit(Rate::per_second(10), strategy).build().unwrap();
    let rate = Rate::new(10, Rate::MAX_PERIOD).unwrap().burst(1);
    let hit =
        at_once(throttle.hit_with(SHORT_KEY, HitOptions::new().replace_rates([rate]))).unwrap();
    let refund = at_once(throttle.refund(SHORT_KEY, hit.receipt().unwrap()));
    assert!(refund.is_ok(), "{refund:?}");
}

#[test]
fn a_receipt_belongs_to_its_throttle_and_key() {
    let backend = memory(&ManualClock::new());
    let build = |name: &str| {
        let builder = Throttle::builder(name).backend(backend.clone());
        builder.rate(Rate::per_minute(5)).build().unwrap()
    };
    let (one, other) = (build("semantics:one"), build("semantics:other"));
    for key in [SHORT_KEY, LONG_KEY] {
        let receipt = || at_once(one.hit(key)).unwrap().receipt().unwrap();
        let (elsewhere, nobody) = (receipt(), receipt());
        let refused = at_once(other.refund(key, elsewhere));
        assert!(matches!(refused, Err(Error::WrongReceipt)), "{refused:?}");
        let refused = at_once(one.refund("nobody", nobody));
        assert!(matches!(refused, Err(Error::WrongReceipt)), "{refused:?}");
        assert_eq!(at_once(one.peek(key)).unwrap().remaining(), 3, "they gave back nothing");
        // A twin of the throttle is the same throttle.
        at_once(build("semantics:one").refund(key, receipt())).unwrap();
        assert_eq!(at_once(one.peek(key)).unwrap().remaining(), 3);
    }
}

/// The same name is not enough: one that keeps other limits, or another store, took nothing of it.
#[test]
fn a_receipt_belongs_to_its_limits_and_its_store() {
    let backend = memory(&ManualClock::new());
    let builder = |rates: &[&str]| Throttle::builder("semantics:same").rates(rates);
    let build = |rates: &[&str]| builder(rates).backend(backend.clone()).build().unwrap();
    let elsewhere = memory(&ManualClock::new());
    let (one, two) = (build(&["5/min"]), build(&["5/min", "5/h"]));
    let other = builder(&["5/min"]).backend(elsewhere.clone()).build().unwrap();
    let current = builder(&["5/min"]).build().unwrap();
    let receipt = || at_once(one.hit("a")).unwrap().receipt().unwrap();
    for refused in [
        at_once(two.refund("a", receipt())),
        at_once(other.refund("a", receipt())),
        at_once(ambient::with_backend(elsewhere, current.refund("a", receipt()))),
    ] {
        assert!(matches!(refused, Err(Error::WrongReceipt)), "{refused:?}");
    }
    assert_eq!(at_once(one.peek("a")).unwrap().remaining(), 2, "they gave back nothing");
    // A changed limit acts on what was counted, so its receipts go on.
    let changed = build(&["9/min"]);
    at_once(changed.refund("a", receipt())).unwrap();
    // The backend that is current is as good as one of its own if it is the same store.
    at_once(ambient::with_backend(backend.clone(), async {
        let decision = current.hit("b").await.unwrap();
        current.refund("b", decision.receipt().unwrap()).await.unwrap();
        assert_eq!(current.peek("b").await.unwrap().remaining(), 5);
    }));
    assert_eq!(at_once(one.peek("a")).unwrap().remaining(), 2);
}

/// A hit that is refunded at once was never there.
#[test]
fn a_hit_and_its_refund_cancel_out() {
    check(1_500, (small_rule(), hits(), 1..=20u32), |(rule, hits, cost)| {
        for place in Place::each(&[rule]) {
            for (wait, cost) in &hits {
                place.wait(std::time::Duration::from_micros(*wait));
                let _ = place.hit_cost(*cost);
            }
            let before = place.says();
            if let Some(receipt) = place.hit_cost(cost).receipt() {
                place.refund(receipt);
            }
            prop_assert_eq!(place.says(), before, "{}", place.label);
        }
        Ok(())
    });
}
