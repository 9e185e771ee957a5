//! A server that is only a replica now.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use traffik::{ErrorKind, redis};

use super::world::{CAPACITY, hasty, heals, patient, refused, refused_by_policy, throttle};
use test_support::servers::{RedisServer, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_a_master_that_becomes_a_replica_refuses_and_heals() {
    let (server, other) = (RedisServer::start(), RedisServer::start());
    let backend = hasty().url(server.url()).build().unwrap();
    let throttle = throttle(&backend);
    let _ = throttle.hit("a").await.unwrap();
    server.cmd(&format!("REPLICAOF 127.0.0.1 {}", other.port()));
    refused_by_policy(&backend, "read only replica").await;
    server.cmd("REPLICAOF NO ONE");
    let _ = heals(&throttle).await;
    assert!(throttle.hit("a").await.unwrap().is_allowed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_a_replica_without_its_master_refuses_and_heals() {
    let mut master = RedisServer::start();
    let port = master.port().to_string();
    let replica = RedisServer::with(&[
        "--replicaof",
        "127.0.0.1",
        &port,
        "--replica-serve-stale-data",
        "no",
        "--repl-diskless-sync-delay",
        "0",
    ]);
    let backend = hasty().url(replica.url()).build().unwrap();
    let throttle = throttle(&backend);
    wait_until("the replica is linked", super::world::LONG, || {
        master.cmd("INFO replication").text().contains("state=online")
    });
    let _ = refused(&throttle, "read only replica").await;
    master.kill();
    let error = refused(&throttle, "Link with MASTER is down").await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    replica.cmd("REPLICAOF NO ONE");
    let _ = heals(&throttle).await;
}

/// The very hit that meets the demoted master is answered by the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_a_demoted_master_makes_the_connection_anew() {
    let servers = [RedisServer::start(), RedisServer::start()];
    let port = Arc::new(AtomicU16::new(servers[0].port()));
    let made = Arc::new(AtomicUsize::new(0));
    let factory = {
        let (port, made) = (Arc::clone(&port), Arc::clone(&made));
        move || {
            made.fetch_add(1, Ordering::SeqCst);
            let port = port.load(Ordering::SeqCst);
            let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
            async move { client.get_multiplexed_async_connection().await }
        }
    };
    let backend =
        patient().command_timeout(Duration::from_secs(20)).factory(factory).build().unwrap();
    let throttle = throttle(&backend);
    assert_eq!(throttle.hit("a").await.unwrap().remaining(), CAPACITY - 1);
    assert_eq!(made.load(Ordering::SeqCst), 1);

    port.store(servers[1].port(), Ordering::SeqCst);
    servers[0].cmd(&format!("REPLICAOF 127.0.0.1 {}", servers[1].port()));
    let decision = throttle.hit("a").await.unwrap();
    assert_eq!(decision.remaining(), CAPACITY - 1, "of the other server");
    assert_eq!(servers[1].calls("eval"), 1, "which did not know the script");
    assert!(made.load(Ordering::SeqCst) >= 2);

    // Many hits in one script find out too, whatever each of them needs.
    servers[0].cmd("REPLICAOF NO ONE");
    port.store(servers[0].port(), Ordering::SeqCst);
    servers[1].cmd(&format!("REPLICAOF 127.0.0.1 {}", servers[0].port()));
    let before = made.load(Ordering::SeqCst);
    for decision in throttle.hit_many(["b", "c", "d"]).await {
        assert_eq!(decision.unwrap().remaining(), CAPACITY - 1);
    }
    assert!(made.load(Ordering::SeqCst) > before);
}
