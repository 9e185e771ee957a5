//! The suite on each decorator and on the recommended stack, as a trait object.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use traffik::conformance::{self, Harness};
use traffik::decorator::{
    CircuitBreaker, Coalesce, DenyCache, DenyCacheOptions, Failover, FailoverOptions, Resilience,
    Retry,
};
use traffik::{Backend, InMemory, ManualClock};

use test_support::{Scripted, ValuesOnly};

use super::support::{Decorate, OnMemory};

struct Decorated {
    decorate: Decorate,
}

#[async_trait]
impl Harness for Decorated {
    async fn backend(&self, namespace: &str, clock: ManualClock) -> Arc<dyn Backend> {
        let builder = InMemory::builder().namespace(namespace).clock(clock);
        (self.decorate)(Arc::new(builder.build().unwrap()))
    }
}

async fn conforms(decorate: Decorate) {
    conformance::run(&Decorated { decorate }).await;
}

#[tokio::test(start_paused = true)]
async fn a_circuit_breaker() {
    conforms(|backend| Arc::new(CircuitBreaker::new(backend))).await;
}

#[tokio::test(start_paused = true)]
async fn retries() {
    conforms(|backend| Arc::new(Retry::new(backend))).await;
}

#[tokio::test(start_paused = true)]
async fn a_failover() {
    conforms(|backend| Arc::new(Failover::new(backend, InMemory::new()))).await;
}

/// All of them. The suite moves the clock by hand, and wants the answer of the very instant.
fn recommended(backend: Arc<dyn Backend>) -> Arc<dyn Backend> {
    let brief = DenyCacheOptions::new().max_age(Duration::from_micros(1));
    let stack = Resilience::recommended().fallback(InMemory::new()).deny_cache(brief);
    stack.around(backend).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_recommended_stack() {
    conforms(recommended).await;
}

#[tokio::test(start_paused = true)]
async fn the_recommended_stack_behind_another_pointer() {
    conforms(|backend| {
        let boxed: Box<dyn Backend> = Box::new(recommended(backend));
        Arc::new(boxed)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_recommended_stack_on_several_threads() {
    conforms(recommended).await;
}

/// Without a fast path, and with the defaults of the traits.
struct WithoutFastPath;

#[async_trait]
impl Harness for WithoutFastPath {
    async fn backend(&self, _: &str, clock: ManualClock) -> Arc<dyn Backend> {
        // The time that its attempts take in the suite is no failure.
        let patient = FailoverOptions::new().primary_timeout(Duration::from_secs(60));
        let brief = DenyCacheOptions::new().max_age(Duration::from_micros(1));
        let stack = Resilience::recommended().fallback_with(InMemory::new(), patient);
        stack.deny_cache(brief).around(ValuesOnly::new(&clock)).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn the_recommended_stack_around_a_backend_of_values() {
    conformance::decisions(&WithoutFastPath).await;
    conformance::values(&WithoutFastPath).await;
}

#[tokio::test(start_paused = true)]
async fn the_recommended_stack_without_a_fast_path() {
    conformance::run(&OnMemory(recommended)).await;
}

/// Without a prepared path, deciding without a wait.
struct AtOnce(Decorate);

#[async_trait]
impl Harness for AtOnce {
    async fn backend(&self, namespace: &str, clock: ManualClock) -> Arc<dyn Backend> {
        let memory = InMemory::builder().namespace(namespace).clock(clock).build().unwrap();
        (self.0)(Arc::new(Scripted::around(memory).at_once()))
    }
}

#[tokio::test(start_paused = true)]
async fn each_around_a_backend_that_decides_at_once() {
    let each: [Decorate; 6] = [
        |backend| Arc::new(CircuitBreaker::new(backend)),
        |backend| Arc::new(Retry::new(backend)),
        |backend| Arc::new(Failover::new(backend, InMemory::new())),
        |backend| Arc::new(Coalesce::new(backend)),
        |backend| {
            let brief = DenyCacheOptions::new().max_age(Duration::from_micros(1));
            Arc::new(DenyCache::with_options(backend, brief).unwrap())
        },
        recommended,
    ];
    for decorate in each {
        conformance::run(&AtOnce(decorate)).await;
    }
}
