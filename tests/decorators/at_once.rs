//! Decorators around a backend that decides without waiting, as one of a user's own may, and that can fail.

use std::num::NonZeroU32;
use std::time::Duration;

use test_support::{Distant, Play, Scripted};
use traffik::decorator::{
    CircuitBreaker, CircuitState, DenyCache, DenyCacheOptions, Failover, FailoverOptions,
    Resilience, Retry,
};
use traffik::{
    DecidedBy, Decision, Denial, Effect, Error, ErrorKind, FixedWindow, HitOptions, InMemory,
    ManualClock, OnError, Outcome, Throttle,
};

use super::support::{MS, error, is_open_error, left, raising};

const DOWN: Play = Play::Refuse(ErrorKind::Unavailable);

fn at_once() -> Scripted {
    let memory = InMemory::builder().clock(ManualClock::new()).build().unwrap();
    Scripted::around(memory).at_once()
}

/// How often it was asked for a decision at once, and by a call that may wait.
fn asked(scripted: &Scripted) -> (usize, usize) {
    (scripted.asked("try_apply"), scripted.asked("apply"))
}

fn remembering() -> (Scripted, DenyCache) {
    let (scripted, hour) = (at_once(), Duration::from_secs(3600));
    let options = DenyCacheOptions::new().max_age(hour);
    (scripted.clone(), DenyCache::with_options(scripted, options).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_denial_is_remembered_and_a_failure_is_not() {
    let (scripted, cache) = remembering();
    let throttle = raising(cache);
    scripted.plays(DOWN);
    assert_eq!(error(throttle.hit("a").await).kind(), ErrorKind::Unavailable);
    scripted.plays(Play::Answer);
    for hit in 0..10 {
        assert_eq!(throttle.hit("a").await.unwrap().is_allowed(), hit < 5);
    }
    assert_eq!(asked(&scripted), (7, 0));
    scripted.plays(DOWN);
    assert!(throttle.hit("a").await.unwrap().is_denied(), "nobody was asked");
}

#[tokio::test(start_paused = true)]
async fn what_may_let_a_key_pass_makes_a_deny_cache_forget() {
    for change in 0..5 {
        let (scripted, cache) = remembering();
        let throttle = raising(cache);
        let receipt = throttle.hit("a").await.unwrap().receipt().unwrap();
        let of_part = throttle.hit_with("a", HitOptions::new().cost(4)).await.unwrap();
        assert!(throttle.hit("a").await.unwrap().is_denied());
        let before = asked(&scripted);
        assert!(throttle.hit("a").await.unwrap().is_denied());
        assert_eq!(asked(&scripted), before, "it is remembered");
        match change {
            0 => throttle.refund("a", receipt).await.unwrap(),
            1 => {
                // It has happened all the same.
                scripted.plays_next([Play::FailAfterwards(ErrorKind::Timeout)]);
                throttle.refund("a", receipt).await.unwrap_err();
            }
            2 => throttle.settle("a", of_part.receipt().unwrap(), 2).await.unwrap(),
            3 => drop(throttle.charge("a", 1).await.unwrap()),
            _ => throttle.drain("a").await.unwrap(),
        }
        let before = asked(&scripted);
        let hit = throttle.hit("a").await.unwrap();
        assert_eq!(asked(&scripted), (before.0 + 1, before.1), "change {change} makes it ask");
        assert_eq!(hit.is_allowed(), change < 3, "change {change}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_denial_under_way_while_its_key_changes_is_not_remembered() {
    let (scripted, cache) = remembering();
    let throttle = Throttle::builder("one").rate("1/day").backend(cache).build().unwrap();
    let receipt = throttle.hit("a").await.unwrap().receipt().unwrap();
    scripted.plays_next([Play::AnswerIsLate(10 * MS)]);
    let asking = tokio::spawn({
        let throttle = throttle.clone();
        async move { throttle.hit("a").await.unwrap() }
    });
    tokio::time::sleep(5 * MS).await;
    throttle.refund("a", receipt).await.unwrap();
    assert_eq!(asked(&scripted), (2, 1), "given back at once, while the hit waits");
    assert!(asking.await.unwrap().is_denied(), "it was asked before");
    assert!(throttle.hit("a").await.unwrap().is_allowed());
}

struct Pair {
    primary: Scripted,
    fallback: Scripted,
    throttle: Throttle,
}

fn pair(options: FailoverOptions) -> Pair {
    let (primary, fallback) = (at_once(), at_once());
    let failover = Failover::with_options(primary.clone(), fallback.clone(), options).unwrap();
    Pair { primary, fallback, throttle: raising(failover) }
}

#[tokio::test(start_paused = true)]
async fn a_fallback_decides_at_once_and_says_so() {
    let pair = pair(FailoverOptions::new());
    let (primary, fallback, throttle) = (&pair.primary, &pair.fallback, &pair.throttle);
    let of_primary = throttle.hit("a").await.unwrap();
    assert_eq!((of_primary.decided_by(), asked(fallback)), (DecidedBy::Backend, (0, 0)));
    primary.plays(DOWN);
    let decision = throttle.hit("a").await.unwrap();
    assert_eq!((decision.decided_by(), decision.remaining()), (DecidedBy::Fallback, 4));
    assert_eq!((asked(primary), asked(fallback)), ((2, 0), (1, 0)));
    drop(throttle.try_acquire("b", 1).unwrap());
    assert_eq!((left(primary.memory(), "b").await, left(fallback.memory(), "b").await), (5, 4));
    // By whoever took it.
    let refused = error(throttle.refund("a", of_primary.receipt().unwrap()).await);
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    primary.plays(Play::Answer);
    throttle.refund("a", decision.receipt().unwrap()).await.unwrap();
    assert_eq!(left(primary.memory(), "a").await, 4);
    assert_eq!(left(fallback.memory(), "a").await, 5);
    // What the primary answers, and mistakes, are for nobody else.
    let before = asked(fallback);
    for kind in [ErrorKind::Corrupt, ErrorKind::Unsupported, ErrorKind::Misconfigured] {
        primary.plays(Play::Refuse(kind));
        assert_eq!(error(throttle.hit("a").await).kind(), kind);
    }
    assert_eq!(asked(fallback), before);
}

#[tokio::test(start_paused = true)]
async fn a_share_of_the_fallback_counts_at_once() {
    let four = NonZeroU32::new(4).unwrap();
    let pair = pair(FailoverOptions::new().share(NonZeroU32::MIN, four));
    pair.primary.plays(DOWN);
    let of_share = |decision: &Decision| (decision.limit(), decision.decided_by());
    let decision = pair.throttle.hit("a").await.unwrap();
    assert_eq!(of_share(&decision), (2, DecidedBy::Fallback));
    // More than the share ever lets pass, and no more than the primary may: denied for now.
    let costly = pair.throttle.hit_with("a", HitOptions::new().cost(3)).await.unwrap();
    assert_eq!(of_share(&costly), (2, DecidedBy::Fallback));
    assert_eq!(costly.outcome(), Outcome::Denied { retry_after: Duration::from_secs(1) });
    let never = pair.throttle.hit_with("a", HitOptions::new().cost(6)).await.unwrap();
    assert_eq!(never.outcome(), Outcome::Never);
    assert_eq!(asked(&pair.fallback), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn if_both_fail_at_once_the_primary_is_reported() {
    let pair = pair(FailoverOptions::new());
    for (fallback, effect) in [
        (Play::Refuse(ErrorKind::Full), Effect::NotApplied),
        (Play::FailAfterwards(ErrorKind::Full), Effect::Ambiguous),
    ] {
        pair.primary.plays(DOWN);
        pair.fallback.plays(fallback);
        let failed = error(pair.throttle.hit("a").await);
        assert_eq!((failed.kind(), failed.effect()), (ErrorKind::Unavailable, effect));
    }
    assert_eq!((asked(&pair.primary), asked(&pair.fallback)), ((2, 0), (2, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_fallback_that_must_be_waited_for_decides_what_was_not_done() {
    let (primary, memory) = (at_once(), InMemory::new());
    let throttle = raising(Failover::new(primary.clone(), Distant::new(memory.clone())));
    primary.plays(DOWN);
    assert!(matches!(throttle.try_acquire("a", 1), Err(Error::MustAwait { .. })));
    assert_eq!(throttle.hit("a").await.unwrap().decided_by(), DecidedBy::Fallback);
    assert_eq!(left(&memory, "a").await, 4, "counted once");
    // What may have happened is not asked again.
    primary.plays(Play::FailAfterwards(ErrorKind::Timeout));
    assert_eq!(error(throttle.hit("b").await).effect(), Effect::Ambiguous);
    assert_eq!(left(primary.memory(), "b").await, 4);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_opens_by_failures_at_once_and_then_asks_nobody() {
    let scripted = at_once();
    let breaker = CircuitBreaker::new(scripted.clone());
    let throttle = raising(breaker.clone());
    let fails = async || assert!(!is_open_error(&error(throttle.hit("a").await)));
    scripted.plays(DOWN);
    for _ in 0..4 {
        fails().await;
    }
    // An answer ends the row of failures, and waiting for one says nothing.
    scripted.plays_next([Play::Answer, Play::AnswerAfter(MS)]);
    for _ in 0..2 {
        assert!(throttle.hit("a").await.unwrap().is_allowed());
    }
    assert_eq!((breaker.info().calls, breaker.info().failures_in_a_row), (6, 0));
    for _ in 0..5 {
        assert_eq!(breaker.info().state, CircuitState::Closed);
        fails().await;
    }
    assert_eq!((breaker.info().state, asked(&scripted)), (CircuitState::Open, (10, 1)));
    for _ in 0..100 {
        assert!(is_open_error(&error(throttle.hit("a").await)));
        assert!(matches!(throttle.try_acquire("a", 1), Err(Error::MustAwait { .. })));
    }
    assert_eq!(asked(&scripted), (10, 1), "nobody was asked");
    // A probe is a call that may be waited for.
    scripted.plays(Play::Answer);
    tokio::time::advance(100 * MS).await;
    assert!(throttle.hit("a").await.unwrap().is_allowed());
    assert_eq!((breaker.info().state, asked(&scripted)), (CircuitState::Closed, (10, 2)));
    assert!(throttle.hit("a").await.unwrap().is_allowed());
    assert_eq!(asked(&scripted), (11, 2), "at once again");
}

#[tokio::test(start_paused = true)]
async fn mistakes_and_answers_at_once_never_open_a_circuit() {
    for kind in [ErrorKind::Closed, ErrorKind::Overloaded, ErrorKind::Corrupt, ErrorKind::Full] {
        let scripted = at_once();
        let breaker = CircuitBreaker::new(scripted.clone());
        let throttle = raising(breaker.clone());
        scripted.plays(Play::Refuse(kind));
        for _ in 0..50 {
            assert_eq!(error(throttle.hit("a").await).kind(), kind);
        }
        assert_eq!(breaker.info().state, CircuitState::Closed, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_done_at_once_is_repeated_and_no_more() {
    let scripted = at_once();
    let throttle = raising(Retry::new(scripted.clone()));
    scripted.plays_next([DOWN]);
    assert_eq!(throttle.hit("a").await.unwrap().remaining(), 4);
    assert_eq!(asked(&scripted), (1, 1));
    scripted.plays_next([DOWN]);
    assert!(matches!(throttle.try_acquire("a", 1), Err(Error::MustAwait { .. })));
    assert_eq!(asked(&scripted), (2, 1));
    scripted.plays(DOWN);
    assert_eq!(error(throttle.hit("a").await).effect(), Effect::NotApplied);
    assert_eq!(asked(&scripted), (3, 4), "at once, and then as often as any");
    for play in [
        Play::FailAfterwards(ErrorKind::Unavailable),
        Play::FailAfterwards(ErrorKind::Timeout),
        Play::Refuse(ErrorKind::Overloaded),
        Play::Refuse(ErrorKind::Misconfigured),
    ] {
        let scripted = at_once();
        let throttle = raising(Retry::new(scripted.clone()));
        scripted.plays(play);
        error(throttle.hit("a").await);
        assert_eq!(asked(&scripted), (1, 0), "{play:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn f01_the_recommended_stack_goes_on_without_it_and_comes_back_to_it() {
    let scripted = at_once();
    let stack = Resilience::recommended().fallback(InMemory::new());
    let stack = stack.around(scripted.clone()).unwrap();
    let builder = Throttle::builder("stack").limit("5/day", FixedWindow::new());
    let throttle = builder.backend(stack).on_error(OnError::Raise).build().unwrap();
    for down in [DOWN, Play::FailAfterwards(ErrorKind::Unavailable)] {
        assert_eq!(throttle.hit("up").await.unwrap().decided_by(), DecidedBy::Backend);
        let before = scripted.asked_in_all();
        scripted.plays(down);
        for number in 0..1_000_u32 {
            let decision = throttle.hit(number).await.unwrap();
            assert_eq!(decision.decided_by(), DecidedBy::Fallback, "{down:?}");
        }
        let asked = scripted.asked_in_all() - before;
        assert!(asked <= 40, "{asked}: by those that opened the circuit, and probes");
        scripted.plays(Play::Answer);
        while throttle.peek("up").await.unwrap().decided_by() == DecidedBy::Fallback {
            tokio::time::advance(MS).await;
        }
    }
    for hit in 0..10 {
        assert_eq!(throttle.hit("up").await.unwrap().is_allowed(), hit < 3);
    }
    let denied = throttle.hit("up").await.unwrap();
    let limited = (Some(Denial::Limited), DecidedBy::Backend);
    assert_eq!((denied.denial(), denied.decided_by()), limited);
}
