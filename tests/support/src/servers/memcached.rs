//! A Memcached server.

use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::instance::{Instance, on_a_free_port};

/// How long a reply may take.
const LIMIT: Option<Duration> = Some(Duration::from_secs(10));

/// A Memcached server of its own, which ends with the value.
#[derive(Debug)]
pub struct MemcachedServer {
    instance: Instance,
    /// None if it listens on a unix socket, for then it does on that only.
    port: Option<u16>,
    arguments: Vec<String>,
    envs: Vec<(String, String)>,
}

impl Deref for MemcachedServer {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl DerefMut for MemcachedServer {
    fn deref_mut(&mut self) -> &mut Instance {
        &mut self.instance
    }
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
        on_a_free_port(|port| Self::start_on(Some(port), arguments, envs))
    }

    /// On a unix socket, and on no port.
    pub fn on_socket(arguments: &[&str]) -> Self {
        let (server, answers) = Self::start_on(None, arguments, &[]);
        assert!(answers, "{}", server.failure());
        server
    }

    /// Starts one; whether it answers.
    fn start_on(port: Option<u16>, arguments: &[&str], envs: &[(String, String)]) -> (Self, bool) {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let instance = Instance::new("memcached");
        let mut server = Self { instance, port, arguments, envs: envs.to_vec() };
        server.start_again_without_wait();
        let answers = server.answers();
        (server, answers)
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
            .envs(self.envs.iter().map(|(name, value)| (name, value)));
        self.spawn(command);
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
        reply(self.port, &self.socket(), text)
    }

    /// A number of its statistics: `stat("curr_connections")`.
    #[track_caller]
    pub fn stat(&self, name: &str) -> u64 {
        let value = field(&self.command("stats\r\n"), name);
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no number {name:?}"))
    }

    fn answers(&mut self) -> bool {
        let (port, socket) = (self.port, self.socket());
        self.instance.answers(|pid| {
            let Ok(stats) = reply(port, &socket, b"stats\r\n") else { return false };
            let said = field(&String::from_utf8_lossy(&stats), "pid");
            // Without a password it says no statistics, but answers.
            said.is_none_or(|said| said == pid.to_string())
        })
    }
}

/// The reply of the server on that port, or else on that socket.
fn reply(port: Option<u16>, socket: &Path, text: &[u8]) -> Result<Vec<u8>> {
    if let Some(port) = port {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(LIMIT)?;
        exchange(stream, text)
    } else {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(LIMIT)?;
        exchange(stream, text)
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
