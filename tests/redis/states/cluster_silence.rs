//! A cluster with a node that accepts connections and never answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use traffik::{Backend, Redis, Throttle};

use super::cluster_failures::key_of_each;
use super::world::{LONG, NAMESPACE, eventually, heals_for, patient, throttle};
use test_support::servers::wait::now;
use test_support::servers::{RedisCluster, pause};

/// What a service uses: nothing is longer than by default.
pub(crate) fn usual(urls: Vec<String>) -> Redis {
    Redis::builder().namespace(NAMESPACE).cluster(urls).build().unwrap()
}

/// Hits on one key, one after the other, from some tasks.
struct Load {
    ok: Arc<AtomicU32>,
    failed: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(throttle: &Throttle, key: &str) -> Self {
        let mut load = Self {
            ok: Arc::default(),
            failed: Arc::default(),
            stop: Arc::default(),
            tasks: Vec::new(),
        };
        for _ in 0..4 {
            let (throttle, key) = (throttle.clone(), key.to_owned());
            let (ok, failed) = (Arc::clone(&load.ok), Arc::clone(&load.failed));
            let stop = Arc::clone(&load.stop);
            load.tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let outcome = throttle.hit(&key[..]).await;
                    let count = if outcome.is_ok() { &ok } else { &failed };
                    count.fetch_add(1, Ordering::Relaxed);
                    pause::pace(Duration::from_millis(2)).await;
                }
            }));
        }
        load
    }

    fn ok(&self) -> u32 {
        self.ok.load(Ordering::Relaxed)
    }

    fn failed(&self) -> u32 {
        self.failed.load(Ordering::Relaxed)
    }

    async fn end(self) -> (u32, u32) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        (self.ok.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

/// Forbids that a replica takes the place of its master.
fn without_failover(cluster: &RedisCluster) {
    for node in cluster.nodes() {
        node.cmd("CONFIG SET cluster-replica-no-failover yes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_silent_master_costs_only_its_own_keys_and_these_heal_with_the_failover() {
    let cluster = RedisCluster::start(3, 1);
    let backend = usual(cluster.urls());
    let throttle = throttle(&backend);
    let keys = key_of_each(&cluster);
    let [silent, healthy @ ..] = keys.each_ref().map(|key| Load::start(&throttle, key));
    eventually("the load runs", async || silent.ok() > 50 && healthy[1].ok() > 50).await;

    let slot = super::cluster::slot_of(&cluster, &keys[0]);
    let start = now();
    cluster.nodes()[0].pause();
    let healed = tokio::task::block_in_place(|| {
        cluster.wait_for_failover(slot, 0);
        (now(), silent.ok())
    });
    eventually("the keys of the silent master heal", async || silent.ok() > healed.1 + 20).await;
    let took = healed.0.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?} after the failover");
    // Its place is taken; it stays silent for a while, and comes back as a replica.
    pause::lasts(Duration::from_secs(8).saturating_sub(start.elapsed())).await;
    cluster.nodes()[0].resume();
    let role = || cluster.nodes()[0].cmd("INFO replication").field("role");
    eventually("it is a replica", async || role().as_deref() == Some("slave")).await;
    println!("healed {took:?} after the failover");
    for load in healthy {
        let (ok, failed) = load.end().await;
        assert!(
            failed * 100 <= ok + failed,
            "{failed} of {} failed on a healthy master",
            ok + failed
        );
        assert!(ok > 500, "{ok} hits in 8 seconds");
        println!("healthy: {ok} ok, {failed} failed");
    }
    let (ok, failed) = silent.end().await;
    println!("silent: {ok} ok, {failed} failed");
    for key in &keys {
        let _ = heals_for(&throttle, key).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_silent_master_or_replica_does_not_keep_a_backend_from_starting() {
    let cluster = RedisCluster::start(3, 1);
    without_failover(&cluster);
    let keys = key_of_each(&cluster);
    // A master and a replica, the first and the last of the seeds.
    for silent in [0, 5] {
        cluster.nodes()[silent].pause();
        let backend = usual(cluster.urls());
        let start = now();
        backend.initialize().await.unwrap();
        let took = start.elapsed();
        assert!(took < Duration::from_secs(3), "node {silent}: {took:?}");
        println!("node {silent} is silent: initialized in {took:?}");
        let throttle = throttle(&backend);
        for (master, key) in keys.iter().enumerate() {
            if master != silent {
                let _ = heals_for(&throttle, key).await;
            }
        }
        cluster.nodes()[silent].resume();
        let _ = heals_for(&throttle, &keys[0]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_master_that_sleeps_now_and_then_causes_no_errors_on_the_others() {
    let cluster = RedisCluster::start(3, 0);
    let backend = usual(cluster.urls());
    let throttle = throttle(&backend);
    let keys = key_of_each(&cluster);
    let [sleepy, healthy @ ..] = keys.each_ref().map(|key| Load::start(&throttle, key));
    eventually("the load runs", async || sleepy.ok() > 50 && healthy[1].ok() > 50).await;
    for _ in 0..5 {
        // Shorter than it takes the others to take it for down.
        cluster.nodes()[0].pause();
        pause::lasts(Duration::from_millis(600)).await;
        cluster.nodes()[0].resume();
        let before = sleepy.ok();
        eventually("it is awake", async || sleepy.ok() > before + 20).await;
    }
    for load in healthy {
        let (ok, failed) = load.end().await;
        // None, but for a machine that is too slow for a single call.
        assert!(failed * 100 <= ok, "{failed} failed beside {ok} that were answered");
        assert!(ok > 300, "{ok} hits beside a sleeping master");
    }
    let (ok, failed) = sleepy.end().await;
    println!("the sleepy one: {ok} ok, {failed} failed");
}

/// Connections die again and again while a node is silent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_kills_of_connections_beside_a_silent_master_wedge_nothing() {
    let cluster = RedisCluster::start(3, 0);
    let backend = usual(cluster.urls());
    let throttle = throttle(&backend);
    let keys = key_of_each(&cluster);
    let loads = keys.each_ref().map(|key| Load::start(&throttle, key));
    eventually("the load runs", async || loads.iter().all(|load| load.ok() > 50)).await;
    cluster.nodes()[0].pause();
    for _ in 0..30 {
        tokio::task::block_in_place(|| {
            for node in &cluster.nodes()[1..] {
                node.cmd("CLIENT KILL TYPE normal");
            }
        });
        pause::pace(Duration::from_millis(30)).await;
    }
    let before = loads[1].ok();
    eventually("the healthy go on", async || loads[1].ok() > before + 100).await;
    cluster.nodes()[0].resume();
    let start = now();
    for load in &loads {
        let before = (load.ok(), load.failed());
        eventually("each goes on", async || load.ok() > before.0 + 100).await;
        assert!(start.elapsed() < LONG, "{} failed", load.failed() - before.1);
    }
    for load in loads {
        let _ = load.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_calls_that_wait_for_a_silent_master_do_not_use_up_max_in_flight_of_the_others() {
    const MOST: usize = 10;
    let cluster = RedisCluster::start(3, 0);
    let backend = patient().command_timeout(LONG).max_in_flight(MOST).cluster(cluster.urls());
    let throttle = throttle(&backend.build().unwrap());
    let keys = key_of_each(&cluster);
    for key in &keys {
        let _ = throttle.hit(&key[..]).await.unwrap();
    }
    cluster.nodes()[0].pause();
    let overloaded = Arc::new(AtomicU32::new(0));
    let waiting: Vec<_> = (0..4 * MOST)
        .map(|_| {
            let (throttle, key) = (throttle.clone(), keys[0].clone());
            let overloaded = Arc::clone(&overloaded);
            tokio::spawn(async move {
                if throttle.hit(&key[..]).await.is_err() {
                    overloaded.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    // Some wait for an answer, others for a connection, and there is no room for more.
    eventually("some are refused", async || overloaded.load(Ordering::Relaxed) > 0).await;
    for key in &keys[1..] {
        for _ in 0..20 {
            let _ = throttle.hit(&key[..]).await.unwrap();
        }
    }
    cluster.nodes()[0].resume();
    for task in waiting {
        task.await.unwrap();
    }
}

/// The end of the one must not keep the others from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_clear_and_ready_reach_the_masters_that_answer() {
    let cluster = RedisCluster::start(3, 0);
    let backend =
        patient().command_timeout(Duration::from_secs(2)).cluster(cluster.urls()).build().unwrap();
    let throttle = throttle(&backend);
    let keys = key_of_each(&cluster);
    for key in &keys {
        let _ = throttle.hit(&key[..]).await.unwrap();
    }
    cluster.nodes()[0].pause();
    for _ in 0..20 {
        backend.ready().await.unwrap();
    }
    eventually("the healthy are cleared", async || {
        let error = backend.clear().await.unwrap_err();
        let silent = format!("127.0.0.1:{} is not cleared", cluster.nodes()[0].port());
        assert!(error.to_string().contains(&silent), "{error}");
        cluster.nodes()[1..].iter().all(|node| node.cmd("DBSIZE").int() == 0)
    })
    .await;
    cluster.nodes()[0].resume();
    eventually("all are cleared", async || backend.clear().await.is_ok()).await;
    assert_eq!(cluster.nodes()[0].cmd("DBSIZE").int(), 0);
}

#[test]
fn f28_a_cluster_first_used_on_a_runtime_that_stands_idle_serves_others() {
    let cluster = RedisCluster::start(3, 0);
    let backend = patient().cluster(cluster.urls()).build().unwrap();
    let throttle = throttle(&backend);
    let keys = key_of_each(&cluster);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let [idle, other] = [runtime(), runtime()];
    idle.block_on(backend.initialize()).unwrap();
    other.block_on(async {
        for key in keys.iter().cycle().take(60) {
            let _ = throttle.hit(&key[..]).await.unwrap();
        }
        for node in cluster.nodes() {
            node.cmd("CLIENT KILL TYPE normal");
        }
        for key in &keys {
            let _ = heals_for(&throttle, key).await;
        }
        // Who serves a slot is still found out.
        let slot = super::cluster::slot_of(&cluster, &keys[0]);
        cluster.migrate(slot, 1);
        let _ = heals_for(&throttle, &keys[0]).await;
    });
}
