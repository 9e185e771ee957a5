//! The recommended stack around a backend that does as it is told.

use std::time::Duration;

use test_support::{Play, Scripted};
use traffik::decorator::{CircuitBreakerOptions, Resilience, RetryOptions};
use traffik::{DecidedBy, ErrorKind, InMemory, LifespanExt, OnError, Throttle, ThrottleBuilder};

use super::support::{MS, left, raising};

const DOWN: Play = Play::Refuse(ErrorKind::Unavailable);

#[tokio::test(start_paused = true)]
async fn f01_hits_go_on_without_the_store_and_come_back_to_it() {
    let (scripted, memory) = (Scripted::new(), InMemory::new());
    let stack = Resilience::recommended().fallback(memory.clone());
    let throttle = raising(stack.around(scripted.clone()).unwrap());
    for down in [DOWN, Play::Silence, Play::FailAfterwards(ErrorKind::Unavailable)] {
        assert_eq!(throttle.hit("up").await.unwrap().decided_by(), DecidedBy::Backend);
        scripted.plays(down);
        let mut slow = 0;
        for number in 0..1_000_u32 {
            let start = tokio::time::Instant::now();
            let decision = throttle.hit(number).await.unwrap();
            assert_eq!(decision.decided_by(), DecidedBy::Fallback);
            assert!(start.elapsed() <= 100 * MS, "{:?}", start.elapsed());
            slow += u32::from(start.elapsed() > Duration::ZERO);
            tokio::time::advance(MS).await;
        }
        // Five that opened it, and probes.
        assert!(slow <= 15, "{slow} waited");
        scripted.plays(Play::Answer);
        let mut waited = 0;
        while throttle.peek("up").await.unwrap().decided_by() == DecidedBy::Fallback {
            tokio::time::advance(MS).await;
            waited += 1;
        }
        assert!(waited <= 350, "{waited} ms");
    }
    assert_eq!(left(scripted.memory(), "up").await, 2);
}

#[tokio::test(start_paused = true)]
async fn f21_a_store_with_too_many_calls_is_not_stormed() {
    let scripted = Scripted::new();
    let stack = Resilience::recommended().fallback(InMemory::new());
    let throttle = raising(stack.around(scripted.clone()).unwrap());
    scripted.plays(Play::Refuse(ErrorKind::Overloaded));
    for number in 0..100_u32 {
        assert_eq!(throttle.hit(number).await.unwrap().decided_by(), DecidedBy::Fallback);
    }
    assert_eq!(scripted.asked("apply"), 100, "each once");
}

#[tokio::test(start_paused = true)]
async fn the_lines_of_the_builder_compose_in_one_order() {
    let retries = RetryOptions::new();
    let breaker = CircuitBreakerOptions::new();
    let builder = |scripted: &Scripted| {
        let builder = Throttle::builder("lines").rate("5/day").on_error(OnError::Raise);
        builder.backend(scripted.clone())
    };
    type Build = fn(ThrottleBuilder, RetryOptions, CircuitBreakerOptions) -> ThrottleBuilder;
    let builds: [Build; 4] = [
        |it, retry, breaker| it.fallback(InMemory::new()).circuit_breaker(breaker).retry(retry),
        |it, retry, breaker| it.retry(retry).circuit_breaker(breaker).fallback(InMemory::new()),
        |it, retry, breaker| it.circuit_breaker(breaker).retry(retry).fallback(InMemory::new()),
        |it, _, _| it.resilience(Resilience::recommended().fallback(InMemory::new())),
    ];
    for build in builds {
        let scripted = Scripted::new();
        let throttle = build(builder(&scripted), retries, breaker).build().unwrap();
        scripted.plays(DOWN);
        for number in 0..50_u32 {
            assert_eq!(throttle.hit(number).await.unwrap().decided_by(), DecidedBy::Fallback);
        }
        // Of each of the five hits that the breaker let through, and then none, but for probes.
        let asked = scripted.asked("apply");
        assert!((15..=18).contains(&asked), "{asked}: retries lie inside of the breaker");
    }
}

#[tokio::test(start_paused = true)]
async fn throttles_share_what_is_built_once() {
    let scripted = Scripted::new();
    let stack = Resilience::recommended().fallback(InMemory::new());
    let backend = stack.around(scripted.clone()).unwrap();
    let life = backend.lifespan().await.unwrap();
    let throttles = ["one", "two"].map(|name| {
        Throttle::builder(name).rate("9/day").backend(backend.clone()).build().unwrap()
    });
    scripted.plays(DOWN);
    for number in 0..20_u32 {
        assert!(throttles[0].hit(number).await.unwrap().is_allowed());
    }
    let asked = scripted.asked("apply");
    assert!(throttles[1].hit("a").await.unwrap().is_allowed());
    assert_eq!(scripted.asked("apply"), asked, "the other knows");
    scripted.plays(Play::Answer);
    life.close().await.unwrap();
}
