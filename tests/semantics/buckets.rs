//! What holds for the one core under three names.

use std::time::Duration;

use proptest::prelude::*;
use traffik::step::{Step, Write};
use traffik::strategy::Op;
use traffik::{Denial, ManualClock, Timestamp};

use crate::model::{Kind, Rule};
use crate::place::{MICRO, Place, millis, secs};
use crate::store::Bytes;
use crate::world::{SHORT_KEY, at_once, check, memory, throttle};
use test_support::wait_of;

const BUCKETS: [Kind; 3] = [Kind::Token { debt: 0 }, Kind::Leaky, Kind::Gcra];

#[test]
fn the_three_names_admit_exactly_the_same() {
    let rates = (1..=50u32, prop::option::of(1..=100u32), 1..=100_000u64);
    let hits = prop::collection::vec((0..3_000_000u64, 0..=60u32, any::<bool>()), 1..60);
    check(2_000, (rates, hits), |((limit, burst, millis), hits)| {
        let limits = BUCKETS.map(|kind| {
            let period = millis * 1_000;
            [Rule { kind, limit, burst, period, brought: false }.to_limit()]
        });
        let mut stored: [Option<Vec<u8>>; 3] = Default::default();
        let mut now = 1_704_067_200_000_000;
        for (wait, cost, back) in hits {
            now = if back && wait % 4 == 0 { now - wait } else { now + wait };
            let mut answers = Vec::new();
            for (limits, stored) in limits.iter().zip(&mut stored) {
                let now = Timestamp::from_micros(now);
                let evaluation =
                    Step::new(limits, cost, Op::Take).evaluate(stored.as_deref(), now).unwrap();
                if let Some(Write::Put { value, .. }) = evaluation.write {
                    *stored = Some(value);
                }
                answers.push(evaluation.decision);
            }
            prop_assert_eq!(&answers[0], &answers[1]);
            prop_assert_eq!(&answers[0], &answers[2]);
        }
        Ok(())
    });
}

#[test]
fn a_bucket_refills_all_the_time_and_keeps_fractions() {
    for kind in BUCKETS {
        // Three in ten seconds: no whole number of microseconds each.
        for place in Place::each(&[Rule::new(kind, 3, secs(10))]) {
            place.take(3);
            let third = millis(3_333) + 334 * MICRO;
            assert_eq!(place.says().retry_after, Some(third), "{kind:?} in {}", place.label);
            assert_eq!(place.says().reset_after, secs(10));
            place.wait(third - MICRO);
            assert!(place.hit().is_denied(), "{kind:?} in {}", place.label);
            place.wait(MICRO);
            place.take(1);
            // Two thirds of a microsecond were left over: ten seconds still bring three units.
            place.wait(secs(10) - third);
            assert_eq!(place.says().remaining, 2, "{kind:?} in {}", place.label);
            place.take(2);
            assert_eq!(place.says().retry_after, Some(third), "an exact tie passes");
        }
    }
}

/// Waits are rounded up, and what they bring beyond a unit stays in the bucket.
#[test]
fn a_bucket_loses_nothing_to_rounding() {
    for kind in BUCKETS {
        for place in Place::each(&[Rule::new(kind, 7, secs(1)).burst(2)]) {
            place.take(2);
            let mut waited = Duration::ZERO;
            for _ in 0..700 {
                let wait = place.says().retry_after.unwrap();
                waited += wait;
                place.wait(wait);
                place.take(1);
            }
            assert_eq!(waited, secs(100), "{kind:?} in {}", place.label);
        }
    }
}

/// 1,000 tokens that come back in 25 s are not forgotten after two periods.
#[test]
fn a_bucket_is_kept_until_it_is_full() {
    for kind in BUCKETS {
        let rule = Rule::new(kind, 40, secs(1)).burst(1_000);
        let clock = ManualClock::new();
        let bytes = Bytes::that_expire(&clock);
        let on_bytes = throttle("semantics:full", &[rule], bytes.clone());
        assert!((0..1_000).all(|_| at_once(on_bytes.hit(SHORT_KEY)).unwrap().is_allowed()));
        let Some(Write::Put { ttl, .. }) = bytes.last_write() else { panic!("a hit writes") };
        assert_eq!(ttl, secs(25), "{kind:?}");
        for seconds in [1, 1, 1, 1, 6, 14] {
            clock.advance(secs(seconds));
            assert!(at_once(on_bytes.peek(SHORT_KEY)).unwrap().remaining() < 1_000, "{kind:?}");
        }
        assert_eq!(at_once(on_bytes.peek(SHORT_KEY)).unwrap().remaining(), 960);
        clock.advance(secs(1));
        assert_eq!(at_once(on_bytes.peek(SHORT_KEY)).unwrap().remaining(), 1_000);
    }
}

/// The same in memory, where other keys come all the time and look for what is over.
#[test]
fn a_bucket_is_not_swept_before_it_is_full() {
    for kind in BUCKETS {
        // The clock could step back, so what is over is kept for an hour.
        let rule = Rule::new(kind, 10, secs(1_000)).burst(1_000);
        let clock = ManualClock::new();
        let backend = memory(&clock);
        let throttle = throttle("semantics:swept", &[rule], backend.clone());
        assert!((0..1_000).all(|_| at_once(throttle.hit(SHORT_KEY)).unwrap().is_allowed()));
        for second in 1..100u32 {
            clock.advance(secs(1_000));
            for other in 0..50u32 {
                let _ = at_once(throttle.hit((second, other))).unwrap();
            }
            let left = at_once(throttle.peek(SHORT_KEY)).unwrap();
            assert_eq!(left.remaining(), 10 * second, "{kind:?} after {second},000 s");
        }
        assert!(backend.key_count() < 2_000, "others were swept: {}", backend.key_count());
    }
}

#[test]
fn debt_lets_a_bucket_be_overdrawn_and_is_earned_back_first() {
    for place in Place::each(&[Rule::new(Kind::Token { debt: 3 }, 5, secs(10))]) {
        assert_eq!(place.says().remaining, 5, "debt does not count as remaining");
        let overdrawn = place.hit_cost(8);
        assert!(overdrawn.is_allowed(), "{}", place.label);
        assert_eq!((overdrawn.remaining(), overdrawn.reset_after()), (0, secs(16)));
        assert_eq!(wait_of(&place.hit()), Some(secs(2)), "a unit of debt earned back");
        assert_eq!(place.hit_cost(9).denial(), Some(Denial::Never));
        place.wait(secs(6));
        assert_eq!(place.says().remaining, 0, "{}: even, but nothing remains", place.label);
        place.wait(secs(2));
        assert_eq!(place.says().remaining, 1, "{}", place.label);
        place.take(4);
        assert_eq!(place.says().remaining, 0);
    }
}
