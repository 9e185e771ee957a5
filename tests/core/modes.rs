//! Modes: a shadow asks and denies nobody, off asks nobody, and both are switched at run time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use test_support::{Failing, Mode as Failure, RuntimeClock, ValuesOnly};
use traffik::key::{KeyPart, KeyParts, ToKey};
use traffik::{
    Backend, DecidedBy, Denial, Error, ErrorKind, FixedWindow, HitOptions, InMemory, ManualClock,
    Mode, OnError, Outcome, Penalty, PermitDrop, Rate, Throttle, ThrottleBuilder, all,
};

const SECOND: Duration = Duration::from_secs(1);

fn builder(name: &str, rate: &str) -> ThrottleBuilder {
    Throttle::builder(name).rate(rate)
}

/// A backend in memory, once with its fast path and once asked by values alone.
fn backends() -> [(&'static str, Arc<dyn Backend>); 2] {
    let clock = ManualClock::new();
    let memory = InMemory::builder().clock(clock.clone()).build().unwrap();
    [("in memory", Arc::new(memory)), ("by values", Arc::new(ValuesOnly::new(&clock)))]
}

fn in_mode(rate: &str, backend: impl Backend, mode: Mode) -> Throttle {
    builder("api", rate).mode(mode).backend(backend).build().unwrap()
}

/// What a shadowed decision says.
fn denial_of(decision: &traffik::Decision) -> Option<Denial> {
    decision.shadowed().map(|shadowed| shadowed.denial())
}

#[tokio::test]
async fn a_shadow_lets_pass_what_it_would_deny_and_consumes_nothing() {
    for (name, backend) in backends() {
        let api = in_mode("2/min", backend, Mode::Shadow);
        for remaining in [1, 0] {
            let decision = api.hit("a").await.unwrap();
            assert_eq!((decision.shadowed(), decision.remaining()), (None, remaining), "{name}");
        }
        for _ in 0..3 {
            let decision = api.hit("a").await.unwrap();
            assert!(decision.is_allowed() && !decision.is_denied(), "{name}");
            assert_eq!((decision.outcome(), decision.denial()), (Outcome::Allowed, None));
            assert_eq!((decision.denied_by(), decision.decided_by()), (None, DecidedBy::Backend));
            let shadowed = decision.shadowed().unwrap();
            let wait = Outcome::Denied { retry_after: SECOND * 30 };
            assert_eq!((shadowed.denial(), shadowed.outcome()), (Denial::Limited, wait));
            assert_eq!(shadowed.denied_by(), Some(0));
            assert_eq!(api.denied_by(&decision).unwrap().name(), "api/min");
            // Each limit's answer is the real one.
            assert_eq!(decision.answers().map(|it| it.outcome()).collect::<Vec<_>>(), [wait]);
            assert_eq!(decision.remaining(), 0);
            assert!(decision.receipt().is_none(), "{name}: nothing was taken");
        }
        let never = api.hit_with("a", HitOptions::new().cost(3)).await.unwrap();
        assert_eq!(denial_of(&never), Some(Denial::Never), "{name}");
        assert_eq!(never.shadowed().unwrap().outcome(), Outcome::Never);
        let peek = api.peek("a").await.unwrap();
        assert_eq!((peek.is_allowed(), denial_of(&peek)), (true, Some(Denial::Limited)), "{name}");
        api.enforce("a").await.unwrap();

        api.set_mode(Mode::Enforce);
        let denied = api.hit("a").await.unwrap();
        let wait = Outcome::Denied { retry_after: SECOND * 30 };
        assert_eq!((denied.outcome(), denied.shadowed()), (wait, None), "{name}");
    }
}

#[tokio::test]
async fn several_limits_and_brought_rates_keep_their_answers_in_a_shadow() {
    for (name, backend) in backends() {
        let api = Throttle::builder("api").rates(["1/min", "5/h", "9/day"]).mode(Mode::Shadow);
        let api = api.backend(backend).build().unwrap();
        let _ = api.hit("a").await.unwrap();
        let decision = api.hit("a").await.unwrap();
        let outcomes: Vec<_> = decision.answers().map(|it| it.outcome()).collect();
        let wait = Outcome::Denied { retry_after: SECOND * 60 };
        assert_eq!(outcomes, [wait, Outcome::Allowed, Outcome::Allowed], "{name}");
        assert_eq!(decision.answers().map(|it| it.remaining()).collect::<Vec<_>>(), [0, 4, 8]);
        let none = HitOptions::new().replace_rates([Rate::per_hour(0)]);
        let decision = api.hit_with("b", none).await.unwrap();
        assert_eq!(denial_of(&decision), Some(Denial::Never), "{name}");
        assert_eq!(api.denied_by(&decision).unwrap().rate(), &Rate::per_hour(0));
    }
}

#[tokio::test]
async fn off_asks_nobody_and_writes_nothing() {
    let calls = Arc::new(AtomicU32::new(0));
    let down = Failing::new(Failure::Fail(ErrorKind::Unavailable)).counting(Arc::clone(&calls));
    let api = in_mode("0/min", down, Mode::Off);
    let is_off = |decision: traffik::Decision| {
        assert!(decision.is_allowed());
        assert_eq!((decision.decided_by(), decision.shadowed()), (DecidedBy::Off, None));
        assert_eq!(decision.to_string(), "allowed, not counted");
        assert!(decision.receipt().is_none());
    };
    is_off(api.hit("a").await.unwrap());
    is_off(api.hit_with("a", HitOptions::new().add_rates([Rate::per_hour(0)])).await.unwrap());
    is_off(api.peek("a").await.unwrap());
    is_off(api.peek_with("a", HitOptions::new().cost(9)).await.unwrap());
    is_off(api.charge("a", 9).await.unwrap());
    for decision in api.hit_many(["a", "b"]).await {
        is_off(decision.unwrap());
    }
    assert_eq!(api.take_up_to("a", 9).await.unwrap().units(), 9);
    assert_eq!(api.reserve("a", 9).await.unwrap().units(), 0);
    assert_eq!(api.acquire("a").cost(9).await.unwrap().units(), 0);
    assert_eq!(api.try_acquire("a", 9).unwrap().units(), 0);
    let together = all().hit(&api, "a").hit(&api, "b").await.unwrap();
    assert!(together.decisions().all(|it| it.unwrap().decided_by() == DecidedBy::Off));
    assert!(together.into_permits().unwrap().iter().all(|permit| permit.units() == 0));
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_was_taken_before_it_was_off_stays_taken() {
    for (name, backend) in backends() {
        let api = in_mode("5/min", backend, Mode::Enforce);
        let first = api.hit("a").await.unwrap().receipt().unwrap();
        let second = api.hit("a").await.unwrap().receipt().unwrap();
        let third = api.reserve("a", 1).await.unwrap().on_drop(PermitDrop::Refund);
        api.set_mode(Mode::Off);
        api.refund("a", first).await.unwrap();
        api.settle("a", second, 3).await.unwrap();
        drop(third);
        api.set_mode(Mode::Enforce);
        assert_eq!(api.peek("a").await.unwrap().remaining(), 2, "{name}");
        api.set_mode(Mode::Off);
        api.reset("a").await.unwrap();
        api.set_mode(Mode::Enforce);
        assert_eq!(api.peek("a").await.unwrap().remaining(), 5, "{name}: an operator's verb");
    }
}

#[tokio::test]
async fn what_was_taken_in_a_shadow_is_settled_and_refunded() {
    for (name, backend) in backends() {
        let api = in_mode("5/min", backend, Mode::Shadow);
        let receipt = api.hit("a").await.unwrap().receipt().unwrap();
        api.refund("a", receipt).await.unwrap();
        let permit = api.reserve("a", 4).await.unwrap();
        assert_eq!(permit.units(), 4);
        permit.settle(5).await.unwrap();
        assert_eq!(api.peek("a").await.unwrap().remaining(), 0, "{name}");
        // Beyond the limits there are no units to give back or to settle.
        for used in [0, 9] {
            let permit = api.reserve("a", 4).await.unwrap();
            assert_eq!(permit.units(), 0);
            permit.settle(used).await.unwrap();
        }
        api.reserve("a", 4).await.unwrap().refund().await.unwrap();
        drop(api.reserve("a", 4).await.unwrap().on_drop(PermitDrop::Refund));
        let peek = api.peek("a").await.unwrap();
        let wait = Outcome::Denied { retry_after: SECOND * 12 };
        assert_eq!(peek.shadowed().unwrap().outcome(), wait, "{name}");
    }
}

#[tokio::test]
async fn up_to_so_many_are_all_in_a_shadow() {
    for (name, backend) in backends() {
        let mails = in_mode("5/min", backend, Mode::Shadow);
        let taken = mails.take_up_to("a", 8).await.unwrap();
        assert_eq!((taken.units(), taken.enforced_units()), (8, 5), "{name}");
        assert_eq!(denial_of(taken.decision()), None);
        assert_eq!(taken.receipt().unwrap().cost(), 5, "what there was");
        let taken = mails.take_up_to("a", 8).await.unwrap();
        assert_eq!((taken.units(), taken.enforced_units()), (8, 0), "{name}");
        assert_eq!(denial_of(taken.decision()), Some(Denial::Limited));
        mails.set_mode(Mode::Enforce);
        let taken = mails.take_up_to("a", 8).await.unwrap();
        assert_eq!((taken.units(), taken.enforced_units()), (0, 0), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_in_a_shadow() {
    for strategy in ["bucket", "window"] {
        let api = builder("api", "1/min").mode(Mode::Shadow).backend(RuntimeClock::memory());
        let api = match strategy {
            "window" => api.strategy(FixedWindow::new()),
            _ => api,
        };
        let api = api.build().unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!(api.acquire("a").await.unwrap().units(), 1, "{strategy}");
        assert_eq!(api.acquire("a").await.unwrap().units(), 0, "{strategy}");
        assert_eq!(api.acquire("a").cost(2).await.unwrap().units(), 0, "never, and passes");
        assert_eq!(api.try_acquire("a", 1).unwrap().units(), 0);
        assert_eq!(began.elapsed(), Duration::ZERO, "{strategy}");
        api.set_mode(Mode::Enforce);
        let late = api.acquire("a").timeout(SECOND).await;
        assert!(matches!(late, Err(Error::Denied(_))), "{strategy}: nothing was reserved before");
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_again_passes_at_once_when_it_is_switched() {
    let api = builder("api", "1/min").strategy(FixedWindow::new());
    let api = api.backend(RuntimeClock::memory()).build().unwrap();
    api.acquire("a").await.unwrap().commit();
    let began = tokio::time::Instant::now();
    let clone = api.clone();
    let second = tokio::spawn(async move { clone.acquire("a").await.map(|permit| permit.units()) });
    tokio::time::sleep(SECOND).await;
    api.set_mode(Mode::Off);
    // When it would have asked again.
    assert_eq!(second.await.unwrap().unwrap(), 0);
    assert!(began.elapsed() <= SECOND * 60);
}

#[tokio::test]
async fn each_of_many_is_shadowed_for_itself() {
    for (name, backend) in backends() {
        let api = in_mode("1/min", backend, Mode::Shadow);
        let decisions = api.hit_many(["a", "b", "a"]).await;
        let shadowed: Vec<_> = decisions.iter().map(|it| denial_of(it.as_ref().unwrap())).collect();
        assert_eq!(shadowed, [None, None, Some(Denial::Limited)], "{name}");
        assert!(decisions.iter().all(|it| it.as_ref().unwrap().is_allowed()));
    }
}

#[tokio::test]
async fn a_shadow_among_several_takes_nothing_from_the_others() {
    for (name, backend) in backends() {
        let of = |name: &str, rate: &str, mode| {
            builder(name, rate).mode(mode).backend(Arc::clone(&backend)).build().unwrap()
        };
        let (new, old, off) = (
            of("new", "1/min", Mode::Shadow),
            of("old", "3/min", Mode::Enforce),
            of("off", "0/min", Mode::Off),
        );
        let hit = async || all().hit(&new, "a").hit(&old, "a").hit(&off, "a").await.unwrap();
        let left = async |throttle: &Throttle| throttle.peek("a").await.unwrap().remaining();
        for (used, shadowed) in [(1, None), (1, Some(Denial::Limited)), (1, Some(Denial::Limited))]
        {
            let before = left(&old).await;
            let decision = hit().await;
            assert!(decision.is_allowed(), "{name}");
            assert_eq!(decision.denied_by(), None);
            assert_eq!(denial_of(decision.decision(0).unwrap()), shadowed, "{name}");
            assert_eq!(before - left(&old).await, used, "{name}: the enforced one is taken");
            let permits = decision.into_permits().unwrap();
            let units: Vec<_> = permits.iter().map(|permit| permit.units()).collect();
            assert_eq!(units, [u32::from(shadowed.is_none()), 1, 0], "{name}");
        }
        // The enforced one denies: the shadow is not even asked, so nothing of it is used.
        new.reset("a").await.unwrap();
        let denied = hit().await;
        assert_eq!(denied.denied_by(), Some(1), "{name}");
        assert!(denied.decision(0).is_none());
        assert_eq!(left(&new).await, 1, "{name}");
    }
}

#[tokio::test]
async fn a_shadow_among_several_may_have_its_store_down() {
    for policy in [OnError::default(), OnError::Raise] {
        let down = Failing::new(Failure::Fail(ErrorKind::Unavailable)).with_policy(policy);
        let new = builder("new", "9/min").mode(Mode::Shadow).backend(down).build().unwrap();
        let old = in_mode("3/min", InMemory::new(), Mode::Enforce);
        let decision = all().hit(&new, "a").hit(&old, "a").await.unwrap();
        assert!(decision.is_allowed());
        assert_eq!(denial_of(decision.decision(0).unwrap()), Some(Denial::Policy));
        assert_eq!(old.peek("a").await.unwrap().remaining(), 2);
    }
}

#[tokio::test]
async fn one_state_in_two_modes_is_asked_twice() {
    let backend = InMemory::new();
    let enforced = in_mode("3/min", backend.clone(), Mode::Enforce);
    let shadow = in_mode("3/min", backend, Mode::Shadow);
    for shadowed in [None, Some(Denial::Limited)] {
        let decision = all().hit(&shadow, "a").hit(&enforced, "a").await.unwrap();
        assert!(decision.is_allowed());
        assert_eq!(denial_of(decision.decision(0).unwrap()), shadowed);
    }
}

#[tokio::test]
async fn a_store_that_is_down_denies_nobody_in_a_shadow() {
    for (policy, shadowed) in [
        (OnError::default(), Some(Denial::Policy)),
        (OnError::Raise, Some(Denial::Policy)),
        (OnError::Allow, None),
    ] {
        let down = Failing::new(Failure::Fail(ErrorKind::Unavailable)).with_policy(policy);
        let api = in_mode("9/min", down, Mode::Shadow);
        let decision = api.hit("a").await.unwrap();
        assert!(decision.is_allowed());
        assert_eq!((denial_of(&decision), decision.decided_by()), (shadowed, DecidedBy::Policy));
        let many = api.hit_many(["a"]).await.remove(0).unwrap();
        assert_eq!((many.is_allowed(), denial_of(&many)), (true, shadowed));
        assert_eq!(api.acquire("a").await.unwrap().units(), 0);
        assert_eq!(api.take_up_to("a", 4).await.unwrap().units(), 4);
    }
    // A mistake of the program stays one.
    let closed = InMemory::new();
    closed.close().await.unwrap();
    let api = in_mode("9/min", closed, Mode::Shadow);
    assert!(matches!(api.hit("a").await, Err(Error::Backend(_))));
}

#[tokio::test]
async fn blocks_are_shadowed_and_penalties_block_nobody() {
    for (name, backend) in backends() {
        let penalty = Penalty::block_for(SECOND * 600).after(2);
        let login = builder("login", "1/min").penalty(penalty).mode(Mode::Shadow);
        let login = login.backend(backend).build().unwrap();
        for hit in 0..5 {
            let decision = login.hit("mallory").await.unwrap();
            assert_eq!(denial_of(&decision), (hit > 0).then_some(Denial::Limited), "{name}");
        }
        for decision in login.hit_many(["mallory"; 4]).await {
            assert_eq!(denial_of(&decision.unwrap()), Some(Denial::Limited), "{name}");
        }
        assert!(login.try_acquire("mallory", 1).is_ok() || name == "by values");
        assert!(all().hit(&login, "mallory").await.unwrap().is_allowed());
        assert_eq!(login.inspect("mallory").await.unwrap().blocked_for(), None, "{name}");

        login.block("mallory", SECOND * 90).await.unwrap();
        let decision = login.hit("mallory").await.unwrap();
        assert!(decision.is_allowed());
        let wait = Outcome::Denied { retry_after: SECOND * 90 };
        let shadowed = decision.shadowed().unwrap();
        assert_eq!((shadowed.denial(), shadowed.outcome()), (Denial::Blocked, wait), "{name}");
        login.set_mode(Mode::Enforce);
        assert_eq!(login.hit("mallory").await.unwrap().denial(), Some(Denial::Blocked), "{name}");
    }
}

#[tokio::test]
async fn clones_share_the_mode_and_others_do_not() {
    let backend = InMemory::new();
    let api = in_mode("0/min", backend.clone(), Mode::Enforce);
    let (clone, other) = (api.clone(), in_mode("0/min", backend, Mode::Enforce));
    for mode in [Mode::Off, Mode::Shadow, Mode::Enforce, Mode::Shadow] {
        std::thread::scope(|scope| {
            scope.spawn(|| api.set_mode(mode));
        });
        assert_eq!((clone.mode(), other.mode()), (mode, Mode::Enforce));
        let expected = mode != Mode::Enforce;
        assert_eq!(clone.hit("a").await.unwrap().is_allowed(), expected);
        assert!(other.hit("a").await.unwrap().is_denied());
    }
    assert!(format!("{clone:?}").contains("mode: Shadow"));
}

#[tokio::test]
async fn a_full_memory_is_shadowed_too() {
    let backend = InMemory::builder().max_keys(Some(1)).number_of_shards(1).build().unwrap();
    let api = in_mode("5/h", backend, Mode::Shadow);
    let _ = api.hit("a").await.unwrap();
    let decision = api.hit("b").await.unwrap();
    assert_eq!((decision.is_allowed(), denial_of(&decision)), (true, Some(Denial::Full)));
    assert_eq!(decision.decided_by(), DecidedBy::Overflow);
}

/// A throttle that is only watched must not fail those that count.
#[tokio::test]
async fn a_mistake_in_a_shadow_leaves_the_others_of_its_all_alone() {
    for (name, backend) in backends() {
        let api = in_mode("2/min", backend, Mode::Enforce);
        let without = |mode| builder("without a backend", "5/min").mode(mode).build().unwrap();
        let decision = all().hit(&api, "a").hit(&without(Mode::Shadow), "a").await.unwrap();
        assert!(decision.is_allowed(), "{name}");
        let shadowed = decision.decisions().nth(1).unwrap().unwrap().shadowed().unwrap();
        assert!(matches!(shadowed.outcome(), Outcome::Denied { .. }), "{name}: {shadowed:?}");
        assert_eq!(api.peek("a").await.unwrap().remaining(), 1, "{name}: taken once");
        let failed = all().hit(&api, "a").hit(&without(Mode::Enforce), "a").await;
        assert!(failed.is_err(), "{name}");
        assert_eq!(api.peek("a").await.unwrap().remaining(), 1, "{name}: nothing taken");
    }
}

/// Of so many parts that nobody can be asked about it.
struct TooLong;

impl ToKey for TooLong {
    fn to_key(&self) -> KeyParts<'_> {
        KeyParts::several(&[KeyPart::bytes(b"a"); 20])
    }
}

#[tokio::test]
async fn hits_that_cannot_be_one_or_have_no_key_leave_the_others_alone_where_nobody_is_denied() {
    for (name, backend) in backends() {
        let enforced = in_mode("9/min", Arc::clone(&backend), Mode::Enforce);
        for mode in [Mode::Shadow, Mode::Off] {
            let other = builder("watched", "5/min").mode(mode);
            let other = other.backend(Arc::clone(&backend)).build().unwrap();
            let own = HitOptions::new().replace_rates([Rate::per_minute(7)]);
            let decision =
                all().hit(&enforced, "a").hit(&other, "a").hit_with(&other, "a", own).await;
            assert!(decision.unwrap().is_allowed(), "{name}, {mode:?}");
            let decision = all().hit(&enforced, "a").hit(&other, TooLong).await.unwrap();
            assert!(decision.is_allowed(), "{name}, {mode:?}");
            let permits = all().hit(&enforced, "a").hit(&other, TooLong).reserve().await.unwrap();
            drop(permits);
        }
        let failed = all().hit(&enforced, "a").hit(&enforced, TooLong).await;
        assert!(matches!(failed, Err(Error::Key(_))), "{name}");
        assert_eq!(enforced.peek("a").await.unwrap().remaining(), 3, "{name}");
    }
}
