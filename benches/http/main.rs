//! What a limit costs an HTTP service: the layer beside none, and beside others that do the same job.
//!
//! ```sh
//! cargo bench -p traffik-peers --bench http             # some two minutes
//! cargo bench -p traffik-peers --bench http -- --quick  # a smoke run
//! ```
//!
//! Each limits by the peer's address, of a thousand clients in turn, tells the client about its limit in header
//! fields, and answers a denial by a body. First the service is called in this process, without a socket: the
//! nanoseconds of a request, less those without a layer, are what a layer costs. Then clients on 32 connections load a
//! server over loopback. All take turns, and the median of the rounds counts. Only what is compared in one run means
//! anything. tower-rate-limiter 0.2.0-alpha.0 is left out, since it needs Rust 1.96. It prints a table for each
//! question and writes `http.json` into the target directory.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]
#![allow(clippy::print_stdout, reason = "this is its output")]
#![allow(clippy::unwrap_used, reason = "a benchmark ends by it")]
#![allow(missing_docs, reason = "a program")]

mod in_process;
mod layers;
mod least;
mod loopback;

use in_process::Server;
use serde_json::{Value, json};
use traffik_peers::{machine, output};

/// What is measured of each layer, in turns.
pub(crate) struct Case {
    name: &'static str,
    figures: Vec<f64>,
}

impl Case {
    const fn new(name: &'static str) -> Self {
        Self { name, figures: Vec::new() }
    }

    fn median(&self) -> f64 {
        output::median(&self.figures)
    }

    /// What it takes more than another, round by round.
    fn more_than(&self, other: &Self) -> Self {
        let more = self.figures.iter().zip(&other.figures).map(|(own, other)| own - other);
        Self { name: self.name, figures: more.collect() }
    }

    /// The median of the rounds' ratios: the machine is faster in one round than in another.
    fn ratio_to(&self, other: &Self) -> f64 {
        let ratios = self.figures.iter().zip(&other.figures).map(|(own, other)| own / other);
        output::median(&ratios.collect::<Vec<_>>())
    }
}

fn report(cases: &[Case]) -> Value {
    cases.iter().map(|case| (case.name.to_owned(), json!(case.median()))).collect()
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    for line in machine::describe_with(&["tower_governor", "axum-governor"]) {
        println!("{line}");
    }
    let mut all = serde_json::Map::new();
    let served = [
        ("in axum, allowed", Server::Axum, false),
        ("in hyper, allowed", Server::Hyper, false),
        ("in axum, denied", Server::Axum, true),
    ];
    for (what, server, is_denied) in served {
        let (rounds, requests) = if quick { (3, 2_000) } else { (151, 5_000) };
        let cases = in_process::run(server, is_denied, rounds, requests);
        let [none, .., governor, _] = &cases[..] else { unreachable!("more cases than that") };
        assert_eq!(governor.name, in_process::TOWER_GOVERNOR);
        println!(
            "\n{what}: nanoseconds of a request, and of its layer; its share of {}'s",
            governor.name
        );
        for case in &cases {
            let (total, ratio) =
                (case.median(), case.more_than(none).ratio_to(&governor.more_than(none)));
            println!(
                "  {:26} {total:8.0} {:8.0} {ratio:8.2}",
                case.name,
                case.more_than(none).median()
            );
        }
        all.insert(what.into(), report(&cases));
    }
    for (what, is_denied) in [("allowed", false), ("denied", true)] {
        let cases = runtime.block_on(loopback::run(is_denied, if quick { 3 } else { 9 }, quick));
        println!("\nover loopback, {what}: requests a second");
        for case in &cases {
            println!("  {:26} {:8.0}", case.name, case.median());
        }
        all.insert(format!("loopback, {what}"), report(&cases));
    }
    let file =
        output::write(env!("CARGO_TARGET_TMPDIR"), "http.json", &Value::Object(all)).unwrap();
    println!("\nwritten to {}", file.display());
}
