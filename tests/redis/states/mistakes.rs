//! Mistakes of whoever sets it up: an error of its own at once, which says what would be right, and under
//! every policy. As an outage, `OnError::Allow` would let everything pass for ever.

use std::time::Duration;

use traffik::backend::redis::{LockType, RedisBuilder};
use traffik::lifespan::{LifespanOptions, Start};
use traffik::{Backend, BackendError, DecidedBy, Effect, ErrorKind, LifespanExt, OnError, Redis};

use super::world::{LONG, backend_error, eventually, hasty, heals, patient, throttle, with_policy};
use test_support::servers::{Proxy, RedisCluster, RedisServer, wait, web_server};

fn build(builder: RedisBuilder) -> Redis {
    builder.initialize_timeout(LONG).build().unwrap()
}

fn is_misconfigured(error: &BackendError, words: &[&str]) {
    let text = error.to_string();
    assert_eq!(
        (error.kind(), error.effect()),
        (ErrorKind::Misconfigured, Effect::NotApplied),
        "{text}"
    );
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

/// Initialize says so at once, and each hit too, whatever its policy.
async fn is_refused(backend: &Redis, words: &[&str]) {
    let start = wait::now();
    let error = backend.initialize().await.unwrap_err();
    assert!(start.elapsed() < LONG / 2, "it does not wait for a server: {error}");
    println!("{error}");
    is_misconfigured(&error, words);
    assert!(backend.lifespan().await.is_err());
    for policy in [OnError::Allow, OnError::default(), OnError::Raise] {
        is_misconfigured(&backend_error(with_policy(backend, policy).hit("a").await), &[]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_a_database_that_the_server_does_not_have() {
    let server = RedisServer::start();
    let backend = build(patient().url(format!("{}/99", server.url())));
    is_refused(&backend, &["no such database", "databases"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_a_node_of_a_cluster_given_as_a_single_server() {
    let cluster = RedisCluster::start(3, 0);
    // Also one that may not ask what the server is, and whichever slots the node has.
    for url in cluster.urls() {
        let backend = build(patient().url(url));
        let error = backend.initialize().await.unwrap_err();
        println!("{error}");
        is_misconfigured(&error, &["cluster(", "redis-cluster"]);
        assert!(backend.lifespan().await.is_err());
        for policy in [OnError::Allow, OnError::default(), OnError::Raise] {
            let throttle = with_policy(&backend, policy);
            let mut refused = 0;
            for number in 0..30 {
                if let Err(error) = throttle.hit(number).await {
                    is_misconfigured(&backend_error::<()>(Err(error)), &["cluster("]);
                    refused += 1;
                }
            }
            assert!(refused > 0, "some keys are on other nodes");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_a_database_of_a_cluster() {
    let cluster = RedisCluster::start(3, 0);
    let url = format!("{}/1", cluster.urls()[0]);
    is_refused(&build(patient().url(&url)), &["cluster(", "database"]).await;
    let built = patient().cluster([url]).build();
    let error = built.map(drop).unwrap_err().to_string();
    assert!(error.contains("cluster") && error.contains("database 0"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_a_single_server_given_as_a_cluster() {
    let server = RedisServer::start();
    is_refused(&build(patient().cluster([server.url()])), &["url("]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_a_port_that_speaks_http() {
    let url = format!("redis://127.0.0.1:{}", web_server());
    is_refused(&build(patient().url(&url)), &["does not speak the Redis protocol", "HTTP"]).await;
    let words = ["does not speak the Redis protocol", "HTTP"];
    is_refused(&build(patient().cluster([&url])), &words).await;
    is_refused(&build(patient().sentinels([&url], "service")), &words).await;
}

#[cfg(feature = "redis-rustls")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_tls_to_a_plain_port_and_the_reverse() {
    let server = RedisServer::with_tls(&[]);
    let (plain, tls) = (server.port(), server.tls_port());
    for (url, words) in [
        (format!("rediss://127.0.0.1:{plain}"), ["TLS", "redis://"]),
        (format!("redis://127.0.0.1:{tls}"), ["TLS", "rediss://"]),
    ] {
        let start = wait::now();
        let error = build(patient().url(url)).initialize().await.unwrap_err();
        println!("{error}");
        assert!(start.elapsed() < LONG / 2, "it does not wait for a server: {error}");
        is_misconfigured(&error, &words);
    }
    // As one that is named for a cluster or as a sentinel.
    let url = format!("redis://127.0.0.1:{tls}");
    for builder in [patient().cluster([&url]), patient().sentinels([&url], "service")] {
        let start = wait::now();
        let error = build(builder).initialize().await.unwrap_err();
        println!("{error}");
        assert!(start.elapsed() < LONG / 2, "it does not wait for a server: {error}");
        is_misconfigured(&error, &["TLS", "rediss://"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_a_replica_for_reading() {
    let (primary, replica) = (RedisServer::start(), RedisServer::start());
    replica.cmd(&format!("REPLICAOF 127.0.0.1 {}", primary.port()));
    let time = Duration::from_millis(500);
    let backend = patient().url(replica.url()).initialize_timeout(time).build().unwrap();
    let error = backend.initialize().await.unwrap_err();
    println!("{error}");
    is_misconfigured(&error, &["replica", "primary"]);
    // In a failover a server may be one for a moment: initialize waits as it does for one that starts.
    let backend = build(patient().url(replica.url()));
    let waiting = tokio::spawn({
        let backend = backend.clone();
        async move { backend.initialize().await }
    });
    let looks = replica.calls("time");
    eventually("it looks again", async || replica.calls("time") > looks + 4).await;
    assert!(!waiting.is_finished(), "it waits");
    replica.cmd("REPLICAOF NO ONE");
    waiting.await.unwrap().unwrap();
    let _ = heals(&throttle(&backend)).await;
}

/// A service that fails open and starts without its server must not go on so if that is a replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_a_replica_that_a_degraded_start_meets_fails_no_hit_open() {
    let (primary, replica) = (RedisServer::start(), RedisServer::start());
    replica.cmd(&format!("REPLICAOF 127.0.0.1 {}", primary.port()));
    let builder = patient().url(replica.url()).initialize_timeout(Duration::from_secs(1));
    let backend = builder.build().unwrap();
    let life = backend
        .lifespan_with(LifespanOptions::new().start(Start::Degraded))
        .await
        .expect("in a failover a server may be one for a moment");
    let throttle = with_policy(&backend, OnError::Allow);
    eventually("a hit is an error whatever the policy", async || {
        let Err(error) = throttle.hit("a").await else { return false };
        is_misconfigured(&backend_error::<()>(Err(error)), &["replica", "primary"]);
        true
    })
    .await;
    replica.cmd("REPLICAOF NO ONE");
    let served =
        async || throttle.hit("a").await.is_ok_and(|it| it.decided_by() == DecidedBy::Backend);
    eventually("it serves", served).await;
    life.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_a_server_given_as_a_sentinel() {
    let server = RedisServer::start();
    let backend = build(patient().sentinels([server.url()], "service"));
    is_refused(&backend, &["no sentinel", "url("]).await;
}

/// After a start without the server, `ready` is what looks at it first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_ready_finds_what_initialize_has_not_looked_at() {
    let (primary, replica) = (RedisServer::start(), RedisServer::start());
    replica.cmd(&format!("REPLICAOF 127.0.0.1 {}", primary.port()));
    let backend = build(patient().url(replica.url()));
    is_misconfigured(&backend.ready().await.unwrap_err(), &["replica", "primary"]);
    let cluster = RedisCluster::start(3, 0);
    for url in cluster.urls() {
        let node = build(patient().url(url));
        is_misconfigured(&node.ready().await.unwrap_err(), &["cluster("]);
    }
    replica.cmd("REPLICAOF NO ONE");
    eventually("it is ready", async || backend.ready().await.is_ok()).await;
    // Once it was all right, it is an outage if it is not.
    replica.cmd(&format!("REPLICAOF 127.0.0.1 {}", primary.port()));
    let refused = backend.ready().await.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.operation()),
        (ErrorKind::Unavailable, "ready"),
        "{refused}"
    );
}

/// Masters of the locks that are replicas are no reason to give the hits less time.
async fn is_no_mistake_of_the_hits(servers: &[RedisServer]) {
    let replicas = [RedisServer::start(), RedisServer::start()];
    for replica in &replicas {
        replica.cmd(&format!("REPLICAOF 127.0.0.1 {}", servers[1].port()));
    }
    let proxy = Proxy::start(servers[0].port());
    let masters = [servers[1].url(), replicas[0].url(), replicas[1].url()];
    let builder = hasty().url(format!("redis://127.0.0.1:{}", proxy.port()));
    let backend = builder.lock_type(LockType::Redlock(masters.into())).build().unwrap();
    // Its calls are hasty, and a replica that begins to follow may be slow.
    let is_found = async || {
        let looked_at = backend.ready().await;
        looked_at.is_err_and(|error| error.to_string().contains("replica"))
    };
    eventually("the replicas are found", is_found).await;
    proxy.delay(Duration::ZERO, Duration::from_millis(100));
    let decision = with_policy(&backend, OnError::Raise).hit("a").await.unwrap();
    assert_eq!(decision.decided_by(), DecidedBy::Backend);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_masters_of_redlock_are_looked_at_too() {
    let mut servers: Vec<RedisServer> = (0..4).map(|_| RedisServer::start()).collect();
    let urls: Vec<String> = servers.iter().map(RedisServer::url).collect();
    let on = |masters: Vec<String>| {
        let builder = patient().url(&urls[0]).lock_type(LockType::Redlock(masters));
        builder.initialize_timeout(Duration::from_secs(2)).build().unwrap()
    };
    let backend = on(urls[1..].to_vec());
    backend.initialize().await.unwrap();
    // One that is wrong.
    let wrong = on(vec![urls[1].clone(), urls[2].clone(), format!("{}/99", urls[3])]);
    is_misconfigured(&wrong.initialize().await.unwrap_err(), &["no such database", "lock_type"]);
    is_no_mistake_of_the_hits(&servers).await;
    // One of three may be down, killed or silent, and two may not.
    servers[3].pause();
    let start = wait::now();
    backend.initialize().await.unwrap();
    assert!(start.elapsed() < LONG);
    servers[3].resume();
    servers[3].kill();
    backend.initialize().await.unwrap();
    servers[2].kill();
    let error = backend.initialize().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("masters"), "{error}");
}

#[test]
fn f34_times_that_make_no_sense_are_refused() {
    let url = || Redis::builder().url("redis://127.0.0.1");
    let second = Duration::from_secs(1);
    let [minute, hour] = [60 * second, 3600 * second];
    for (built, problem) in [
        (
            url().command_timeout(Duration::ZERO),
            "command_timeout is 0ns; use above zero to a minute",
        ),
        (
            url().command_timeout(minute + second),
            "command_timeout is 61s; use above zero to a minute",
        ),
        (
            url().connect_timeout(Duration::ZERO),
            "connect_timeout is 0ns; use above zero to a minute",
        ),
        (url().connect_timeout(Duration::MAX), "connect_timeout is "),
        (
            url().initialize_timeout(Duration::ZERO),
            "initialize_timeout is 0ns; use above zero to an hour",
        ),
        (url().initialize_timeout(Duration::MAX), "initialize_timeout is "),
        (url().lock_fence_ttl(Duration::ZERO), "lock_fence_ttl is zero; use a duration above it"),
        (url().lock_lease(Duration::ZERO), "lock_lease is 0ns; use 5ms or more"),
    ] {
        let error = built.build().map(drop).unwrap_err().to_string();
        assert!(error.starts_with(problem), "{error}");
    }
    let longest = url().command_timeout(minute).connect_timeout(minute).initialize_timeout(hour);
    assert!(longest.lock_fence_ttl(Duration::MAX).build().is_ok());
}
