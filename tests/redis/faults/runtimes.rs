//! Runtimes that stand idle, or end, beside a backend that others use.

use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use traffik::{Backend, LockOptions, Locks, Redis, Throttle};

use super::common::{PATIENT, PLENTY, SOON, builder, heals, throttle, until, used};
use test_support::servers::{Proxy, RedisServer, Workers, pause, wait_until, workers};
use test_support::threads;

/// Only letting go frees it in the time of a test.
const HELD: LockOptions = LockOptions::new().ttl(Some(Duration::from_secs(3600)));

/// A runtime that does nothing but inside of `block_on`.
fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn f28_a_backend_first_used_on_a_runtime_that_stands_idle_serves_all_others() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let builder = builder(format!("redis://127.0.0.1:{}", proxy.port()));
    let backend = builder.command_timeout(PATIENT).build().unwrap();
    let throttle = throttle(&backend, PLENTY);
    let idle = current_thread();
    idle.block_on(async {
        backend.initialize().await.unwrap();
        assert!(throttle.hit("key").await.unwrap().is_allowed());
    });
    for (number, other) in [current_thread(), multi_thread()].into_iter().enumerate() {
        other.block_on(async {
            for _ in 0..100 {
                assert!(throttle.hit("key").await.unwrap().is_allowed(), "on runtime {number}");
            }
            // Also when the connection is killed, or goes silent.
            proxy.cut();
            let _ = heals("a hit after a cut", || throttle.hit("key")).await;
            let before = proxy.accepted();
            proxy.strand();
            until("the silent connection is replaced", || {
                hit_once(&throttle);
                proxy.accepted() > before
            })
            .await;
            let _ = heals("a hit after the silence", || throttle.hit("key")).await;
        });
    }
    idle.block_on(async { assert!(throttle.hit("key").await.unwrap().is_allowed()) });
}

/// The connection ends with the runtime that made it; the next hit makes another one.
#[test]
fn f28_the_first_hit_after_a_runtime_ended_is_served() {
    let server = RedisServer::start();
    let backend = builder(server.url()).command_timeout(PATIENT).build().unwrap();
    let throttle = throttle(&backend, PLENTY);
    for round in 0..6 {
        for (kind, runtime) in [("threads", multi_thread()), ("one thread", current_thread())] {
            let hit = runtime.block_on(throttle.hit("key"));
            assert!(hit.as_ref().is_ok_and(|it| it.is_allowed()), "{kind}, {round}: {hit:?}");
            drop(runtime);
        }
    }
}

/// Leaves a hit to itself, so that the connection is in use.
fn hit_once(throttle: &Throttle) {
    let throttle = throttle.clone();
    tokio::spawn(async move { drop(throttle.hit("other").await) });
}

#[test]
fn f28_guards_of_a_runtime_that_stands_idle_are_let_go_of_and_renewed() {
    let server = RedisServer::start();
    let lease = Duration::from_secs(1);
    let backend = builder(server.url()).command_timeout(PATIENT).lock_lease(lease).build().unwrap();
    let idle = current_thread();
    let dropped = idle.block_on(backend.lock("dropped", HELD)).unwrap();
    let leased = idle.block_on(backend.lock("leased", LockOptions::new().ttl(None))).unwrap();
    // From here on nobody is inside of that runtime.
    drop(dropped);
    let other = current_thread();
    other.block_on(async {
        let at_most = HELD.blocking_timeout(Some(SOON));
        let guard = backend.lock("dropped", at_most).await.unwrap();
        assert!(guard.release().await.unwrap());
    });
    // The lease outlasts its TTL some times, by renewals; a real server's expiry is the subject.
    pause::blocking::expires(lease * 5 / 2);
    assert!(leased.is_valid());
    let refused = other.block_on(backend.lock("leased", HELD.blocking(false)));
    assert!(refused.is_err(), "it is still held");
    assert!(other.block_on(leased.release()).unwrap());
}

#[test]
fn f28_runtimes_that_take_turns_on_threads_of_their_own() {
    const THREADS: u32 = 4;
    const HITS: u32 = 50;
    let server = RedisServer::start();
    let backend = builder(server.url()).command_timeout(SOON).build().unwrap();
    let throttle = throttle(&backend, PLENTY);
    let threads: Vec<JoinHandle<()>> = (0..THREADS)
        .map(|_| {
            let throttle = throttle.clone();
            std::thread::spawn(move || {
                let runtime = current_thread();
                for _ in 0..HITS {
                    assert!(runtime.block_on(throttle.hit("key")).unwrap().is_allowed());
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let used = current_thread().block_on(used(&throttle, "key", PLENTY));
    assert_eq!(used, THREADS * HITS, "each exactly once");
}

/// In a process of its own, for it counts the threads of the whole process.
#[test]
#[ignore = "run by another test as a process of its own"]
fn worker() {
    if workers::number().is_none() {
        return;
    }
    let url = workers::variable("URL");
    let rounds: u32 = workers::variable("ROUNDS").parse().unwrap();
    let patient = || builder(&url).command_timeout(SOON).connect_timeout(SOON).build().unwrap();
    let shared = throttle(&patient(), PLENTY);
    let mut before = 0;
    for round in 0..rounds {
        let runtime = if round % 2 == 0 { current_thread() } else { multi_thread() };
        let own: Redis = patient();
        runtime.block_on(async {
            let _ = heals("the shared backend", || shared.hit("shared")).await;
            assert!(throttle(&own, PLENTY).hit("own").await.unwrap().is_allowed());
        });
        // In either order, and while a call is under way.
        match round % 3 {
            0 => drop((own, runtime)),
            1 => drop((runtime, own)),
            _ => {
                let throttle = shared.clone();
                runtime.spawn(async move { drop(throttle.hit("shared").await) });
                runtime.shutdown_background();
            }
        }
        if round == 4 {
            before = threads();
        }
    }
    wait_until("no thread is left of the runtimes", SOON, || threads() <= before);
    workers::report(&format!("{} hits", rounds));
}

#[test]
fn f28_a_thousand_runtimes_leave_no_thread_and_no_connection() {
    let server = RedisServer::start();
    let url = server.url();
    let results = Workers::run(1, "faults::runtimes::worker", &[("URL", &url), ("ROUNDS", "1000")]);
    assert_eq!(results, ["1000 hits"]);
    let clients = || server.cmd("CLIENT LIST TYPE normal").text().trim().lines().count();
    wait_until("no connection is left", SOON, || clients() == 1);
}
