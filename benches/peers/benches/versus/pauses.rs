//! How long the worst call takes: while the tables grow, and while they are cleaned.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use governor::RateLimiter;
use governor::clock::FakeRelativeClock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::DashMapStateStore;
use traffik::{InMemory, ManualClock, Rate, Throttle};

use crate::Size;
use crate::child::{self, Row};
use crate::keys::{Shape, grouped};
use crate::latencies::{Both, Latencies};
use crate::limiters::{Load, Which, quota, read, ready};
use crate::report::Report;

const UNIT: &str = "us";
/// Keys that are hit while the others are cleaned.
const LIVE: usize = 1_000;

pub(crate) fn pauses(report: &mut Report, size: Size) {
    let range = [100_000, 1_000_000, 4_000_000].map(|keys| size.scaled(keys).to_string());
    let runs = size.pick(5, 2);
    report.note(format!(
        "Median of {runs} runs, and in brackets the least of them: noise of the machine comes in some \
         runs, what a limiter does comes in all."
    ));
    for what in ["grow", "sweep"] {
        for keys in &range {
            for _ in 0..runs {
                for which in [Which::Traffik, Which::Governor] {
                    report.add(child::run(&[what, which.name(), keys]));
                }
            }
        }
    }
    for _ in 0..runs {
        report.add(child::run(&["quiet"]));
    }
}

