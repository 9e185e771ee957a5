//! How many commands a decision takes, by the server's own count.

use std::sync::Arc;

use traffik::{Backend, FixedWindow, Memcached, TokenBucket};

use crate::servers::MemcachedServer;
use crate::world::{backend, hit, limit};

/// `gets`, writes, and `incr`s since the server began.
fn commands(server: &MemcachedServer) -> [u64; 3] {
    let incr = server.stat("incr_hits") + server.stat("incr_misses");
    [server.stat("cmd_get"), server.stat("cmd_set"), incr]
}

fn since(server: &MemcachedServer, before: [u64; 3]) -> [u64; 3] {
    let now = commands(server);
    [now[0] - before[0], now[1] - before[1], now[2] - before[2]]
}

#[tokio::test]
async fn a_fixed_window_takes_one() {
    let server = MemcachedServer::start();
    let backend = backend(&server);
    let limits = [limit("100/30d", FixedWindow::new())];
    let _ = hit(&backend, "a", &limits).await.unwrap();
    assert_eq!(commands(&server), [0, 1, 1], "the first: incr, add");
    let before = commands(&server);
    for _ in 1..100 {
        assert!(hit(&backend, "a", &limits).await.unwrap().is_allowed());
    }
    assert_eq!(since(&server, before), [0, 0, 99]);
    let before = commands(&server);
    assert!(hit(&backend, "a", &limits).await.unwrap().is_denied());
    assert_eq!(since(&server, before), [1, 1, 1], "the first denied one is given back");
    let before = commands(&server);
    for _ in 0..10 {
        assert!(hit(&backend, "a", &limits).await.unwrap().is_denied());
    }
    assert_eq!(since(&server, before), [10, 0, 0], "further ones only look");
}

#[tokio::test]
async fn a_bucket_takes_two_and_one_if_denied() {
    let server = MemcachedServer::start();
    let backend = backend(&server);
    let limits = [limit("10/30d", TokenBucket::new()), limit("20/s", FixedWindow::new())];
    for _ in 0..10 {
        assert!(hit(&backend, "a", &limits).await.unwrap().is_allowed());
    }
    assert_eq!(commands(&server), [10, 10, 0]);
    assert!(hit(&backend, "a", &limits).await.unwrap().is_denied());
    assert_eq!(commands(&server), [11, 10, 0]);
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
    let [gets, writes, _] = commands(&server);
    assert!(writes < TASKS * EACH / 4, "{writes} writes");
    assert!(gets < writes + 10, "{gets} reads of {writes} writes: nobody came between");
    let left = hit(&*backend, "hot", &*limits).await.unwrap().remaining();
    assert_eq!(u64::from(left), 100_000 - TASKS * EACH - 1);
    backend.close().await.unwrap();
}
