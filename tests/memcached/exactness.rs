//! Several processes, one limit: exactly the limit passes.

use std::sync::Arc;

use traffik::{FixedWindow, Gcra, Limit, Memcached, SlidingWindowCounter, TokenBucket};

use crate::world::{PATIENCE, hit, limit};
use test_support::servers::{MemcachedServer, Workers, workers};

const PROCESSES: usize = 4;
const TASKS: usize = 16;
const EACH: usize = 100;
const LIMIT: usize = 2000;

fn limits(strategy: &str) -> Vec<Limit> {
    match strategy {
        "fixed window" => vec![limit("2000/30d", FixedWindow::new())],
        "sliding window" => vec![limit("2000/30d", SlidingWindowCounter::new())],
        "two limits" => vec![
            limit("2000/366d", TokenBucket::new()),
            limit("1000000/365d burst 1000000", Gcra::new()),
        ],
        _ => vec![limit("2000/366d", TokenBucket::new())],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by another test as a process of its own"]
async fn worker() {
    if workers::number().is_none() {
        return;
    }
    let urls = workers::variable("URLS");
    let builder = Memcached::builder().namespace("exact").command_timeout(PATIENCE);
    let builder = urls.split(' ').fold(builder, |builder, url| builder.url(url));
    let backend = Arc::new(builder.build().unwrap());
    let limits = Arc::new(limits(&workers::variable("STRATEGY")));
    workers::ready();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let (backend, limits) = (Arc::clone(&backend), Arc::clone(&limits));
        tasks.spawn(async move {
            let mut admitted = 0;
            for _ in 0..EACH {
                let decision = hit(&*backend, "hot", &limits).await.unwrap();
                admitted += usize::from(decision.is_allowed());
            }
            admitted
        });
    }
    let admitted: usize = tasks.join_all().await.into_iter().sum();
    workers::report(&admitted.to_string());
}

#[test]
fn four_processes_admit_exactly_the_limit() {
    let servers = [(); 3].map(|()| MemcachedServer::start());
    let three = servers.each_ref().map(crate::world::url).join(" ");
    let strategies = ["fixed window", "sliding window", "bucket", "two limits"];
    for strategy in strategies {
        servers.iter().for_each(|server| drop(server.command("flush_all\r\n")));
        let envs = [("URLS", &*three), ("STRATEGY", strategy)];
        let mut workers = Workers::spawn(PROCESSES, "exactness::worker", &envs);
        workers.start_together();
        let admitted = workers.results();
        let sum: usize = admitted.iter().map(|count| count.parse::<usize>().unwrap()).sum();
        assert_eq!(sum, LIMIT, "{strategy}: {admitted:?}");
    }
}
