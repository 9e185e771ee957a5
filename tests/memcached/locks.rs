//! Locks: leases, crashes, and guards that nobody releases.

use std::sync::Arc;
use std::time::Duration;

use traffik::{Backend, LockError, LockGuard, LockOptions, Locks, Memcached};

use crate::world::{PATIENCE, backend, builder, url};
use test_support::servers::wait::eventually;
use test_support::servers::{Direction, MemcachedServer, Proxy, Workers, pause, workers};

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
    pause::expires(Duration::from_secs(5)).await;
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
    pause::expires(Duration::from_millis(2500)).await;
    assert!(matches!(backend.lock("a", at_once()).await, Err(LockError::Held)), "renewed");
    holder.kill(0);
    let guard = backend.lock("a", within(Duration::from_secs(10))).await.unwrap();
    assert!(guard.is_valid());
}

/// Its owner was paused, or just slow.
#[tokio::test]
async fn f25_a_guard_is_invalid_before_the_server_frees_its_lock() {
    let server = MemcachedServer::start();
    let (one, other) = (backend(&server), backend(&server));
    let guard = one.lock("a", at_once().ttl(Some(Duration::from_secs(1)))).await.unwrap();
    assert!(guard.is_valid());
    eventually("its time is over", PATIENCE, async || !guard.is_valid()).await;
    assert!(matches!(other.lock("a", at_once()).await, Err(LockError::Held)), "not yet free");
    let next = other.lock("a", within(PATIENCE)).await.unwrap();
    assert!(!guard.extend(PATIENCE).await.unwrap(), "it is another's");
    assert!(!guard.release().await.unwrap());
    assert!(next.is_valid() && next.release().await.unwrap());
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

/// In a task, and on a thread of no runtime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_a_guard_that_is_dropped_while_unwinding_lets_go() {
    const HOUR: Duration = Duration::from_secs(3600);
    let server = MemcachedServer::start();
    let backend = builder(&server).lock_lease(HOUR).build().unwrap();
    // With a lease too: its task must not keep the lock.
    for options in [LockOptions::new().ttl(Some(HOUR)), LockOptions::new()] {
        let panics = |guard| {
            let _guard: LockGuard = guard;
            panic!("part of the test");
        };
        let guard = backend.lock("a", options.blocking_timeout(Some(PATIENCE))).await.unwrap();
        assert!(tokio::spawn(async move { panics(guard) }).await.unwrap_err().is_panic());
        let guard = backend.lock("a", options.blocking_timeout(Some(PATIENCE))).await;
        let guard = guard.expect("the panic of a task has let go of it");
        assert!(std::thread::spawn(move || panics(guard)).join().is_err());
        let guard = backend.lock("a", within(PATIENCE)).await;
        let guard = guard.expect("the panic of a thread has let go of it");
        assert!(guard.release().await.unwrap());
    }
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
    pause::blocking::expires(Duration::from_secs(5));
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
        pause::lasts(Duration::from_millis(1500)).await;
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

/// Over a way on which requests or replies can be held back for longer than locks last, with a connection for
/// locks that is open.
async fn connected_by(proxy: &Proxy) -> Memcached {
    let url = format!("memcached://127.0.0.1:{}", proxy.port());
    let builder = Memcached::builder().url(url).namespace("test").command_timeout(PATIENCE);
    let backend = builder.build().unwrap();
    assert!(backend.lock("other", at_once()).await.unwrap().release().await.unwrap());
    backend
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f36_a_lock_that_is_granted_too_late_is_not_taken_and_is_released() {
    const TTL: Duration = Duration::from_millis(300);
    // Late when the server hears of it, or when the answer is here.
    for (late, sign) in [(Direction::Request, "add test/l/a "), (Direction::Reply, "STORED")] {
        let server = MemcachedServer::start();
        let proxy = Proxy::start(server.port());
        let backend = connected_by(&proxy).await;
        let releases = server.stat("cas_hits");
        proxy.hold(late);
        let trying = tokio::spawn({
            let backend = backend.clone();
            async move { backend.lock("a", at_once().ttl(Some(TTL))).await }
        });
        eventually("it is under way", PATIENCE, async || proxy.holds(late, sign)).await;
        pause::expires(TTL).await;
        proxy.forward();
        let taken = trying.await.unwrap();
        assert!(matches!(taken, Err(LockError::Held)), "{late:?}: {taken:?}");
        let is_free = async || server.command("mg test/l/a t\r\n") == "EN\r\n";
        eventually("it is released", PATIENCE, is_free).await;
        assert_eq!(server.stat("cas_hits"), releases + 1, "released, not expired");
        let next = backend.lock("a", at_once()).await.unwrap();
        assert!(next.release().await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f36_who_waits_asks_again_after_a_grant_that_came_too_late() {
    const TTL: Duration = Duration::from_millis(300);
    let server = MemcachedServer::start();
    let proxy = Proxy::start(server.port());
    let backend = connected_by(&proxy).await;
    let rewritten = server.stat("cas_hits");
    proxy.hold(Direction::Reply);
    let trying = tokio::spawn({
        let backend = backend.clone();
        async move { backend.lock("a", within(PATIENCE).ttl(Some(TTL))).await }
    });
    let is_stored = async || proxy.holds(Direction::Reply, "STORED");
    eventually("it is granted", PATIENCE, is_stored).await;
    pause::expires(TTL).await;
    proxy.forward();
    let guard = trying.await.unwrap().unwrap();
    assert!(guard.extend(PATIENCE).await.unwrap(), "the release of the first try left it alone");
    assert!(guard.release().await.unwrap());
    let now = server.stat("cas_hits");
    assert_eq!(now, rewritten + 3, "both grants were released, and one extended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f36_an_extension_that_is_granted_too_late_is_none() {
    const TTL: Duration = Duration::from_millis(500);
    let server = MemcachedServer::start();
    let proxy = Proxy::start(server.port());
    let backend = connected_by(&proxy).await;
    let guard = backend.lock("a", at_once().ttl(Some(TTL))).await.unwrap();
    proxy.hold(Direction::Request);
    let extending = tokio::spawn(async move { (guard.extend(TTL).await, guard) });
    let is_sent = async || proxy.holds(Direction::Request, "gets test/l/a");
    eventually("it is under way", PATIENCE, is_sent).await;
    pause::expires(TTL).await;
    proxy.forward();
    let (extended, guard) = extending.await.unwrap();
    assert!(!extended.unwrap(), "all of its time is over");
    assert!(!guard.is_valid());
    drop(guard);
    let next = backend.lock("a", within(PATIENCE)).await.unwrap();
    assert!(next.is_valid() && next.release().await.unwrap());
}

/// Whichever writes last, by its own count, would else leave the server with less than the guard believes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_extensions_at_once_the_longer_one_counts() {
    const SHORT: Duration = Duration::from_secs(30);
    const LONG: Duration = Duration::from_secs(600);
    let server = MemcachedServer::start();
    let proxy = Proxy::start(server.port());
    let backend = connected_by(&proxy).await;
    for round in 0..20 {
        let guard = Arc::new(backend.lock("a", at_once().ttl(Some(SHORT))).await.unwrap());
        proxy.hold(Direction::Request);
        let extensions = [SHORT, LONG].map(|ttl| {
            let guard = Arc::clone(&guard);
            tokio::spawn(async move { guard.extend(ttl).await })
        });
        let are_sent = async || proxy.holds(Direction::Request, "gets test/l/a");
        eventually("they are under way", PATIENCE, are_sent).await;
        proxy.forward();
        for extending in extensions {
            assert!(extending.await.unwrap().unwrap(), "{round}");
        }
        let said = server.command("mg test/l/a t\r\n");
        let left = said.trim().strip_prefix("HD t").and_then(|left| left.parse::<u64>().ok());
        assert!(left.is_some_and(|left| left > LONG.as_secs() - 10), "{round}: {said}");
        assert!(Arc::into_inner(guard).unwrap().release().await.unwrap());
    }
}

/// Else whoever holds it next would wait for what nobody got.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extension_that_failed_comes_true_by_no_later_one() {
    const SHORT: Duration = Duration::from_secs(30);
    let server = MemcachedServer::start();
    let proxy = Proxy::start(server.port());
    let backend = connected_by(&proxy).await;
    let guard = backend.lock("a", at_once().ttl(Some(SHORT))).await.unwrap();
    proxy.hold(Direction::Request);
    assert!(guard.extend(SHORT * 100).await.is_err());
    let given_up = tokio::time::timeout(Duration::from_millis(1), guard.extend(SHORT * 100)).await;
    assert!(given_up.is_err());
    proxy.forward();
    eventually("it is extended", PATIENCE, async || guard.extend(SHORT).await.is_ok()).await;
    let said = server.command("mg test/l/a t\r\n");
    let left = said.trim().strip_prefix("HD t").and_then(|left| left.parse::<u64>().ok());
    assert!(left.is_some_and(|left| left < SHORT.as_secs() + 10), "{said}");
    assert!(guard.release().await.unwrap());
}

#[tokio::test]
async fn f36_a_ttl_too_short_to_be_kept_is_refused() {
    let server = MemcachedServer::start();
    let backend = backend(&server);
    for micros in [1, 1000, 4999] {
        let options = at_once().ttl(Some(Duration::from_micros(micros)));
        let taken = backend.lock("a", options).await;
        assert!(matches!(taken, Err(LockError::Invalid { .. })), "{taken:?}");
        let error = builder(&server).lock_ttl(Some(Duration::from_micros(micros))).build();
        assert!(error.unwrap_err().to_string().contains("5ms"), "the builder says so, too");
    }
    assert_eq!(server.stat("cmd_set"), 0, "nothing was sent");
}
