//! Hits that count together or not at all: in order, and given back.

use std::sync::Arc;
use std::time::Duration;

use test_support::servers::{MemcachedServer, Proxy, workers};
use test_support::together::{self, Pair};
use traffik::{Decision, Memcached, OnError, Throttle, all};

use crate::world::{PATIENCE, backend, url};

fn on(url: &str) -> Memcached {
    Memcached::builder().url(url).namespace("test").command_timeout(PATIENCE).build().unwrap()
}

#[test]
fn processes_that_race_for_two_limits_lose_no_unit() {
    let server = MemcachedServer::start();
    let seen = together::race_of_processes("all::worker", &url(&server));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Pair::new(on(&url(&server))).expect_exact(&seen).await });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by another test as a process of its own"]
async fn worker() {
    if workers::number().is_some() {
        together::worker(on(&workers::variable("URL"))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_who_goes_away_gives_back_what_was_taken() {
    let server = MemcachedServer::start();
    together::callers_who_go_away_lose_nothing(&Pair::new(on(&url(&server)))).await;
}

/// A denial of the first asks nobody else, one of the second gives the first back.
#[tokio::test]
async fn the_narrow_one_first_is_cheap() {
    let server = MemcachedServer::start();
    let backend = backend(&server);
    let throttle = |name: &str, rate: &str| {
        let throttle = Throttle::builder(name).rate(rate).backend(backend.clone());
        throttle.deadline(PATIENCE).on_error(OnError::Raise).build().unwrap()
    };
    let (narrow, wide) = (throttle("narrow", "1/30d"), throttle("wide", "100/30d"));
    assert!(all().hit(&narrow, "a").hit(&wide, "a").await.unwrap().is_allowed());
    let commands = || [server.stat("cmd_get"), server.stat("cmd_set")];
    let before = commands();
    let denied = all().hit(&narrow, "a").hit(&wide, "a").await.unwrap();
    assert!(denied.is_denied() && denied.decision(1).is_none());
    assert_eq!(commands(), [before[0] + 1, before[1]]);
    let denied = all().hit(&wide, "a").hit(&narrow, "a").await.unwrap();
    assert_eq!(denied.denied_by(), Some(1));
    assert!(denied.not_given_back().is_empty());
    assert_eq!(commands(), [before[0] + 4, before[1] + 2], "taken, denied, given back");
    assert_eq!(wide.peek("a").await.unwrap().remaining(), 99);
}

/// The server goes away between the hit and its return.
#[tokio::test]
async fn f04_what_a_silent_server_does_not_take_back_is_named() {
    let server = Arc::new(MemcachedServer::start());
    let backend = Memcached::builder().url(url(&server)).namespace("test").build().unwrap();
    let first = Throttle::builder("first").rate("9/30d").backend(backend).build().unwrap();
    let paused = Arc::clone(&server);
    let policy = OnError::handler(move |_| {
        // It was there for the hit, and is not when it is to take it back.
        paused.pause();
        async { Decision::deny(Duration::from_secs(5)) }
    });
    let down = Memcached::builder().url("memcached://127.0.0.1:1").build().unwrap();
    let second = Throttle::builder("second").rate("9/30d").backend(down).on_error(policy);
    let denied = all().hit(&first, "a").hit(&second.build().unwrap(), "a").await.unwrap();
    assert_eq!(denied.denied_by(), Some(1));
    assert_eq!(denied.not_given_back(), [0]);
    server.resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_connections_cut_all_the_time_admit_no_more_and_lose_nothing_else() {
    let server = MemcachedServer::start();
    let proxy = Proxy::start(server.port());
    let through = on(&format!("memcached://127.0.0.1:{}", proxy.port()));
    together::through_cuts(through, on(&url(&server)), &proxy).await;
}
