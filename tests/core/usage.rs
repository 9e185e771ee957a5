//! Costs that are known afterwards: nothing is lost and nothing is made, whatever verbs are mixed.

use std::time::Duration;

use test_support::plain::without_timer;
use test_support::wait_of;
use traffik::strategy::{Answer, CorruptState, Op, State, Verdict};
use traffik::{
    Denial, Error, ErrorKind, Exempt, FixedWindow, HitOptions, InMemory, ManualClock, Outcome,
    PermitDrop, Rate, Receipt, SlidingWindowCounter, SlidingWindowLog, Strategy, Throttle,
    Timestamp, TokenBucket,
};

fn throttle(rate: &str, strategy: impl Strategy) -> (Throttle, ManualClock) {
    let clock = ManualClock::new();
    let backend = InMemory::builder().clock(clock.clone()).build().unwrap();
    let throttle = Throttle::builder("usage").limit(rate, strategy).backend(backend);
    (throttle.build().unwrap(), clock)
}

async fn remaining(throttle: &Throttle) -> u32 {
    throttle.peek("a").await.unwrap().remaining()
}

#[tokio::test]
async fn a_charge_counts_whatever_is_left() {
    // 25 of 10: a unit comes back each 100 ms, so the next one passes after 1.6 s.
    let (bucket, clock) = throttle("10/s", TokenBucket::new());
    assert!(bucket.charge("a", 25).await.unwrap().is_allowed(), "never denied");
    assert_eq!(remaining(&bucket).await, 0);
    assert_eq!(wait_of(&bucket.hit("a").await.unwrap()), Some(Duration::from_millis(1600)));
    clock.advance(Duration::from_millis(1600));
    assert!(bucket.hit("a").await.unwrap().is_allowed());

    for (name, (window, clock)) in [
        ("fixed", throttle("10/s", FixedWindow::new())),
        ("counter", throttle("10/s", SlidingWindowCounter::new())),
        ("log", throttle("10/s", SlidingWindowLog::new())),
    ] {
        for _ in 0..3 {
            let charged = window.charge("a", u32::MAX).await.unwrap();
            assert!(charged.is_allowed(), "{name}");
        }
        assert!(window.hit("a").await.unwrap().is_denied(), "{name}");
        assert!(window.charge("a", 0).await.unwrap().is_allowed(), "{name}");
        clock.advance(Duration::from_secs(3));
        assert_eq!(remaining(&window).await, 10, "{name}: it ends with its windows");
    }
}

/// A charge of more than a packed count holds changes the form in which all states of a throttle are kept.
#[tokio::test]
async fn a_charge_beyond_a_packed_count_is_exact() {
    let (throttle, clock) = throttle("290000/366d", TokenBucket::new());
    for key in 0..100u64 {
        assert_eq!(throttle.hit(key).await.unwrap().remaining(), 289_999);
    }
    for _ in 0..3 {
        let _ = throttle.charge("a", u32::MAX).await.unwrap();
    }
    let Outcome::Denied { retry_after } = throttle.hit("a").await.unwrap().outcome() else {
        panic!("it is in debt");
    };
    assert!(retry_after > Duration::from_secs(100 * 366 * 86_400), "{retry_after:?}");
    for key in 0..100u64 {
        assert_eq!(throttle.hit(key).await.unwrap().remaining(), 289_998, "key {key}");
    }
    clock.advance(Duration::from_secs(366 * 86_400));
    assert_eq!(throttle.peek(7u64).await.unwrap().remaining(), 290_000);
    throttle.reset("a").await.unwrap();
    assert_eq!(throttle.hit("a").await.unwrap().remaining(), 289_999);
}

/// What a window or bucket that does not refill has: the sums of a bookkeeper.
struct Book {
    used: u64,
    capacity: u64,
}

impl Book {
    fn passes(&self, units: u32) -> bool {
        units == 0 || self.used + u64::from(units) <= self.capacity
    }

