//! What a hit takes from the heap, and what a key holds.

use std::hint::black_box;
use std::process;

use crate::Size;
use crate::child::{self, Row};
use crate::heap;
use crate::keys::{Shape, grouped};
use crate::limiters::{Governor, Limiter, Load, Traffik, TraffikParts, Which};
use crate::report::Report;

/// A hit of a key that is known: how often does it ask for memory?
pub(crate) fn allocations(report: &mut Report, _size: Size) {
    report.add(child::run(&["allocations"]));
}

/// What a key holds, over a range of numbers of keys: tables grow in steps, and one number alone would
/// show one end of a step.
pub(crate) fn memory(report: &mut Report, size: Size) {
    let million = size.scaled(1_000_000);
    for (shape, name) in [(SHORT, "11 bytes"), (LONG, "40 bytes")] {
        let mut of_all = Vec::new();
        for keys in [700_000, 1_000_000, 1_400_000, 2_000_000].map(|keys| size.scaled(keys)) {
            for which in Which::ALL {
                let compared = matches!(which, Which::Traffik | Which::Governor);
                if compared || (keys == million && shape == SHORT) {
                    let rows = child::run(&["memory", which.name(), shape, &keys.to_string()]);
                    if compared {
                        of_all.extend(
                            rows.iter().filter(|row| row.case.starts_with(RESIDENT)).cloned(),
                        );
                    }
                    report.add(rows);
                }
            }
        }
        for which in [Which::Traffik, Which::Governor] {
            let values: Vec<f64> =
                of_all.iter().filter(|row| row.who == which.name()).map(|row| row.value).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let case = format!("{RESIDENT}, keys of {name}, mean of these four");
            report.add(vec![Row::new(case, BYTES, which.name(), mean)]);
        }
    }
    for row in child::run(&["memory", TEXTS, SHORT, &million.to_string()]) {
        if row.case.starts_with(RESIDENT) {
            report.note(format!(
                "The text of a key of 11 bytes, which governor keeps as a `String`, takes {:.0} bytes \
                 of its resident memory for itself.",
                row.value
            ));
        }
    }
}

const RESIDENT: &str = "resident";
const BYTES: &str = "bytes/key";
/// Stands for a limiter: only the texts of the keys.
const TEXTS: &str = "texts";

/// Shapes of keys, as a child is told.
const SHORT: &str = "short";
const LONG: &str = "long";

/// Fills a limiter, and looks at the process before and after.
pub(crate) fn measure(who: &str, shape: &str, keys: usize) -> Vec<Row> {
    let (shape, length) = match shape {
        LONG => (Shape::Long, 40),
        _ => (Shape::Short, 11),
    };
    let mut texts = vec![String::new(); if who == TEXTS { keys } else { 0 }];
    // A limit of 1 an hour: after its hit, each key has something to say until the end.
    let limiter = Which::named(who).map(|which| which.build(Load::Denied, keys));
    let mut fill = |numbers: std::ops::Range<usize>| {
        for number in numbers {
            let key = shape.key(number);
            match &limiter {
                Some(limiter) => assert!(limiter.ask(&key)),
                // As a map does that keeps it: a copy, without spare room.
                None => texts[number].clone_from(&key),
            }
        }
    };
    // Clocks, thread locals and such.
    fill(0..10);
    let before = resident();
    let (_, heap) = heap::taken_by(|| fill(10..keys));
    let after = resident();
    black_box((&limiter, &texts));
    let added = (keys - 10) as f64;
    let count = grouped(keys);
    let row = |what: &str, bytes: f64| {
        Row::new(format!("{what}, {count} keys of {length} bytes"), BYTES, who, bytes / added)
    };
    let rows = vec![row(RESIDENT, after - before), row("requested of the heap", heap as f64)];
    // Taking a million keys apart would only cost time.
    std::mem::forget(limiter);
    rows
}

/// Resident memory of this process, in bytes.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_else(|error| {
        eprintln!("resident memory is read from /proc: {error}");
        process::exit(1)
    });
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number of kB");
    kibibytes * 1024.0
}

const HITS: u64 = 10_000;

pub(crate) fn measure_allocations() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut measure = |case: &str, who: &'static str, load, shape: Shape, limiter: &dyn Limiter| {
        let keys: Vec<String> = (0..100).map(|number| shape.key(number)).collect();
        limiter.walk(&keys);
        let mut passed = 0;
        let (calls, _) = heap::taken_by(|| {
            for _ in 0..HITS / 100 {
                passed += limiter.walk(&keys);
            }
        });
        let expected = if load == Load::Allowed { HITS as usize } else { 0 };
        assert_eq!(passed, expected, "{who}: {case}");
        rows.push(Row::new(case, "allocations/check", who, calls as f64 / HITS as f64));
    };
    for load in [Load::Allowed, Load::Denied] {
        let case = format!("key of 11 bytes, {}", load.name());
        for which in Which::ALL {
            measure(&case, which.name(), load, Shape::Short, &*which.build(load, 100));
        }
        let (ours, theirs) = (Which::Traffik.name(), Which::Governor.name());
        let case = format!("two limits, key of 11 bytes, {}", load.name());
        measure(&case, ours, load, Shape::Short, &Traffik::two(load));
        measure(&case, theirs, load, Shape::Short, &Governor::new(load));
        let case = format!("key of 40 bytes, {}", load.name());
        measure(&case, ours, load, Shape::Long, &Traffik::one(load));
        measure(&case, theirs, load, Shape::Long, &Governor::new(load));
        let case = format!("two limits, key of 40 bytes, {}", load.name());
        measure(&case, ours, load, Shape::Long, &Traffik::two(load));
        measure(&case, theirs, load, Shape::Long, &Governor::new(load));
        for (what, shape) in [("12", Shape::ShortParts), ("23", Shape::LongParts)] {
            let case = format!("two parts of {what} bytes, {}", load.name());
            measure(&case, ours, load, shape, &TraffikParts(Traffik::one(load), shape));
            measure(&case, theirs, load, shape, &Governor::new(load));
            let case = format!("two limits, two parts of {what} bytes, {}", load.name());
            measure(&case, ours, load, shape, &TraffikParts(Traffik::two(load), shape));
            measure(&case, theirs, load, shape, &Governor::new(load));
        }
    }
    rows
}
