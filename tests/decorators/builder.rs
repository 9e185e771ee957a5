//! The lines of a throttle's builder.

use std::time::Duration;

use test_support::{Play, Scripted};
use traffik::decorator::{CircuitBreakerOptions, FailoverOptions, Resilience, RetryOptions};
use traffik::{BuildError, DecidedBy, Error, ErrorKind, InMemory, OnError, Throttle};

use super::support::MS;

#[test]
fn decorators_without_a_backend_are_an_error() {
    let builder = || Throttle::builder("ambient").rate("5/day");
    let without = [
        (builder().fallback(InMemory::new()), "fallback"),
        (builder().circuit_breaker(CircuitBreakerOptions::new()), "circuit_breaker"),
        (builder().retry(RetryOptions::new()), "retry"),
        (builder().resilience(Resilience::recommended()), "circuit_breaker"),
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
        builder().resilience(Resilience::new().fallback_with(InMemory::new(), failover)),
    ];
    for builder in wrong {
        assert!(matches!(builder.build(), Err(BuildError::Setting { .. })));
    }
    // No deadline is too short for the defaults.
    for deadline in [Duration::from_nanos(1), MS, Duration::MAX] {
        let builder = builder().retry(RetryOptions::new()).fallback(InMemory::new());
        assert!(builder.deadline(deadline).build().is_ok(), "{deadline:?}");
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