    fn left(&self) -> u64 {
        self.capacity.saturating_sub(self.used)
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn units(&mut self, end: u64) -> u32 {
        u32::try_from(self.below(end)).unwrap()
    }
}

/// The clock stands still, so that each unit is where a verb put it.
async fn keeps_the_book(throttle: &Throttle, capacity: u64, clock: &ManualClock, seed: u64) {
    let (mut dice, mut book) = (Dice(seed), Book { used: 0, capacity });
    let mut receipts: Vec<Receipt> = Vec::new();
    let spent = |receipts: &mut Vec<Receipt>, dice: &mut Dice| {
        let index = usize::try_from(dice.below(receipts.len() as u64)).unwrap();
        receipts.swap_remove(index)
    };
    for step in 0..600 {
        // A log finds what was taken by its instant.
        clock.advance(Duration::from_micros(1));
        let units = dice.units(capacity / 3 + 2);
        match dice.below(if receipts.is_empty() { 4 } else { 7 }) {
            0 | 1 => {
                let options = HitOptions::new().cost(units);
                let decision = throttle.hit_with("a", options).await.unwrap();
                assert_eq!(decision.is_allowed(), book.passes(units), "step {step}: hit {units}");
                if decision.is_allowed() {
                    book.used += u64::from(units);
                    receipts.extend(decision.receipt());
                }
            }
            2 => {
                let charged = throttle.charge("a", units % 5).await.unwrap();
                assert!(charged.is_allowed(), "step {step}");
                book.used += u64::from(units % 5);
            }
            3 => {
                let taken = throttle.take_up_to("a", units).await.unwrap();
                let expected = book.left().min(units.into());
                assert_eq!(u64::from(taken.units()), expected, "step {step}: up to {units}");
                assert_eq!(taken.decision().is_allowed(), expected > 0 || units == 0);
                book.used += expected;
                receipts.extend(taken.receipt());
            }
            4 => {
                let receipt = spent(&mut receipts, &mut dice);
                book.used -= u64::from(receipt.cost());
                throttle.refund("a", receipt).await.unwrap();
            }
            5 => {
                let mut receipt = spent(&mut receipts, &mut dice);
                let part = dice.units(u64::from(receipt.cost()) + 1);
                throttle.refund_part("a", &mut receipt, part).await.unwrap();
                book.used -= u64::from(part);
                let left = receipt.cost();
                let error = throttle.refund_part("a", &mut receipt, left + 1).await.unwrap_err();
                assert!(matches!(error, Error::ReceiptUnits { .. }), "{error}");
                receipts.push(receipt);
            }
            _ => {
                let receipt = spent(&mut receipts, &mut dice);
                let used = dice.units(2 * u64::from(receipt.cost()) + 2);
                book.used = book.used - u64::from(receipt.cost()) + u64::from(used);
                throttle.settle("a", receipt, used).await.unwrap();
            }
        }
        let left = remaining(throttle).await;
        assert_eq!(u64::from(left), book.left(), "step {step}: {} used", book.used);
        if book.used > 3 * capacity {
            throttle.reset("a").await.unwrap();
            (book.used, receipts) = (0, Vec::new());
        }
    }
    throttle.drain("a").await.unwrap();
    assert_eq!(remaining(throttle).await, 0);
    assert!(throttle.hit("a").await.unwrap().is_denied());
}

#[tokio::test]
async fn all_verbs_mixed_lose_no_unit_and_make_none() {
    for seed in 0..20 {
        for (rate, capacity) in [("7/366d", 7), ("60/366d", 60), ("1000/366d", 1000)] {
            let (fixed, clock) = throttle(rate, FixedWindow::new());
            keeps_the_book(&fixed, capacity, &clock, seed).await;
            let (counter, clock) = throttle(rate, SlidingWindowCounter::new());
            keeps_the_book(&counter, capacity, &clock, seed).await;
            // A unit comes back in nine hours at the soonest.
            let (bucket, clock) = throttle(rate, TokenBucket::new());
            clock.set(Timestamp::from_micros(1_704_067_200_000_000));
            let frozen = ManualClock::at(Timestamp::from_micros(1_704_067_200_000_000));
            keeps_the_book(&bucket, capacity, &frozen, seed).await;
        }
    }
}

/// A log refunds by the instant of the hit; a full one merges what is charged, so no charges here.
#[tokio::test]
async fn a_log_settles_to_what_was_used() {
    let (log, clock) = throttle("100/h", SlidingWindowLog::new());
    let mut used = 0;
    for round in 1..=10u32 {
        clock.advance(Duration::from_secs(1));
        let reserved = log.enforce_with("a", HitOptions::new().cost(10)).await.unwrap();
        log.settle("a", reserved.receipt().unwrap(), round).await.unwrap();
        used += round;
        assert_eq!(remaining(&log).await, 100 - used, "round {round}");
    }
    clock.advance(Duration::from_secs(3600));
    assert_eq!(remaining(&log).await, 100);
}

#[tokio::test]
async fn of_several_limits_it_takes_what_all_have_and_drains_each() {
    let backend = InMemory::new();
    let throttle = Throttle::builder("both")
        .limit("5/366d", FixedWindow::new())
        .limit("8/30d", FixedWindow::new())
        .limit("unlimited", TokenBucket::new())
        .backend(backend.clone())
        .build()
        .unwrap();
    let taken = throttle.take_up_to("a", 100).await.unwrap();
    assert_eq!(taken.units(), 5);
    let left: Vec<_> = taken.decision().answers().map(|answer| answer.remaining()).collect();
    assert_eq!(left[..2], [0, 3]);
    let none = throttle.take_up_to("a", 100).await.unwrap();
    assert_eq!((none.units(), none.decision().denial()), (0, Some(Denial::Limited)));
    throttle.refund("a", taken.receipt().unwrap()).await.unwrap();
    assert_eq!(throttle.take_up_to("a", 3).await.unwrap().units(), 3);
    throttle.drain("a").await.unwrap();
    let peeked = throttle.peek("a").await.unwrap();
    let left: Vec<_> = peeked.answers().map(|answer| answer.remaining()).collect();
    assert_eq!(left[..2], [0, 0]);
    assert!(throttle.take_up_to("b", 0).await.unwrap().decision().is_allowed());

    let lends = Throttle::builder("lends").limit("10/h", TokenBucket::new().max_debt(5));
    let lends = lends.backend(backend).build().unwrap();
    assert_eq!(lends.take_up_to("a", 100).await.unwrap().units(), 15, "as many as hits would get");
    lends.drain("b").await.unwrap();
    assert!(lends.hit("b").await.unwrap().is_denied());
}

#[tokio::test]
async fn where_no_limit_is_asked_all_is_given() {
    let open = Throttle::builder("open").rate("unlimited").backend(InMemory::new());
    let open = open.build().unwrap();
    assert_eq!(open.take_up_to("a", 7).await.unwrap().units(), 7);
    assert!(open.charge("a", 7).await.unwrap().is_allowed());
    let (closed, _) = throttle("0/h", TokenBucket::new());
    let none = closed.take_up_to("a", 7).await.unwrap();
    assert_eq!((none.units(), none.decision().outcome()), (0, Outcome::Never));
    assert_eq!(closed.take_up_to(Exempt, 7).await.unwrap().units(), 7);
    closed.drain("a").await.unwrap();
}

/// What is to be counted can be neither denied nor let pass uncounted.
#[tokio::test]
async fn a_full_memory_refuses_a_charge_of_a_new_key() {
    let backend = InMemory::builder().max_keys(Some(1)).build().unwrap();
    let throttle = Throttle::builder("full").rate("9/h").backend(backend).build().unwrap();
    let _ = throttle.charge("a", 2).await.unwrap();
    let _ = throttle.charge("a", 20).await.unwrap();
    for failed in [throttle.charge("b", 1).await.map(drop), throttle.drain("b").await] {
        let Err(Error::Backend(error)) = failed else { panic!("{failed:?}") };
        assert_eq!(error.kind(), ErrorKind::Full);
        assert!(error.to_string().contains("max_keys is reached"), "{error}");
    }
}

/// Of before there were charges.
#[derive(Debug)]
struct Old;

impl Strategy for Old {
    fn evaluate(
        &self,
        rate: &Rate,
        state: &mut State,
        now: Timestamp,
        cost: u32,
        op: Op,
    ) -> Result<Answer, CorruptState> {
        let used = state.words().first().copied().unwrap_or(0);
        let (cost, limit) = (u64::from(cost), u64::from(rate.limit()));
        let retry_at = now.saturating_add(Duration::from_secs(60));
        let fits = used + cost <= limit;
        let after = match op {
            Op::Take if fits => used + cost,
            Op::Refund { .. } => used.saturating_sub(cost),
            _ => used,
        };
        state.set(&[after]);
        let verdict = if fits { Verdict::Allowed } else { Verdict::Denied { retry_at } };
        let remaining = u32::try_from(limit.saturating_sub(after)).unwrap();
        Ok(Answer { verdict, remaining, reset_at: retry_at })
    }
}

#[tokio::test]
async fn a_strategy_that_cannot_charge_says_so_and_does_all_else() {
    let (throttle, _) = throttle("10/h", Old);
    let refused = throttle.charge("a", 1).await.unwrap_err();
    assert!(refused.to_string().contains("does not do Charge"), "{refused}");
    assert_eq!(throttle.take_up_to("a", 4).await.unwrap().units(), 4);
    let hit = throttle.enforce_with("a", HitOptions::new().cost(3)).await.unwrap();
    throttle.settle("a", hit.receipt().unwrap(), 1).await.unwrap();
    assert_eq!(remaining(&throttle).await, 5);
    let hit = throttle.enforce("a").await.unwrap();
    let over = throttle.settle("a", hit.receipt().unwrap(), 9).await;
    assert!(matches!(over, Err(Error::Unsupported { .. })), "{over:?}");
    throttle.drain("a").await.unwrap();
    assert_eq!(remaining(&throttle).await, 0);
}

#[test]
fn a_permit_keeps_settles_or_gives_back_with_and_without_a_runtime() {
    let left = without_timer(async || {
        let (throttle, _) = throttle("100/h", FixedWindow::new());
        let reserve = async || throttle.reserve("a", 10).await.unwrap();
        assert_eq!(reserve().await.units(), 10);
        let mut left = vec![remaining(&throttle).await];
        reserve().await.commit();
        left.push(remaining(&throttle).await);
        reserve().await.refund().await.unwrap();
        left.push(remaining(&throttle).await);
        reserve().await.settle(3).await.unwrap();
        left.push(remaining(&throttle).await);
        reserve().await.settle(13).await.unwrap();
        left.push(remaining(&throttle).await);
        drop(reserve().await.on_drop(PermitDrop::Refund));
        left.push(remaining(&throttle).await);
        reserve().await.on_drop(PermitDrop::Refund).commit();
        left.push(remaining(&throttle).await);
        let permit = reserve().await.on_drop(PermitDrop::Refund);
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _permit = permit;
            panic!("part of the test");
        }));
        left.push(remaining(&throttle).await);
        let denied = throttle.reserve("a", 101).await.unwrap_err();
        assert!(matches!(denied, Error::Denied(_)), "{denied}");
        left
    });
    assert_eq!(left[0], [90, 80, 80, 77, 64, 64, 54, 54]);
    assert_eq!(left[0], left[1]);
}

