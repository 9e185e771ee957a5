//! The rules of taking, keeping and letting go.

use std::time::Duration;

use traffik::{Backend, Key, LockError, LockOptions, Locks, Throttle, Values};

use super::common::{
    LONG, at_once, builder, changes, fence_key, is_held, lock_key, millis, on, pttl, take, ttl,
    until,
};
use test_support::servers::RedisServer;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ttl_need_not_be_whole_milliseconds() {
    let server = RedisServer::start();
    let backend = on(&server);
    for (nanos, at_most) in
        [(9_999_999_999_u64, 10_000), (90_000_000_001, 90_001), (1 << 60, 1 << 41)]
    {
        let guard = backend.lock("a", ttl(Duration::from_nanos(nanos))).await.unwrap();
        let left = pttl(&server, "a");
        assert!(0 < left && left <= at_most, "{left} of {nanos} ns");
        assert!(guard.extend(Duration::from_nanos(nanos + 1)).await.unwrap());
        assert!(guard.is_valid());
        assert!(guard.release().await.unwrap());
    }
    let guard = backend.lock("a", ttl(Duration::MAX)).await.unwrap();
    assert!(guard.extend(Duration::MAX).await.unwrap() && guard.is_valid());
    assert!(guard.release().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_that_fails_writes_nothing() {
    let server = RedisServer::start();
    let (first, second) = (on(&server), on(&server));
    let guard = take(&first, "a", ttl(LONG)).await;
    let state = || {
        [lock_key("a"), fence_key("a")].map(|key| {
            (server.cmd(&format!("DUMP {key}")), server.cmd(&format!("PEXPIRETIME {key}")))
        })
    };
    let (before, written) = (state(), changes(&server));
    for _ in 0..10 {
        assert!(matches!(second.lock("a", at_once()).await, Err(LockError::Held)));
    }
    let short = ttl(LONG).blocking_timeout(Some(millis(100)));
    assert!(matches!(second.lock("a", short).await, Err(LockError::TimedOut { .. })));
    assert_eq!(state(), before);
    assert_eq!(changes(&server), written, "a timeout leaves nothing behind");
    assert!(guard.is_valid());
    let token = guard.fencing_token().unwrap();
    assert!(guard.release().await.unwrap());
    assert!(take(&second, "a", at_once()).await.fencing_token().unwrap() > token);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_blocking_is_one_round_trip() {
    let server = RedisServer::start();
    let (first, second) = (on(&server), on(&server));
    let guard = take(&first, "a", ttl(LONG)).await;
    assert!(second.lock("a", at_once()).await.is_err());
    server.cmd("CONFIG RESETSTAT");
    assert!(second.lock("a", at_once()).await.is_err());
    assert_eq!((server.calls("evalsha"), server.calls("eval")), (1, 0));
    // What is inside of the script is no round trip; there is nothing else.
    let stats = server.cmd("INFO commandstats").text();
    for line in stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")) {
        let command = line.split([':', '|']).next().unwrap();
        let inside = ["set", "get", "pttl"].contains(&command);
        let known = ["evalsha", "info", "ping", "config", "client"].contains(&command);
        assert!(inside || known, "{line}");
    }
    server.cmd("CONFIG RESETSTAT");
    drop(second.lock("b", at_once()).await.unwrap());
    until("it is released", async || !is_held(&server, "b")).await;
    assert!(server.calls("evalsha") <= 2, "one to take it, one to release it");
    assert!(guard.release().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_never_lets_go_of_the_next_holders_lock() {
    let server = RedisServer::start();
    let (first, second) = (on(&server), on(&server));
    for how in ["released", "dropped", "extended"] {
        let lost = take(&first, how, ttl(millis(50))).await;
        let next = take(&second, how, ttl(LONG)).await;
        let held = server.cmd(&format!("GET {}", lock_key(how)));
        let ends_at = server.cmd(&format!("PEXPIRETIME {}", lock_key(how)));
        match how {
            "released" => assert!(!lost.release().await.unwrap(), "not ours any more"),
            "dropped" => {
                server.cmd("CONFIG RESETSTAT");
                drop(lost);
                until("it is let go of", async || server.calls("evalsha") > 0).await;
            }
            _ => {
                assert!(!lost.extend(LONG * 2).await.unwrap(), "not ours any more");
                assert!(!lost.is_valid());
            }
        }
        assert_eq!(server.cmd(&format!("GET {}", lock_key(how))), held);
        assert_eq!(server.cmd(&format!("PEXPIRETIME {}", lock_key(how))), ends_at);
        assert!(next.release().await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extend_never_shortens_and_says_when_the_lock_is_lost() {
    let server = RedisServer::start();
    let backend = on(&server);
    let guard = take(&backend, "a", ttl(LONG)).await;
    let ends_at = || server.cmd(&format!("PEXPIRETIME {}", lock_key("a"))).int();
    let before = ends_at();
    assert!(guard.extend(millis(1)).await.unwrap());
    assert_eq!(ends_at(), before, "not shortened");
    assert!(guard.is_valid());
    assert!(guard.extend(LONG * 2).await.unwrap());
    assert!(ends_at() > before);
    // Somebody deleted it.
    server.cmd(&format!("DEL {}", lock_key("a")));
    assert!(guard.is_valid(), "not known yet");
    assert!(!guard.extend(LONG).await.unwrap());
    assert!(!guard.is_valid(), "known now");
    assert!(!is_held(&server, "a"), "not taken again");
    assert!(!guard.release().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_without_a_ttl_is_a_lease_that_is_renewed() {
    let server = RedisServer::start();
    let backend = builder().url(server.url()).lock_lease(millis(3000)).build().unwrap();
    let guard = backend.lock("a", LockOptions::new()).await.unwrap();
    server.cmd("CONFIG RESETSTAT");
    let mut renewed = 0;
    // Two renewals at a third of the TTL are after less than one TTL; so wait for four.
    until("it is renewed", async || {
        let left = pttl(&server, "a");
        assert!(0 < left && left <= 3000, "always a TTL: {left}");
        assert!(guard.is_valid());
        renewed = server.calls("pexpire");
        renewed >= 4
    })
    .await;
    drop(guard);
    until("the lease ends with its guard", async || !is_held(&server, "a")).await;
    // A renewal that was under way cannot bring it back.
    let guard = take(&backend, "a", LockOptions::new()).await;
    assert!(guard.release().await.unwrap());
    assert!(!is_held(&server, "a"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_locks_options_leave_unset_is_the_backends() {
    let server = RedisServer::start();
    let builder = builder().url(server.url()).lock_blocking(false);
    let backend = builder.lock_ttl(Some(LONG)).lock_lease(millis(1000)).build().unwrap();
    let guard = backend.lock("a", LockOptions::new()).await.unwrap();
    let left = pttl(&server, "a");
    assert!(left > 1000 && left <= LONG.as_millis().try_into().unwrap(), "no lease: {left}");
    let second = backend.lock("a", LockOptions::new()).await;
    assert!(matches!(second, Err(LockError::Held)), "{second:?}");
    // What is set wins, also if it is the library's default.
    let leased = backend.lock("b", LockOptions::new().ttl(None)).await.unwrap();
    assert!(pttl(&server, "b") <= 1000, "a lease");
    let waits = LockOptions::new().blocking(true);
    let waited = tokio::time::timeout(millis(300), backend.lock("a", waits)).await;
    assert!(waited.is_err(), "it waits");
    assert!(guard.release().await.unwrap() && leased.release().await.unwrap());

    let builder = super::common::builder().url(server.url());
    let backend = builder.lock_blocking_timeout(Some(millis(100))).build().unwrap();
    let _held = take(&on(&server), "a", ttl(LONG)).await;
    let waited = backend.lock("a", LockOptions::new()).await;
    assert!(matches!(waited, Err(LockError::TimedOut { .. })), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clear_leaves_locks_and_fences_alone() {
    let server = RedisServer::start();
    let backend = on(&server);
    let guard = take(&backend, "a", ttl(LONG)).await;
    assert!(backend.set_fenced(&guard, "value", Some(b"kept"), None).await.unwrap());
    let throttle = Throttle::builder("t").rate("1/h").backend(backend.clone()).build().unwrap();
    assert!(throttle.hit("key").await.unwrap().is_allowed());
    backend.set(&Key::value("v"), b"1", None).await.unwrap();
    assert_eq!(server.cmd("DBSIZE").int(), 5);
    let fence = server.cmd(&format!("DUMP {}", fence_key("a")));
    backend.clear().await.unwrap();
    assert_eq!(server.cmd("DBSIZE").int(), 3, "the lock, its fence, and what it guards");
    assert_eq!(server.cmd(&format!("DUMP {}", fence_key("a"))), fence);
    assert!(throttle.hit("key").await.unwrap().is_allowed(), "forgotten");
    assert!(guard.release().await.unwrap(), "still ours");
    assert_eq!(backend.get_fenced("a", "value").await.unwrap().as_deref(), Some(&b"kept"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_outlives_its_lock_and_not_forever() {
    let server = RedisServer::start();
    let backend = on(&server);
    let day = 24 * 3600 * 1000;
    for (name, time, least) in [("a", millis(100), 6 * day), ("b", LONG * 10_000, 60 * day)] {
        let guard = take(&backend, name, ttl(time)).await;
        let left = server.cmd(&format!("PTTL {}", fence_key(name))).int();
        assert!(left > least && left < 80 * day, "{left}");
        let stored = server.cmd(&format!("GET {}", fence_key(name))).text();
        assert_eq!(stored, guard.fencing_token().unwrap().to_string(), "whole digits");
        let _ = guard.release().await.unwrap();
        assert_eq!(server.cmd(&format!("EXISTS {}", fence_key(name))).int(), 1);
    }
    let hour = Duration::from_secs(3600);
    let backend = builder().url(server.url()).lock_fence_ttl(hour).build().unwrap();
    for (name, time, least) in [("c", millis(100), 3_500_000), ("d", hour * 24, 23 * 3_600_000)] {
        let guard = take(&backend, name, ttl(time)).await;
        let left = server.cmd(&format!("PTTL {}", fence_key(name))).int();
        assert!(left > least && left <= 24 * 3_600_000, "{left}: an hour, or the lock's own ttl");
        let _ = guard.release().await.unwrap();
    }
}
