//! A server whose memory is full, or that evicts.

use std::time::Duration;

use traffik::{Backend, ErrorKind, Key, LockOptions, Locks, Ttl, Values};

use super::world::{CAPACITY, Log, heals, patient, refused_by_policy, throttle};
use test_support::servers::RedisServer;

/// Takes more memory than the server may have.
fn fill(server: &RedisServer) {
    let script = b"for i = 1, 40 do redis.call('SET', 'filler' .. i, string.rep('x', 50000)) end";
    assert!(!server.command(&[b"EVAL", script, b"0"]).unwrap().is_error());
    server.cmd("CONFIG SET maxmemory 1mb");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f08_a_server_out_of_memory_refuses_hits_and_still_lets_go_of_locks() {
    let server = RedisServer::with(&["--maxmemory-policy", "noeviction"]);
    let backend = patient().url(server.url()).build().unwrap();
    let throttle = throttle(&backend);
    assert_eq!(throttle.hit("a").await.unwrap().remaining(), CAPACITY - 1);
    let options = LockOptions::new().ttl(Some(Duration::from_secs(300)));
    let guard = backend.lock("job", options).await.unwrap();
    backend.set(&Key::value("v"), b"1", None).await.unwrap();
    fill(&server);

    refused_by_policy(&backend, "OOM").await;
    let value = Key::value("v");
    for outcome in [
        backend.set(&value, b"2", None).await,
        backend.increment(&value, 1).await.map(drop),
        backend.increment_with_ttl(&value, 1, Duration::from_secs(9)).await.map(drop),
        backend.compare_and_set(&value, Some(b"1"), Some(b"2"), Ttl::Never).await.map(drop),
        backend.multi_set(&[(value, b"2")], None).await,
        backend.set_fenced(&guard, "v", Some(b"1"), None).await.map(drop),
    ] {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("OOM"), "{error}");
    }
    assert!(guard.extend(Duration::from_secs(600)).await.unwrap());
    assert!(guard.release().await.unwrap(), "a lock can be let go of");
    assert_eq!(backend.get(&Key::value("v")).await.unwrap().unwrap(), b"1", "and values read");
    assert!(backend.lock("job", options.blocking(false)).await.is_err(), "a new lock needs memory");
    assert!(backend.expire(&Key::value("v"), Duration::from_secs(60)).await.unwrap());
    assert!(backend.delete(&Key::value("v")).await.unwrap());

    server.cmd("CONFIG SET maxmemory 0");
    assert_eq!(heals(&throttle).await.remaining(), CAPACITY - 2, "no refused hit was counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f08_clear_makes_room_on_a_full_server() {
    let server = RedisServer::with(&["--maxmemory-policy", "noeviction"]);
    let backend = patient().url(server.url()).build().unwrap();
    let throttle = throttle(&backend);
    let _ = throttle.hit("a").await.unwrap();
    fill(&server);
    backend.clear().await.unwrap();
    assert!(server.cmd("KEYS states*").array().is_empty());
}

#[tokio::test]
async fn f09_a_server_that_evicts_is_warned_of() {
    let log = Log::start();
    for policy in ["noeviction", "allkeys-lru", "volatile-ttl", "allkeys-random"] {
        let server = RedisServer::with(&["--maxmemory", "100mb", "--maxmemory-policy", policy]);
        let backend = patient().url(server.url()).build().unwrap();
        let before = log.warnings("may evict counters");
        backend.initialize().await.unwrap();
        let warned = log.warnings("may evict counters") - before;
        assert_eq!(warned, usize::from(policy != "noeviction"), "{policy}: {}", log.text());
        if warned > 0 {
            assert!(log.text().contains(policy), "it names the policy");
        }
        backend.close().await.unwrap();
    }
}

#[tokio::test]
async fn f09_the_nodes_of_a_cluster_that_evict_are_warned_of() {
    let log = Log::start();
    let cluster = test_support::servers::RedisCluster::start(3, 0);
    let backend = patient().cluster(cluster.urls()).build().unwrap();
    backend.initialize().await.unwrap();
    assert_eq!(log.warnings("may evict counters"), 0, "{}", log.text());
    backend.close().await.unwrap();
    cluster.nodes()[1].cmd("CONFIG SET maxmemory-policy allkeys-lfu");
    backend.initialize().await.unwrap();
    assert_eq!(log.warnings("may evict counters"), 1, "{}", log.text());
    backend.close().await.unwrap();
}
