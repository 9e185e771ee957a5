//! What a full memory does: nobody is let past a limit, and what is over makes room.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use traffik::backend::Overflow;
use traffik::strategy::{Answer, CorruptState, Op, State, Verdict};
use traffik::{
    DecidedBy, Denial, FixedWindow, HitOptions, InMemory, Key, ManualClock, Rate, SlidingWindowLog,
    Strategy, Throttle, Timestamp, Values,
};

use test_support::wait_of;

fn backend(clock: &ManualClock, most: usize, overflow: Overflow) -> InMemory {
    let builder = InMemory::builder().clock(clock.clone()).max_keys(Some(most));
    builder.overflow(overflow).build().unwrap()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Takes all places with keys that stay.
async fn fill(backend: &InMemory, most: usize) {
    let filler =
        Throttle::builder("filler").rate("1000/30d").backend(backend.clone()).build().unwrap();
    for number in 0u64.. {
        if backend.key_count() == most {
            break;
        }
        let _ = filler.hit(("filler", number)).await.unwrap();
    }
}

/// The keys that take each form in memory.
const KEYS: [&str; 2] = ["alice", "a key of thirty-six bytes, no less.."];

#[tokio::test]
async fn a_limit_that_is_used_up_holds_though_the_other_slots_of_its_key_were_swept() {
    for key in KEYS {
        for rates in [vec!["100/day", "10/s"], vec!["100/day", "10/s", "5000/h"]] {
            let clock = ManualClock::new();
            let backend = backend(&clock, 50, Overflow::Allow);
            let throttle = Throttle::builder("swept")
                .rates(rates.clone())
                .strategy(FixedWindow::new())
                .backend(backend.clone())
                .build()
                .unwrap();
            for _ in 0..10 {
                for _ in 0..10 {
                    assert!(throttle.hit(key).await.unwrap().is_allowed());
                }
                clock.advance(secs(1));
            }
            // The slots of the second are over, and so is the hour.
            clock.advance(secs(2 * 3600));
            while !backend.sweep_chunk() {}
            fill(&backend, 50).await;
            let mut passed = 0;
            for _ in 0..1000 {
                passed += u32::from(throttle.hit(key).await.unwrap().is_allowed());
            }
            assert_eq!(passed, 0, "{key}, {rates:?}: the day is used up");
        }
    }
}

#[tokio::test]
async fn a_counted_key_gets_the_slots_of_its_further_limits() {
    for key in KEYS {
        let clock = ManualClock::new();
        let backend = backend(&clock, 50, Overflow::Deny);
        let build = |rates: &[&str]| {
            let builder = Throttle::builder("counted").rates(rates).strategy(FixedWindow::new());
            builder.backend(backend.clone()).build().unwrap()
        };
        assert!(build(&["100/day"]).hit(key).await.unwrap().is_allowed());
        fill(&backend, 50).await;
        let more = build(&["100/day", "10/s", "60/min"]);
        for hit in 2..=11u32 {
            let decision = more.hit(key).await.unwrap();
            assert_eq!(decision.denial(), None, "{key}: hit {hit}");
            let left: Vec<_> = decision.answers().map(|answer| answer.remaining()).collect();
            assert_eq!(left, [100 - hit, 11 - hit, 61 - hit], "{key}");
        }
        assert_eq!(more.hit(key).await.unwrap().denial(), Some(Denial::Limited));
        let brought = HitOptions::new().add_rates([Rate::per_hour(7)]);
        clock.advance(secs(1));
        assert!(more.hit_with(key, brought).await.unwrap().is_allowed(), "{key}: and of its rates");
        assert_eq!(backend.key_count(), 50, "it is one key");
    }
}

#[tokio::test]
async fn overflow_lets_nothing_pass_that_no_state_would_let_pass() {
    for key in KEYS {
        let clock = ManualClock::new();
        let backend = backend(&clock, 10, Overflow::Allow);
        fill(&backend, 10).await;
        let five = Throttle::builder("five").rate("5/h").backend(backend.clone()).build().unwrap();
        let much = five.hit_with(key, HitOptions::new().cost(1000)).await.unwrap();
        assert_eq!(much.denial(), Some(Denial::Never), "{key}");
        let zero = Throttle::builder("zero").rate("0/h").limit("5/h", FixedWindow::new());
        let zero = zero.backend(backend.clone()).build().unwrap();
        assert_eq!(zero.hit(key).await.unwrap().denial(), Some(Denial::Never), "{key}");
        let hit = five.hit(key).await.unwrap();
        assert_eq!(
            (hit.is_allowed(), hit.decided_by()),
            (true, DecidedBy::Overflow),
            "{key}: its first"
        );
        assert_eq!(hit.remaining(), hit.burst(), "no limit was asked");
        let free = five.hit_with(key, HitOptions::new().cost(0)).await.unwrap();
        assert_eq!(free.decided_by(), DecidedBy::Backend, "{key}: a cost of 0 needs no place");
        assert_eq!(
            five.peek(key).await.unwrap().decided_by(),
            DecidedBy::Backend,
            "{key}: nor a peek"
        );
    }
}

/// What a newcomer is told when `most` places hold what is long over: the share that is denied at once,
/// and after one wait.
async fn denied_after(most: usize, newcomers: u64, values: bool, limits: &[&str]) -> [u64; 2] {
    let clock = ManualClock::new();
    let backend = backend(&clock, most, Overflow::Deny);
    if values {
        for number in 0..most as u64 {
            let (name, ttl) = (number.to_be_bytes(), Some(secs(1)));
            backend.set(&Key::value(&name), b"old", ttl).await.unwrap();
        }
    } else {
        let old = Throttle::builder("old").rates(limits).backend(backend.clone()).build().unwrap();
        for number in 0u64.. {
            if backend.key_count() == most {
                break;
            }
            let _ = old.hit(("old", number)).await.unwrap();
        }
    }
    clock.advance(secs(3600));
    let new = Throttle::builder("new").rate("5/h").backend(backend.clone()).build().unwrap();
    let mut denied = [0, 0];
    for number in 0..newcomers {
        let first = new.hit(("new", number)).await.unwrap();
        if let Some(wait) = wait_of(&first) {
            denied[0] += 1;
            clock.advance(wait);
            denied[1] += u64::from(new.hit(("new", number)).await.unwrap().is_denied());
        }
    }
    denied
}

#[tokio::test]
async fn what_is_over_makes_room_at_once() {
    for values in [false, true] {
        for limits in [vec!["5/min"], vec!["5/min", "9/s"]] {
            for most in [1, 10, 100] {
                let newcomers = most as u64;
                let denied = denied_after(most, newcomers, values, &limits).await;
                assert_eq!(denied, [0, 0], "max_keys {most}, values {values}, {limits:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_over_makes_room_for_all_within_one_wait() {
    for values in [false, true] {
        // Each hit looks at 512 slots; the last of what is over may take some hits to be found.
        let denied = denied_after(10_000, 9_000, values, &["5/min"]).await;
        assert_eq!(denied[1], 0, "values {values}: {denied:?}");
    }
}

#[tokio::test]
async fn expired_limits_make_room_for_values() {
    for most in [10, 10_000] {
        let clock = ManualClock::new();
        let backend = backend(&clock, most, Overflow::Deny);
        let old = Throttle::builder("old").rate("5/min").backend(backend.clone()).build().unwrap();
        for number in 0..most as u64 {
            assert!(old.hit(number).await.unwrap().is_allowed());
        }
        clock.advance(secs(3600));
        for number in 0..100u64.min(most as u64) {
            let name = number.to_be_bytes();
            backend.set(&Key::value(&name), b"new", None).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_live_key_is_never_swept_to_make_room() {
    let clock = ManualClock::new();
    let backend = backend(&clock, 100, Overflow::Deny);
    fill(&backend, 100).await;
    let new = Throttle::builder("new").rate("5/h").backend(backend.clone()).build().unwrap();
    for number in 0..1000u64 {
        assert_eq!(new.hit(number).await.unwrap().denial(), Some(Denial::Full));
    }
    assert_eq!(backend.key_count(), 100);
}

/// A TTL of zero removes a value, so it must not wait for a place, and nobody sees the value meanwhile.
#[tokio::test]
async fn a_value_that_is_set_with_no_time_to_live_needs_no_place() {
    let clock = ManualClock::new();
    let backend = backend(&clock, 2, Overflow::Deny);
    let (kept, new) = (Key::value("kept"), Key::value("new"));
    backend.set(&kept, b"1", None).await.unwrap();
    fill(&backend, 2).await;
    backend.multi_set(&[(kept, b"2"), (new, b"2")], Some(Duration::ZERO)).await.unwrap();
    assert_eq!(backend.multi_get(&[kept, new]).await.unwrap(), [None, None]);
    assert_eq!(backend.key_count(), 1, "the place of the removed value is free");
}

/// Its own place is the room that a value needs which takes the place of an expired one.
#[tokio::test]
async fn an_expired_value_gives_its_place_to_the_next_of_its_key() {
    const MOST: usize = 20_000;
    let clock = ManualClock::new();
    let backend = backend(&clock, MOST, Overflow::Deny);
    let (one, two) = (Key::value("one"), Key::value("two"));
    backend.multi_set(&[(one, b"1"), (two, b"1")], Some(secs(1))).await.unwrap();
    for number in 2..MOST as u64 {
        backend.set(&Key::value(&number.to_be_bytes()), b"kept", None).await.unwrap();
    }
    clock.advance(secs(2));
    backend.set(&one, b"2", None).await.unwrap();
    backend.multi_set(&[(two, b"2")], None).await.unwrap();
    assert_eq!(backend.key_count(), MOST);
    let error = backend.set(&Key::value("new"), b"1", None).await.unwrap_err();
    assert!(error.to_string().contains("max_keys is reached"), "{error}");
}

/// An adaptive limiter brings ever new rates to a hot key; what is over does not pile up.
#[tokio::test]
async fn rates_that_are_over_do_not_pile_up_on_a_key() {
    let clock = ManualClock::new();
    let backend = backend(&clock, 10, Overflow::Deny);
    let throttle = Throttle::builder("hot").rate("10/min").backend(backend).build().unwrap();
    let bring = |rate| HitOptions::new().replace_rates([rate]);
    for key in KEYS {
        assert!(throttle.hit_with(key, bring(Rate::per_day(7))).await.unwrap().is_allowed());
        for limit in 0..20_000u32 {
            let rate = Rate::new(1_000_000 + limit, Duration::from_millis(1)).unwrap().burst(1);
            assert!(throttle.hit_with(key, bring(rate)).await.unwrap().is_allowed(), "{limit}");
            clock.advance(Duration::from_micros(1));
        }
        let left = throttle.peek_with(key, bring(Rate::per_day(7))).await.unwrap().remaining();
        assert_eq!(left, 6, "what counts is kept");
    }
}

/// Panics when it is told to, and else lets ten pass.
#[derive(Debug)]
struct Fragile;

impl Strategy for Fragile {
    fn evaluate(
        &self,
        _rate: &Rate,
        state: &mut State,
        now: Timestamp,
        cost: u32,
        op: Op,
    ) -> Result<Answer, CorruptState> {
        assert!(cost != 13, "told to");
        let used = state.words().first().copied().unwrap_or(0);
        let verdict = match used + u64::from(cost) <= 10 {
            true => Verdict::Allowed,
            false => Verdict::Denied { retry_at: now.saturating_add(secs(60)) },
        };
        let takes = verdict == Verdict::Allowed && op == Op::Take;
        let used = if takes { used + u64::from(cost) } else { used };
        state.set(&[used]);
        let remaining = u32::try_from(10 - used).unwrap();
        Ok(Answer { verdict, remaining, reset_at: now.saturating_add(secs(3600)) })
    }
}

async fn panics(throttle: &Throttle, key: impl traffik::key::ToKey) {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};
    let mut hit = pin!(throttle.hit_with(key, HitOptions::new().cost(13)));
    let poll = AssertUnwindSafe(|| hit.as_mut().poll(&mut Context::from_waker(Waker::noop())));
    assert!(std::panic::catch_unwind(poll).is_err(), "the caller sees its own panic");
}

#[tokio::test]
async fn a_panic_in_a_strategy_loses_neither_its_key_nor_a_place() {
    let clock = ManualClock::new();
    let backend = backend(&clock, 50, Overflow::Deny);
    let throttle = Throttle::builder("fragile")
        .limit("20/min", SlidingWindowLog::new())
        .limit("10/min", Fragile)
        .backend(backend.clone())
        .build()
        .unwrap();
    for _ in 0..10 {
        assert!(throttle.hit("full").await.unwrap().is_allowed());
    }
    panics(&throttle, "full").await;
    let denied = throttle.hit("full").await.unwrap();
    assert_eq!((denied.denial(), denied.remaining()), (Some(Denial::Limited), 0));
    let log = denied.answers().next().unwrap();
    assert_eq!(log.remaining(), 10, "nor what the others of the step had counted");
    for number in 0..200u64 {
        panics(&throttle, number).await;
    }
    assert_eq!(backend.key_count(), 1, "a hit that panicked takes no place");
    for number in 0..49u64 {
        assert!(throttle.hit(number).await.unwrap().is_allowed());
    }
}
