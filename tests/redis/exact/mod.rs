//! Several processes on one key of a real Redis admit exactly the limit, whatever happens to their
//! connections and the server's scripts.
//!
//! `TRAFFIK_SOAK=1` runs all of them with 8 processes of 32 tasks and a limit of 10,000:
//! `scripts/test --soak`. Undisturbed on one server that is always so.

mod load;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use load::{Load, Place, SHORT, STRATEGIES};
use test_support::servers::{RedisCluster, RedisServer, pause};

#[test]
fn processes_on_one_server_admit_exactly_the_limit() {
    let server = RedisServer::start();
    let place = Place::server(&server).full();
    for strategy in STRATEGIES {
        let (load, totals) = Load::run(strategy, &place, || {});
        load.expect_exact(&totals);
    }
}

#[test]
fn processes_on_a_cluster_admit_exactly_the_limit() {
    let cluster = RedisCluster::start(3, 0);
    let place = Place::cluster(&cluster);
    for strategy in STRATEGIES {
        let (load, totals) = Load::run(strategy, &place, || {});
        load.expect_exact(&totals);
    }
}

#[test]
fn f03_scripts_flushed_all_the_time_change_nothing() {
    let server = RedisServer::start();
    let place = Place::server(&server);
    for strategy in STRATEGIES {
        let flushes = AtomicU64::new(0);
        let (load, totals) = Load::run(strategy, &place, || {
            server.cmd("SCRIPT FLUSH");
            flushes.fetch_add(1, Ordering::Relaxed);
            pause::blocking::pace(Duration::from_millis(100));
        });
        load.expect_exact(&totals);
        assert!(flushes.into_inner() > 0, "none was flushed");
    }
}

#[test]
fn f01_connections_killed_all_the_time_never_admit_more() {
    let server = RedisServer::start();
    let place = Place::server(&server).command_timeout(SHORT);
    for strategy in STRATEGIES {
        let killed = AtomicU64::new(0);
        let (load, totals) = Load::run(strategy, &place, || {
            let count = server.cmd("CLIENT KILL TYPE normal").int();
            killed.fetch_add(count.unsigned_abs(), Ordering::Relaxed);
            pause::blocking::pace(Duration::from_millis(50));
        });
        assert!(killed.into_inner() > 0, "none was killed");
        load.expect_at_most(&totals);
    }
}

/// Calls `disturb` again and again while `work` runs.
fn beside<T>(disturb: impl Fn() + Sync, work: impl FnOnce() -> T) -> T {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also when `work` panics: the scope waits for its threads.
        let _stop = Stop(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                disturb();
                std::thread::yield_now();
            }
        });
        work()
    })
}
