//! Many tasks of several processes that hit one key.

use std::sync::Arc;
use std::time::Duration;

use traffik::{
    FixedWindow, Gcra, LeakyBucket, OnError, Rate, Redis, SlidingWindowCounter, SlidingWindowLog,
    Strategy, Throttle, TokenBucket,
};

use super::beside;
use test_support::servers::{RedisCluster, RedisServer, Workers, pause, workers};

pub(crate) const STRATEGIES: [&str; 6] = [
    "fixed-window",
    "sliding-window-counter",
    "sliding-window-log",
    "token-bucket",
    "leaky-bucket",
    "gcra",
];
const KEY: &str = "key";
/// Of a call, far beyond what it takes: only a fault makes an error.
const LONG: Duration = Duration::from_secs(30);
/// Of a call whose connection may be killed. One that is handed to the client just then is lost without
/// a word, and its time is all that ends it.
pub(crate) const SHORT: Duration = Duration::from_secs(2);

/// Where the limits are counted.
pub(crate) struct Place<'a> {
    urls: Vec<String>,
    is_cluster: bool,
    clock: &'a RedisServer,
    timeout: Duration,
    is_full: bool,
}

impl<'a> Place<'a> {
    pub(crate) fn server(server: &'a RedisServer) -> Self {
        let urls = vec![server.url()];
        Self { urls, is_cluster: false, clock: server, timeout: LONG, is_full: is_soak() }
    }

    pub(crate) fn cluster(cluster: &'a RedisCluster) -> Self {
        let (urls, clock) = (cluster.urls(), &cluster.nodes()[0]);
        Self { urls, is_cluster: true, clock, timeout: LONG, is_full: is_soak() }
    }

    pub(crate) fn command_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// With the full load, also where no long run was asked for.
    pub(crate) fn full(self) -> Self {
        Self { is_full: true, ..self }
    }

    /// The server's time in seconds.
    fn time(&self) -> u64 {
        self.clock.cmd("TIME").array()[0].int().unsigned_abs()
    }
}

fn is_soak() -> bool {
    std::env::var_os("TRAFFIK_SOAK").is_some()
}

/// How much is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    strategy: &'static str,
    processes: usize,
    tasks: usize,
    hits: usize,
    limit: u32,
    period: Duration,
    /// How long it took, rounded up.
    took: u64,
}

/// What came of the hits of all processes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    admitted: u64,
    denied: u64,
    failed: u64,
    /// What the server says is left.
    remaining: u64,
}

impl Load {
    fn new(strategy: &'static str, place: &Place<'_>) -> Self {
        let (processes, tasks, hits, limit) =
            if place.is_full { (8, 32, 200, 10_000) } else { (4, 16, 100, 2_000) };
        // Windows are counted from the Unix epoch: one whose end is not near.
        let now = place.time();
        let far = |period: &u64| period - now % period > 1800;
        let period = Duration::from_secs((86_400..).find(far).unwrap());
        Self { strategy, processes, tasks, hits, limit, period, took: 0 }
    }

    /// Lets all hit at the same time, and calls `disturb` again and again meanwhile.
    pub(crate) fn run(
        strategy: &'static str,
        place: &Place<'_>,
        disturb: impl Fn() + Sync,
    ) -> (Self, Totals) {
        let mut load = Self::new(strategy, place);
        let text = |number: usize| number.to_string();
        let envs = [
            ("URLS", place.urls.join(",")),
            ("CLUSTER", place.is_cluster.to_string()),
            ("TIMEOUT", place.timeout.as_secs().to_string()),
            ("STRATEGY", strategy.to_owned()),
            ("LIMIT", load.limit.to_string()),
            ("PERIOD", load.period.as_secs().to_string()),
            ("TASKS", text(load.tasks)),
            ("HITS", text(load.hits)),
        ];
        let envs: Vec<(&str, &str)> = envs.iter().map(|(name, text)| (*name, &**text)).collect();
        let mut hitters = Workers::spawn(load.processes, "exact::load::worker", &envs);
        hitters.start_together();
        let start = place.time();
        let reports = beside(disturb, || hitters.results());
        load.took = place.time() - start + 1;
        let mut totals = Totals::default();
        for report in reports {
            let mut counts = report.split(' ').map(|count| count.parse::<u64>().unwrap());
            totals.admitted += counts.next().unwrap();
            totals.denied += counts.next().unwrap();
            totals.failed += counts.next().unwrap();
        }
        let envs = [("HITS", "0")].into_iter().chain(envs.into_iter().filter(|e| e.0 != "HITS"));
        let last = Workers::run(1, "exact::load::worker", &envs.collect::<Vec<_>>());
        totals.remaining = last[0].rsplit(' ').next().unwrap().parse().unwrap();
        println!("{load:?}\n{totals:?}");
        assert_eq!(totals.admitted + totals.denied + totals.failed, load.calls(), "all calls end");
        (load, totals)
    }