/// A full log has no place for another instant, so what is charged counts from now on with its newest entry.
#[tokio::test]
async fn a_full_log_merges_a_charge_into_its_newest_entry() {
    let (log, clock) = throttle("3/min", SlidingWindowLog::new());
    for _ in 0..3 {
        assert!(log.hit("a").await.unwrap().is_allowed());
        clock.advance(Duration::from_secs(1));
    }
    // At 3 s: one unit each at 0 s and 1 s, and three at 3 s.
    let _ = log.charge("a", 2).await.unwrap();
    assert_eq!(wait_of(&log.hit("a").await.unwrap()), Some(Duration::from_secs(60)));
    clock.advance(Duration::from_secs(59));
    assert!(log.hit("a").await.unwrap().is_denied(), "three are left of five");
    clock.advance(Duration::from_secs(1));
    assert_eq!(remaining(&log).await, 3);

    let (log, clock) = throttle("3/min", SlidingWindowLog::new());
    let _ = log.charge("a", 2).await.unwrap();
    clock.advance(Duration::from_secs(1));
    // Not full yet: an entry of its own, beyond the limit.
    let _ = log.charge("a", 2).await.unwrap();
    clock.advance(Duration::from_secs(59));
    assert_eq!(remaining(&log).await, 1, "the first two are over");
}
