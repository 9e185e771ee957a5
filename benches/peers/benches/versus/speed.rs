//! How long a check takes: of one limit on a short key against all peers, of other shapes, and by a
//! backend that is wrapped.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use traffik::Backend;

use crate::Size;
use crate::child::{self, Row};
use crate::keys::{Shape, Spread, grouped, stream};
use crate::limiters::{
    Governor, GovernorJoining, HitAndRefund, HitWithCost, HitWithRate, Limiter, Load, Peek,
    Traffik, TraffikParts, Which,
};
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

/// What else can be asked, against a hit of ours of one limit on keys of 11 bytes.
pub(crate) fn ways(report: &mut Report, size: Size) {
    for keys in [1_000, size.scaled(1_000_000)] {
        report.add(child::run(&["ways", &keys.to_string(), &size.quick.to_string()]));
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
    /// In the place of the race's.
    own_stream: Option<Vec<String>>,
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
            let (who, slowness) = (which.name(), which.slowness());
            runners.push(Runner { who, limiter, slowness, own_stream: None });
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
    const ALLOWED: Load = Load::Allowed;
    let ours = Which::Traffik.name();
    let theirs = Which::Governor.name();
    let two: Rivals =
        vec![(ours, Box::new(Traffik::two(ALLOWED))), (theirs, Box::new(Governor::new(ALLOWED)))];
    let mut rows =
        race_on("two limits against one of governor", Shape::Short, ALLOWED, keys, size, two);
    for (what, shape, load) in [
        ("key of 40 bytes", Shape::Long, ALLOWED),
        ("key of 40 bytes, denied", Shape::Long, Load::Denied),
        ("UUID as text", Shape::Uuid, ALLOWED),
        ("UUID as text, denied", Shape::Uuid, Load::Denied),
        ("IPv6 address as text", Shape::Ipv6, ALLOWED),
        ("key of 64 bytes", Shape::Token, ALLOWED),
    ] {
        let rivals: Rivals =
            vec![(ours, Box::new(Traffik::one(load))), (theirs, Box::new(Governor::new(load)))];
        rows.extend(race_on(what, shape, load, keys, size, rivals));
    }
    for (what, shape) in [
        ("two parts of 12 bytes", Shape::ShortParts),
        ("two parts of 23 bytes", Shape::LongParts),
        ("a tenant of 8 bytes and a UUID", Shape::TenantUser),
    ] {
        let rivals: Rivals = vec![
            (ours, Box::new(TraffikParts(Traffik::one(ALLOWED), shape))),
            (theirs, Box::new(Governor::new(ALLOWED))),
            ("governor, joining", Box::new(GovernorJoining::new(ALLOWED, shape))),
        ];
        rows.extend(race_on(what, shape, ALLOWED, keys, size, rivals));
    }
    rows
}

/// What else a throttle can be asked, beside a hit of one limit.
pub(crate) fn measure_ways(keys: usize, size: Size) -> Vec<Row> {
    let load = Load::Allowed;
    let one = || Traffik::one(load);
    let rivals: Rivals = vec![
        (Which::Traffik.name(), Box::new(one())),
        ("peek", Box::new(Peek(one()))),
        ("hit_with(cost)", Box::new(HitWithCost(one()))),
        ("hit_with(rate)", Box::new(HitWithRate(one()))),
        ("two limits", Box::new(Traffik::two(load))),
        ("three limits", Box::new(Traffik::many(load, 3))),
        ("eight limits", Box::new(Traffik::many(load, 8))),
        ("hit and refund", Box::new(HitAndRefund(one()))),
    ];
    let mut runners: Vec<Runner> = rivals
        .into_iter()
        .map(|(who, limiter)| {
            fill(&*limiter, Shape::Short, keys);
            Runner { who, limiter, slowness: 1, own_stream: None }
        })
        .collect();
    let uuids = one();
    fill(&uuids, Shape::Uuid, keys);
    runners.push(Runner {
        who: "hit of a UUID",
        limiter: Box::new(uuids),
        slowness: 1,
        own_stream: Some(stream(Shape::Uuid, keys, Spread::Uniform, length(keys, size))),
    });
    race_all("key of 11 bytes", Shape::Short, load, (keys, size), runners)
}

pub(crate) fn measure_wrapped(keys: usize, size: Size) -> Vec<Row> {
    let load = Load::Allowed;
    let rivals: Rivals = vec![
        (Which::Traffik.name(), Box::new(Traffik::one(load))),
        ("in an Arc", Box::new(Traffik::wrapped(load, Arc::new))),
        (
            "as Arc<dyn Backend>",
            Box::new(Traffik::wrapped(load, |memory| Arc::new(memory) as Arc<dyn Backend>)),
        ),
    ];
    race_on("InMemory", Shape::Short, load, keys, size, rivals)
}

/// Who takes part, by the name of a column.
type Rivals = Vec<(&'static str, Box<dyn Limiter>)>;

/// A race on one thread and on two, over keys of that shape, each as often as any other.
fn race_on(
    what: &str,
    shape: Shape,
    load: Load,
    keys: usize,
    size: Size,
    rivals: Rivals,
) -> Vec<Row> {
    let runners = rivals
        .into_iter()
        .map(|(who, limiter)| {
            fill(&*limiter, shape, keys);
            Runner { who, limiter, slowness: 1, own_stream: None }
        })
        .collect();
    race_all(what, shape, load, (keys, size), runners)
}

fn race_all(
    what: &str,
    shape: Shape,
    load: Load,
    (keys, size): (usize, Size),
    runners: Vec<Runner>,
) -> Vec<Row> {
    let stream = stream(shape, keys, Spread::Uniform, length(keys, size));
    let races = [1, 2].into_iter().flat_map(|threads| {
        let case = format!("{what}, {} keys, {}", grouped(keys), on(threads));
        let race = Race { case, stream: &stream, threads, load };
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
        assert!(limiter.meet(&shape.key(number)), "the first hit of a key passes");
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
                let stream = runner.own_stream.as_deref().unwrap_or(self.stream);
                let part = checks.min(stream.len());
                let keys = stream.chunks_exact(part).cycle().nth(round).expect("a chunk");
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
