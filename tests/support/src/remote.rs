//! What holds for each backend with a server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use traffik::lifespan::{LifespanOptions, Start};
use traffik::{
    Backend, BackendError, Effect, Error, ErrorKind, FixedWindow, Key, LifespanExt, OnError,
    PermitDrop, Throttle, TokenBucket,
};

use crate::plain::{block_on, without_timer};
use crate::servers::instance::Instance;
use crate::servers::wait::eventually;

fn is_clear(error: &BackendError) {
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Misconfigured, Effect::NotApplied));
    assert!(error.to_string().contains("a tokio runtime with its time driver"), "{error}");
}

/// Each call outside of a tokio runtime is a clear error, whatever the policy.
pub fn calls_outside_of_a_runtime_are_clear_errors(
    backend: impl Backend + Clone,
    throttle: impl Fn(OnError) -> Throttle,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let degraded = LifespanOptions::new().start(Start::Degraded);
    // Also on a backend that is connected, by a runtime that is not this one.
    for connected in [false, true] {
        let taken = connected.then(|| {
            runtime.block_on(async {
                backend.initialize().await.unwrap();
                throttle(OnError::Raise).hit("a").await.unwrap().receipt().unwrap()
            })
        });
        for throttle in [OnError::Raise, OnError::Allow].map(&throttle) {
            let all = |throttle: Throttle| async move {
                let failed = [
                    throttle.hit("a").await.map(drop),
                    throttle.peek("a").await.map(drop),
                    throttle.reset("a").await,
                ];
                failed.map(|outcome| match outcome {
                    Err(Error::Backend(error)) => error,
                    other => panic!("{other:?}"),
                })
            };
            let errors = without_timer(async || all(throttle.clone()).await);
            errors.iter().flatten().for_each(is_clear);
        }
        if let Some(receipt) = taken {
            let refunded = block_on(throttle(OnError::Raise).refund("a", receipt));
            let Err(Error::Backend(error)) = refunded else { panic!("{refunded:?}") };
            is_clear(&error);
        }
        let errors = without_timer(async || {
            [
                backend.initialize().await.unwrap_err(),
                backend.ready().await.unwrap_err(),
                backend.get(&Key::value("a")).await.unwrap_err(),
                backend.clear().await.unwrap_err(),
                backend.lifespan().await.map(drop).unwrap_err(),
                backend.lifespan_with(degraded).await.map(drop).unwrap_err(),
            ]
        });
        errors.iter().flatten().for_each(is_clear);
    }
    let _ = runtime.block_on(throttle(OnError::Raise).hit("a")).unwrap();
}

/// Stops a server under load. When this returns, it stands still and each task is inside of a hit.
pub async fn silent_under_load(throttle: &Throttle, server: &Instance) -> tokio::task::JoinSet<()> {
    const TASKS: usize = 8;
    let waiting = Arc::new(AtomicUsize::new(0));
    let mut load = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let (throttle, waiting) = (throttle.clone(), Arc::clone(&waiting));
        load.spawn(async move {
            loop {
                waiting.fetch_add(1, Ordering::SeqCst);
                let hit = throttle.hit(task as u64).await;
                waiting.fetch_sub(1, Ordering::SeqCst);
                // Once the backend is closed.
                if hit.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        });
    }
    server.pause();
    let all_wait = async || waiting.load(Ordering::SeqCst) == TASKS;
    eventually("each task waits for the server", Duration::from_secs(10), all_wait).await;
    load
}

/// Estimates are settled, and dropped permits give back by a task.
pub async fn permits_settle_and_give_back(throttle: &Throttle) {
    let left = async || throttle.peek("permits").await.unwrap().remaining();
    let before = left().await;
    let reserve = async |units| throttle.reserve("permits", units).await.unwrap();
    reserve(10).await.settle(4).await.unwrap();
    assert_eq!(left().await, before - 4);
    reserve(10).await.settle(16).await.unwrap();
    assert_eq!(left().await, before - 20);
    let _ = throttle.charge("permits", 5).await.unwrap();
    assert_eq!(left().await, before - 25);
    let permit = reserve(10).await.on_drop(PermitDrop::Refund);
    assert_eq!(left().await, before - 35);
    drop(permit);
    let given_back = async || left().await == before - 25;
    eventually("the permit is given back", Duration::from_secs(10), given_back).await;
    let taken = throttle.take_up_to("permits", 7).await.unwrap();
    assert_eq!((taken.units(), left().await), (7, before - 32));
    throttle.drain("permits").await.unwrap();
    assert_eq!(left().await, 0);
    assert_eq!(throttle.take_up_to("permits", 7).await.unwrap().units(), 0);
}

/// Callers that wait for a permit and are dropped at any moment leave nothing taken.
pub async fn callers_who_go_away_lose_nothing(backend: impl Backend + Clone) {
    const UNITS: u32 = 1_000_000;
    for window in [false, true] {
        let builder = Throttle::builder(if window { "window" } else { "bucket" });
        let rate = format!("{UNITS}/366d");
        let builder = match window {
            true => builder.limit(rate.as_str(), FixedWindow::new()),
            false => builder.limit(rate.as_str(), TokenBucket::new()),
        };
        let throttle = builder.backend(backend.clone()).deadline(Duration::from_secs(5));
        let throttle = throttle.build().unwrap();
        throttle.acquire("a").await.unwrap().refund().await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..400u64 {
            let throttle = throttle.clone();
            tasks.spawn(async move {
                let patience = Duration::from_micros(number * 7919 % 4_000);
                match tokio::time::timeout(patience, throttle.acquire("a")).await {
                    Ok(permit) => {
                        permit.unwrap().commit();
                        1
                    }
                    Err(_) => 0,
                }
            });
        }
        let taken: u32 = tasks.join_all().await.into_iter().sum();
        let left = async || throttle.peek("a").await.unwrap().remaining() == UNITS - taken;
        eventually("what was not given out is given back", Duration::from_secs(10), left).await;
    }
}

/// A rolling reload inside one process, under load, and without any when the new lifespan begins
/// while the last one ends.
pub async fn reloads_never_meet_a_closed_backend(
    backend: impl Backend + Clone,
    throttle: impl Fn() -> Throttle,
) {
    let stop = Arc::new(AtomicBool::new(false));
    let mut life = backend.lifespan().await.unwrap();
    let mut load = tokio::task::JoinSet::new();
    for key in 0..4u32 {
        let (throttle, stop) = (throttle(), Arc::clone(&stop));
        load.spawn(async move {
            let mut hits = 0u64;
            while !stop.load(Ordering::SeqCst) {
                let _ = throttle.hit(key).await.unwrap();
                hits += 1;
            }
            hits
        });
    }
    for _ in 0..200 {
        let next = backend.lifespan().await.unwrap();
        life.close().await.unwrap();
        life = next;
    }
    stop.store(true, Ordering::SeqCst);
    let hits: u64 = load.join_all().await.into_iter().sum();
    assert!(hits > 200, "{hits} hits beside 200 reloads, none of which met a closed backend");
    for round in 0..300 {
        let next = tokio::spawn({
            let backend = backend.clone();
            async move { backend.lifespan().await.unwrap() }
        });
        life.close().await.unwrap();
        life = next.await.unwrap();
        let decision = throttle().hit("a").await;
        assert!(decision.is_ok(), "round {round}: {decision:?}");
    }
    life.close().await.unwrap();
}
