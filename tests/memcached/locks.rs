//! Locks: leases, crashes, and guards that nobody releases.

use std::sync::Arc;
use std::time::Duration;

use traffik::{Backend, LockError, LockOptions, Locks, Memcached};

use crate::world::{PATIENCE, backend, builder, url};
use test_support::servers::wait::eventually;
use test_support::servers::{MemcachedServer, Workers, workers};

fn at_once() -> LockOptions {
    LockOptions::new().blocking(false)
}

fn within(time: Duration) -> LockOptions {
    LockOptions::new().blocking_timeout(Some(time))
}

#[tokio::test]
async fn a_lock_without_a_ttl_is_a_lease_that_is_renewed() {
    let server = MemcachedServer::start();
    let backend = builder(&server).lock_lease(Duration::from_secs(1)).build().unwrap();
    let guard = backend.lock("a", LockOptions::new()).await.unwrap();
    assert!(server.command("mg test/l/a t\r\n").starts_with("HD t"), "it is stored with an expiry");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(guard.is_valid(), "renewed");
    assert!(matches!(backend.lock("a", at_once()).await, Err(LockError::Held)));
    // Lost behind our back: the watchdog finds out.
    server.command("flush_all\r\n");
    eventually("it is lost", PATIENCE, async || !guard.is_valid()).await;
    assert!(!guard.release().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by another test as a process of its own"]
async fn holder() {
    if workers::number().is_none() {
        return;
    }
    let builder = Memcached::builder().url(workers::variable("URL")).namespace("test");
    let builder = builder.lock_lease(Duration::from_secs(1)).command_timeout(PATIENCE);
    let backend = builder.build().unwrap();
    let _guard = backend.lock("a", LockOptions::new()).await.unwrap();
    workers::say("HELD");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn f24_the_lock_of_a_killed_process_is_free_after_its_ttl() {
    let server = MemcachedServer::start();
    let backend = backend(&server);
    let mut holder = Workers::spawn(1, "locks::holder", &[("URL", &url(&server))]);
    holder.wait_for_line(0, "HELD");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(matches!(backend.lock("a", at_once()).await, Err(LockError::Held)), "renewed");
    holder.kill(0);
    let guard = backend.lock("a", within(Duration::from_secs(10))).await.unwrap();
    assert!(guard.is_valid());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_a_guard_may_be_dropped_anywhere() {
    let server = MemcachedServer::start();
    let backend = Arc::new(backend(&server));
    let guard = backend.lock("a", LockOptions::new()).await.unwrap();
    std::thread::spawn(move || drop(guard)).join().unwrap();
    let guard = backend.lock("a", within(Duration::from_secs(2))).await.unwrap();
    // Its runtime is gone before the guard.
    let other = Arc::clone(&backend);
    let dead = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(other.lock("b", LockOptions::new())).unwrap()
    });
    drop(dead.join().unwrap());
    assert!(guard.release().await.unwrap());
    let free = backend.lock("b", within(Duration::from_secs(5))).await;
    assert!(free.is_ok(), "released by a task of this runtime");
}

fn current_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn f28_guards_of_a_runtime_that_stands_idle_or_has_ended_are_released_and_renewed() {
    let server = MemcachedServer::start();
    let backend = builder(&server).lock_lease(Duration::from_secs(1)).build().unwrap();
    let (idle, ending) = (current_thread(), tokio::runtime::Runtime::new().unwrap());
    let long = LockOptions::new().ttl(Some(Duration::from_secs(600)));
    let dropped = idle.block_on(backend.lock("dropped", long)).unwrap();
    let leased = idle.block_on(backend.lock("leased", LockOptions::new())).unwrap();
    let ended = ending.block_on(backend.lock("ended", long)).unwrap();
    // From here on nobody is inside of these runtimes, and one of them is gone.
    drop(dropped);
    drop(ended);
    drop(ending);
    let other = current_thread();
    for name in ["dropped", "ended"] {
        let free = other.block_on(backend.lock(name, long.blocking_timeout(Some(PATIENCE))));
        assert!(other.block_on(free.unwrap().release()).unwrap());
    }
    // The lease outlasts its TTL and what a server adds, by renewals; its expiry is the subject.
    std::thread::sleep(Duration::from_secs(5));
    assert!(leased.is_valid());
    assert!(matches!(other.block_on(backend.lock("leased", at_once())), Err(LockError::Held)));
    assert!(other.block_on(leased.release()).unwrap());
}

#[tokio::test]
async fn a_release_is_never_of_another_s_lock() {
    let server = MemcachedServer::start();
    let (one, other) = (backend(&server), backend(&server));
    let lost = one.lock("a", LockOptions::new()).await.unwrap();
    server.command("delete test/l/a\r\n");
    let held = other.lock("a", at_once()).await.unwrap();
    assert!(!lost.extend(Duration::from_secs(60)).await.unwrap());
    assert!(!lost.is_valid(), "it knows now");
    assert!(!lost.release().await.unwrap());
    assert!(matches!(one.lock("a", at_once()).await, Err(LockError::Held)));
    assert_eq!(held.fencing_token(), None, "best effort: no token");
    assert!(held.release().await.unwrap());
}

#[tokio::test]
async fn what_a_locks_options_leave_unset_is_the_backends() {
    let server = MemcachedServer::start();
    let hour = Duration::from_secs(3600);
    let builder = builder(&server).lock_blocking(false).lock_ttl(Some(hour));
    let backend = builder.lock_lease(Duration::from_secs(1)).build().unwrap();
    let ttl = |name: &str| -> u64 {
        let reply = server.command(&format!("mg test/l/{name} t\r\n"));
        reply.trim().strip_prefix("HD t").unwrap().parse().unwrap()
    };
    let _held = backend.lock("a", LockOptions::new()).await.unwrap();
    assert!(ttl("a") > 3500, "no lease");
    assert!(matches!(backend.lock("a", LockOptions::new()).await, Err(LockError::Held)));
    let _leased = backend.lock("b", LockOptions::new().ttl(None)).await.unwrap();
    assert!(ttl("b") < 10, "a lease");
    let waits = LockOptions::new().blocking(true);
    let waited = tokio::time::timeout(Duration::from_millis(300), backend.lock("a", waits)).await;
    assert!(waited.is_err(), "it waits");
}

/// A server that stands still gets what was sent to it when it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_a_try_on_a_silent_server_ends_in_the_callers_time_and_leaves_no_lock() {
    let server = MemcachedServer::start();
    let hour = Duration::from_secs(3600);
    let (one, other) = (
        Memcached::builder().url(url(&server)).namespace("test").build().unwrap(),
        Memcached::builder().url(url(&server)).namespace("test").build().unwrap(),
    );
    // Connected, so that the next try is sent.
    drop(one.lock("other", within(Duration::from_secs(5))).await.unwrap());
    for (round, patience) in [50, 50, 5000].into_iter().enumerate() {
        let name = format!("lock-{round}");
        server.pause();
        let start = test_support::servers::wait::now();
        let options = LockOptions::new().ttl(Some(hour));
        let options = options.blocking_timeout(Some(Duration::from_millis(patience)));
        let taken = one.lock(&name, options).await;
        let took = start.elapsed();
        assert!(taken.is_err(), "{taken:?}");
        assert!(took < Duration::from_millis(patience + 150), "{took:?} of {patience} ms");
        // Longer than anybody would ask again who gives up.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        server.resume();
        let guard = other.lock(&name, within(Duration::from_secs(10))).await;
        assert!(guard.is_ok(), "nobody holds it: {guard:?}");
        assert!(start.elapsed() < Duration::from_secs(15));
    }
}

#[tokio::test]
async fn a_guard_outlives_the_close_of_its_backend() {
    let server = MemcachedServer::start();
    let (one, other) = (backend(&server), backend(&server));
    let guard = one.lock("a", LockOptions::new()).await.unwrap();
    one.close().await.unwrap();
    assert!(guard.release().await.unwrap());
    assert!(other.lock("a", at_once()).await.is_ok());
}
