//! Replays an access log by its own time, and shows whom a rate limit would have hit.
//!
//! ```text
//! cargo run --release --example replay -- examples/data/access.log.gz
//! cargo run --release --example replay -- --rate "60/min burst 20" --strategy gcra access.log
//! zcat -f /var/log/nginx/access.log* | cargo run --release --example replay -- --rate 100/min
//! ```
//!
//! `args` reads the command line, `simulation` does the work, `report` prints what came of it.

mod args;
mod report;
mod simulation;

use std::error::Error;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

use args::{Args, Command};
use simulation::kind::Kind;
use simulation::lines::Lines;
use simulation::outcome::{Outcome, Skipped};

/// A file below this size is done before a progress bar could be read.
const LONG: u64 = 1 << 20;

/// Why there is no report.
enum Failure {
    /// The user can mend it.
    Usage(String),
    Other(Box<dyn Error>),
}

impl<E: Into<Box<dyn Error>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

// Nothing else runs on this thread, so it may wait for files.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let (code, message) = match run().await {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => (2, message),
        Err(Failure::Other(error)) => match error.downcast_ref::<io::Error>() {
            // Whoever reads the report has enough, like `head`.
            Some(error) if error.kind() == ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            _ => (1, error.to_string()),
        },
    };
    // Nobody is left to tell if this fails.
    let _ = writeln!(io::stderr(), "replay: {message}");
    ExitCode::from(code)
}

async fn run() -> Result<(), Failure> {
    let args = match args::parse(std::env::args_os().skip(1)).map_err(Failure::Usage)? {
        Command::Help => return Ok(io::stdout().write_all(args::HELP.as_bytes())?),
        Command::Replay(args) => args,
    };
    let outcome = replay(&args).await?;
    print_skipped(&outcome.skipped);
    if outcome.requests == 0 {
        let problem = match outcome.skipped.lines {
            0 => "the log is empty",
            _ => "no line is one of an access log in the Common or Combined Log Format",
        };
        return Err(Failure::Usage(problem.into()));
    }
    let mut report = Vec::new();
    report::print(&mut report, &outcome, args.rate, args.top)?;
    io::stdout().write_all(&report)?;
    Ok(())
}

/// Reads the log, with a progress bar if it is long and somebody looks.
async fn replay(args: &Args) -> Result<Outcome, Failure> {
    let name = args.file.as_ref().map_or("standard input".into(), |file| format!("{file:?}"));
    let (input, size): (Box<dyn Read>, _) = match &args.file {
        None => (Box::new(io::stdin().lock()), None),
        Some(path) => match File::open(path) {
            Ok(file) => {
                let size = file.metadata()?.len();
                (Box::new(file), Some(size))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Failure::Usage(format!("there is no file {name}")));
            }
            Err(error) => return Err(format!("{name}: {error}").into()),
        },
    };
    if args.file.is_none() && io::stdin().is_terminal() {
        let _ = writeln!(io::stderr(), "replay: reading a log from the terminal; see --help");
    }
    let bar = progress(size);
    let in_log = |line: u64, error: &dyn Error| match line {
        0 => format!("{name}: {error}"),
        line => format!("{name}: after line {line}: {error}"),
    };
    let mut lines = Lines::new(bar.wrap_read(input)).map_err(|error| in_log(0, &error))?;
    // The strategy that was asked for first, then the others to compare.
    let others = Kind::ALL.into_iter().filter(|kind| *kind != args.strategy);
    let kinds: Vec<_> = std::iter::once(args.strategy).chain(others).collect();
    let outcome = simulation::replay(&mut lines, args.rate, &kinds).await;
    bar.finish_and_clear();
    Ok(outcome.map_err(|error| in_log(lines.number(), &*error))?)
}

fn progress(size: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() || size.is_some_and(|size| size < LONG) {
        return ProgressBar::hidden();
    }
    let (bar, template) = match size {
        Some(size) => (ProgressBar::new(size), "{bar:40} {bytes} of {total_bytes}, {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} read"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn print_skipped(skipped: &Skipped) {
    let mut text = String::new();
    let mut more = skipped.lines;
    for (number, problem, line) in &skipped.shown {
        text += &format!("replay: line {number} skipped: {problem}: \"{line}\"\n");
        more -= 1;
    }
    if more > 0 {
        text += &format!("replay: and {more} more\n");
    }
    let _ = io::stderr().write_all(text.as_bytes());
}
