//! Several processes on one hot key: each gets its share, and nobody waits in vain.
//!
//! The limit is never reached, so whatever does not pass was lost to contention.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use traffik::strategy::Op;
use traffik::{FixedWindow, Limit, Memcached, Throttle};

use crate::world::{act, limit, url};
use test_support::servers::{MemcachedServer, Workers, wait::now, workers};

const PROCESSES: usize = 8;
const TASKS: usize = 32;

/// What a process does besides hits of cost 1, one time in twenty.
const MIXES: [(&str, &str); 5] = [
    ("only hits", "10000000/h"),
    ("peeks", "10000000/h"),
    ("refunds", "10000000/h"),
    ("costs of 2", "10000000/h"),
    ("windows of a second", "10000000/s"),
];

fn is_soak() -> bool {
    std::env::var_os("TRAFFIK_SOAK").is_some()
}

/// What one process saw.
#[derive(Debug, Default)]
struct Share {
    allowed: u64,
    errors: u64,
    longest_ms: u64,
}

impl Share {
    fn parse(report: &str) -> Self {
        let mut numbers = report.split(' ').map(|number| number.parse().unwrap());
        let mut next = || numbers.next().unwrap();
        Self { allowed: next(), errors: next(), longest_ms: next() }
    }
}

/// One task of a process: hits within the deadline that a throttle has by default.
async fn hits(backend: Arc<Memcached>, limits: Arc<[Limit; 1]>, mix: String) -> Share {
    let mut share = Share::default();
    let time = Duration::from_secs(if is_soak() { 5 } else { 2 });
    let start = now();
    let mut number = 0u64;
    let mut taken = None;
    while start.elapsed() < time {
        number += 1;
        let (cost, op) = match (&*mix, number.is_multiple_of(20)) {
            ("peeks", true) => (1, Op::Peek),
            ("costs of 2", true) => (2, Op::Take),
            ("refunds", true) => match taken.take() {
                Some(taken_at) => (1, Op::Refund { taken_at }),
                None => (1, Op::Take),
            },
            _ => (1, Op::Take),
        };
        let asked = now();
        let answer = timeout(Throttle::DEFAULT_DEADLINE, act(&*backend, "hot", &*limits, cost, op));
        match answer.await {
            Ok(Ok(decision)) => {
                assert!(decision.is_allowed(), "the limit is never reached: {decision:?}");
                share.allowed += 1;
                if let Some(receipt) = decision.receipt() {
                    taken = Some(receipt.taken_at());
                }
            }
            Ok(Err(_)) | Err(_) => share.errors += 1,
        }
        let waited = u64::try_from(asked.elapsed().as_millis()).unwrap();
        share.longest_ms = share.longest_ms.max(waited);
    }
    share
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by another test as a process of its own"]
async fn worker() {
    if workers::number().is_none() {
        return;
    }
    let builder = Memcached::builder().url(workers::variable("URL")).namespace("fair");
    let backend = Arc::new(builder.build().unwrap());
    let limits = Arc::new([limit(&workers::variable("RATE"), FixedWindow::new())]);
    let mix = workers::variable("MIX");
    workers::ready();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        tasks.spawn(hits(Arc::clone(&backend), Arc::clone(&limits), mix.clone()));
    }
    let mut sum = Share::default();
    for share in tasks.join_all().await {
        sum.allowed += share.allowed;
        sum.errors += share.errors;
        sum.longest_ms = sum.longest_ms.max(share.longest_ms);
    }
    workers::report(&format!("{} {} {}", sum.allowed, sum.errors, sum.longest_ms));
}

#[test]
fn no_process_starves_on_a_hot_key_whatever_it_does_there() {
    for (mix, rate) in MIXES {
        let server = MemcachedServer::start();
        let url = url(&server);
        let envs = [("URL", &*url), ("MIX", mix), ("RATE", rate)];
        let mut workers = Workers::spawn(PROCESSES, "fairness::worker", &envs);
        workers.start_together();
        let reports = workers.results();
        let shares: Vec<Share> = reports.iter().map(|report| Share::parse(report)).collect();
        let fair = shares.iter().map(|share| share.allowed).sum::<u64>() / PROCESSES as u64;
        println!("{mix}: a fair share is {fair}: {shares:?}");
        for share in &shares {
            // The short form runs beside other tests, where processes stand still now and then, with a
            // hit of each task under way. One that starves has more errors than hits.
            let (least, excused) = if is_soak() {
                (fair / 2, 0)
            } else {
                (fair / 3, (TASKS as u64).max(share.allowed / 10))
            };
            assert!(share.allowed >= least, "{mix}: a fair share is {fair}: {shares:?}");
            assert!(share.errors <= excused, "{mix}: {shares:?}");
        }
    }
}
