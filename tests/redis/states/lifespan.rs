//! What a lifespan does on a shared server: what it leaves behind, how it starts and ends while the
//! server is away or silent.

use traffik::lifespan::{LifespanOptions, Start};
use traffik::{
    Backend, DecidedBy, ErrorKind, Lifespan, LifespanExt, LockOptions, Locks, OnError, Redis,
};

use super::world::{
    CAPACITY, LONG, Log, SHORT, backend_error, eventually, hasty, heals, patient, throttle,
    with_policy,
};
use test_support::remote::{permits_settle_and_give_back, silent_under_load};
use test_support::servers::RedisServer;
use test_support::servers::wait::now;

const DEGRADED: LifespanOptions = LifespanOptions::new().start(Start::Degraded);

#[tokio::test]
async fn one_that_is_not_persistent_warns_and_clears_but_for_locks() {
    let log = Log::start();
    let server = RedisServer::start();
    let backend = patient().persistent(false).url(server.url()).build().unwrap();
    let other = patient().url(server.url()).build().unwrap();
    let life = backend.lifespan().await.unwrap();
    assert_eq!(log.warnings("clears what other processes count"), 1, "{}", log.text());
    let throttle = throttle(&backend);
    let _ = throttle.hit("a").await.unwrap();
    let options = LockOptions::new().ttl(Some(LONG)).blocking(false);
    let guard = backend.lock("job", options).await.unwrap();
    life.close().await.unwrap();
    assert_eq!(backend_error(throttle.hit("a").await).kind(), ErrorKind::Closed);
    assert_eq!(super::world::throttle(&other).peek("a").await.unwrap().remaining(), CAPACITY);
    assert!(other.lock("job", options).await.is_err(), "the lock is still held");
    drop(guard);
    // And opens again.
    let life = backend.lifespan().await.unwrap();
    assert_eq!(throttle.hit("a").await.unwrap().remaining(), CAPACITY - 1);
    life.close().await.unwrap();
}

