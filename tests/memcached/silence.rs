//! A way to the server on which nothing, too little, or what comes is late.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use traffik::{
    Backend, BackendError, DecidedBy, Effect, ErrorKind, FixedWindow, Key, LockError, LockOptions,
    Locks, Memcached, OnError, Throttle, TokenBucket, Values,
};

use crate::world::{PATIENCE, hit, limit};
use test_support::servers::wait::{self, eventually, now, wait_until};
use test_support::servers::{Direction, MemcachedServer, Proxy};

/// Of one call. Long beside what a server that is there needs, on a busy machine too.
const CALL: Duration = Duration::from_millis(400);
/// As many as a pool keeps open.
const IDLE: usize = 6;

/// Behind that proxy, with so many connections that are open and idle.
async fn warm(proxy: &Proxy) -> Memcached {
    let url = format!("memcached://127.0.0.1:{}", proxy.port());
    let builder = Memcached::builder().url(url).namespace("test").pool_minsize(IDLE);
    let backend = builder.pool_size(IDLE).command_timeout(CALL).build().unwrap();
    heals("the start", || backend.initialize()).await;
    assert_eq!(proxy.open(), IDLE);
    backend
}

async fn heals<T, E, F>(what: &str, call: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, E>>,
    E: Debug,
{
    wait::heals(what, PATIENCE, call).await
}

fn at_once() -> LockOptions {
    LockOptions::new().blocking(false)
}

/// Whoever waits for a dead connection waits for all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_a_pool_of_half_open_connections_costs_one_caller_its_time() {
    let server = MemcachedServer::start();
    let proxy = Proxy::start(server.port());
    let backend = warm(&proxy).await;
    let limits = [limit("1000000/h", TokenBucket::new())];
    for round in 0..3 {
        let before = proxy.accepted();
        proxy.strand();
        let error = hit(&backend, "a", &limits).await.expect_err("nobody answers");
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::NotApplied));
        for number in 0..2 * IDLE {
            let next = hit(&backend, "a", &limits).await;
            assert!(next.is_ok(), "round {round}, call {number}: {next:?}");
        }
        assert!(proxy.accepted() > before, "they were connected anew");
        // All open ones are to be cut in the next round, and as many as before.
        heals("the connections", || backend.initialize()).await;
        wait_until("those are let go of that are dead", PATIENCE, || proxy.open() == IDLE);
    }
}

/// What is dropped after it has waited for a while says as much as what has ended by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_also_if_the_callers_give_up_before_the_backend_does() {
    let server = MemcachedServer::start();
    let proxy = Proxy::start(server.port());
    let backend = warm(&proxy).await;
    let key = Key::value("a");
    proxy.strand();
    let asked = timeout(CALL / 2, backend.get(&key)).await;
    assert!(asked.is_err(), "nobody answers: {asked:?}");
    for number in 0..2 * IDLE {
        let next = timeout(CALL / 2, backend.get(&key)).await;
        assert!(matches!(next, Ok(Ok(None))), "call {number}: {next:?}");
    }
}

/// One that goes away at once says nothing about the server, and costs no connection but its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_who_goes_away_early_leaves_the_other_connections_open() {
    let server = MemcachedServer::start();
    let proxy = Proxy::start(server.port());
    let backend = warm(&proxy).await;
    proxy.hold(Direction::Reply);
    let call = tokio::spawn({
        let backend = backend.clone();
        async move { backend.get(&Key::value("a")).await }
    });
    eventually("it is asked for", PATIENCE, async || proxy.holds(Direction::Reply, "END")).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    proxy.forward();
    let before = proxy.accepted();
    for _ in 0..IDLE {
        backend.get(&Key::value("a")).await.unwrap();
    }
    assert_eq!(proxy.accepted(), before, "the others still serve");
}

/// A lock is written, so what breaks is in doubt: for one caller, and not for each connection again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_connections_that_break_when_they_are_used_do_so_for_one_caller() {
    let server = MemcachedServer::start();
    let proxy = Proxy::start(server.port());
    let backend = warm(&proxy).await;
    // Locks are asked for on connections of their own: as many at the same time as the pool can have.
    proxy.hold(Direction::Reply);
    let locks = (0..IDLE).map(|number| {
        let backend = backend.clone();
        async move { backend.lock(&format!("warm{number}"), at_once()).await.unwrap() }
    });
    let locks: JoinSet<_> = locks.collect();
    wait_until("all are connected", PATIENCE, || proxy.open() == 2 * IDLE);
    proxy.forward();
    for guard in locks.join_all().await {
        assert!(guard.release().await.unwrap());
    }
    // Like those that a firewall has forgotten: they look open, and the first bytes end them.
    proxy.cut_after(Direction::Request, 0);
    match backend.lock("a", at_once()).await {
        Err(LockError::Backend(error)) => {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert_eq!(error.effect(), Effect::Ambiguous, "{error}");
        }
        Ok(_) => panic!("it was cut off"),
        Err(other) => panic!("{other}"),
    }
    for number in 0..2 * IDLE {
        let guard = backend.lock(&format!("b{number}"), at_once()).await;
        assert!(guard.is_ok(), "call {number}: {:?}", guard.err());
    }
}

