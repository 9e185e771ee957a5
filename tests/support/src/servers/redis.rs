//! A Redis server.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::certificates::Certificates;
use super::dir::TempDir;
use super::ports;
use super::process::{Process, tail};
use super::resp::{Connection, Value};
use super::wait::holds_within;

/// How often another port is tried when one is taken at the last moment.
const ATTEMPTS: usize = 5;
const START: Duration = Duration::from_secs(10);
const DEFAULTS: [&str; 8] =
    ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--protected-mode", "no"];

/// A Redis server of its own, which ends with the value.
#[derive(Debug)]
pub struct RedisServer {
    /// None while it is killed.
    process: Option<Process>,
    port: u16,
    tls_port: Option<u16>,
    setup: Setup,
    // Last: what is in it is in use until the process ends.
    dir: TempDir,
}

/// What a server is started with, besides its port and directory.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    pub arguments: Vec<String>,
    pub envs: Vec<(String, String)>,
    /// For a sentinel, its configuration.
    pub sentinel: Option<String>,
    pub certificates: Option<Arc<Certificates>>,
}

impl Setup {
    pub fn new(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Self { arguments, ..Self::default() }
    }
}

impl RedisServer {
    /// A server that stores nothing on disk.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// ... with more arguments, which win over ours: `&["--maxmemory", "1mb"]`.
    pub fn with(arguments: &[&str]) -> Self {
        Self::from_setup(Setup::new(arguments))
    }

    /// ... and with environment variables.
    pub fn with_env(arguments: &[&str], envs: &[(String, String)]) -> Self {
        Self::from_setup(Setup { envs: envs.to_vec(), ..Setup::new(arguments) })
    }

    /// A server that also speaks TLS, on a port of its own.
    pub fn with_tls(arguments: &[&str]) -> Self {
        Self::with_certificates(arguments, Certificates::new())
    }

    /// ... with those certificates.
    pub fn with_certificates(arguments: &[&str], certificates: Certificates) -> Self {
        let certificates = Some(Arc::new(certificates));
        Self::from_setup(Setup { certificates, ..Setup::new(arguments) })
    }

