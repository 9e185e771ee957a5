//! A Redis master and its replica, watched by sentinels.

use std::time::Duration;

use super::proxy::Proxy;
use super::redis::{RedisServer, Setup};
use super::wait::wait_until;

/// The name that the sentinels know the master by.
pub const SERVICE: &str = "service";
const LIMIT: Duration = Duration::from_secs(20);

/// A master, a replica, and three sentinels, two of which decide.
#[derive(Debug)]
pub struct Sentinels {
    sentinels: Vec<RedisServer>,
    servers: Vec<RedisServer>,
}

impl Sentinels {
    /// Waits until all know each other.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// ... with more arguments for master and replica.
    pub fn with(arguments: &[&str]) -> Self {
        let arguments = [&["--repl-diskless-sync-delay", "0"], arguments].concat();
        let master = RedisServer::with(&arguments);
        let port = master.port().to_string();
        let replica =
            RedisServer::with(&[&arguments[..], &["--replicaof", "127.0.0.1", &port]].concat());
        // A sentinel learns of a replica when it asks the master, which it does seldom.
        wait_until("the replica is linked", LIMIT, || {
            master.cmd("INFO replication").text().contains("state=online")
        });
        master.wait_for_replicas(1);
        let sentinels = (0..3).map(|_| sentinel(master.port())).collect();
        let all = Self { sentinels, servers: vec![master, replica] };
        wait_until("the sentinels know all", LIMIT, || all.sentinels.iter().all(knows_all));
        all
    }

    /// ... and with a proxy in front of master and replica, by which everybody knows them, the sentinels too. They
    /// find a server down that is silent for that long.
    pub fn behind_proxies(arguments: &[&str], down_after: Duration) -> (Self, [Proxy; 2]) {
        let mut all = Self::with(arguments);
        let proxies = [0, 1].map(|node| Proxy::start(all.servers[node].port()));
        for (server, proxy) in all.servers.iter_mut().zip(&proxies) {
            let port = proxy.port().to_string();
            server.cmd(&format!("CONFIG SET replica-announce-port {port}"));
            // When it starts again, it is told whose replica it is.
            let arguments = ["--replica-announce-port", &port, "--replicaof", "no", "one"];
            server.add_arguments(&arguments);
        }
        let master = proxies[0].port();
        all.servers[1].cmd(&format!("REPLICAOF 127.0.0.1 {master}"));
        for sentinel in &all.sentinels {
            let millis = down_after.as_millis();
            sentinel.cmd(&format!("SENTINEL REMOVE {SERVICE}"));
            sentinel.cmd(&format!("SENTINEL MONITOR {SERVICE} 127.0.0.1 {master} 2"));
            sentinel.cmd(&format!("SENTINEL SET {SERVICE} down-after-milliseconds {millis}"));
            sentinel.cmd(&format!("SENTINEL SET {SERVICE} failover-timeout 3000"));
        }
        let know_all = || all.sentinels.iter().all(knows_all);
        wait_until("the sentinels know the proxies", LIMIT, know_all);
        (all, proxies)
    }

    /// `redis://127.0.0.1:port` of each sentinel.
    pub fn sentinel_urls(&self) -> Vec<String> {
        self.sentinels.iter().map(RedisServer::url).collect()
    }

    pub fn sentinels(&mut self) -> &mut [RedisServer] {
        &mut self.sentinels
    }

    /// Master and replica, in the order in which they started.
    pub fn servers(&mut self) -> &mut [RedisServer] {
        &mut self.servers
    }

    /// One of master and replica.
    pub fn server(&self, place: usize) -> &RedisServer {
        &self.servers[place]
    }

    /// One of the sentinels.
    pub fn sentinel(&self, place: usize) -> &RedisServer {
        &self.sentinels[place]
    }

    /// The one that the first running sentinel names, which may be down.
    #[track_caller]
    pub fn master(&self) -> &RedisServer {
        &self.servers[self.master_index()]
    }

    /// The other one.
    #[track_caller]
    pub fn replica(&self) -> &RedisServer {
        &self.servers[1 - self.master_index()]
    }

    /// Kills the master; its place in `servers`.
    #[track_caller]
    pub fn kill_master(&mut self) -> usize {
        let master = self.master_index();
        self.servers[master].kill();
        master
    }

    /// Waits until all running sentinels name another master than `old`, and it is one.
    #[track_caller]
    pub fn wait_for_failover(&self, old: usize) {
        let new = &self.servers[1 - old];
        wait_until("another master", LIMIT, || {
            let running = || self.sentinels.iter().filter(|sentinel| sentinel.is_running());
            running().all(|sentinel| named_by(sentinel) == new.port())
                && new.cmd("ROLE").array()[0].text() == "master"
        });
    }

    #[track_caller]
    fn master_index(&self) -> usize {
        let sentinel = self.sentinels.iter().find(|sentinel| sentinel.is_running());
        let port = named_by(sentinel.expect("no sentinel runs"));
        self.servers.iter().position(|server| server.port() == port).unwrap()
    }
}

fn sentinel(master: u16) -> RedisServer {
    let configuration = format!(
        "sentinel monitor {SERVICE} 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds {SERVICE} 500\n\
         sentinel failover-timeout {SERVICE} 3000\n\
         sentinel parallel-syncs {SERVICE} 1\n"
    );
    let sentinel =
        RedisServer::from_setup(Setup { sentinel: Some(configuration), ..Setup::default() });
    // They find each other sooner; servers before 7.0 do not know this.
    let _ = sentinel.words(&["SENTINEL", "DEBUG", "publish-period", "200", "info-period", "500"]);
    sentinel
}

fn named_by(sentinel: &RedisServer) -> u16 {
    let address = sentinel.cmd(&format!("SENTINEL GET-MASTER-ADDR-BY-NAME {SERVICE}"));
    u16::try_from(address.array()[1].int()).unwrap()
}

fn knows_all(sentinel: &RedisServer) -> bool {
    let known = sentinel.cmd(&format!("SENTINEL MASTER {SERVICE}"));
    let known: Vec<String> = known.array().iter().map(|value| value.text()).collect();
    let is = |name: &str, value: &str| known.chunks(2).any(|pair| pair == [name, value]);
    is("num-slaves", "1") && is("num-other-sentinels", "2") && is("flags", "master")
}
