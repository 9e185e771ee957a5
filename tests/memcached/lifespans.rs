//! What a lifespan leaves behind, and how it starts and ends while a server is away or silent.

use std::time::Duration;

use traffik::lifespan::{LifespanOptions, Start};
use traffik::{
    DecidedBy, Error, ErrorKind, FixedWindow, LifespanExt, Memcached, OnError, Throttle,
};

use crate::world::{PATIENCE, builder, url};
use test_support::remote::{
    callers_who_go_away_lose_nothing, permits_settle_and_give_back, silent_under_load,
};
use test_support::servers::MemcachedServer;
use test_support::servers::wait::{self, now};

const DEGRADED: LifespanOptions = LifespanOptions::new().start(Start::Degraded);
/// Of a call that is expected to fail.
const SHORT: Duration = Duration::from_millis(400);

fn throttle(backend: &Memcached, policy: OnError) -> Throttle {
    Throttle::builder("life")
        .limit("1000000/30d", FixedWindow::new())
        .backend(backend.clone())
        .deadline(PATIENCE)
        .on_error(policy)
        .build()
        .unwrap()
}

fn is_closed<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Backend(error)) if error.kind() == ErrorKind::Closed)
}

async fn heals(throttle: &Throttle) {
    let _decision = wait::heals("a hit", PATIENCE, || throttle.hit("a")).await;
}

/// A rolling deploy: one process ends while another counts.
#[tokio::test]
async fn by_default_the_end_of_one_keeps_what_all_have_counted() {
    let server = MemcachedServer::start();
    for count in 1..=3 {
        let backend = builder(&server).track_keys(true).build().unwrap();
        let life = backend.lifespan().await.unwrap();
        let decision = throttle(&backend, OnError::Raise).hit("a").await.unwrap();
        assert_eq!(decision.remaining(), 1_000_000 - count);
        life.close().await.unwrap();
    }
    let backend = builder(&server).track_keys(true).persistent(false).build().unwrap();
    let life = backend.lifespan().await.unwrap();
    assert_eq!(throttle(&backend, OnError::Raise).hit("a").await.unwrap().remaining(), 999_996);
    life.close().await.unwrap();
    let life = backend.lifespan().await.unwrap();
    let decision = throttle(&backend, OnError::Raise).hit("a").await.unwrap();
    assert_eq!(decision.remaining(), 999_999, "cleared, for that was asked for");
    life.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_under_load_never_meets_a_closed_backend() {
    let server = MemcachedServer::start();
    let backend = builder(&server).build().unwrap();
    let throttle = || throttle(&backend, OnError::Raise);
    test_support::remote::reloads_never_meet_a_closed_backend(backend.clone(), throttle).await;
}

#[tokio::test]
async fn one_node_that_answers_is_enough_to_start() {
    for silent in [false, true] {
        let (healthy, mut sick) = (MemcachedServer::start(), MemcachedServer::start());
        let backend = Memcached::builder().url(url(&sick)).url(url(&healthy));
        let backend = backend.namespace("test").command_timeout(SHORT).build().unwrap();
        if silent {
            sick.pause();
        } else {
            sick.kill();
        }
        let life = backend.lifespan().await.unwrap();
        let throttle = throttle(&backend, OnError::Allow);
        let mut sources = Vec::new();
        for key in 0..40u32 {
            sources.push(throttle.hit(key).await.unwrap().decided_by());
        }
        assert!(sources.contains(&DecidedBy::Policy), "its keys are for the policy");
        assert!(sources.contains(&DecidedBy::Backend), "the other's are counted");
        life.close().await.unwrap();
        drop(healthy);
        let error = backend.lifespan().await.map(drop).unwrap_err();
        assert_eq!(error.operation(), "initialize", "none answers: {error}");
    }
}

#[tokio::test]
async fn a_degraded_one_begins_without_a_server_or_beside_a_silent_one() {
    for silent in [false, true] {
        let mut server = MemcachedServer::start();
        let backend = builder(&server).command_timeout(SHORT).build().unwrap();
        if silent {
            server.pause();
        } else {
            server.kill();
        }
        assert!(backend.lifespan().await.is_err(), "required by default");
        let start = now();
        let life = backend.lifespan_with(DEGRADED).await.unwrap();
        assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
        let allowed = throttle(&backend, OnError::Allow).hit("a").await.unwrap();
        assert_eq!((allowed.is_allowed(), allowed.decided_by()), (true, DecidedBy::Policy));
        if silent {
            server.resume();
        } else {
            server.restart();
        }
        heals(&throttle(&backend, OnError::Raise)).await;
        life.close().await.unwrap();
        assert!(is_closed(throttle(&backend, OnError::Allow).hit("a").await));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f29_closing_against_a_silent_server_ends_within_a_bound() {
    for persistent in [true, false] {
        let server = MemcachedServer::start();
        let backend =
            builder(&server).track_keys(true).command_timeout(SHORT).persistent(persistent);
        let backend = backend.build().unwrap();
        let life = backend.lifespan().await.unwrap();
        let load = silent_under_load(&throttle(&backend, OnError::Allow), &server).await;
        let start = now();
        let closed = life.close().await;
        assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
        assert_eq!(closed.is_ok(), persistent, "{closed:?}");
        load.join_all().await;
        assert!(is_closed(throttle(&backend, OnError::Allow).hit("a").await));
    }
}

#[test]
fn f29_dropped_against_a_silent_server_in_and_out_of_a_runtime_it_never_blocks() {
    let server = MemcachedServer::start();
    let backend = builder(&server).track_keys(true).persistent(false).build().unwrap();
    let quick = PATIENCE / 5;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for round in 0..2 {
        let (outside, mut load) = runtime.block_on(async {
            let inside = backend.lifespan().await.unwrap();
            let outside = backend.lifespan().await.unwrap();
            let load = silent_under_load(&throttle(&backend, OnError::Allow), &server).await;
            let start = now();
            drop(inside);
            assert!(start.elapsed() < quick, "round {round}: {:?}", start.elapsed());
            (outside, load)
        });
        let start = now();
        drop(outside);
        assert!(start.elapsed() < quick, "round {round}: {:?}", start.elapsed());
        server.resume();
        runtime.block_on(async {
            load.shutdown().await;
            heals(&throttle(&backend, OnError::Raise)).await;
        });
    }
    let life = runtime.block_on(async { backend.lifespan().await.unwrap() });
    server.pause();
    runtime.shutdown_background();
    drop(life);
    server.resume();
}

#[tokio::test]
async fn estimates_are_settled_and_dropped_permits_give_back() {
    let server = MemcachedServer::start();
    let backend = builder(&server).build().unwrap();
    permits_settle_and_give_back(&throttle(&backend, OnError::Raise)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_who_goes_away_gives_back_what_was_reserved() {
    let server = MemcachedServer::start();
    callers_who_go_away_lose_nothing(builder(&server).build().unwrap()).await;
}
