//! The conformance suite, on each topology.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use traffik::backend::redis::{LockType, RedisBuilder};
use traffik::conformance::{self, Harness};
use traffik::{Backend, ManualClock, Redis};

use test_support::servers::{RedisCluster, RedisServer, Sentinels, pause};

/// Backends of what a function reaches.
struct On<F>(F);

#[async_trait]
impl<F: Fn() -> RedisBuilder + Send + Sync> Harness for On<F> {
    async fn backend(&self, namespace: &str, clock: ManualClock) -> Arc<dyn Backend> {
        // Real servers, on a machine that does other things too.
        let builder = (self.0)().namespace(namespace).command_timeout(Duration::from_secs(5));
        Arc::new(builder.clock(clock).build().unwrap())
    }

    async fn peer(&self, namespace: &str, clock: ManualClock) -> Option<Arc<dyn Backend>> {
        Some(self.backend(namespace, clock).await)
    }

    async fn elapse(&self, _clock: &ManualClock, ttl: Duration) {
        pause::expires(ttl + Duration::from_millis(50)).await;
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(400)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server() {
    let server = RedisServer::start();
    let url = server.url();
    conformance::run(&On(|| Redis::builder().url(&url))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_by_its_socket_and_a_factory() {
    let server = RedisServer::start();
    let client = traffik::redis::Client::open(server.socket_url()).unwrap();
    let factory = move || {
        let client = client.clone();
        Redis::builder().factory(move || {
            let client = client.clone();
            async move { client.get_multiplexed_async_connection().await }
        })
    };
    conformance::run(&On(factory)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_manager() {
    let server = RedisServer::start();
    let client = traffik::redis::Client::open(server.url()).unwrap();
    let manager = client.get_connection_manager().await.unwrap();
    conformance::run(&On(|| Redis::builder().connection_manager(manager.clone()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_with_locks_on_three_others() {
    let servers: Vec<RedisServer> = (0..4).map(|_| RedisServer::start()).collect();
    let masters: Vec<String> = servers[1..].iter().map(RedisServer::url).collect();
    let url = servers[0].url();
    let redlock = LockType::Redlock(masters);
    conformance::run(&On(|| Redis::builder().url(&url).lock_type(redlock.clone()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster() {
    let cluster = RedisCluster::start(3, 3);
    let urls = cluster.urls();
    conformance::run(&On(|| Redis::builder().cluster(urls.clone()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_master_that_sentinels_name() {
    let sentinels = Sentinels::start();
    let urls = sentinels.sentinel_urls();
    conformance::run(&On(|| Redis::builder().sentinels(urls.clone(), "service"))).await;
}
