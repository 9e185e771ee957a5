//! Many come back at once.

use std::time::Duration;

use traffik::{Backend, Redis};

use super::common::{SOON, builder, heals, soak, until};
use test_support::servers::wait::now;
use test_support::servers::{Proxy, RedisServer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f37_all_reconnect_and_not_too_often() {
    const CLIENTS: usize = 200;
    /// Of one client in one second, with pauses that grow from 5 ms to 100 ms at least.
    const MOST: usize = 15;
    let rounds = if soak() { 5 } else { 1 };
    let mut server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let backends: Vec<Redis> = (0..CLIENTS).map(|_| builder(&url).build().unwrap()).collect();
    for backend in &backends {
        heals("the first call", || backend.ready()).await;
    }
    for _ in 0..rounds {
        // The proxy accepts, and closes when it finds nobody: so each attempt is counted.
        server.kill();
        let before = proxy.accepted();
        until("everyone has tried some times", || proxy.accepted() >= before + 25 * CLIENTS).await;
        server.restart();
        for backend in &backends {
            heals("a call", || backend.ready()).await;
        }
    }
    let most = proxy.accepted_per_second().into_iter().max().unwrap();
    assert!(most <= MOST * CLIENTS, "{most} connections in a second");
    until("each has one connection", || proxy.open() == CLIENTS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f37_attempts_have_jitter_and_are_not_caused_by_callers() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let backend = builder(format!("redis://127.0.0.1:{}", proxy.port())).build().unwrap();
    heals("the first call", || backend.ready()).await;
    drop(server);
    let before = proxy.accepted();
    let mut failed = 0;
    let start = now();
    while proxy.accepted() < before + 28 {
        assert!(start.elapsed() < SOON, "no more attempts after {}", proxy.accepted() - before);
        assert!(backend.ready().await.is_err());
        failed += 1;
    }
    let attempts = &proxy.accepted_at()[before..];
    assert!(failed > 10 * attempts.len(), "{failed} calls, {} attempts", attempts.len());
    // The pauses have grown to their longest, of which a half is random. The chance that all twenty are
    // near each other by accident is one in millions.
    let pauses: Vec<Duration> = attempts[8..].windows(2).map(|pair| pair[1] - pair[0]).collect();
    let (least, most) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
    assert!(*most - *least > Duration::from_millis(30), "all pauses are the same: {pauses:?}");
}