/// A rolling deploy: one process ends while another counts.
#[tokio::test]
async fn by_default_the_end_of_one_keeps_what_all_have_counted() {
    let log = Log::start();
    let server = RedisServer::start();
    for count in 1..=3 {
        let backend = patient().url(server.url()).build().unwrap();
        let life = backend.lifespan().await.unwrap();
        let decision = throttle(&backend).hit("a").await.unwrap();
        assert_eq!(decision.remaining(), CAPACITY - count);
        life.close().await.unwrap();
    }
    assert_eq!(log.warnings("clears what other processes count"), 0, "{}", log.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_while_the_server_is_away_is_an_error_and_closes() {
    let mut server = RedisServer::start();
    let backend = hasty().persistent(false).url(server.url()).build().unwrap();
    let life = backend.lifespan().await.unwrap();
    server.kill();
    let error = life.close().await.unwrap_err();
    assert_eq!(error.operation(), "clear", "{error}");
    let closed = throttle(&backend).hit("a").await;
    assert_eq!(backend_error(closed).kind(), ErrorKind::Closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_under_load_never_meets_a_closed_backend() {
    let server = RedisServer::start();
    let backend = patient().url(server.url()).build().unwrap();
    let throttle = || throttle(&backend);
    test_support::remote::reloads_never_meet_a_closed_backend(backend.clone(), throttle).await;
}

/// Begins degraded, and holds it to what that means until the server is back.
async fn begins_degraded(log: &Log, backend: &Redis) -> Lifespan {
    let life = backend.lifespan_with(DEGRADED).await.unwrap();
    assert_eq!(log.warnings("a lifespan began without its store"), 1, "{}", log.text());
    let allowed = with_policy(backend, OnError::Allow).hit("a").await.unwrap();
    assert_eq!((allowed.is_allowed(), allowed.decided_by()), (true, DecidedBy::Policy));
    assert!(backend.ready().await.is_err());
    life
}

async fn is_told_of_the_answer(log: &Log) {
    // Nobody hits meanwhile: the link connects by itself.
    eventually("the store answers", async || log.text().contains("the store answers now")).await;
}

#[tokio::test]
async fn a_degraded_one_begins_without_a_server_and_goes_on_connecting() {
    let log = Log::start();
    let mut server = RedisServer::with(&["--maxmemory-policy", "allkeys-lru"]);
    server.kill();
    let backend = hasty().initialize_timeout(SHORT).url(server.url()).build().unwrap();
    let error = backend.lifespan().await.unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Unavailable, "initialize"));
    let life = begins_degraded(&log, &backend).await;
    server.restart();
    is_told_of_the_answer(&log).await;
    assert_eq!(heals(&throttle(&backend)).await.remaining(), CAPACITY - 1);
    assert_eq!(log.warnings("may evict counters"), 1, "what initialize looks at: {}", log.text());
    life.close().await.unwrap();
    assert_eq!(backend_error(throttle(&backend).hit("a").await).kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_degraded_one_begins_beside_a_silent_server_and_goes_on_connecting() {
    let log = Log::start();
    let server = RedisServer::start();
    server.pause();
    let backend = hasty().url(server.url()).build().unwrap();
    let start = now();
    let life = begins_degraded(&log, &backend).await;
    assert!(start.elapsed() < LONG / 4, "{:?}", start.elapsed());
    server.resume();
    is_told_of_the_answer(&log).await;
    let _ = heals(&throttle(&backend)).await;
    life.close().await.unwrap();
}

#[tokio::test]
async fn a_degraded_one_that_is_closed_before_the_server_is_back_stays_closed() {
    let log = Log::start();
    let mut server = RedisServer::start();
    server.kill();
    let backend = hasty().url(server.url()).build().unwrap();
    let life = begins_degraded(&log, &backend).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks(), 1, "one goes on connecting");
    life.close().await.unwrap();
    server.restart();
    eventually("it has given up", async || tasks() == 0).await;
    assert_eq!(backend_error(throttle(&backend).hit("a").await).kind(), ErrorKind::Closed);
    assert!(!log.text().contains("the store answers now"), "{}", log.text());
}

#[tokio::test]
async fn f15_a_wrong_password_is_an_error_of_a_degraded_start_too() {
    let mut server = RedisServer::with(&["--requirepass", "right"]);
    let wrong = server.url().replace("right", "wrong");
    let backend = patient().url(wrong).build().unwrap();
    let error = backend.lifespan_with(DEGRADED).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    // One that shows only later is logged as an error, and no policy hides it.
    let log = Log::start();
    server.kill();
    let life = begins_degraded(&log, &backend).await;
    server.restart();
    let told = async || log.text().contains("is misconfigured; each hit is an error");
    eventually("it is told", told).await;
    let refused = with_policy(&backend, OnError::Allow).hit("a").await;
    assert_eq!(backend_error(refused).kind(), ErrorKind::Misconfigured);
    assert!(!log.text().contains("wrong"), "{}", log.text());
    life.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f29_closing_against_a_silent_server_ends_within_a_bound() {
    for persistent in [true, false] {
        let server = RedisServer::start();
        let backend = hasty().persistent(persistent).url(server.url()).build().unwrap();
        let life = backend.lifespan().await.unwrap();
        let load = silent_under_load(&with_policy(&backend, OnError::Allow), &server).await;
        let start = now();
        let closed = life.close().await;
        assert!(start.elapsed() < SHORT * 8, "{:?}", start.elapsed());
        if persistent {
            closed.unwrap();
        } else {
            let error = closed.unwrap_err();
            assert_eq!((error.kind(), error.operation()), (ErrorKind::Timeout, "clear"), "{error}");
        }
        load.join_all().await;
        assert_eq!(backend_error(throttle(&backend).hit("a").await).kind(), ErrorKind::Closed);
    }
}

#[test]
fn f29_dropped_against_a_silent_server_in_and_out_of_a_runtime_it_never_blocks() {
    let server = RedisServer::start();
    let backend = patient().persistent(false).url(server.url()).build().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for round in 0..2 {
        let (outside, load) = runtime.block_on(async {
            let inside = backend.lifespan().await.unwrap();
            let outside = backend.lifespan().await.unwrap();
            let load = silent_under_load(&with_policy(&backend, OnError::Allow), &server).await;
            let start = now();
            drop(inside);
            assert!(start.elapsed() < LONG / 20, "round {round}: {:?}", start.elapsed());
            (outside, load)
        });
        let start = now();
        drop(outside);
        assert!(start.elapsed() < LONG / 20, "round {round}: {:?}", start.elapsed());
        server.resume();
        runtime.block_on(async {
            // A drop closes nothing.
            let _ = heals(&throttle(&backend)).await;
            drop(load);
        });
    }
    // A runtime that is gone, then a drop.
    let life = runtime.block_on(async { backend.lifespan().await.unwrap() });
    server.pause();
    runtime.shutdown_background();
    drop(life);
    server.resume();
}

#[test]
fn f28_a_degraded_start_ends_with_its_runtime() {
    let mut server = RedisServer::start();
    server.kill();
    for _ in 0..5 {
        let backend = hasty().url(server.url()).build().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let life = runtime.block_on(async { backend.lifespan_with(DEGRADED).await.unwrap() });
        assert!(runtime.metrics().num_alive_tasks() > 0, "it goes on connecting");
        drop(life);
        runtime.block_on(async {
            eventually("the tasks are gone", async || {
                tokio::runtime::Handle::current().metrics().num_alive_tasks() == 0
            })
            .await;
        });
        let life = runtime.block_on(async { backend.lifespan_with(DEGRADED).await.unwrap() });
        drop(runtime);
        drop(life);
    }
}

#[tokio::test]
async fn estimates_are_settled_and_dropped_permits_give_back() {
    let server = RedisServer::start();
    let backend = patient().url(server.url()).build().unwrap();
    permits_settle_and_give_back(&throttle(&backend)).await;
}
