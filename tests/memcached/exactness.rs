//! Several processes, one limit: exactly the limit passes.
//!
//! `TRAFFIK_SOAK=1` lets 8 processes of 32 tasks hit for seconds, looks at each of them, and at windows
//! that end meanwhile: `scripts/test --soak`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use traffik::{FixedWindow, Gcra, Limit, Memcached, SlidingWindowCounter, Throttle, TokenBucket};

use crate::world::{PATIENCE, hit, limit};
use test_support::servers::{MemcachedServer, Workers, wait::now, workers};

const LIMIT: u64 = 2000;
/// In the long form, of each strategy.
const LONG: Duration = Duration::from_secs(3);
/// Of the windows that end while they are hit.
const WINDOW: Duration = Duration::from_millis(500);
const WINDOWS: &str = "windows one after the other";

fn is_soak() -> bool {
    std::env::var_os("TRAFFIK_SOAK").is_some()
}

fn limits(strategy: &str) -> Vec<Limit> {
    match strategy {
        "fixed window" => vec![limit("2000/30d", FixedWindow::new())],
        "sliding window" => vec![limit("2000/30d", SlidingWindowCounter::new())],
        "two limits" => vec![
            limit("2000/366d", TokenBucket::new()),
            limit("1000000/365d burst 1000000", Gcra::new()),
        ],
        "bucket" => vec![limit("2000/366d", TokenBucket::new())],
        WINDOWS => vec![limit("200/500ms", FixedWindow::new())],
        other => panic!("no strategy {other:?}"),
    }
}

/// What one process saw.
#[derive(Debug, Default)]
struct Share {
    answered: u64,
    errors: u64,
    longest_ms: u64,
    /// How many were admitted in each window of [`WINDOW`], by its number.
    admitted: BTreeMap<u64, u64>,
}

impl Share {
    fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.errors += other.errors;
        self.longest_ms = self.longest_ms.max(other.longest_ms);
        for (window, admitted) in &other.admitted {
            *self.admitted.entry(*window).or_default() += admitted;
        }
    }

    fn report(&self) -> String {
        let numbers = [self.answered, self.errors, self.longest_ms].into_iter();
        let windows = self.admitted.iter().flat_map(|(window, admitted)| [*window, *admitted]);
        let numbers: Vec<String> = numbers.chain(windows).map(|it| it.to_string()).collect();
        numbers.join(" ")
    }

    fn parse(report: &str) -> Self {
        let numbers: Vec<u64> = report.split(' ').map(|number| number.parse().unwrap()).collect();
        let admitted = numbers[3..].chunks(2).map(|pair| (pair[0], pair[1])).collect();
        Self { answered: numbers[0], errors: numbers[1], longest_ms: numbers[2], admitted }
    }
}

/// One task of a process.
async fn hits(backend: Arc<Memcached>, limits: Arc<Vec<Limit>>) -> Share {
    let mut share = Share::default();
    let (start, mut number) = (now(), 0);
    while if is_soak() { start.elapsed() < LONG } else { number < 100 } {
        number += 1;
        let asked = now();
        match hit(&*backend, "hot", &limits).await {
            Ok(decision) => {
                share.answered += 1;
                if decision.is_allowed() {
                    let at = decision.receipt().unwrap().taken_at().as_micros();
                    let window = u128::from(at) / WINDOW.as_micros();
                    *share.admitted.entry(u64::try_from(window).unwrap()).or_default() += 1;
                }
            }
            Err(error) => {
                if share.errors == 0 {
                    workers::say(&error.to_string());
                }
                share.errors += 1;
            }
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
    let urls = workers::variable("URLS");
    let builder = Memcached::builder().namespace("exact").command_timeout(PATIENCE);
    let builder = urls.split(' ').fold(builder, |builder, url| builder.url(url));
    let backend = Arc::new(builder.build().unwrap());
    let limits = Arc::new(limits(&workers::variable("STRATEGY")));
    workers::ready();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..if is_soak() { 32 } else { 16 } {
        tasks.spawn(hits(Arc::clone(&backend), Arc::clone(&limits)));
    }
    let mut sum = Share::default();
    tasks.join_all().await.iter().for_each(|share| sum.add(share));
    workers::report(&sum.report());
}

#[test]
fn processes_admit_exactly_the_limit() {
    let processes = if is_soak() { 8 } else { 4 };
    let servers = [(); 3].map(|()| MemcachedServer::start());
    let three = servers.each_ref().map(crate::world::url).join(" ");
    let mut strategies = vec!["fixed window", "sliding window", "bucket", "two limits"];
    strategies.extend(is_soak().then_some(WINDOWS));
    for strategy in strategies {
        servers.iter().for_each(|server| drop(server.command("flush_all\r\n")));
        let envs = [("URLS", &*three), ("STRATEGY", strategy)];
        let mut workers = Workers::spawn(processes, "exactness::worker", &envs);
        workers.start_together();
        let reports = workers.results();
        let shares: Vec<Share> = reports.iter().map(|report| Share::parse(report)).collect();
        let mut sum = Share::default();
        shares.iter().for_each(|share| sum.add(share));
        assert_eq!(sum.errors, 0, "{strategy}: {shares:?}");
        if strategy == WINDOWS {
            expect_full(&sum.admitted);
        } else {
            assert_eq!(sum.admitted.values().sum::<u64>(), LIMIT, "{strategy}: {shares:?}");
        }
        if is_soak() {
            expect_fair(strategy, &shares);
        }
    }
}

/// Those that began and ended while they were hit admitted exactly their limit.
fn expect_full(windows: &BTreeMap<u64, u64>) {
    println!("{WINDOWS}: {windows:?}");
    assert!(windows.values().all(|admitted| *admitted <= 200), "{windows:?}");
    let whole: Vec<_> = windows.values().skip(1).rev().skip(1).collect();
    assert!(whole.len() >= 4, "{windows:?}");
    assert!(whole.iter().all(|admitted| **admitted == 200), "{windows:?}");
}

/// Each process has its share of the answers, and nobody waits for one beyond what a throttle would.
fn expect_fair(strategy: &str, shares: &[Share]) {
    let answered = shares.iter().map(|share| share.answered);
    let fair = answered.sum::<u64>() / u64::try_from(shares.len()).unwrap();
    for share in shares {
        let Share { answered, longest_ms, .. } = share;
        println!(
            "{strategy}: {answered} answers, {fair} are fair, the longest wait {longest_ms} ms"
        );
    }
    assert!(shares.iter().all(|share| share.answered >= fair / 2), "{strategy}: {shares:?}");
    let most = u64::try_from(Throttle::DEFAULT_DEADLINE.as_millis()).unwrap();
    assert!(shares.iter().all(|share| share.longest_ms < most), "{strategy}: {shares:?}");
}
