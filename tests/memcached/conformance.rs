//! The conformance suite: on one node, on three, by a UNIX socket, and with tracked keys.

use std::sync::Arc;

use async_trait::async_trait;
use traffik::backend::MemcachedBuilder;
use traffik::conformance::{self, Harness};
use traffik::{Backend, ManualClock, Memcached};

use crate::world::{PATIENCE, url};
use test_support::servers::MemcachedServer;

struct Nodes {
    urls: Vec<String>,
    track_keys: bool,
}

impl Nodes {
    fn builder(&self, namespace: &str, clock: ManualClock) -> MemcachedBuilder {
        let builder = Memcached::builder()
            .namespace(namespace)
            .clock(clock)
            .track_keys(self.track_keys)
            .command_timeout(PATIENCE);
        self.urls.iter().fold(builder, |builder, url| builder.url(url))
    }
}

#[async_trait]
impl Harness for Nodes {
    async fn backend(&self, namespace: &str, clock: ManualClock) -> Arc<dyn Backend> {
        Arc::new(self.builder(namespace, clock).build().unwrap())
    }

    async fn peer(&self, namespace: &str, clock: ManualClock) -> Option<Arc<dyn Backend>> {
        Some(self.backend(namespace, clock).await)
    }

    fn has_fences(&self) -> bool {
        false
    }

    fn clears(&self) -> bool {
        self.track_keys
    }
}

#[tokio::test]
async fn one_node() {
    let server = MemcachedServer::start();
    conformance::run(&Nodes { urls: vec![url(&server)], track_keys: false }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_node_with_tracked_keys() {
    let server = MemcachedServer::start();
    conformance::run(&Nodes { urls: vec![url(&server)], track_keys: true }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_nodes_with_tracked_keys() {
    let servers = [(); 3].map(|()| MemcachedServer::start());
    conformance::run(&Nodes { urls: servers.iter().map(url).collect(), track_keys: true }).await;
}

#[tokio::test]
async fn a_unix_socket() {
    let server = MemcachedServer::on_socket(&[]);
    let url = format!("memcached+unix://{}", server.socket().display());
    conformance::run(&Nodes { urls: vec![url], track_keys: false }).await;
}
