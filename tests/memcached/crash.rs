//! A server that is killed under load, and all that come back to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use traffik::{DecidedBy, Effect, Error, ErrorKind, FixedWindow, Memcached, OnError, Throttle};

use crate::world::{PATIENCE, builder};
use test_support::servers::wait::{eventually, heals};
use test_support::servers::{MemcachedServer, Proxy};

fn throttle(backend: &Memcached, limit: usize, policy: OnError) -> Throttle {
    let rate = format!("{limit}/366d");
    let builder = Throttle::builder("crash").limit(rate.as_str(), FixedWindow::new());
    let builder = builder.backend(backend.clone()).on_error(policy);
    builder.deadline(PATIENCE * 2).build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_killed_under_load_admits_the_limit_for_each_loss_and_heals() {
    const TASKS: usize = 8;
    const LIMIT: usize = 50;
    let mut server = MemcachedServer::start();
    let backend = builder(&server).build().unwrap();
    let throttle = throttle(&backend, LIMIT, OnError::Raise);
    let (admitted, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut load = JoinSet::new();
    for _ in 0..TASKS {
        let (throttle, admitted) = (throttle.clone(), Arc::clone(&admitted));
        let done = Arc::clone(&done);
        load.spawn(async move {
            while !done.load(Ordering::SeqCst) {
                match throttle.hit("a").await {
                    Ok(decision) => {
                        admitted.fetch_add(usize::from(decision.is_allowed()), Ordering::SeqCst);
                    }
                    Err(Error::Backend(error)) => assert_eq!(error.kind(), ErrorKind::Unavailable),
                    Err(other) => panic!("{other}"),
                }
                tokio::task::yield_now().await;
            }
        });
    }
    let used_up = async || throttle.peek("a").await.is_ok_and(|left| left.remaining() == 0);
    for losses in 0..4 {
        // What is lost from here on may be used up before the restart is over.
        let before = admitted.load(Ordering::SeqCst);
        if losses > 0 {
            server.restart();
        }
        eventually("the limit is used up", PATIENCE, used_up).await;
        let now = || admitted.load(Ordering::SeqCst);
        eventually("some were admitted", PATIENCE, async || losses == 0 || now() > before).await;
        assert!(now() <= LIMIT * (1 + losses), "{} after {losses} losses", now());
    }
    done.store(true, Ordering::SeqCst);
    load.join_all().await;
    assert!(admitted.load(Ordering::SeqCst) <= LIMIT * 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_the_policy_decides_while_the_server_is_down() {
    let mut server = MemcachedServer::start();
    let backend = builder(&server).build().unwrap();
    let by = |policy| throttle(&backend, 5, policy);
    assert!(by(OnError::Raise).hit("a").await.unwrap().is_allowed());
    server.kill();
    // A connection that was open may tell only by failing that its server is gone.
    let _ = by(OnError::Raise).hit("a").await.unwrap_err();
    let Err(Error::Backend(error)) = by(OnError::Raise).hit("a").await else {
        panic!("it is down")
    };
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::NotApplied));
    for (policy, allows) in [(OnError::Allow, true), (OnError::default(), false)] {
        let decision = by(policy).hit("a").await.unwrap();
        assert_eq!((decision.is_allowed(), decision.decided_by()), (allows, DecidedBy::Policy));
    }
    server.restart();
    let raise = by(OnError::Raise);
    let decision = heals("a hit", PATIENCE, || raise.hit("a")).await;
    assert_eq!((decision.is_allowed(), decision.decided_by()), (true, DecidedBy::Backend));
}

/// Connections are made by calls only. So many calls are the bound of attempts: each makes one, and one more if
/// that which it was given had been closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f37_all_come_back_by_no_more_connections_than_the_pool_has() {
    const POOL: usize = 4;
    const CALLS: usize = 64;
    let server = MemcachedServer::start();
    let proxy = Proxy::start(server.port());
    let url = format!("memcached://127.0.0.1:{}", proxy.port());
    let backend = Memcached::builder().url(url).namespace("test").pool_size(POOL);
    let backend = backend.command_timeout(Duration::from_millis(200)).build().unwrap();
    let throttle = throttle(&backend, 1_000_000, OnError::Raise);
    let _ = heals("the first hit", PATIENCE, || throttle.hit("first")).await;
    let all_at_once = || {
        let hit = |call| {
            let throttle = throttle.clone();
            async move { throttle.hit(call).await }
        };
        (0..CALLS as u64).map(hit).collect::<JoinSet<_>>()
    };

    proxy.blackhole();
    proxy.cut();
    let before = proxy.accepted();
    let outcomes = all_at_once().join_all().await;
    assert!(outcomes.iter().all(Result::is_err), "nothing answers");
    let attempts = proxy.accepted() - before;
    assert!((1..=2 * CALLS).contains(&attempts), "{attempts} attempts");

    proxy.forward();
    let _ = heals("a hit", PATIENCE, || throttle.hit("first")).await;
    // What callers had left behind is closed now.
    eventually("no more than the pool has", PATIENCE, async || proxy.open() <= POOL).await;
    let mut calls = all_at_once();
    while calls.join_next().await.is_some() {
        assert!(proxy.open() <= POOL, "{} connections", proxy.open());
    }
}
