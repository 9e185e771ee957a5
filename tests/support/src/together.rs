//! Tasks that race for two limits which count together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use traffik::{Backend, FixedWindow, HitOptions, OnError, Throttle, all};

use crate::servers::wait::eventually;
use crate::servers::{Proxy, Workers, workers};

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

/// Callers who go away at any moment, in some of which the narrow limit denies.
pub async fn callers_who_go_away_lose_nothing(pair: &Pair) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..400u64 {
        let pair = Pair { narrow: pair.narrow.clone(), wide: pair.wide.clone() };
        tasks.spawn(async move {
            let units = if number % 3 == 0 { NARROW + 1 } else { 1 };
            let hits = all().hit(&pair.wide, "a");
            let hits = hits.hit_with(&pair.narrow, "a", HitOptions::new().cost(units));
            let patience = Duration::from_micros(number * 7919 % 4_000);
            match tokio::time::timeout(patience, hits.into_future()).await {
                Ok(decision) => u32::from(decision.unwrap().is_allowed()),
                Err(_) => 0,
            }
        });
    }
    let passed: u32 = tasks.join_all().await.into_iter().sum();
    let exact = async || {
        let left = async |throttle: &Throttle| throttle.peek("a").await.unwrap().remaining();
        (left(&pair.narrow).await, left(&pair.wide).await) == (NARROW - passed, WIDE - passed)
    };
    eventually("what no caller has is given back", Duration::from_secs(10), exact).await;
}

/// Hits by all verbs for several keys, while connections are cut all the time. `backend` goes through `proxy`,
/// `direct` does not.
pub async fn through_cuts(
    backend: impl Backend + Clone,
    direct: impl Backend + Clone,
    proxy: &Proxy,
) {
    const KEYS: u32 = 30;
    const LIMIT: u32 = 20;
    let raising = |name: &str, units: u32| {
        let rate = format!("{units}/366d");
        let builder = Throttle::builder(name).limit(rate.as_str(), FixedWindow::new());
        builder.backend(backend.clone()).on_error(OnError::Raise).build().unwrap()
    };
    let (narrow, wide, many) =
        (raising("narrow", NARROW), raising("wide", WIDE), raising("many", LIMIT));
    // Before the first cut too.
    for decision in many.hit_many(0..KEYS).await {
        assert!(decision.unwrap().is_allowed());
    }
    let mut tasks = tokio::task::JoinSet::new();
    let stop = Arc::new(AtomicBool::new(false));
    let (answered, mut all_answers) = tokio::sync::mpsc::unbounded_channel();
    for task in 0..8 {
        let (narrow, wide, many) = (narrow.clone(), wide.clone(), many.clone());
        let (stop, answered) = (Arc::clone(&stop), answered.clone());
        tasks.spawn(async move {
            let (mut passed, mut each, mut errors, mut answers) = (0, [0; KEYS as usize], 0, 0u32);
            while !stop.load(Ordering::Relaxed) {
                if task % 2 == 0 {
                    match all().hit(&narrow, "a").hit(&wide, "a").await {
                        Ok(decision) => passed += u32::from(decision.is_allowed()),
                        Err(_) => errors += 1,
                    }
                } else {
                    for (key, decision) in many.hit_many(0..KEYS).await.into_iter().enumerate() {
                        match decision {
                            Ok(decision) => each[key] += u32::from(decision.is_allowed()),
                            Err(_) => errors += 1,
                        }
                    }
                }
                answers += 1;
                answered.send(()).unwrap();
                tokio::task::yield_now().await;
            }
            (passed, each, errors, answers)
        });
    }
    // In the midst of what is under way, each time some more was answered or had failed.
    for _ in 0..60 {
        for _ in 0..24 {
            all_answers.recv().await.unwrap();
        }
        proxy.cut();
    }
    stop.store(true, Ordering::Relaxed);
    let (mut passed, mut each, mut errors) = (0, [1; KEYS as usize], 0);
    for (its, its_each, its_errors, answers) in tasks.join_all().await {
        assert!(answers > 3, "each task went on");
        passed += its;
        errors += its_errors;
        each.iter_mut().zip(its_each).for_each(|(sum, its)| *sum += its);
    }
    assert!(errors > 0, "nothing was cut");
    assert!(passed <= NARROW, "{passed} passed both");
    let seen = Pair::new(direct.clone());
    let left = async |throttle: &Throttle| throttle.peek("a").await.unwrap().remaining();
    // What was cut may be used, and is not admitted; never the other way.
    assert!(left(&seen.narrow).await <= NARROW - passed && left(&seen.wide).await <= WIDE - passed);
    let rate = format!("{LIMIT}/366d");
    let direct = Throttle::builder("many").limit(rate.as_str(), FixedWindow::new()).backend(direct);
    let direct = direct.build().unwrap();
    for (key, admitted) in (0..KEYS).zip(each) {
        let left = direct.peek(key).await.unwrap().remaining();
        assert!(admitted + left <= LIMIT, "key {key}: {admitted} admitted, {left} left");
    }
}
