//! Nobody answers, and no connection is closed.

use std::time::Duration;

use traffik::{
    Backend, DecidedBy, Effect, ErrorKind, FixedWindow, Key, OnError, Redis, Throttle, Values,
};

use super::common::{
    PATIENT, PLENTY, SOON, admits, builder, ends, error, heals, throttle, until, used,
};
use test_support::servers::wait::now;
use test_support::servers::{Proxy, RedisServer};

/// A silent connection is given up before more calls than that, one after the other, got no answer.
const MISSES: u32 = 3;

fn by_policy(backend: &Redis, policy: OnError) -> Throttle {
    let builder = Throttle::builder("policy").limit("5/day", FixedWindow::new());
    builder.backend(backend.clone()).on_error(policy).build().unwrap()
}

async fn decides_by_policy(backend: &Redis) {
    let decision = ends(by_policy(backend, OnError::Allow).hit("a")).await.unwrap();
    assert!(decision.is_allowed() && decision.decided_by() == DecidedBy::Policy);
    let decision = ends(by_policy(backend, OnError::default()).hit("a")).await.unwrap();
    assert!(decision.is_denied() && decision.decided_by() == DecidedBy::Policy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_a_stopped_server_ends_no_call_and_heals() {
    let server = RedisServer::start();
    let backend = builder(server.url()).build().unwrap();
    let throttle = throttle(&backend, PLENTY);
    let (mut admitted, mut ambiguous) = (0, 0);
    for _ in 0..2 {
        admits(&throttle, "other").await;
        server.pause();
        for _ in 0..8 {
            match ends(throttle.hit("key")).await {
                Ok(_) => panic!("nobody was there to answer"),
                Err(traffik::Error::Backend(error)) => {
                    let timeout = error.kind() == ErrorKind::Timeout;
                    assert!(timeout || error.effect() == Effect::NotApplied, "{error}");
                    ambiguous += u32::from(error.effect() == Effect::Ambiguous);
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        decides_by_policy(&backend).await;
        server.resume();
        admits(&throttle, "key").await;
        admitted += 1;
    }
    // A hit that timed out here would be ambiguous too, and is not counted above.
    let used = used(&throttle, "key", PLENTY).await;
    assert!(admitted <= used, "{admitted} admitted, {used} used");
    assert!(ambiguous >= MISSES, "the first of them were sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_a_black_hole_has_its_connection_replaced_and_heals() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let backend = builder(format!("redis://127.0.0.1:{}", proxy.port())).build().unwrap();
    let throttle = throttle(&backend, PLENTY);
    admits(&throttle, "key").await;
    let before = proxy.accepted();

    proxy.blackhole();
    let mut sent = 0;
    // Until there is no connection any more: then a call fails at once.
    loop {
        let error = error(ends(throttle.hit("key")).await);
        if error.effect() == Effect::NotApplied {
            break;
        }
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        sent += 1;
        assert!(sent <= MISSES, "{sent} calls in a row had no answer, and no new connection");
    }
    until("another connection is made", || proxy.accepted() > before).await;
    decides_by_policy(&backend).await;
    proxy.forward();
    admits(&throttle, "key").await;
    until("only the last connection is left", || proxy.open() == 1).await;
    let clients = || server.cmd("CLIENT LIST TYPE normal").text().trim().lines().count();
    until("... also at the server", || clients() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_an_idle_backend_finds_the_silence_by_itself() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let backend = builder(format!("redis://127.0.0.1:{}", proxy.port())).build().unwrap();
    heals("the first call", || backend.ready()).await;
    let before = proxy.accepted();
    proxy.blackhole();
    until("the connection is replaced", || proxy.accepted() > before).await;
    proxy.forward();
    heals("a call", || backend.ready()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_a_half_open_connection_is_replaced() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let backend = builder(format!("redis://127.0.0.1:{}", proxy.port())).build().unwrap();
    let throttle = throttle(&backend, PLENTY);
    admits(&throttle, "key").await;
    for round in 0..3 {
        let before = proxy.accepted();
        proxy.strand();
        let mut missed = 0;
        while let Err(traffik::Error::Backend(error)) = ends(throttle.hit("key")).await {
            if proxy.accepted() > before {
                break;
            }
            missed += u32::from(error.effect() == Effect::Ambiguous);
            assert!(missed <= MISSES, "round {round}: it is not replaced: {error}");
        }
        admits(&throttle, "key").await;
        assert!(proxy.accepted() > before);
    }
    until("the old ones are let go of", || proxy.open() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_an_idle_half_open_connection_is_replaced() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let backend = builder(format!("redis://127.0.0.1:{}", proxy.port())).build().unwrap();
    let key = Key::value("key");
    heals("a value", || backend.set(&key, b"value", None)).await;
    let before = proxy.accepted();
    proxy.strand();
    until("it is replaced", || proxy.accepted() > before).await;
    let value = heals("the value", || backend.get(&key)).await;
    assert_eq!(value.as_deref(), Some(&b"value"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_initializing_ends_in_its_own_time_and_applies_nothing() {
    let server = RedisServer::start();
    let short = std::time::Duration::from_millis(100);
    let builder = builder(server.url()).command_timeout(SOON * 2).connect_timeout(SOON * 2);
    let backend = builder.initialize_timeout(short).build().unwrap();
    server.pause();
    let error = ends(backend.initialize()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::NotApplied), "{error}");
    server.resume();
    heals("it", || backend.initialize()).await;
}

/// The time from silence to the next answer, with callers that each give up after `deadline`, be it a
/// hit's deadline or the backend's own timeout.
async fn heals_after(
    deadline: Duration,
    of_backend: bool,
    lost: fn(&Proxy),
    tasks: u32,
) -> Duration {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let mut builder = builder(format!("redis://127.0.0.1:{}", proxy.port()));
    if of_backend {
        builder = builder.command_timeout(deadline);
    }
    let backend = builder.build().unwrap();
    let throttle = Throttle::builder("faults")
        .limit(format!("{PLENTY}/day").as_str(), FixedWindow::new())
        .backend(backend.clone())
        .on_error(OnError::Raise)
        .deadline(deadline)
        .build()
        .unwrap();
    admits(&throttle, "key").await;
    let before = proxy.accepted();
    lost(&proxy);
    let start = now();
    let callers: Vec<_> = (0..tasks)
        .map(|_| {
            let throttle = throttle.clone();
            tokio::spawn(async move { admits(&throttle, "key").await })
        })
        .collect();
    until("the connection is replaced", || proxy.accepted() > before).await;
    proxy.forward();
    for caller in callers {
        caller.await.unwrap();
    }
    start.elapsed()
}

/// Measured: 0.3 to 0.5 s at any deadline. The rest is slack for a busy machine.
const REPLACED: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_a_half_open_connection_is_replaced_whatever_the_deadline() {
    for millis in [3, 10, 30, 49, 50, 250] {
        let deadline = Duration::from_millis(millis);
        for (of_backend, tasks) in [(false, 1), (false, 16), (true, 4)] {
            // Idle probes come once a second, so one of several attempts would be lucky.
            let took = heals_after(deadline, of_backend, Proxy::strand, tasks).await;
            println!("{deadline:?}, of the backend {of_backend}, {tasks} callers: {took:?}");
            assert!(took < REPLACED, "{took:?} at a deadline of {deadline:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_a_black_hole_is_found_whatever_the_deadline() {
    for millis in [10, 250] {
        let deadline = Duration::from_millis(millis);
        let took = heals_after(deadline, true, Proxy::blackhole, 8).await;
        println!("{deadline:?}: {took:?}");
        assert!(took < REPLACED, "{took:?} at a deadline of {deadline:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_a_server_that_is_silent_from_the_first_call_on_heals() {
    for millis in [10, 200] {
        let server = RedisServer::start();
        let time = Duration::from_millis(millis);
        let backend = builder(server.url()).command_timeout(time).build().unwrap();
        let throttle = throttle(&backend, PLENTY);
        server.pause();
        for _ in 0..8 {
            let error = error(ends(throttle.hit("key")).await);
            // No connection was ever made.
            assert_eq!(error.effect(), Effect::NotApplied, "{error}");
        }
        decides_by_policy(&backend).await;
        server.resume();
        let start = now();
        admits(&throttle, "key").await;
        let took = start.elapsed();
        assert!(took < REPLACED, "{took:?} after it answers again");
    }
}

/// What is answered now and then is not silent, however often callers give up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f06_a_connection_that_is_only_slow_is_kept() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let time = Duration::from_millis(10);
    let builder = builder(format!("redis://127.0.0.1:{}", proxy.port())).command_timeout(time);
    let backend = builder.connect_timeout(PATIENT).build().unwrap();
    heals("the first call", || backend.ready()).await;
    let before = proxy.accepted();
    proxy.delay(Duration::ZERO, Duration::from_millis(30));
    let mut missed = 0;
    while missed < 100 {
        missed += u32::from(ends(backend.ready()).await.is_err());
    }
    proxy.delay(Duration::ZERO, Duration::ZERO);
    heals("a call", || backend.ready()).await;
    assert_eq!(proxy.accepted(), before, "it was replaced after {missed} impatient calls");
}
