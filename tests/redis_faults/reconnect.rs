//! Many come back at once.

use std::collections::HashSet;
use std::time::Duration;

use traffik::{Backend, Redis};

use crate::common::{builder, heals, soak, until};
use crate::servers::{Proxy, RedisServer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f37_all_reconnect_with_jitter_and_not_too_often() {
    const CLIENTS: usize = 50;
    /// Of one client in one second, with pauses that grow from 5 ms to 100 ms at least.
    const MOST: usize = 20;
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
        until("everyone has tried some times", || proxy.accepted() >= before + 10 * CLIENTS).await;
        server.restart();
        for backend in &backends {
            heals("a call", || backend.ready()).await;
        }
    }
    let most = proxy.accepted_per_second().into_iter().max().unwrap();
    assert!(most <= MOST * CLIENTS, "{most} connections in a second");
    until("each has one connection", || proxy.open() == CLIENTS).await;
    // Pauses without jitter are the same for all, and so are the moments.
    let moments: HashSet<u128> = proxy.accepted_at().iter().map(|at| at.as_millis() / 2).collect();
    assert!(moments.len() > CLIENTS, "all at the same {} moments", moments.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f37_callers_cause_no_attempts() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let backend = builder(format!("redis://127.0.0.1:{}", proxy.port())).build().unwrap();
    heals("the first call", || backend.ready()).await;
    drop(server);
    let start = crate::servers::wait::now();
    let before = proxy.accepted();
    let mut failed = 0;
    while failed < 2_000 || start.elapsed() < Duration::from_secs(1) {
        failed += usize::from(backend.ready().await.is_err());
    }
    // An attempt takes a pause of 5 ms at least.
    let attempts = proxy.accepted() - before;
    let most = 20 + usize::try_from(start.elapsed().as_millis() / 50).unwrap();
    assert!(attempts <= most, "{attempts} attempts for {failed} calls");
}
