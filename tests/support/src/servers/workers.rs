//! Parts of a test that run as processes of their own.
//!
//! A worker is an ignored test of the same file, which the test runs again by its name:
//!
//! ```ignore
//! #[test]
//! #[ignore = "run by another test as a process of its own"]
//! fn worker() {
//!     let Some(number) = workers::number() else { return };
//!     workers::ready();
//!     workers::report(&format!("{number} did {}", workers::variable("JOB")));
//! }
//! ```

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::dir::TempDir;
use super::process::Process;
use super::wait::wait_until;

/// How long the workers may take.
const LIMIT: Duration = Duration::from_secs(300);
const NUMBER: &str = "TRAFFIK_WORKER";
const RESULT: &str = "RESULT ";
const READY: &str = "READY";

/// Running workers, killed on drop.
#[derive(Debug)]
pub struct Workers {
    /// None for one that was killed.
    processes: Vec<Option<Process>>,
    dir: TempDir,
}

impl Workers {
    /// Runs that many and gives what they report, in their order.
    ///
    /// # Panics
    ///
    /// If one fails, with its output.
    #[track_caller]
    pub fn run(count: usize, test: &str, envs: &[(&str, &str)]) -> Vec<String> {
        let mut workers = Self::spawn(count, test, envs);
        workers.results()
    }

    /// Starts that many: each runs the ignored test of that name with those variables.
    pub fn spawn(count: usize, test: &str, envs: &[(&str, &str)]) -> Self {
        let dir = TempDir::new();
        let program = std::env::current_exe().unwrap();
        let processes = (0..count).map(|number| {
            let mut command = Command::new(&program);
            command
                .args(["--exact", test, "--nocapture", "--ignored"])
                .envs(envs.iter().copied())
                .env(NUMBER, number.to_string())
                .stdin(Stdio::piped());
            Some(Process::spawn(&mut command, &dir.join(&number.to_string()), dir.path()))
        });
        Self { processes: processes.collect(), dir }
    }

    /// Waits until each has called `ready`, and lets them go on together.
    #[track_caller]
    pub fn start_together(&mut self) {
        for number in 0..self.processes.len() {
            self.wait_for_line(number, READY);
        }
        self.release();
    }

    /// Waits until the worker has printed that line.
    #[track_caller]
    pub fn wait_for_line(&mut self, number: usize, line: &str) {
        let log = self.log(number);
        let process = self.processes[number].as_mut().expect("the worker was killed");
        let printed =
            || std::fs::read_to_string(&log).unwrap_or_default().lines().any(|known| known == line);
        let mut ended = false;
        wait_until(&format!("worker {number} prints {line:?}"), LIMIT, || {
            ended = process.has_ended();
            printed() || ended
        });
        assert!(!ended || printed(), "worker {number} ended without {line:?}:\n{}", read(&log));
    }

    /// Ends one at once (SIGKILL); it reports nothing.
    pub fn kill(&mut self, number: usize) {
        self.processes[number] = None;
    }

    /// Sends one a signal, such as `TERM`.
    #[track_caller]
    pub fn signal(&self, number: usize, name: &str) {
        self.processes[number].as_ref().expect("the worker was killed").signal(name);
    }

    /// Stops one where it is (SIGSTOP).
    #[track_caller]
    pub fn pause(&self, number: usize) {
        self.processes[number].as_ref().expect("the worker was killed").pause();
    }

    #[track_caller]
    pub fn resume(&self, number: usize) {
        self.processes[number].as_ref().expect("the worker was killed").resume();
    }

    /// Waits for all, and gives what those that were not killed report, in their order.
    ///
    /// # Panics
    ///
    /// If one fails, with its output.
    #[track_caller]
    pub fn results(&mut self) -> Vec<String> {
        self.release();
        wait_until("the workers end", LIMIT, || {
            self.processes.iter_mut().flatten().all(Process::has_ended)
        });
        let mut results = Vec::new();
        for number in 0..self.processes.len() {
            let log = self.log(number);
            let Some(process) = self.processes[number].as_mut() else { continue };
            let status = process.child().wait().unwrap();
            let output = read(&log);
            assert!(status.success(), "worker {number} failed, {status}:\n{output}");
            let result = output.lines().rev().find_map(|line| line.strip_prefix(RESULT));
            let result =
                result.unwrap_or_else(|| panic!("no result of worker {number}:\n{output}"));
            results.push(result.to_owned());
        }
        results
    }

    /// Sends a line to the standard input of one. Its end is when the results are waited for.
    #[track_caller]
    pub fn send(&mut self, number: usize, line: &str) {
        let process = self.processes[number].as_mut().expect("the worker was killed");
        let input = process.child().stdin.as_mut().expect("the worker was released");
        writeln!(input, "{line}").unwrap();
    }

    fn release(&mut self) {
        for process in self.processes.iter_mut().flatten() {
            drop(process.child().stdin.take());
        }
    }

    fn log(&self, number: usize) -> PathBuf {
        self.dir.join(&number.to_string())
    }
}

/// In a worker: its number from 0; none in a test that runs by itself.
pub fn number() -> Option<usize> {
    std::env::var(NUMBER).ok()?.parse().ok()
}

/// In a worker: a variable that it was given.
#[track_caller]
pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("the worker was not given {name}"))
}

/// In a worker: waits until all are here.
pub fn ready() {
    say(READY);
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// In a worker: the result, in one line.
pub fn report(text: &str) {
    assert!(!text.contains('\n'), "more than a line: {text:?}");
    say(&format!("{RESULT}{text}"));
}

/// In a worker: prints a line of its own, for the test's frame leaves one open.
pub fn say(line: &str) {
    println!("\n{line}");
}

fn read(log: &std::path::Path) -> String {
    String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned()
}
