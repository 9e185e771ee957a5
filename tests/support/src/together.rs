//! Tasks that race for two limits which count together.

use std::time::Duration;

use traffik::{Backend, FixedWindow, HitOptions, Throttle, all};

use crate::servers::{Workers, workers};

/// Units of the narrow limit, and of the wide one.
pub const NARROW: u32 = 300;
pub const WIDE: u32 = 1_000;

/// Two throttles, of which each entry costs one unit and three.
#[derive(Debug)]
pub struct Pair {
    pub narrow: Throttle,
    pub wide: Throttle,
}

/// What one task saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub passed: u32,
    pub denied: u32,
    /// Hits that were denied and stay used.
    pub kept: u32,
}

impl Pair {
    pub fn new(backend: impl Backend + Clone) -> Self {
        let throttle = |name: &str, units: u32| {
            let rate = format!("{units}/366d");
            let builder = Throttle::builder(name).limit(rate.as_str(), FixedWindow::new());
            let builder = builder.backend(backend.clone()).deadline(Duration::from_secs(30));
            builder.build().unwrap()
        };
        Self { narrow: throttle("narrow", NARROW), wide: throttle("wide", WIDE) }
    }

    /// Hits of one task; every other one in the other order.
    pub async fn hits(&self, task: usize, hits: usize) -> Seen {
        let mut seen = Seen::default();
        for _ in 0..hits {
            let three = HitOptions::new().cost(3);
            let decision = match task % 2 {
                0 => all().hit(&self.narrow, "a").hit_with(&self.wide, "a", three),
                _ => all().hit_with(&self.wide, "a", three).hit(&self.narrow, "a"),
            };
            let decision = decision.await.unwrap();
            seen.passed += u32::from(decision.is_allowed());
            seen.denied += u32::from(decision.is_denied());
            seen.kept += u32::try_from(decision.not_given_back().len()).unwrap();
            tokio::task::yield_now().await;
        }
        seen
    }

    /// Never over either limit, and no unit is lost.
    pub async fn expect_exact(&self, seen: &[Seen]) {
        let passed: u32 = seen.iter().map(|seen| seen.passed).sum();
        assert_eq!(seen.iter().map(|seen| seen.kept).sum::<u32>(), 0, "all was given back");
        let left = async |throttle: &Throttle| throttle.peek("a").await.unwrap().remaining();
        let used = (NARROW - left(&self.narrow).await, WIDE - left(&self.wide).await);
        assert_eq!(used, (passed, 3 * passed), "units of those that passed, and no others");
        assert!(passed <= NARROW, "{passed} passed");
        assert!(
            seen.iter().all(|seen| seen.passed + seen.denied > 0),
            "each had its answers: {seen:?}"
        );
        // Those that passed in each other's way may have been denied; what is left is to be had.
        let rest = self.hits(0, usize::try_from(NARROW - passed).unwrap()).await;
        assert_eq!((rest.passed, rest.denied), (NARROW - passed, 0));
        assert_eq!(self.hits(1, 1).await.denied, 1);
    }
}

/// Runs so many tasks, each with so many hits.
pub async fn race(pair: &Pair, tasks: usize, hits: usize) -> Vec<Seen> {
    let mut running = tokio::task::JoinSet::new();
    for task in 0..tasks {
        let pair = Pair { narrow: pair.narrow.clone(), wide: pair.wide.clone() };
        running.spawn(async move { pair.hits(task, hits).await });
    }
    running.join_all().await
}

const PROCESSES: usize = 8;

/// One of the processes of [`race_of_processes`], with 8 tasks.
pub async fn worker(backend: impl Backend + Clone) {
    let pair = Pair::new(backend);
    workers::ready();
    let seen = race(&pair, 8, 20).await;
    let numbers = seen.iter().map(|seen| format!("{} {} {}", seen.passed, seen.denied, seen.kept));
    workers::report(&numbers.collect::<Vec<_>>().join(" "));
}

/// Lets 64 tasks of 8 processes race, each an ignored test of that name. Returns what each task saw.
pub fn race_of_processes(test: &str, url: &str) -> Vec<Seen> {
    let mut workers = Workers::spawn(PROCESSES, test, &[("URL", url)]);
    workers.start_together();
    let mut seen = Vec::new();
    for report in workers.results() {
        let numbers: Vec<u32> = report.split(' ').map(|number| number.parse().unwrap()).collect();
        seen.extend(numbers.chunks(3).map(|it| Seen { passed: it[0], denied: it[1], kept: it[2] }));
    }
    assert_eq!(seen.len(), 8 * PROCESSES);
    seen
}
