//! A cluster that loses servers and connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use traffik::{Backend, Effect, Error, ErrorKind, Key, Redis, Throttle, Values};

use super::cluster::{slot_of, used};
use super::world::{eventually, hasty, heals_for, patient, refused_for, throttle};
use test_support::servers::{RedisCluster, pause};

/// A key of each of the three masters, in their order.
pub(crate) fn key_of_each(cluster: &RedisCluster) -> [String; 3] {
    [0, 1, 2].map(|master| {
        let served = |key: &String| cluster.master_of_slot(slot_of(cluster, key)) == master;
        (0..).map(|number| format!("k{number}")).find(served).unwrap()
    })
}

/// Hits keys in a loop and counts what came of it.
#[derive(Clone)]
struct Load {
    allowed: Arc<AtomicU32>,
    ambiguous: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
}

impl Load {
    fn start(
        throttle: &Throttle,
        keys: &[String],
        tasks: usize,
    ) -> (Self, Vec<tokio::task::JoinHandle<()>>) {
        let load =
            Self { allowed: Arc::default(), ambiguous: Arc::default(), stop: Arc::default() };
        let tasks = (0..tasks).map(|number| {
            let (load, throttle, keys) = (load.clone(), throttle.clone(), keys.to_vec());
            tokio::spawn(async move {
                for key in keys.iter().cycle().skip(number) {
                    if load.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    load.hit(&throttle, key).await;
                }
            })
        });
        let tasks = tasks.collect();
        (load, tasks)
    }

