//! A Redis server.

use std::ffi::OsString;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::certificates::Certificates;
use super::instance::{Instance, on_a_free_port};
use super::ports;
use super::process::tail;
use super::resp::{Connection, Value};

const DEFAULT_PROGRAM: &str = "redis-server";
const DEFAULTS: [&str; 8] =
    ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--protected-mode", "no"];

/// The program that the environment names in `TRAFFIK_REDIS_SERVER`: a Valkey server, or a Redis server of
/// another version.
fn program() -> OsString {
    std::env::var_os("TRAFFIK_REDIS_SERVER").unwrap_or_else(|| DEFAULT_PROGRAM.into())
}

/// A Redis server of its own, which ends with the value.
#[derive(Debug)]
pub struct RedisServer {
    instance: Instance,
    port: u16,
    tls_port: Option<u16>,
    setup: Setup,
}

impl Deref for RedisServer {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl DerefMut for RedisServer {
    fn deref_mut(&mut self) -> &mut Instance {
        &mut self.instance
    }
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

    fn password(&self) -> Option<&str> {
        let mut arguments = self.arguments.iter();
        arguments.find(|argument| *argument == "--requirepass")?;
        arguments.next().map(String::as_str)
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
        on_a_free_port(|port| {
            let tls_port = setup.certificates.as_ref().map(|_| ports::free());
            // A server may be built without TLS, and of those tests the client is the subject.
            let program = match tls_port {
                Some(_) => DEFAULT_PROGRAM.into(),
                None => program(),
            };
            let instance = Instance::new(program);
            let mut server = Self { instance, port, tls_port, setup: setup.clone() };
            server.start_again_without_wait();
            let answers = server.answers();
            (server, answers)
        })
    }

    /// Adds arguments for when it is started again.
    pub fn add_arguments(&mut self, arguments: &[&str]) {
        self.setup.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
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

    /// `unix://` and the path of its socket.
    pub fn socket_url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Kills it if it runs, starts it on the same port, and waits until it answers. What it had
    /// in memory is lost.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.start_again_without_wait();
        assert!(self.answers(), "{}", self.failure());
    }

    /// Starts it on the same port after a `kill`, and does not wait for it.
    pub fn start_again_without_wait(&mut self) {
        let mut command = self.instance.command();
        if let Some(configuration) = &self.setup.sentinel {
            // The sentinel writes to it what it learns, and finds that after a restart.
            let path = self.dir().join("sentinel.conf");
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
            .arg(self.dir().path())
            .args(&self.setup.arguments)
            .envs(self.setup.envs.iter().map(|(name, value)| (name, value)));
        self.spawn(command);
    }

    /// A connection to it, which has given the password.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn connect(&self) -> std::io::Result<Connection> {
        connect(self.port, self.setup.password())
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

    /// The part of a URL that has the password.
    fn user(&self) -> String {
        self.setup.password().map(|password| format!(":{password}@")).unwrap_or_default()
    }

    fn answers(&mut self) -> bool {
        let Self { instance, port, setup, .. } = self;
        let ready = |reply: Value| !reply.is_error() || reply.text().starts_with("NOAUTH");
        instance.answers(|pid| {
            let Ok(mut connection) = connect(*port, setup.password()) else { return false };
            let pong = connection.cmd("PING").is_ok_and(ready);
            let info = connection.cmd("INFO server").ok();
            let said = info.and_then(|info| info.field("process_id"));
            pong && said.is_none_or(|said| said == pid.to_string())
        })
    }
}

fn connect(port: u16, password: Option<&str>) -> std::io::Result<Connection> {
    let mut connection = Connection::open(port)?;
    if let Some(password) = password {
        connection.authenticate(password)?;
    }
    Ok(connection)
}
