//! What is decided when a backend fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use test_support::{Failing, Mode};
use traffik::{
    BackendError, DecidedBy, Decision, Denial, Effect, Error, ErrorKind, Exempt, HitOptions,
    InMemory, OnError, Outcome, Rate, SlidingWindowLog, Throttle,
};

use test_support::wait_of;

fn throttle(mode: Mode, policy: OnError) -> Throttle {
    Throttle::builder("policy")
        .rate("5/s")
        .backend(Failing::new(mode))
        .on_error(policy)
        .build()
        .unwrap()
}

const DOWN: Mode = Mode::Fail(ErrorKind::Unavailable);

#[tokio::test(start_paused = true)]
async fn throttle_denies_for_a_while() {
    let decision = throttle(DOWN, OnError::default()).hit("a").await.unwrap();
    assert_eq!(decision.denial(), Some(Denial::Policy));
    assert_eq!(decision.decided_by(), DecidedBy::Policy);
    assert_eq!(wait_of(&decision), Some(Duration::from_secs(1)), "the documented default");
    assert_eq!(decision.denied_by(), None, "no limit denied it");
    assert_eq!(decision.receipt().map(|receipt| receipt.cost()), None, "nothing was taken");
    let longer = OnError::throttle(Duration::from_secs(9));
    let decision = throttle(DOWN, longer).hit("a").await.unwrap();
    assert_eq!(wait_of(&decision), Some(Duration::from_secs(9)));
    // A client that is told no time at all would be back at once.
    let decision = throttle(DOWN, OnError::throttle(Duration::ZERO)).hit("a").await.unwrap();
    assert_eq!(wait_of(&decision), Some(Duration::from_millis(1)));
}

#[tokio::test(start_paused = true)]
async fn allow_lets_pass_uncounted() {
    let decision = throttle(DOWN, OnError::Allow).hit("a").await.unwrap();
    assert!(decision.is_allowed());
    assert_eq!(decision.decided_by(), DecidedBy::Policy);
    assert!(decision.receipt().is_none(), "nothing was taken");
}

/// What is switched off stays off while the store is away, and so does what costs too much.
#[tokio::test(start_paused = true)]
async fn what_can_never_pass_is_denied_by_every_policy_that_decides() {
    let opens = || OnError::handler(|_| async { Decision::allow() });
    let builder = |policy| {
        let builder = Throttle::builder("policy").backend(Failing::new(DOWN)).on_error(policy);
        builder.rate("10/h burst 20").named("hourly")
    };
    let plain = HitOptions::new;
    for policy in [OnError::default(), OnError::Allow, opens()] {
        let closed = builder(policy.clone()).rate("0/day").named("closed").build().unwrap();
        let open = builder(policy.clone()).build().unwrap();
        let brought = plain().replace_rates([Rate::per_minute(5), Rate::per_day(0)]);
        for (throttle, options, named) in [
            (&closed, plain(), "closed"),
            (&open, plain().cost(21), "hourly"),
            (&open, plain().cost(1).leave(20), "hourly"),
            (&open, brought, "policy/day"),
        ] {
            for decision in [
                throttle.hit_with("a", options.clone()).await.unwrap(),
                throttle.peek_with("a", options.clone()).await.unwrap(),
            ] {
                assert_eq!(decision.outcome(), Outcome::Never, "{policy:?} {options:?}");
                assert_eq!(decision.denial(), Some(Denial::Never));
                assert_eq!(decision.decided_by(), DecidedBy::Policy);
                assert_eq!(throttle.denied_by(&decision).unwrap().name(), named);
            }
            assert!(throttle.enforce_with("a", options).await.is_err());
        }
        for options in [plain().cost(20), plain().cost(1).leave(19), plain().cost(0)] {
            let decision = open.hit_with("a", options).await.unwrap();
            assert_ne!(decision.outcome(), Outcome::Never, "it may pass");
        }
        let log = builder(policy.clone()).limit("9/min", SlidingWindowLog::new()).build().unwrap();
        let log = log.hit_with("a", plain().cost(10)).await.unwrap();
        assert_eq!((log.outcome(), log.limit()), (Outcome::Never, 9));
    }
    let raises = builder(OnError::Raise).rate("0/day").build().unwrap();
    assert!(matches!(raises.hit("a").await, Err(Error::Backend(_))), "the caller asked for errors");
}

/// The promise is the deadline, plus the handler's limit.
#[tokio::test(start_paused = true)]
async fn a_hit_whose_handler_is_slow_ends_within_the_deadline_plus_the_handlers_limit() {
    let (deadline, limit) = (Duration::from_millis(70), Duration::from_millis(110));
    let policy = OnError::handler_within(limit, |_| std::future::pending());
    let builder = Throttle::builder("slow").rate("5/h").backend(Failing::new(Mode::Hang));
    let throttle = builder.on_error(policy).deadline(deadline).build().unwrap();
    let before = tokio::time::Instant::now();
    let decision = throttle.hit("a").await.unwrap();
    assert_eq!((before.elapsed(), decision.decided_by()), (deadline + limit, DecidedBy::Policy));
}