    fn calls(&self) -> u64 {
        u64::try_from(self.processes * self.tasks * self.hits).unwrap()
    }

    /// What may be admitted beyond the limit: what a bucket earned meanwhile.
    fn refill(&self) -> u64 {
        match self.strategy {
            "token-bucket" | "leaky-bucket" | "gcra" => {
                // And what is earned while the last hit is under way.
                u64::from(self.limit) * (self.took + 1) / self.period.as_secs() + 1
            }
            _ => 0,
        }
    }

    pub(crate) fn expect_exact(&self, totals: &Totals) {
        assert_eq!(totals.failed, 0, "{}: the caller sees nothing of it", self.strategy);
        let limit = u64::from(self.limit);
        let allowed = limit..=limit + self.refill();
        assert!(allowed.contains(&totals.admitted), "{}: {totals:?}", self.strategy);
    }

    /// An answer that was lost counts as used and not admitted, so it may be less.
    pub(crate) fn expect_at_most(&self, totals: &Totals) {
        let most = u64::from(self.limit) + self.refill();
        assert!(totals.admitted <= most, "{}: {totals:?}", self.strategy);
        assert!(totals.admitted > 0, "{}: {totals:?}", self.strategy);
        let used = most - totals.remaining;
        assert!(totals.admitted <= used, "{}: none was admitted uncounted", self.strategy);
    }
}

fn strategy(name: &str, limit: u32) -> Arc<dyn Strategy> {
    match name {
        "fixed-window" => Arc::new(FixedWindow::new()),
        "sliding-window-counter" => Arc::new(SlidingWindowCounter::new()),
        "sliding-window-log" => Arc::new(SlidingWindowLog::new().max_entries(limit)),
        "token-bucket" => Arc::new(TokenBucket::new()),
        "leaky-bucket" => Arc::new(LeakyBucket::new()),
        "gcra" => Arc::new(Gcra::new()),
        other => panic!("no strategy {other:?}"),
    }
}

/// One of the processes.
#[test]
#[ignore = "run by another test as a process of its own"]
fn worker() {
    if workers::number().is_none() {
        return;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(hit_as_told());
}

async fn hit_as_told() {
    let number = |name: &str| workers::variable(name).parse::<u32>().unwrap();
    let urls = workers::variable("URLS");
    let mut urls = urls.split(',').map(str::to_owned);
    let builder = match workers::variable("CLUSTER").as_str() {
        "true" => Redis::builder().cluster(urls),
        _ => Redis::builder().url(urls.next().unwrap()),
    };
    let name = workers::variable("STRATEGY");
    let timeout = Duration::from_secs(number("TIMEOUT").into());
    let backend = builder.persistent(true).command_timeout(timeout).build().unwrap();
    let period = Duration::from_secs(number("PERIOD").into());
    let throttle = Throttle::builder(name.as_str())
        .rate(Rate::new(number("LIMIT"), period).unwrap())
        .strategy(strategy(&name, number("LIMIT")))
        .backend(backend)
        .on_error(OnError::Raise)
        .deadline(timeout * 2)
        .build()
        .unwrap();
    workers::ready();
    let (tasks, hits) = (number("TASKS"), number("HITS"));
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..tasks {
        running.spawn(hit(throttle.clone(), hits));
    }
    let (mut admitted, mut denied, mut failed) = (0, 0, 0);
    while let Some(counts) = running.join_next().await {
        let [a, d, f] = counts.unwrap();
        (admitted, denied, failed) = (admitted + a, denied + d, failed + f);
    }
    let remaining = if hits == 0 { throttle.peek(KEY).await.unwrap().remaining() } else { 0 };
    workers::report(&format!("{admitted} {denied} {failed} {remaining}"));
}

/// How many were admitted, denied, and failed.
async fn hit(throttle: Throttle, hits: u32) -> [u64; 3] {
    let mut counts = [0; 3];
    for _ in 0..hits {
        match throttle.hit(KEY).await {
            Ok(decision) if decision.is_allowed() => counts[0] += 1,
            Ok(_) => counts[1] += 1,
            Err(error) => {
                if counts[2] == 0 {
                    workers::say(&error.to_string());
                }
                counts[2] += 1;
                // Else all hits would be made before there is another connection.
                pause::pace(Duration::from_millis(5)).await;
            }
        }
    }
    counts
}