/// A name and the fraction that is above it.
type Quantile = (&'static str, f64);

/// Of a million calls or so.
const MANY: Quantile = ("p99.99", 1e-4);
/// Of some thousand calls.
const SOME: Quantile = ("p99", 1e-2);

fn rows_of(what: &str, who: &str, latencies: &Latencies, (name, above): Quantile) -> [Row; 2] {
    [
        Row::new(format!("{what}: worst"), UNIT, who, latencies.worst_micros()),
        Row::new(format!("{what}: {name}"), UNIT, who, latencies.quantile_micros(above)),
    ]
}

fn rows_of_both(what: &str, who: &str, both: &Both, quantile: Quantile) -> Vec<Row> {
    let mut rows = rows_of(what, who, &both.wall, quantile).to_vec();
    let used = both.processor.worst_micros();
    rows.push(Row::new(format!("{what}: worst, processor time"), UNIT, who, used));
    rows
}

/// Inserts one key after the other, and times each.
pub(crate) fn measure_growth(who: &str, keys: usize) -> Vec<Row> {
    let limiter = Which::named(who).expect("a limiter").build(Load::Denied, keys);
    let mut inserts = Both::new();
    for number in 0..keys {
        let key = Shape::Short.key(number);
        assert!(inserts.time(|| limiter.ask(&key)), "a first hit passes");
    }
    // Taking it apart would only cost time.
    std::mem::forget(limiter);
    let what = format!("insert, growing from 0 to {} keys", grouped(keys));
    rows_of_both(&what, who, &inserts, MANY)
}

/// A limiter whose time is moved by hand, and which is cleaned by hand.
trait Swept: Sync {
    #[expect(clippy::ptr_arg, reason = "a map with `String` keys is asked by a `String`")]
    fn hit(&self, key: &String) -> bool;
    fn advance(&self, by: Duration);
    /// One call of what cleans; says whether that was the last one of a round.
    fn sweep(&self) -> bool;
    fn len(&self) -> usize;
}

struct SweptTraffik {
    throttle: Throttle,
    backend: InMemory,
    clock: ManualClock,
}

impl Swept for SweptTraffik {
    fn hit(&self, key: &String) -> bool {
        read(ready(self.throttle.hit(key)))
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn sweep(&self) -> bool {
        self.backend.sweep_chunk()
    }

    fn len(&self) -> usize {
        self.backend.key_count()
    }
}

struct SweptGovernor {
    limiter:
        RateLimiter<String, DashMapStateStore<String>, FakeRelativeClock, NoOpMiddleware<Nanos>>,
    clock: FakeRelativeClock,
}

impl Swept for SweptGovernor {
    fn hit(&self, key: &String) -> bool {
        self.limiter.check_key(key).is_ok()
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn sweep(&self) -> bool {
        self.limiter.retain_recent();
        true
    }

    fn len(&self) -> usize {
        self.limiter.len()
    }
}

fn swept(who: &str) -> Box<dyn Swept> {
    match Which::named(who) {
        Some(Which::Traffik) => {
            let clock = ManualClock::new();
            let backend = InMemory::builder().max_keys(None).clock(clock.clone()).build();
            let backend = backend.expect("valid settings");
            let throttle = Throttle::builder("versus")
                .rate(Rate::per_hour(Load::Denied.limit()))
                .backend(backend.clone())
                .build();
            Box::new(SweptTraffik { throttle: throttle.expect("a valid rate"), backend, clock })
        }
        Some(Which::Governor) => {
            let clock = FakeRelativeClock::default();
            let limiter = RateLimiter::dashmap_with_clock(quota(Load::Denied), clock.clone());
            Box::new(SweptGovernor { limiter, clock })
        }
        _ => panic!("{who} is not cleaned by hand"),
    }
}

/// Lets all keys but some expire, and cleans them away while another thread hits the others.
pub(crate) fn measure_sweep(who: &str, keys: usize) -> Vec<Row> {
    let limiter = swept(who);
    for number in 0..keys {
        assert!(limiter.hit(&Shape::Short.key(number)), "a first hit passes");
    }
    limiter.advance(Duration::from_secs(2 * 3600));
    let live: Vec<String> = (keys..keys + LIVE).map(|number| Shape::Short.key(number)).collect();
    assert!(live.iter().all(|key| limiter.hit(key)), "a first hit passes");

    let (calls, hits) = beside(&*limiter, &live, || {
        let mut calls = Both::new();
        // After all are gone one round more, in which tables get smaller.
        let (mut rounds, mut rounds_after) = (0, 0);
        while rounds_after < 2 {
            let ended = calls.time(|| limiter.sweep());
            // As the cleanup task, which lets others go first.
            thread::yield_now();
            rounds += usize::from(ended);
            rounds_after += usize::from(ended && limiter.len() == LIVE);
            assert!(rounds < 10, "{} keys are left", limiter.len());
        }
        calls
    });
    assert!(!live.iter().any(|key| limiter.hit(key)), "what is in use is kept");
    let count = grouped(keys);
    let what = format!("one call of the sweeper, {count} expired keys");
    let mut rows = rows_of_both(&what, who, &calls, SOME);
    rows.extend(rows_of(&format!("check while {count} expired keys are swept"), who, &hits, MANY));
    rows
}

/// The same check while the other thread only spins: what the machine itself does to it.
pub(crate) fn measure_quiet() -> Vec<Row> {
    let mut rows = Vec::new();
    for which in [Which::Traffik, Which::Governor] {
        let limiter = swept(which.name());
        let live: Vec<String> = (0..LIVE).map(|number| Shape::Short.key(number)).collect();
        assert!(live.iter().all(|key| limiter.hit(key)), "a first hit passes");
        let ((), hits) = beside(&*limiter, &live, || {
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(200) {}
        });
        rows.extend(rows_of("check while nothing is swept, 0.2 s", which.name(), &hits, MANY));
    }
    rows
}

/// Times hits on another thread while `work` runs.
fn beside<T>(limiter: &dyn Swept, live: &[String], work: impl FnOnce() -> T) -> (T, Latencies) {
    let (barrier, done) = (Barrier::new(2), AtomicBool::new(false));
    thread::scope(|scope| {
        let hitter = scope.spawn(|| {
            let mut latencies = Latencies::new();
            barrier.wait();
            for key in live.iter().cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let start = Instant::now();
                let passed = limiter.hit(key);
                latencies.note(start.elapsed());
                assert!(!passed, "the limit is used up");
            }
            latencies
        });
        barrier.wait();
        // Until the hits are under way.
        thread::sleep(Duration::from_millis(5));
        let result = work();
        done.store(true, Ordering::Relaxed);
        (result, hitter.join().expect("no panic"))
    })
}
