//! A Memcached server.

use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
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
/// How long a reply may take.
const LIMIT: Option<Duration> = Some(Duration::from_secs(10));

/// A Memcached server of its own, which ends with the value.
#[derive(Debug)]
pub struct MemcachedServer {
    /// None while it is killed.
    process: Option<Process>,
    /// None if it listens on a unix socket, for then it does on that only.
    port: Option<u16>,
    arguments: Vec<String>,
    envs: Vec<(String, String)>,
    // Last: what is in it is in use until the process ends.
    dir: TempDir,
}

impl MemcachedServer {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// ... with more arguments: `&["-m", "8"]`.
    pub fn with(arguments: &[&str]) -> Self {
        Self::with_env(arguments, &[])
    }

    /// ... and with environment variables.
    pub fn with_env(arguments: &[&str], envs: &[(String, String)]) -> Self {
        for _ in 0..ATTEMPTS {
            let mut server = Self::new(Some(ports::free()), arguments, envs);
            server.start_again_without_wait();
            if server.answers() {
                return server;
            }
            let log = tail(&server.log());
            assert!(log.contains("Address already in use"), "memcached does not start:\n{log}");
        }
        panic!("memcached found no free port in {ATTEMPTS} attempts");
    }

    /// On a unix socket, and on no port.
    pub fn on_socket(arguments: &[&str]) -> Self {
        let mut server = Self::new(None, arguments, &[]);
        server.start_again_without_wait();
        assert!(server.answers(), "memcached does not start:\n{}", tail(&server.log()));
        server
    }

    fn new(port: Option<u16>, arguments: &[&str], envs: &[(String, String)]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Self { process: None, port, arguments, envs: envs.to_vec(), dir: TempDir::new() }
    }

    #[track_caller]
    pub fn port(&self) -> u16 {
        self.port.expect("it listens on a socket")
    }

    /// `127.0.0.1:port`.
    #[track_caller]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
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

    /// Kills it if it runs, starts it on the same port, and waits until it answers. What it had
    /// in memory is lost.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.start_again_without_wait();
        assert!(self.answers(), "memcached does not start again:\n{}", tail(&self.log()));
    }

    /// Starts it on the same port after a `kill`, and does not wait for it.
    pub fn start_again_without_wait(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let mut command = Command::new("memcached");
        match self.port {
            Some(port) => command.args(["-l", "127.0.0.1", "-U", "0", "-p", &port.to_string()]),
            None => {
                // A socket that is there already keeps it from starting.
                let _ = std::fs::remove_file(self.socket());
                command.arg("-s").arg(self.socket())
            }
        };
        // The user matters only to root, as whom it does not start without.
        command
            .args(["-u", "root"])
            .args(&self.arguments)
            .envs(self.envs.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir.path());
        self.process = Some(Process::spawn(&mut command, &self.log(), self.dir.path()));
    }

    /// Stops it where it is (SIGSTOP): connections stay open, even new ones come through, and
    /// nothing answers.
    pub fn pause(&self) {
        self.process().pause();
    }

    pub fn resume(&self) {
        self.process().resume();
    }

    /// The whole reply to one command of the text protocol: `command("stats\r\n")`.
    ///
    /// # Panics
    ///
    /// If there is no reply.
    #[track_caller]
    pub fn command(&self, text: &str) -> String {
        let reply = self.try_command(text.as_bytes());
        let reply = reply.unwrap_or_else(|error| panic!("{text:?}: {error}"));
        String::from_utf8_lossy(&reply).into_owned()
    }

    /// Like `command`.
    ///
    /// # Errors
    ///
    /// If there is no reply.
    pub fn try_command(&self, text: &[u8]) -> Result<Vec<u8>> {
        if let Some(port) = self.port {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            stream.set_read_timeout(LIMIT)?;
            exchange(stream, text)
        } else {
            let stream = UnixStream::connect(self.socket())?;
            stream.set_read_timeout(LIMIT)?;
            exchange(stream, text)
        }
    }

    /// A number of its statistics: `stat("curr_connections")`.
    #[track_caller]
    pub fn stat(&self, name: &str) -> u64 {
        let value = field(&self.command("stats\r\n"), name);
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no number {name:?}"))
    }

    #[track_caller]
    fn process(&self) -> &Process {
        self.process.as_ref().expect("the server was killed")
    }

    /// Whether it answers before it ends or time is up.
    fn answers(&mut self) -> bool {
        let mut ended = false;
        holds_within(START, || {
            ended = self.process.as_mut().is_none_or(Process::has_ended);
            ended || self.is_the_one_that_answers()
        }) && !ended
    }

    /// Another process may have taken the port and answer there.
    fn is_the_one_that_answers(&self) -> bool {
        let Ok(stats) = self.try_command(b"stats\r\n") else { return false };
        let pid = field(&String::from_utf8_lossy(&stats), "pid");
        // Without a password it says no statistics, but answers.
        pid.is_none_or(|pid| pid == self.pid().to_string())
    }
}

fn field(stats: &str, name: &str) -> Option<String> {
    stats.lines().find_map(|line| {
        let (field, value) = line.strip_prefix("STAT ")?.split_once(' ')?;
        (field == name).then(|| value.to_owned())
    })
}

/// Sends one command and reads its reply to the end.
fn exchange(mut stream: impl Read + Write, text: &[u8]) -> Result<Vec<u8>> {
    stream.write_all(text)?;
    let mut stream = BufReader::new(stream);
    let mut reply = Vec::new();
    loop {
        let start = reply.len();
        if stream.read_until(b'\n', &mut reply)? == 0 {
            return Err(std::io::Error::other("the server closed the connection"));
        }
        let line = String::from_utf8_lossy(&reply[start..]).into_owned();
        let words: Vec<&str> = line.split_whitespace().collect();
        let length = match words.as_slice() {
            ["VALUE", _, _, length, ..] | ["VA", length, ..] => length.parse::<u64>().ok(),
            _ => None,
        };
        if let Some(length) = length {
            stream.by_ref().take(length + 2).read_to_end(&mut reply)?;
        }
        // These are followed by more; all others end a reply.
        if !matches!(words.first(), Some(&("VALUE" | "STAT" | "ITEM"))) {
            return Ok(reply);
        }
    }
}
