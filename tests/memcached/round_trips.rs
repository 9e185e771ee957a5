//! How many commands a decision takes, by the server's own count.

use std::sync::Arc;

use traffik::{Backend, FixedWindow, ManualClock, Memcached, Timestamp, TokenBucket};

use crate::world::{backend, builder, hit, limit};
use test_support::servers::MemcachedServer;

/// `gets` and writes since the server began.
fn commands(server: &MemcachedServer) -> [u64; 2] {
    [server.stat("cmd_get"), server.stat("cmd_set")]
}

fn since(server: &MemcachedServer, before: [u64; 2]) -> [u64; 2] {
    let now = commands(server);
    [now[0] - before[0], now[1] - before[1]]
}

#[tokio::test]
async fn a_decision_takes_two_and_one_if_denied() {
    let server = MemcachedServer::start();
    let backend = backend(&server);
    let one = vec![limit("10/30d", FixedWindow::new())];
    let several = vec![limit("10/30d", TokenBucket::new()), limit("20/s", FixedWindow::new())];
    for (key, limits) in [("one", one), ("several", several)] {
        let before = commands(&server);
        for _ in 0..10 {
            assert!(hit(&backend, key, &limits).await.unwrap().is_allowed());
        }
        assert_eq!(since(&server, before), [10, 10], "{key}");
        let before = commands(&server);
        for _ in 0..10 {
            assert!(hit(&backend, key, &limits).await.unwrap().is_denied());
        }
        assert_eq!(since(&server, before), [10, 0], "{key}");
    }
}

#[tokio::test]
async fn a_process_that_is_a_window_behind_is_denied_by_one() {
    let server = MemcachedServer::start();
    let (ahead, behind) = (ManualClock::new(), ManualClock::new());
    ahead.set(Timestamp::from_micros(7_000_000));
    behind.set(Timestamp::from_micros(5_500_000));
    let with = |clock: &ManualClock| builder(&server).clock(clock.clone()).build().unwrap();
    let (ahead, behind) = (with(&ahead), with(&behind));
    let limits = [limit("1/s", FixedWindow::new())];
    assert!(hit(&ahead, "a", &limits).await.unwrap().is_allowed());
    let before = commands(&server);
    for _ in 0..10 {
        assert!(hit(&behind, "a", &limits).await.unwrap().is_denied());
    }
    assert_eq!(since(&server, before), [10, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hits_on_a_hot_key_are_decided_together() {
    const TASKS: u64 = 64;
    const EACH: u64 = 50;
    let server = MemcachedServer::start();
    let backend = Arc::new(backend(&server));
    let limits = Arc::new([limit("100000/30d", TokenBucket::new())]);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let (backend, limits) = (Arc::clone(&backend), Arc::clone(&limits));
        tasks.spawn(async move {
            for _ in 0..EACH {
                let backend: &Memcached = &backend;
                assert!(hit(backend, "hot", &*limits).await.unwrap().is_allowed());
            }
        });
    }
    tasks.join_all().await;
    let [gets, writes] = commands(&server);
    assert!(writes < TASKS * EACH / 4, "{writes} writes");
    assert!(gets < writes + 10, "{gets} reads of {writes} writes: nobody came between");
    let left = hit(&*backend, "hot", &*limits).await.unwrap().remaining();
    assert_eq!(u64::from(left), 100_000 - TASKS * EACH - 1);
    backend.close().await.unwrap();
}
