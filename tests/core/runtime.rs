//! Outside of a tokio runtime: memory works, and what has to wait is a clear error.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use test_support::plain::without_timer;
use test_support::{Failing, Mode};
use traffik::lifespan::{LifespanOptions, Start};
use traffik::{
    DecidedBy, Decision, Error, ErrorKind, HitOptions, InMemory, LifespanExt, OnError, Outcome,
    Throttle,
};

#[test]
fn in_memory_everything_works_without_a_runtime() {
    let outcomes = without_timer(async || {
        let backend = InMemory::new();
        let life = backend.lifespan().await.unwrap();
        let degraded = LifespanOptions::new().start(Start::Degraded);
        backend.lifespan_with(degraded).await.unwrap().close().await.unwrap();
        let throttle = Throttle::builder("plain").rate("5/h").backend(backend).build().unwrap();
        let receipt = throttle.hit("a").await.unwrap().receipt().unwrap();
        let long = "k".repeat(5000);
        let _ = throttle.hit(("a", &long)).await.unwrap();
        let _ = throttle.hit_with("a", HitOptions::new().cost(2)).await.unwrap();
        throttle.refund("a", receipt).await.unwrap();
        let left = throttle.peek("a").await.unwrap().remaining();
        throttle.reset("a").await.unwrap();
        let fresh = throttle.peek("a").await.unwrap().remaining();
        life.close().await.unwrap();
        (left, fresh)
    });
    assert_eq!(outcomes, [(3, 5), (3, 5)]);
}

/// A backend that has to wait.
fn waiting(policy: OnError, calls: &Arc<AtomicU32>) -> Throttle {
    let backend = Failing::new(Mode::Hang).with_policy(policy).counting(Arc::clone(calls));
    Throttle::builder("waits").rate("5/h").backend(backend).build().unwrap()
}

#[test]
fn what_has_to_wait_is_a_clear_error_under_every_policy() {
    for policy in [OnError::Allow, OnError::Raise, OnError::default()] {
        let throttle = waiting(policy, &Arc::default());
        let outcomes =
            without_timer(async || [throttle.hit("a").await.map(drop), throttle.reset("a").await]);
        for outcome in outcomes.into_iter().flatten() {
            let Err(Error::Backend(error)) = outcome else { panic!("{outcome:?}") };
            assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
            assert!(error.to_string().contains("a tokio runtime with its time driver"), "{error}");
        }
    }
}

#[test]
fn a_handler_that_has_to_wait_counts_as_throttle() {
    let waits = OnError::handler(|_| std::future::pending());
    let answers = OnError::handler(|_| async { Decision::deny(Duration::from_secs(7)) });
    for (policy, seconds) in [(waits, 1), (answers, 7)] {
        let backend = Failing::new(Mode::Fail(ErrorKind::Unavailable)).with_policy(policy);
        let throttle = Throttle::builder("asks").rate("5/h").backend(backend).build().unwrap();
        for outcome in without_timer(async || throttle.hit("a").await) {
            let decision = outcome.unwrap();
            assert_eq!(decision.decided_by(), DecidedBy::Policy);
            let retry_after = Duration::from_secs(seconds);
            assert_eq!(decision.outcome(), Outcome::Denied { retry_after });
        }
    }
}
