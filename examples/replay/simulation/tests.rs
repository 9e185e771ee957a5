//! Whole logs: what is counted, what is skipped, and that the totals are those of a naive count.

use std::collections::HashMap;
use std::fs::File;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/access.log.gz");

fn run(input: impl std::io::Read, rate: Rate, kinds: &[Kind]) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut lines = Lines::new(input).unwrap();
    runtime.block_on(replay(&mut lines, rate, kinds)).unwrap()
}

fn line(client: &str, minute: u64, second: u64) -> String {
    format!(
        "{client} - - [10/Oct/2000:13:{minute:02}:{second:02} +0000] \"GET / HTTP/1.1\" 200 5\n"
    )
}

#[test]
fn counts_who_is_limited_and_when() {
    let log: String =
        [0, 0, 1, 2, 50].iter().map(|second| line("10.0.0.1", 0, *second)).collect::<String>()
            + &line("10.0.0.2", 1, 0);
    let outcome = run(log.as_bytes(), Rate::per_minute(2), &[Kind::TokenBucket]);
    assert_eq!((outcome.requests, outcome.clients, outcome.skipped.lines), (6, 2, 0));
    let [tally] = &*outcome.tallies else { panic!("one strategy") };
    assert_eq!((tally.allowed, tally.denied, tally.clients), (4, 2, 1));
    let [limited] = &*outcome.limited else { panic!("one client") };
    assert_eq!((&*limited.client, limited.requests, limited.denied), ("10.0.0.1", 5, 2));
    assert_eq!(time::show(limited.first), "2000-10-10 13:00:01");
    assert_eq!(limited.longest_wait, Some(Duration::from_secs(29)));
}

#[test]
fn goes_on_after_lines_that_cannot_be_read() {
    let huge = "x".repeat(lines::MAX_LINE + 1);
    let good = line("10.0.0.1", 0, 0);
    let log =
        [good.as_bytes(), b"\xff\xfe\x1b[2J\r\n\r\n", huge.as_bytes(), b"\n", good.as_bytes()];
    let outcome = run(&*log.concat(), Rate::per_minute(2), &[Kind::Gcra]);
    assert_eq!((outcome.requests, outcome.skipped.lines), (2, 2));
    let [(2, first, shown), (4, second, _)] = &*outcome.skipped.shown else { panic!("lines 2, 4") };
    assert_eq!((*first, &**shown), ("there is only one field", r"\xff\xfe\x1b[2J"));
    assert_eq!(*second, "the line is longer than 64 KiB");
}

#[test]
fn a_log_that_goes_back_grants_nothing_extra() {
    let log: String = [30, 10, 40, 20].iter().map(|second| line("10.0.0.1", 0, *second)).collect();
    let outcome = run(log.as_bytes(), Rate::per_minute(2), &Kind::ALL);
    assert_eq!((outcome.back.lines, outcome.back.furthest), (2, Duration::from_secs(20)));
    for tally in &outcome.tallies {
        assert_eq!((tally.allowed, tally.denied), (2, 2), "{}", tally.kind);
    }
}

#[test]
fn a_rate_that_a_strategy_cannot_keep_is_left_out() {
    let rate = Rate::per_minute(2).burst(3);
    let outcome = run(line("::1", 0, 0).as_bytes(), rate, &Kind::ALL);
    let refused = outcome.tallies.iter().filter(|tally| tally.refused.is_some());
    assert_eq!(refused.map(|tally| tally.allowed).collect::<Vec<_>>(), [0, 0, 0]);
    assert_eq!(outcome.tallies.iter().map(|tally| tally.allowed).sum::<u64>(), 3);
}

#[test]
fn a_limit_of_zero_has_no_wait() {
    let outcome = run(line("::1", 0, 0).as_bytes(), Rate::per_minute(0), &[Kind::TokenBucket]);
    assert_eq!(outcome.limited[0].longest_wait, None);
}

#[test]
fn the_shipped_log_is_read_whole() {
    let outcome = run(File::open(SHIPPED).unwrap(), Rate::per_minute(30), &Kind::ALL);
    assert_eq!((outcome.requests, outcome.skipped.lines), (3269, 0));
    let denied = |kind| outcome.tallies.iter().find(|t| t.kind == kind).map(|t| t.denied);
    assert!(outcome.tallies.iter().all(|tally| tally.allowed + tally.denied == 3269));
    // One core under three names.
    assert_eq!(denied(Kind::TokenBucket), denied(Kind::LeakyBucket));
    assert_eq!(denied(Kind::TokenBucket), denied(Kind::Gcra));
    assert_eq!(outcome.limited.iter().map(|l| l.denied).sum::<u64>(), outcome.tallies[0].denied);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Fixed windows, counted again the obvious way.
    #[test]
    fn fixed_windows_deny_what_a_naive_count_denies(
        hits in prop::collection::vec((0..3u8, 0..30u64), 0..60),
        limit in 1..6u32,
    ) {
        let (mut minute, mut log, mut denied) = (0, String::new(), 0);
        let mut counts = HashMap::new();
        for (client, seconds) in hits {
            minute += seconds;
            log += &line(&format!("10.0.0.{client}"), minute / 60, minute % 60);
            let count = counts.entry((client, minute / 60)).or_insert(0);
            *count += 1;
            denied += u64::from(*count > limit);
        }
        let outcome = run(log.as_bytes(), Rate::per_minute(limit), &[Kind::FixedWindow]);
        prop_assert_eq!(outcome.tallies[0].denied, denied);
    }
}
