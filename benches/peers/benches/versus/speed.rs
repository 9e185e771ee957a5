//! How long a check takes: of one limit on a short key against all peers, of other shapes, and by a
//! backend that is wrapped.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use traffik::Backend;

use crate::Size;
use crate::child::{self, Row};
use crate::keys::{Shape, Spread, grouped, stream};
use crate::limiters::{Governor, GovernorJoining, Limiter, Load, Traffik, TraffikParts, Which};
use crate::report::Report;

const UNIT: &str = "ns/check";

/// One limit on keys of 11 bytes.
pub(crate) fn speed(report: &mut Report, size: Size) {
    for keys in [1, 1_000, size.scaled(1_000_000)] {
        report.add(child::run(&["speed", &keys.to_string(), &size.quick.to_string()]));
    }
}

/// Two limits, long keys, keys of several parts.
pub(crate) fn shapes(report: &mut Report, size: Size) {
    for keys in [1_000, size.scaled(1_000_000)] {
        report.add(child::run(&["shapes", &keys.to_string(), &size.quick.to_string()]));
    }
}

/// One limit on keys of 11 bytes, by `InMemory` itself and by what may be around it.
pub(crate) fn wrapped(report: &mut Report, size: Size) {
    for keys in [1_000, size.scaled(1_000_000)] {
        report.add(child::run(&["wrapped", &keys.to_string(), &size.quick.to_string()]));
    }
}

/// One who takes part in a race.
struct Runner {
    who: &'static str,
    limiter: Box<dyn Limiter>,
    slowness: usize,
}

/// What is raced.
struct Race<'a> {
    case: String,
    stream: &'a [String],
    threads: usize,
    load: Load,
}

pub(crate) fn measure(keys: usize, size: Size) -> Vec<Row> {
    let spreads: &[Spread] =
        if keys == 1 { &[Spread::Uniform] } else { &[Spread::Uniform, Spread::Zipf] };
    let streams: Vec<_> = spreads
        .iter()
        .map(|&spread| (spread, stream(Shape::Short, keys, spread, length(keys, size))))
        .collect();
    let mut rows = Vec::new();
    for load in [Load::Allowed, Load::Denied] {
        let mut runners = Vec::new();
        for which in Which::ALL {
            let limiter = which.build(load, keys);
            fill(&*limiter, Shape::Short, keys);
            runners.push(Runner { who: which.name(), limiter, slowness: which.slowness() });
        }
        for (spread, stream) in &streams {
            for threads in [1, 2] {
                let case = match keys {
                    1 => format!("1 key, {}, {}", load.name(), on(threads)),
                    _ => {
                        let (keys, spread) = (grouped(keys), spread.name());
                        format!("{keys} keys {spread}, {}, {}", load.name(), on(threads))
                    }
                };
                let race = Race { case, stream, threads, load };
                rows.extend(race.run(&runners, plan(keys, size)));
            }
        }
    }
    rows
}

pub(crate) fn measure_shapes(keys: usize, size: Size) -> Vec<Row> {
    let load = Load::Allowed;
    let ours = Which::Traffik.name();
    let theirs = Which::Governor.name();
    let mut rows = race_on(
        "two limits against one of governor",
        Shape::Short,
        keys,
        size,
        vec![(ours, Box::new(Traffik::two(load))), (theirs, Box::new(Governor::new(load)))],
    );
    rows.extend(race_on(
        "key of 40 bytes",
        Shape::Long,
        keys,
        size,
        vec![(ours, Box::new(Traffik::one(load))), (theirs, Box::new(Governor::new(load)))],
    ));
    for (what, shape) in
        [("two parts of 12 bytes", Shape::ShortParts), ("two parts of 23 bytes", Shape::LongParts)]
    {
        rows.extend(race_on(
            what,
            shape,
            keys,
            size,
            vec![
                (ours, Box::new(TraffikParts(Traffik::one(load), shape))),
                (theirs, Box::new(Governor::new(load))),
                ("governor, joining", Box::new(GovernorJoining::new(load, shape))),
            ],
        ));
    }
    rows
}

