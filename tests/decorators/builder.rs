//! The lines of a throttle's builder.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use test_support::{Distant, Log, Place, Play, Scripted};
use tokio::task::JoinSet;
use traffik::decorator::{
    CircuitBreakerOptions, DenyCacheOptions, FailoverOptions, Resilience, RetryOptions,
};
use traffik::{Backend, BuildError, DecidedBy, Error, ErrorKind, InMemory, OnError, Throttle};

use super::support::MS;

#[test]
fn decorators_without_a_backend_are_an_error() {
    let builder = || Throttle::builder("ambient").rate("5/day");
    let without = [
        (builder().fallback(InMemory::new()), "fallback"),
        (builder().circuit_breaker(CircuitBreakerOptions::new()), "circuit_breaker"),
        (builder().retry(RetryOptions::new()), "retry"),
        (builder().resilience(Resilience::recommended()), "deny_cache"),
        (builder().deny_cache(DenyCacheOptions::new()), "deny_cache"),
        (builder().coalesce(), "coalesce"),
    ];
    for (builder, named) in without {
        let error = builder.build().unwrap_err();
        assert!(
            matches!(error, BuildError::Setting { setting, .. } if setting == named),
            "{error}"
        );
        assert!(error.to_string().contains("\"ambient\" goes around its backend"), "{error}");
    }
    assert!(builder().resilience(Resilience::new()).build().is_ok(), "nothing is asked for");
}