#[tokio::test(start_paused = true)]
async fn raise_gives_the_error() {
    let error = throttle(DOWN, OnError::Raise).hit("a").await.unwrap_err();
    let Error::Backend(error) = error else { panic!("{error:?}") };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.effect(), Effect::NotApplied);
    let text = error.to_string();
    assert!(
        text.contains("failing") && text.contains("apply"),
        "names backend and operation: {text}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_backend_has_a_policy_and_the_throttle_overrides_it() {
    let backend = || Failing::new(DOWN).with_policy(OnError::Allow);
    let builder = || Throttle::builder("policy").rate("5/s").backend(backend());
    assert!(builder().build().unwrap().hit("a").await.unwrap().is_allowed());
    let denies = builder().on_error(OnError::default()).build().unwrap();
    assert!(denies.hit("a").await.unwrap().is_denied());
    // For a peek too.
    assert!(denies.peek("a").await.unwrap().is_denied());
}

#[tokio::test(start_paused = true)]
async fn a_handler_is_told_all_and_decides() {
    let policy = OnError::handler(|failure| async move {
        assert_eq!(failure.throttle(), "policy");
        assert_eq!(failure.key().parts(), [b"tenant".to_vec(), b"alice".to_vec()]);
        assert_eq!(failure.cost(), 3);
        assert_eq!(failure.options().leave(0), failure.options(), "nothing is left out");
        assert_eq!(failure.limits().len(), 1);
        assert_eq!(failure.error().kind(), ErrorKind::Unavailable);
        Decision::deny(Duration::from_secs(7))
    });
    let throttle = throttle(DOWN, policy);
    let decision = throttle.hit_with(("tenant", "alice"), HitOptions::new().cost(3)).await.unwrap();
    assert_eq!(wait_of(&decision), Some(Duration::from_secs(7)));
    assert_eq!(decision.decided_by(), DecidedBy::Policy);
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_ask_another_throttle() {
    let spare = Throttle::builder("spare").rate("1/h").backend(InMemory::new()).build().unwrap();
    let policy = OnError::handler(move |failure| {
        let spare = spare.clone();
        async move { spare.hit(failure.key()).await.unwrap_or(Decision::allow()) }
    });
    let throttle = throttle(DOWN, policy);
    let first = throttle.hit(("a", "b")).await.unwrap();
    assert!(first.is_allowed());
    assert_eq!(first.decided_by(), DecidedBy::Policy, "decided by policy, whoever was asked");
    assert!(throttle.hit(("a", "b")).await.unwrap().is_denied());
    assert!(throttle.hit("a").await.unwrap().is_allowed(), "another key of the other throttle");
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_another_throttle_is_not_named_as_this_ones() {
    let rates = ["5/s", "1/min"];
    let spare = Throttle::builder("spare").rates(rates).backend(InMemory::new()).build().unwrap();
    let policy = OnError::handler(move |failure| {
        let spare = spare.clone();
        async move { spare.hit(failure.key()).await.unwrap() }
    });
    let backend = Failing::new(DOWN).with_policy(policy);
    let throttle = Throttle::builder("main").rates(["100/min", "1000/h"]).backend(backend);
    let throttle = throttle.build().unwrap();
    assert!(throttle.hit("a").await.unwrap().is_allowed());
    let denied = throttle.hit("a").await.unwrap();
    assert_eq!((denied.is_denied(), denied.decided_by()), (true, DecidedBy::Policy));
    assert!(throttle.denied_by(&denied).is_none());
}

#[tokio::test(start_paused = true)]
async fn the_wait_of_the_throttle_that_a_handler_asks_is_kept() {
    let least = Duration::from_secs(3600);
    for (inner, outer) in [(least, Duration::ZERO), (Duration::ZERO, least)] {
        let spare = Throttle::builder("spare").rate("1/s").backend(InMemory::new());
        let spare = spare.min_retry_after(inner).build().unwrap();
        let policy = OnError::handler(move |failure| {
            let spare = spare.clone();
            async move { spare.hit(failure.key()).await.unwrap() }
        });
        let backend = Failing::new(DOWN).with_policy(policy);
        let throttle = Throttle::builder("main").rate("5/s").backend(backend);
        let throttle = throttle.min_retry_after(outer).build().unwrap();
        assert!(throttle.hit("a").await.unwrap().is_allowed());
        assert_eq!(wait_of(&throttle.hit("a").await.unwrap()), Some(least));
    }
}

/// A customer whose plan is brought by each hit keeps it in the fallback.
#[tokio::test(start_paused = true)]
async fn a_handler_makes_the_same_hit_elsewhere() {
    let spare = Throttle::builder("spare").rate("3/min").backend(InMemory::new()).build().unwrap();
    let policy = OnError::handler(move |failure| {
        let spare = spare.clone();
        async move {
            let hit = spare.hit_with(failure.key(), failure.options()).await;
            hit.unwrap_or(Decision::deny(Duration::from_secs(1)))
        }
    });
    let throttle = throttle(DOWN, policy);
    let plan = HitOptions::new().replace_rates([Rate::per_minute(600)]).cost(2).leave(100);
    let mut passed = 0;
    while throttle.hit_with(("tenant", 7u32), plan.clone()).await.unwrap().is_allowed() {
        passed += 2;
    }
    assert_eq!(passed, 500, "by the plan, and what it leaves");
}

#[tokio::test(start_paused = true)]
async fn f35_a_handler_that_hangs_or_panics_counts_as_throttle() {
    let hangs = OnError::handler(|_| std::future::pending());
    let panics = OnError::handler(|_| async { panic!("part of the test") });
    let panics_at_once = OnError::handler(|_| -> std::future::Ready<Decision> {
        panic!("part of the test");
    });
    for policy in [hangs, panics, panics_at_once] {
        let before = tokio::time::Instant::now();
        let decision = throttle(DOWN, policy.clone()).hit("a").await.unwrap();
        assert_eq!(decision.denial(), Some(Denial::Policy), "{policy:?}");
        assert_eq!(wait_of(&decision), Some(Duration::from_secs(1)), "{policy:?}");
        assert!(before.elapsed() <= Duration::from_millis(251), "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hit_ends_at_its_deadline() {
    for (deadline, expected) in [(None, 250), (Some(Duration::from_millis(40)), 40)] {
        let mut builder = Throttle::builder("deadline")
            .rate("5/s")
            .backend(Failing::new(Mode::Hang))
            .on_error(OnError::Raise);
        if let Some(deadline) = deadline {
            builder = builder.deadline(deadline);
        }
        let throttle = builder.build().unwrap();
        let before = tokio::time::Instant::now();
        let error = throttle.hit("a").await.unwrap_err();
        assert_eq!(before.elapsed().as_millis(), expected);
        let Error::Backend(error) = error else { panic!("{error:?}") };
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::Ambiguous));
        // Also what no policy decides about.
        let error = throttle.reset("a").await.unwrap_err();
        assert!(matches!(error, Error::Backend(error) if error.kind() == ErrorKind::Timeout));
    }
}

#[tokio::test(start_paused = true)]
async fn mistakes_of_the_program_are_never_decided_by_policy() {
    for kind in [ErrorKind::Closed, ErrorKind::Misconfigured] {
        for policy in
            [OnError::default(), OnError::Allow, OnError::handler(|_| async { Decision::allow() })]
        {
            let error = throttle(Mode::Fail(kind), policy.clone()).hit("a").await.unwrap_err();
            assert!(matches!(&error, Error::Backend(e) if e.kind() == kind), "{policy:?}: {error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_ambiguous_hit_is_not_tried_again() {
    let calls = Arc::new(AtomicU32::new(0));
    let backend = Failing::new(Mode::Ambiguous).counting(Arc::clone(&calls));
    let throttle = Throttle::builder("once").rate("5/s").backend(backend).build().unwrap();
    assert!(throttle.hit("a").await.unwrap().is_denied());
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn what_needs_no_backend_does_not_ask_it() {
    let limited = throttle(DOWN, OnError::Raise);
    let decision = limited.hit(Exempt).await.unwrap();
    assert_eq!((decision.is_allowed(), decision.decided_by()), (true, DecidedBy::Exempt));
    assert_eq!(
        limited.hit(traffik::ExemptIfNone(None::<&str>)).await.unwrap().decided_by(),
        DecidedBy::Exempt
    );
    let unlimited = Throttle::builder("free")
        .rate(Rate::UNLIMITED)
        .backend(Failing::new(DOWN))
        .on_error(OnError::Raise)
        .build()
        .unwrap();
    assert_eq!(unlimited.hit("a").await.unwrap().decided_by(), DecidedBy::Unlimited);
    let vip = HitOptions::new().replace_rates([Rate::UNLIMITED]);
    assert_eq!(limited.hit_with("a", vip).await.unwrap().decided_by(), DecidedBy::Unlimited);
}

#[tokio::test(start_paused = true)]
async fn enforce_turns_a_denial_into_an_error() {
    let throttle =
        Throttle::builder("enforce").rate("1/h").backend(InMemory::new()).build().unwrap();
    assert!(throttle.enforce("a").await.is_ok());
    let Err(Error::Denied(decision)) = throttle.enforce("a").await else { panic!("denied") };
    assert_eq!(decision.denial(), Some(Denial::Limited));
    let error = Error::Denied(decision).to_string();
    assert!(error.starts_with("rate limit exceeded: denied, retry after"), "{error}");
}

#[test]
fn an_error_keeps_its_cause() {
    let cause = std::io::Error::other("cut");
    let error = BackendError::new("b", "get", ErrorKind::Unavailable)
        .with_effect(Effect::Ambiguous)
        .with_cause(cause);
    assert_eq!(error.to_string(), "b: get: the store is unavailable (it may have happened)");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "cut");
}
