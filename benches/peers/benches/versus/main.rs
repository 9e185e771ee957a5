//! Compares traffik with other rate limiters that run in the process:
//!
//! ```sh
//! cargo bench -p traffik-peers --bench versus                  # everything, some ten minutes
//! cargo bench -p traffik-peers --bench versus -- --quick       # a smoke run with small numbers
//! cargo bench -p traffik-peers --bench versus -- speed pauses  # some sections only
//! ```
//!
//! It prints tables and writes `versus.json`, and of `speed` and `shapes` the picture `versus.svg`, into the target
//! directory. The sections are `speed`,
//! `shapes`, `ways`, `wrapped`, `allocations`, `memory` and `pauses`; `docs/performance.md` says what each case means.
//!
//! Every measurement runs in a process of its own, this program again, so that none begins with the
//! heap that another left behind. Limiters that are compared in time take turns in one process.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is its output")]

mod child;
mod heap;
mod keys;
mod latencies;
mod limiters;
mod memory;
mod pauses;
mod picture;
mod report;
mod speed;

use std::process::ExitCode;

use report::Report;

#[global_allocator]
static HEAP: heap::Counting = heap::Counting;

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) quick: bool,
}

impl Size {
    /// A large number, smaller for a smoke run.
    pub(crate) fn scaled(self, number: usize) -> usize {
        if self.quick { number / 10 } else { number }
    }

    pub(crate) fn pick(self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

type Section = fn(&mut Report, Size);

const SECTIONS: [(&str, Section); 7] = [
    ("speed", speed::speed),
    ("shapes", speed::shapes),
    ("ways", speed::ways),
    ("wrapped", speed::wrapped),
    ("allocations", memory::allocations),
    ("memory", memory::memory),
    ("pauses", pauses::pauses),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == child::MARK) {
        child::serve(&arguments[1..]);
        return ExitCode::SUCCESS;
    }
    // Cargo passes `--bench` when it is asked for benchmarks; a run of all tests starts them as well.
    if !arguments.iter().any(|argument| argument == "--bench" || argument == "--quick") {
        println!("measures nothing in a run of tests; use `cargo bench`");
        return ExitCode::SUCCESS;
    }
    let size = Size { quick: arguments.iter().any(|argument| argument == "--quick") };
    let wanted: Vec<&String> = arguments.iter().filter(|it| !it.starts_with("--")).collect();
    if let Some(unknown) = wanted.iter().find(|it| SECTIONS.iter().all(|(name, _)| name != **it)) {
        eprintln!(
            "no section {unknown:?}; there are {}",
            SECTIONS.map(|(name, _)| name).join(", ")
        );
        return ExitCode::FAILURE;
    }
    let mut report = Report::new(size.quick);
    report.print_head();
    for (name, section) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|it| *it == name) {
            report.begin(name);
            section(&mut report, size);
            report.print_section();
        }
    }
    match report.write() {
        Ok(paths) => {
            for path in paths {
                println!("\nwritten to {}", path.display());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("the results were not written: {error}");
            ExitCode::FAILURE
        }
    }
}
