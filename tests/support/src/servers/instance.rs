//! What every server has: a program that runs in a directory and writes a log.

use std::ffi::OsString;
use std::ops::DerefMut;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::dir::TempDir;
use super::ports;
use super::process::{Process, tail};
use super::wait::holds_within;

/// How often another port is tried when one is taken at the last moment.
const ATTEMPTS: usize = 5;
const START: Duration = Duration::from_secs(10);

/// A server's process, which ends with the value.
#[derive(Debug)]
pub struct Instance {
    program: OsString,
    /// None while it is killed.
    process: Option<Process>,
    // Last: what is in it is in use until the process ends.
    dir: TempDir,
}

impl Instance {
    pub(super) fn new(program: impl Into<OsString>) -> Self {
        Self { program: program.into(), process: None, dir: TempDir::new() }
    }

    /// The directory of the server, removed with the value.
    pub fn dir(&self) -> &TempDir {
        &self.dir
    }

    /// Where its unix socket is, if it has one.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    /// What the server says about itself.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.process().pid()
    }

    /// Whether it was started, and not killed, and is not paused.
    pub fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(|process| !process.is_paused())
    }

    /// Ends it at once, as by a crash (SIGKILL).
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it where it is (SIGSTOP): connections stay open, even new ones come through, and
    /// nothing answers.
    pub fn pause(&self) {
        self.process().pause();
    }

    pub fn resume(&self) {
        self.process().resume();
    }

    /// The program, to be started in its directory.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(self.dir.path());
        command
    }

    pub(super) fn spawn(&mut self, mut command: Command) {
        assert!(self.process.is_none(), "it runs");
        self.process = Some(Process::spawn(&mut command, &self.log(), self.dir.path()));
    }

    /// Whether the process of that number answers, before it ends or time is up. Another may have
    /// taken the port and answer there.
    pub(super) fn answers(&mut self, mut is_the_one: impl FnMut(u32) -> bool) -> bool {
        let Some(process) = &mut self.process else { return false };
        let mut ended = false;
        holds_within(START, || {
            ended = process.has_ended();
            ended || is_the_one(process.pid())
        }) && !ended
    }

    /// What failed, and what the server said about it.
    pub(super) fn failure(&self) -> String {
        format!("{} does not start:\n{}", self.program.display(), tail(&self.log()))
    }

    #[track_caller]
    fn process(&self) -> &Process {
        self.process.as_ref().expect("the server was killed")
    }
}

/// A server that `start` started on a port that was free and that answers.
pub(super) fn on_a_free_port<S: DerefMut<Target = Instance>>(
    start: impl Fn(u16) -> (S, bool),
) -> S {
    for _ in 0..ATTEMPTS {
        let (server, answers) = start(ports::free());
        if answers {
            return server;
        }
        let failure = server.failure();
        assert!(failure.contains("Address already in use"), "{failure}");
    }
    panic!("no free port in {ATTEMPTS} attempts");
}