pub(crate) fn measure_wrapped(keys: usize, size: Size) -> Vec<Row> {
    let load = Load::Allowed;
    let rivals: Vec<(&'static str, Box<dyn Limiter>)> = vec![
        (Which::Traffik.name(), Box::new(Traffik::one(load))),
        ("in an Arc", Box::new(Traffik::wrapped(load, Arc::new))),
        (
            "as Arc<dyn Backend>",
            Box::new(Traffik::wrapped(load, |memory| Arc::new(memory) as Arc<dyn Backend>)),
        ),
    ];
    race_on("InMemory", Shape::Short, keys, size, rivals)
}

/// A race on one thread and on two, over keys of that shape, each as often as any other.
fn race_on(
    what: &str,
    shape: Shape,
    keys: usize,
    size: Size,
    rivals: Vec<(&'static str, Box<dyn Limiter>)>,
) -> Vec<Row> {
    let stream = stream(shape, keys, Spread::Uniform, length(keys, size));
    let runners: Vec<_> = rivals
        .into_iter()
        .map(|(who, limiter)| {
            fill(&*limiter, shape, keys);
            Runner { who, limiter, slowness: 1 }
        })
        .collect();
    let races = [1, 2].into_iter().flat_map(|threads| {
        let case = format!("{what}, {} keys, {}", grouped(keys), on(threads));
        let race = Race { case, stream: &stream, threads, load: Load::Allowed };
        race.run(&runners, plan(keys, size))
    });
    races.collect()
}

fn on(threads: usize) -> &'static str {
    if threads == 1 { "1 thread" } else { "2 threads" }
}

/// Keys in the stream. Of few keys as many as a processor's own cache holds, to be walked again and
/// again; of many so many that they are not.
fn length(keys: usize, size: Size) -> usize {
    if keys > 1_000 { size.scaled(2_000_000) } else { 10_000 }
}

/// Checks in a sample, and rounds.
fn plan(keys: usize, size: Size) -> (usize, usize) {
    match (size.quick, keys > 1_000) {
        // Long enough for the caches to be as they stay.
        (false, true) => (1_000_000, 9),
        // Short, so that a disturbance spoils few of many samples.
        (false, false) => (400_000, 25),
        (true, _) => (100_000, 3),
    }
}

/// Hits each key once.
fn fill(limiter: &dyn Limiter, shape: Shape, keys: usize) {
    for number in 0..keys {
        assert!(limiter.ask(&shape.key(number)), "the first hit of a key passes");
    }
}

impl Race<'_> {
    /// Each round takes one sample of everyone, and begins with another.
    fn run(&self, runners: &[Runner], (checks, rounds): (usize, usize)) -> Vec<Row> {
        let mut rows = Vec::new();
        // The first round warms caches and branch predictors.
        for round in 0..=rounds {
            for turn in 0..runners.len() {
                let runner = &runners[(round + turn) % runners.len()];
                let checks = checks / runner.slowness;
                let part = checks.min(self.stream.len());
                let keys = self.stream.chunks_exact(part).cycle().nth(round).expect("a chunk");
                let nanos = self.sample(&*runner.limiter, keys, checks / part);
                if round > 0 {
                    rows.push(Row::new(&self.case, UNIT, runner.who, nanos));
                }
            }
        }
        rows
    }

    /// Nanoseconds that one thread waits for one check. Each thread has a part of the keys to itself.
    fn sample(&self, limiter: &dyn Limiter, keys: &[String], laps: usize) -> f64 {
        let each = keys.len() / self.threads;
        let barrier = Barrier::new(self.threads);
        let work = |part: &[String]| {
            barrier.wait();
            let start = Instant::now();
            let passed: usize = (0..laps).map(|_| limiter.walk(part)).sum();
            let elapsed = start.elapsed();
            let expected = if self.load == Load::Allowed { part.len() * laps } else { 0 };
            assert_eq!(passed, expected, "{}", self.case);
            elapsed
        };
        let all = if self.threads == 1 {
            work(keys)
        } else {
            thread::scope(|scope| {
                let threads: Vec<_> =
                    keys.chunks_exact(each).map(|part| scope.spawn(|| work(part))).collect();
                threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
            })
        };
        all.as_nanos() as f64 / (keys.len() * laps) as f64
    }
}