    pub fn from_setup(setup: Setup) -> Self {
        for _ in 0..ATTEMPTS {
            let (dir, port) = (TempDir::new(), ports::free());
            let tls_port = setup.certificates.as_ref().map(|_| ports::free());
            let mut server = Self { process: None, port, tls_port, setup: setup.clone(), dir };
            server.start_again_without_wait();
            if server.answers() {
                return server;
            }
            let log = tail(&server.log());
            assert!(log.contains("Address already in use"), "redis-server does not start:\n{log}");
        }
        panic!("redis-server found no free port in {ATTEMPTS} attempts");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:port`, with the password if `--requirepass` gives one.
    pub fn url(&self) -> String {
        format!("redis://{}127.0.0.1:{}", self.user(), self.port)
    }

    /// `rediss://127.0.0.1:port`, of a server that speaks TLS.
    #[track_caller]
    pub fn tls_url(&self) -> String {
        format!("rediss://{}127.0.0.1:{}", self.user(), self.tls_port())
    }

    #[track_caller]
    pub fn tls_port(&self) -> u16 {
        self.tls_port.expect("the server speaks no TLS")
    }

    /// What a client of TLS must trust.
    #[track_caller]
    pub fn certificates(&self) -> &Certificates {
        self.setup.certificates.as_ref().expect("the server speaks no TLS")
    }

    /// Its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    /// `unix://` and the path of its socket.
    pub fn socket_url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The directory of the server, removed with the value.
    pub fn dir(&self) -> &TempDir {
        &self.dir
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
        assert!(self.answers(), "redis-server does not start again:\n{}", tail(&self.log()));
    }

    /// Starts it on the same port after a `kill`, and does not wait for it.
    pub fn start_again_without_wait(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let mut command = Command::new("redis-server");
        if let Some(configuration) = &self.setup.sentinel {
            // The sentinel writes to it what it learns, and finds that after a restart.
            let path = self.dir.join("sentinel.conf");
            if !path.exists() {
                std::fs::write(&path, configuration).unwrap();
            }
            command.arg(path).args(["--sentinel", "--bind", "127.0.0.1"]);
        } else {
            command.args(DEFAULTS).arg("--unixsocket").arg(self.socket());
        }
        if let (Some(port), Some(certificates)) = (self.tls_port, &self.setup.certificates) {
            command.args(["--tls-port", &port.to_string(), "--tls-auth-clients", "no"]);
            command.arg("--tls-ca-cert-file").arg(certificates.ca());
            command.arg("--tls-cert-file").arg(certificates.certificate());
            command.arg("--tls-key-file").arg(certificates.key());
        }
        command
            .args(["--port", &self.port.to_string(), "--dir"])
            .arg(self.dir.path())
            .args(&self.setup.arguments)
            .envs(self.setup.envs.iter().map(|(name, value)| (name, value)))
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

    /// A connection to it, which has given the password.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn connect(&self) -> std::io::Result<Connection> {
        let mut connection = Connection::open(self.port)?;
        if let Some(password) = self.password() {
            connection.authenticate(password)?;
        }
        Ok(connection)
    }

    /// The reply to a command, by a connection of its own; also an error reply.
    ///
    /// # Errors
    ///
    /// If there is no reply.
    pub fn command(&self, words: &[&[u8]]) -> std::io::Result<Value> {
        self.connect()?.command(words)
    }

    /// Like `command`, of words.
    ///
    /// # Errors
    ///
    /// If there is no reply.
    pub fn words(&self, words: &[&str]) -> std::io::Result<Value> {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.command(&words)
    }

    /// The reply to a command, split at spaces: `cmd("INFO commandstats")`.
    ///
    /// # Panics
    ///
    /// If there is no reply, or it is an error.
    #[track_caller]
    pub fn cmd(&self, text: &str) -> Value {
        let words: Vec<&str> = text.split_whitespace().collect();
        match self.words(&words) {
            Ok(Value::Error(error)) => panic!("{text}: {error}"),
            Ok(value) => value,
            Err(error) => panic!("{text}: {error}\n{}", tail(&self.log())),
        }
    }

    /// How often the server has run a command since it started or `CONFIG RESETSTAT`.
    #[track_caller]
    pub fn calls(&self, command: &str) -> u64 {
        let stats = self.cmd("INFO commandstats");
        let Some(field) = stats.field(&format!("cmdstat_{}", command.to_lowercase())) else {
            return 0;
        };
        field.strip_prefix("calls=").unwrap().split(',').next().unwrap().parse().unwrap()
    }

    /// Waits until that many replicas have all that was written so far. A replica that is said to
    /// be online may have nothing for a second yet.
    #[track_caller]
    pub fn wait_for_replicas(&self, count: usize) {
        let mut connection = self.connect().unwrap();
        // Something new to wait for, of no effect.
        connection.cmd("PUBLISH wait now").unwrap();
        let reached = connection.cmd(&format!("WAIT {count} 9000")).unwrap().int();
        assert!(usize::try_from(reached).unwrap() >= count, "only {reached} replicas have it all");
    }

    #[track_caller]
    fn process(&self) -> &Process {
        self.process.as_ref().expect("the server was killed")
    }

    /// The part of a URL that has the password.
    fn user(&self) -> String {
        self.password().map(|password| format!(":{password}@")).unwrap_or_default()
    }

    fn password(&self) -> Option<&str> {
        let mut arguments = self.setup.arguments.iter();
        arguments.find(|argument| *argument == "--requirepass")?;
        arguments.next().map(String::as_str)
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
        let pid = self.pid().to_string();
        let ready = |reply: Value| !reply.is_error() || reply.text().starts_with("NOAUTH");
        let Ok(mut connection) = self.connect() else { return false };
        let pong = connection.cmd("PING").is_ok_and(ready);
        let info = connection.cmd("INFO server").ok();
        pong && info.and_then(|info| info.field("process_id")).is_none_or(|id| id == pid)
    }
}