    async fn hit(&self, throttle: &Throttle, key: &str) {
        match throttle.hit(key).await {
            Ok(decision) => {
                assert!(decision.is_allowed());
                self.allowed.fetch_add(1, Ordering::Relaxed);
            }
            Err(Error::Backend(error)) => {
                let kinds = [ErrorKind::Unavailable, ErrorKind::Timeout];
                assert!(kinds.contains(&error.kind()), "{error:?}");
                if error.effect() == Effect::Ambiguous {
                    self.ambiguous.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(error) => panic!("{error}"),
        }
        pause::pace(Duration::from_millis(1)).await;
    }

    fn allowed(&self) -> u32 {
        self.allowed.load(Ordering::Relaxed)
    }

    async fn end(&self, tasks: Vec<tokio::task::JoinHandle<()>>) {
        self.stop.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await.unwrap();
        }
    }
}

async fn used_of_all(throttle: &Throttle, keys: &[String]) -> u32 {
    let mut sum = 0;
    for key in keys {
        sum += used(throttle, key).await;
    }
    sum
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_killed_master_is_followed_by_its_replica() {
    let mut cluster = RedisCluster::start(3, 3);
    for node in cluster.nodes() {
        node.cmd("CONFIG SET cluster-replica-no-failover yes");
    }
    let backend = hasty().cluster(cluster.urls()).build().unwrap();
    let throttle = throttle(&backend);
    let keys = key_of_each(&cluster);
    for key in &keys {
        let _ = throttle.hit(&key[..]).await.unwrap();
    }
    let slot = slot_of(&cluster, &keys[0]);
    let old = cluster.kill_master_of(slot);
    assert_eq!(old, 0);
    // Hits on the dead one fail or wait all the while, and the others go on.
    let (dead, tasks) = Load::start(&throttle, &keys[..1], 4);
    let (others, other_tasks) = Load::start(&throttle, &keys[1..], 4);
    let before = others.allowed();
    eventually("hits on the other masters go on", async || others.allowed() > before + 300).await;
    assert_eq!(dead.allowed(), 0, "nobody serves that slot yet");

    for node in cluster.nodes().iter().filter(|node| node.is_running()) {
        node.cmd("CONFIG SET cluster-replica-no-failover no");
    }
    tokio::task::block_in_place(|| cluster.wait_for_failover(slot, old));
    eventually("hits go to the replica", async || dead.allowed() > 20).await;
    dead.end(tasks).await;
    others.end(other_tasks).await;
    // The old master's last write may be lost, as it is said; none is counted twice.
    let most = 1 + dead.allowed() + dead.ambiguous.load(Ordering::Relaxed);
    let counted = used(&throttle, &keys[0]).await;
    assert!((dead.allowed()..=most).contains(&counted), "{counted} of {most}");
    let sure = 2 + others.allowed();
    let most = sure + others.ambiguous.load(Ordering::Relaxed);
    let counted = used_of_all(&throttle, &keys[1..]).await;
    assert!((sure..=most).contains(&counted), "{counted}, not in {sure}..={most}");
    // The old one comes back as a replica.
    cluster.node(old).restart();
    for key in &keys {
        let _ = heals_for(&throttle, key).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_master_that_is_told_to_hand_over() {
    let cluster = RedisCluster::start(3, 3);
    let backend = patient().cluster(cluster.urls()).build().unwrap();
    let throttle = throttle(&backend);
    let keys = key_of_each(&cluster);
    let (load, tasks) = Load::start(&throttle, &keys, 4);
    eventually("the load runs", async || load.allowed() > 50).await;
    let slot = slot_of(&cluster, &keys[1]);
    tokio::task::block_in_place(|| {
        // The replica of the second master is the fifth node.
        cluster.nodes()[4].cmd("CLUSTER FAILOVER");
        assert_eq!(cluster.wait_for_failover(slot, 1), 4);
    });
    let before = load.allowed();
    eventually("the load goes on", async || load.allowed() > before + 100).await;
    load.end(tasks).await;
    let most = load.allowed() + load.ambiguous.load(Ordering::Relaxed);
    let counted = used_of_all(&throttle, &keys).await;
    assert!((load.allowed()..=most).contains(&counted), "{counted}: nothing is lost or doubled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_cluster_that_is_down_refuses_and_heals() {
    let mut cluster = RedisCluster::start(3, 0);
    for node in cluster.nodes() {
        node.cmd("CONFIG SET cluster-require-full-coverage yes");
    }
    let backend = hasty().cluster(cluster.urls()).build().unwrap();
    let throttle = throttle(&backend);
    let keys = key_of_each(&cluster);
    cluster.node(0).kill();
    let error = refused_for(&throttle, &keys[1], "cluster is down").await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    tokio::task::block_in_place(|| cluster.node(0).restart());
    for key in &keys {
        let _ = heals_for(&throttle, key).await;
    }
}

/// Kills the connections of all clients on all nodes, again and again.
async fn kill_connections(cluster: &RedisCluster, rounds: usize) {
    for _ in 0..rounds {
        tokio::task::block_in_place(|| {
            for node in cluster.nodes() {
                node.cmd("CLIENT KILL TYPE normal");
            }
        });
        pause::pace(Duration::from_millis(20)).await;
    }
}

async fn survives_kills(cluster: &RedisCluster, backend: &Redis) {
    let throttle = throttle(backend);
    let keys: Vec<String> = (0..12).map(|number| format!("k{number}")).collect();
    let (load, tasks) = Load::start(&throttle, &keys, 8);
    eventually("the load runs", async || load.allowed() > 50).await;
    kill_connections(cluster, 50).await;
    let before = load.allowed();
    eventually("the load goes on", async || load.allowed() > before + 500).await;
    load.end(tasks).await;
    for key in &keys {
        let before = load.allowed();
        eventually("each key heals", async || {
            load.hit(&throttle, key).await;
            load.allowed() > before
        })
        .await;
    }
    for _ in 0..10 {
        for key in &keys {
            let _ = throttle.hit(&key[..]).await.unwrap();
            load.allowed.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (sure, ambiguous) = (load.allowed(), load.ambiguous.load(Ordering::Relaxed));
    let counted = used_of_all(&throttle, &keys).await;
    let range = sure..=sure + ambiguous;
    assert!(range.contains(&counted), "{counted} counted, {sure} allowed, {ambiguous} ambiguous");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_cluster_client_survives_kills_of_its_connections() {
    let cluster = RedisCluster::start(3, 0);
    let backend =
        patient().command_timeout(Duration::from_secs(1)).cluster(cluster.urls()).build().unwrap();
    backend.initialize().await.unwrap();
    survives_kills(&cluster, &backend).await;
}

/// Of values in many slots some are set when a node is away, whichever error comes first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_values_of_which_one_node_is_away_may_have_been_set() {
    let mut cluster = RedisCluster::start(3, 0);
    let backend = hasty().cluster(cluster.urls()).build().unwrap();
    backend.initialize().await.unwrap();
    cluster.node(0).kill();
    let names: Vec<String> = (0..60).map(|number| format!("v{number}")).collect();
    let pairs: Vec<_> = names.iter().map(|name| (Key::value(name), &b"1"[..])).collect();
    let error = backend.multi_set(&pairs, None).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Ambiguous, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_cluster_whose_nodes_stop_for_a_while() {
    let cluster = RedisCluster::start(3, 0);
    let backend = hasty().cluster(cluster.urls()).build().unwrap();
    let throttle = throttle(&backend);
    let keys = key_of_each(&cluster);
    for key in &keys {
        let _ = throttle.hit(&key[..]).await.unwrap();
    }
    cluster.nodes()[2].pause();
    let error = super::world::backend_error(throttle.hit(&keys[2][..]).await);
    assert_eq!(error.kind(), ErrorKind::Timeout);
    for key in &keys[..2] {
        let _ = heals_for(&throttle, key).await;
    }
    cluster.nodes()[2].resume();
    for key in &keys {
        let _ = heals_for(&throttle, key).await;
    }
}
