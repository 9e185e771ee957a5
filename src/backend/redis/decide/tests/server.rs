//! A server of the tests' own, and what they ask of it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::redis::{Connection, Pipeline, Value};

use crate::backend::redis::scripts::Script;

/// A `redis-server`, or what `TRAFFIK_REDIS_SERVER` names, on a Unix socket; stopped when this is dropped.
pub(super) struct Server {
    connection: Connection,
    _process: Process,
}

struct Process {
    child: Child,
    folder: PathBuf,
}

impl Server {
    pub(super) fn start() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("traffik-lua-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("s");
        let program = std::env::var_os("TRAFFIK_REDIS_SERVER");
        let child = Command::new(program.unwrap_or_else(|| "redis-server".into()))
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .current_dir(&folder)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server runs; install it, these tests need it");
        let process = Process { child, folder };
        let client = ::redis::Client::open(format!("unix://{}", socket.display())).unwrap();
        for _ in 0..1_000 {
            if let Ok(connection) = client.get_connection() {
                return Self { connection, _process: process };
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("redis-server opens no socket at {}", socket.display());
    }

    pub(super) fn run<T: ::redis::FromRedisValue>(&mut self, pipeline: &Pipeline) -> T {
        pipeline.query(&mut self.connection).unwrap()
    }

    pub(super) fn eval(&mut self, script: &str, argument: &[u8]) -> Value {
        let mut eval = ::redis::cmd("EVAL");
        eval.arg(script).arg(0).arg(argument).query(&mut self.connection).unwrap()
    }

    /// How often the server was asked for that command.
    pub(super) fn calls(&mut self, command: &str) -> u64 {
        let (stats,): (String,) = self.run(::redis::pipe().cmd("INFO").arg("commandstats"));
        let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:")));
        let calls = line.and_then(|line| line.split(['=', ',']).nth(1));
        calls.map_or(0, |calls| calls.parse().unwrap())
    }

    /// Runs a script on a key, and returns its reply, the value after it and its TTL in milliseconds.
    pub(super) fn ask(
        &mut self,
        key: &str,
        script: &Script,
        arguments: &[&[u8]],
    ) -> (Value, Option<Vec<u8>>, i64) {
        let mut pipeline = ::redis::pipe();
        pipeline.add_command(script.by_hash(&[key.as_bytes()], arguments));
        pipeline.get(key).pttl(key);
        pipeline.query(&mut self.connection).unwrap_or_else(|error| {
            assert_eq!(error.code(), Some("NOSCRIPT"), "{error}");
            let source = script.source();
            let mut load = ::redis::cmd("SCRIPT");
            let () = load.arg("LOAD").arg(source).query(&mut self.connection).unwrap();
            pipeline.query(&mut self.connection).unwrap()
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