#[test]
fn f34_options_out_of_range_are_errors() {
    let builder = || Throttle::builder("wrong").rate("5/day").backend(InMemory::new());
    let zero = Duration::ZERO;
    let failover = FailoverOptions::new().primary_timeout(zero);
    let wrong = [
        builder().circuit_breaker(CircuitBreakerOptions::new().probe_timeout(zero)),
        builder().retry(RetryOptions::new().within(zero)),
        builder().deny_cache(DenyCacheOptions::new().max_age(zero)),
        builder().resilience(Resilience::new().fallback_with(InMemory::new(), failover)),
    ];
    for builder in wrong {
        assert!(matches!(builder.build(), Err(BuildError::Setting { .. })));
    }
    // No deadline is too short for the defaults.
    for deadline in [Duration::from_nanos(1), MS, Duration::MAX] {
        let builder = || builder().retry(RetryOptions::new()).fallback(InMemory::new());
        for builder in [builder(), builder().coalesce()] {
            assert!(builder.deadline(deadline).build().is_ok(), "{deadline:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_deadline_shortens_what_lies_inside() {
    let scripted = Scripted::new();
    let builder = Throttle::builder("short").rate("5/day").backend(scripted.clone());
    let builder = builder.deadline(20 * MS).on_error(OnError::Raise);
    let throttle = builder.fallback(InMemory::new()).build().unwrap();
    scripted.plays(Play::Silence);
    let start = tokio::time::Instant::now();
    for number in 0..5_u32 {
        let decision = throttle.hit(number).await.unwrap();
        assert_eq!(decision.decided_by(), DecidedBy::Fallback);
    }
    assert_eq!(start.elapsed(), 50 * MS, "10 ms each");
    assert!(throttle.hit("a").await.unwrap().is_allowed());
    assert_eq!((start.elapsed(), scripted.asked("apply")), (50 * MS, 5), "the circuit is open");
}

#[tokio::test(start_paused = true)]
async fn a_short_deadline_shortens_retries() {
    let many = NonZeroU32::new(1_000_000).unwrap();
    let often = RetryOptions::new().retries(many).first_pause(MS).longest_pause(MS);
    let builder = |scripted: &Scripted| {
        let builder = Throttle::builder("short").rate("5/day").backend(scripted.clone());
        builder.deadline(20 * MS).on_error(OnError::Raise).retry(often)
    };
    for _ in 0..50 {
        let scripted = Scripted::new();
        scripted.plays(Play::Refuse(ErrorKind::Unavailable));
        let throttle = builder(&scripted).build().unwrap();
        let start = tokio::time::Instant::now();
        let Err(Error::Backend(failed)) = throttle.hit("a").await else { panic!("it is down") };
        assert_eq!(failed.kind(), ErrorKind::Unavailable, "before the caller gave up");
        assert!(start.elapsed() <= 10 * MS, "{:?}", start.elapsed());
        assert!(scripted.asked("apply") > 5, "they were repeated");
        // What a failover waits is the half of it.
        let throttle = builder(&scripted).fallback(InMemory::new()).build().unwrap();
        let start = tokio::time::Instant::now();
        assert_eq!(throttle.hit("a").await.unwrap().decided_by(), DecidedBy::Fallback);
        assert!(start.elapsed() <= 5 * MS, "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn in_memory_they_change_nothing() {
    let memory = InMemory::new();
    let builder = Throttle::builder("memory").rate("5/day").backend(memory.clone());
    let throttle = builder.fallback(InMemory::new()).retry(RetryOptions::new()).build().unwrap();
    let decision = throttle.hit("a").await.unwrap();
    assert_eq!((decision.decided_by(), decision.remaining()), (DecidedBy::Backend, 4));
    throttle.refund("a", decision.receipt().unwrap()).await.unwrap();
    // The fast path: it needs no await.
    drop(throttle.try_acquire("a", 1).unwrap());
    traffik::Backend::close(&memory).await.unwrap();
    let closed = throttle.hit("a").await;
    let Err(Error::Backend(closed)) = closed else { panic!("{closed:?}") };
    assert_eq!(closed.kind(), ErrorKind::Closed, "a mistake stays one");
}

#[tokio::test(start_paused = true)]
async fn a_deny_cache_lies_outside_and_shared_questions_inside_of_it() {
    let distant = Distant::new(InMemory::new());
    let wire = distant.wire();
    let builder = Throttle::builder("lines").rate("5/day").backend(distant);
    let throttle = builder.coalesce().fallback(InMemory::new()).deny_cache(DenyCacheOptions::new());
    let throttle = throttle.on_error(OnError::Raise).build().unwrap();
    let hit = || {
        let throttle = throttle.clone();
        tokio::spawn(async move { throttle.hit("a").await.unwrap() })
    };
    wire.hold(Place::Request);
    let mut hits = vec![hit()];
    wire.until_held(1).await;
    hits.extend((1..20).map(|_| hit()));
    wire.until_held(2).await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    wire.release();
    let mut allowed = 0;
    for hit in hits {
        let decision = hit.await.unwrap();
        assert_eq!(decision.decided_by(), DecidedBy::Backend);
        allowed += usize::from(decision.is_allowed());
    }
    assert_eq!((allowed, wire.questions()), (5, 2), "one that came first, and all others together");
    assert!(throttle.hit("a").await.unwrap().is_denied());
    assert_eq!(wire.questions(), 2, "remembered");
}

#[test]
fn a_deadline_that_ends_before_the_fallback_is_asked_is_told() {
    let (log, _logging) = Log::of_thread(tracing::Level::WARN);
    let told = || log.count("hits may end before the fallback of a silent store is asked");
    let build = |backend: &Arc<dyn Backend>, deadline| {
        let builder = Throttle::builder("t").rate("5/day").backend(Arc::clone(backend));
        builder.deadline(deadline).build().unwrap()
    };
    let stack = || Resilience::recommended().fallback(InMemory::new());
    let shared = stack().around(InMemory::new()).unwrap();
    let _ = build(&shared, 101 * MS);
    assert_eq!(told(), 0);
    let _ = build(&shared, 100 * MS);
    assert_eq!(told(), 1);
    let own = |deadline: Duration, failover| {
        let resilience = Resilience::new().fallback_with(InMemory::new(), failover);
        let builder = Throttle::builder("t").rate("5/day").backend(InMemory::new());
        builder.deadline(deadline).resilience(resilience).build().unwrap()
    };
    let _ = own(40 * MS, FailoverOptions::new());
    assert_eq!(told(), 1, "it is shorter then");
    let _ = own(40 * MS, FailoverOptions::new().primary_timeout(50 * MS));
    assert_eq!(told(), 2);
    // Two questions, where hits share them.
    let shared = stack().around(Distant::new(InMemory::new())).unwrap();
    let _ = build(&shared, 201 * MS);
    assert_eq!(told(), 2);
    let _ = build(&shared, 200 * MS);
    assert_eq!(told(), 3);
}

/// One that joins a question on its way waits for that one, and then for its own.
#[tokio::test(start_paused = true)]
async fn f04_hits_that_share_questions_reach_the_fallback_of_a_silent_store_in_time() {
    for deadline in [10, 40, 100, 150, 250] {
        let deadline = deadline * MS;
        let distant = Distant::new(InMemory::new());
        distant.wire().hold(Place::Request);
        let builder = Throttle::builder("hot").rate("1000/day").deadline(deadline);
        let builder = builder.backend(distant).coalesce().fallback(InMemory::new());
        let throttle = builder.on_error(OnError::Raise).build().unwrap();
        let mut hits = JoinSet::new();
        for number in 0..50 {
            let throttle = throttle.clone();
            hits.spawn(async move {
                tokio::time::sleep(deadline * number / 50).await;
                let start = tokio::time::Instant::now();
                (throttle.hit("a").await, start.elapsed())
            });
        }
        for (decision, took) in hits.join_all().await {
            assert_eq!(decision.unwrap().decided_by(), DecidedBy::Fallback, "{deadline:?}");
            assert!(took < deadline, "{took:?} of {deadline:?}");
        }
    }
}