/// What becomes of the server, or of the way to it.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Stands still: connecting still succeeds.
    Stopped,
    /// Nothing comes through.
    BlackHole,
    /// Gone, and its connections are closed.
    Killed,
    /// Connections are closed, and no new ones accepted.
    Refused,
}

impl Fault {
    fn begins(self, server: &mut MemcachedServer, proxy: &Proxy) {
        match self {
            Self::Stopped => server.pause(),
            Self::BlackHole => proxy.blackhole(),
            Self::Killed => server.kill(),
            Self::Refused => {
                proxy.refuse();
                proxy.cut();
            }
        }
    }

    fn ends(self, server: &mut MemcachedServer, proxy: &Proxy) {
        match self {
            Self::Stopped => server.resume(),
            Self::BlackHole | Self::Refused => proxy.forward(),
            Self::Killed => server.restart(),
        }
    }
}

/// Hits on several keys, of which each ends long before a call that hangs would, and is decided by the policy;
/// and after the fault by the limit.
async fn policy_decides_during(faults: &[Fault]) {
    let mut server = MemcachedServer::start();
    let proxy = Proxy::start(server.port());
    let backend = warm(&proxy).await;
    let throttle = |policy| {
        let throttle = Throttle::builder("t").limit("1000000/h", FixedWindow::new());
        let throttle = throttle.backend(backend.clone()).on_error(policy);
        throttle.deadline(CALL / 2).build().unwrap()
    };
    let (denying, allowing) = (throttle(OnError::default()), throttle(OnError::Allow));
    for fault in faults {
        heals("a hit", || counted(&denying)).await;
        fault.begins(&mut server, &proxy);
        for number in 0..5 {
            for (throttle, allows) in [(&denying, false), (&allowing, true)] {
                let hit = timeout(PATIENCE / 2, throttle.hit(number)).await;
                let decision = hit.unwrap_or_else(|_| panic!("{fault:?}: it hangs")).unwrap();
                assert_eq!(decision.decided_by(), DecidedBy::Policy, "{fault:?}");
                assert_eq!(decision.is_allowed(), allows, "{fault:?}");
            }
        }
        fault.ends(&mut server, &proxy);
        heals("a hit", || counted(&denying)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_hits_on_a_server_that_is_gone_are_decided_by_the_policy_and_it_heals() {
    policy_decides_during(&[Fault::Killed, Fault::Refused]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_hits_on_a_silent_server_are_decided_by_the_policy_and_it_heals() {
    policy_decides_during(&[Fault::Stopped, Fault::BlackHole]).await;
}

async fn counted(throttle: &Throttle) -> Result<(), DecidedBy> {
    match throttle.hit("other").await.unwrap().decided_by() {
        DecidedBy::Backend => Ok(()),
        other => Err(other),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f06_a_late_reply_never_reaches_another_request() {
    const TASKS: u32 = 16;
    let (answers, misses) =
        if std::env::var_os("TRAFFIK_SOAK").is_some() { (50_000, 5_000) } else { (2_000, 200) };
    let server = MemcachedServer::start();
    let proxy = Proxy::start(server.port());
    let url = format!("memcached://127.0.0.1:{}", proxy.port());
    let builder = Memcached::builder().url(url).namespace("test").pool_size(4);
    let backend = builder.command_timeout(Duration::from_millis(40)).build().unwrap();
    for task in 0..TASKS {
        let (own, value) = (format!("own{task}"), format!("value {task}"));
        let own = Key::value(&own);
        heals("a value", || backend.set(&own, value.as_bytes(), None)).await;
    }
    let [answered, missed] = [(); 2].map(|()| Arc::new(AtomicU32::new(0)));
    let done = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (backend, done) = (backend.clone(), Arc::clone(&done));
        let (answered, missed) = (Arc::clone(&answered), Arc::clone(&missed));
        tasks.spawn(async move {
            let (own, value) = (format!("own{task}"), format!("value {task}"));
            while !done.load(Ordering::SeqCst) {
                match backend.get(&Key::value(&own)).await {
                    Ok(got) => {
                        assert_eq!(got.as_deref(), Some(value.as_bytes()), "of task {task}");
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(error) => {
                        let overloaded = error.kind() == ErrorKind::Overloaded;
                        let late =
                            matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable);
                        assert!(late || overloaded, "{error}");
                        missed.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
        });
    }
    let few = |count: &AtomicU32, most| count.load(Ordering::SeqCst) < most;
    for delay in [60, 20, 0].into_iter().cycle() {
        // Each delay lasts until somebody has met it.
        let (before, missing) = (answered.load(Ordering::SeqCst), missed.load(Ordering::SeqCst));
        proxy.delay(Duration::ZERO, Duration::from_millis(delay));
        let met = async || match delay {
            0 => answered.load(Ordering::SeqCst) > before + 100,
            _ => {
                missed.load(Ordering::SeqCst) > missing + 10
                    || answered.load(Ordering::SeqCst) > before + 10
            }
        };
        eventually("somebody meets the delay", PATIENCE, met).await;
        if !few(&answered, answers) && !few(&missed, misses) {
            break;
        }
    }
    done.store(true, Ordering::SeqCst);
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    let open = || server.stat("curr_connections");
    wait_until("connections that were given up are closed", PATIENCE, || open() <= 4 + 2);
}

/// Not sooner than the server can, and each within its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f06_what_waits_for_a_slow_server_is_bounded() {
    let server = MemcachedServer::start();
    let proxy = Proxy::start(server.port());
    let backend = Arc::new(warm(&proxy).await);
    proxy.hold(Direction::Reply);
    let start = now();
    let mut hits = JoinSet::new();
    for task in 0..200 {
        let backend = Arc::clone(&backend);
        hits.spawn(async move {
            let limits = [limit("1000000/h", TokenBucket::new())];
            hit(&*backend, &format!("k{task}"), &limits).await.map(drop)
        });
    }
    let errors: Vec<BackendError> =
        hits.join_all().await.into_iter().map(|result| result.expect_err("no reply")).collect();
    assert!(start.elapsed() < CALL * 10, "{:?}", start.elapsed());
    assert!(errors.iter().any(|error| error.kind() == ErrorKind::Overloaded));
    assert!(errors.iter().all(|error| error.effect() == Effect::NotApplied), "nothing was written");
    proxy.forward();
    let open = || server.stat("curr_connections");
    wait_until("no more are open than the pool has", PATIENCE, || open() <= IDLE as u64 + 2);
    let limits = [limit("1000000/h", TokenBucket::new())];
    let decision = heals("a hit", || hit(&*backend, "k0", &limits)).await;
    assert_eq!(decision.remaining(), 999_999, "those that were given up did not count");
}

/// The first bytes of a lock's request or reply come through, and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_a_lock_whose_connection_is_cut_anywhere_is_free_again() {
    let server = MemcachedServer::start();
    let proxy = Proxy::start(server.port());
    let backend = warm(&proxy).await;
    let hour = LockOptions::new().ttl(Some(Duration::from_secs(3600)));
    let mut in_doubt = 0;
    for direction in [Direction::Request, Direction::Reply] {
        for bytes in 0..70 {
            let name = format!("l{direction:?}{bytes}");
            proxy.cut_after(direction, bytes);
            match backend.lock(&name, hour.blocking(false)).await {
                Ok(guard) => drop(guard),
                Err(LockError::Backend(error)) => {
                    in_doubt += u32::from(error.effect() == Effect::Ambiguous);
                }
                Err(other) => panic!("{direction:?} {bytes}: {other}"),
            }
            let waits = hour.blocking_timeout(Some(PATIENCE));
            let again = heals("a lock", || backend.lock(&name, waits)).await;
            assert!(again.is_valid(), "{direction:?} {bytes}");
        }
    }
    assert!(in_doubt > 10, "{in_doubt} in doubt");
}

/// Nobody connects in the background, so there is nothing to stagger: who needs a connection makes one, and a
/// process never more than its pool has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f37_many_come_back_with_no_more_connections_than_they_use() {
    const CLIENTS: usize = 200;
    let mut server = MemcachedServer::start();
    let proxy = Proxy::start(server.port());
    let url = format!("memcached://127.0.0.1:{}", proxy.port());
    let build = || Memcached::builder().url(&*url).namespace("test").command_timeout(CALL).build();
    let backends: Vec<Memcached> = (0..CLIENTS).map(|_| build().unwrap()).collect();
    let limits = [limit("1000000/h", TokenBucket::new())];
    for backend in &backends {
        let first = heals("the first call", || hit(backend, "a", &limits)).await;
        assert!(first.is_allowed());
    }
    server.kill();
    // Found out by the next call of each. The proxy accepts, and closes when it finds nobody.
    let before = proxy.accepted();
    for backend in &backends {
        let error = hit(backend, "a", &limits).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::NotApplied));
    }
    assert!(proxy.accepted() <= before + CLIENTS, "one attempt of each call");
    server.restart();
    let before = proxy.accepted();
    let mut calls = JoinSet::new();
    for backend in backends {
        calls.spawn(async move {
            let limits = [limit("1000000/h", TokenBucket::new())];
            assert!(heals("a call", || hit(&backend, "a", &limits)).await.is_allowed());
        });
    }
    calls.join_all().await;
    let made = proxy.accepted() - before;
    assert!(made <= 2 * CLIENTS, "{made} connections of {CLIENTS} clients with a call each");
}
