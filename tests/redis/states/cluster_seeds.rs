//! The nodes that a cluster is found by.

use std::time::Duration;

use traffik::{Backend, ErrorKind, Redis};

use super::cluster_failures::key_of_each;
use super::cluster_silence::usual;
use super::world::{LONG, heals_for, throttle};
use test_support::servers::wait::now;
use test_support::servers::{Proxy, RedisCluster, RedisServer, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_silent_seed_costs_nothing() {
    let cluster = RedisCluster::start(3, 0);
    // It is none of the cluster's nodes, as an old address is none.
    let gone = RedisServer::start();
    let proxy = Proxy::start(gone.port());
    proxy.blackhole();
    let silent = format!("redis://127.0.0.1:{}", proxy.port());
    for place in 0..2 {
        let mut seeds = vec![cluster.urls().remove(1)];
        seeds.insert(place, silent.clone());
        let backend = usual(seeds);
        let start = now();
        backend.initialize().await.unwrap();
        let took = start.elapsed();
        assert!(took < Duration::from_secs(2), "seed {place}: {took:?}");
        let throttle = throttle(&backend);
        for key in key_of_each(&cluster) {
            let _ = heals_for(&throttle, &key).await;
        }
    }
}

/// One seed is enough to find the others, whose user and password are the seed's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_a_seed_names_have_its_credentials() {
    let cluster = RedisCluster::with(3, 0, &["--requirepass", "secret", "--masterauth", "secret"]);
    let backend = usual(vec![cluster.urls().remove(0)]);
    backend.initialize().await.unwrap();
    let throttle = throttle(&backend);
    for key in key_of_each(&cluster) {
        let _ = heals_for(&throttle, &key).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_server_is_no_cluster() {
    let server = RedisServer::start();
    let error = usual(vec![server.url()]).initialize().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    let build = Redis::builder().cluster([format!("{}/3", server.url())]).build().unwrap_err();
    assert!(build.to_string().contains("database"), "{build}");
}

/// A cluster of one node.
fn lone_node() -> RedisServer {
    let node = RedisServer::with(&["--cluster-enabled", "yes"]);
    node.cmd("CLUSTER ADDSLOTSRANGE 0 16383");
    wait_until("the cluster is up", LONG, || {
        node.cmd("CLUSTER INFO").text().contains("cluster_state:ok")
    });
    node
}

/// As when all nodes of a cluster come back under other addresses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_the_seeds_are_asked_again_when_no_known_node_answers() {
    let (mut old, mut new) = (lone_node(), lone_node());
    new.kill();
    let backend = usual(vec![old.url(), new.url()]);
    let throttle = throttle(&backend);
    let _ = heals_for(&throttle, "a").await;
    new.restart();
    old.kill();
    let _ = heals_for(&throttle, "a").await;
    assert!(new.calls("evalsha") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_a_wrong_password_of_a_cluster_or_of_sentinels_is_a_mistake() {
    let cluster = RedisCluster::with(3, 0, &["--requirepass", "secret", "--masterauth", "secret"]);
    let wrong = |url: String| url.replace(":secret@", ":wrong@");
    let seeds: Vec<String> = cluster.urls().into_iter().map(wrong).collect();
    let builders = [
        Redis::builder().cluster(seeds.clone()),
        // These are no sentinels, and that does not matter here.
        Redis::builder().sentinels(seeds, "service"),
    ];
    for builder in builders {
        let backend = builder.initialize_timeout(LONG * 90).build().unwrap();
        let error = tokio::time::timeout(LONG, backend.initialize()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
        assert!(!format!("{backend:?} {error:?} {error}").contains("wrong@"), "{error:?}");
    }
}
