//! The deployments under test, each behind proxies of ours.

mod cluster;
mod memcached;
mod sentinels;
mod server;

use std::time::Duration;

use test_support::Dice;
use test_support::servers::instance::Instance;
use test_support::servers::{Proxy, RedisServer, Value, wait_until};

use crate::faults::Sort;
use crate::probe::Check;
use crate::worker::{Kind, NAMESPACE};

/// A deployment.
pub(crate) trait Place {
    fn kind(&self) -> Kind;

    /// What the workers are given.
    fn urls(&self) -> Vec<String>;

    /// What may be done to it.
    fn sorts(&self) -> &'static [Sort];

    /// How many limits more may pass in a window that this touched: because counts were lost, or because
    /// time went on.
    fn grants(&self, sort: Sort) -> u32;

    /// Whether another takes over before it is lifted.
    fn heals_before(&self, sort: Sort) -> bool;

    /// How many nodes keep counts, or copies of them.
    fn nodes(&self) -> usize;

    /// The node of the next fault.
    fn target(&mut self, dice: &mut Dice) -> usize;

    /// In front of a node.
    fn proxy(&self, node: usize) -> &Proxy;

    fn instance(&mut self, node: usize) -> &mut Instance;

    /// Starts a node that was killed, with what it had stored or without, and waits until it answers.
    fn start_again(&mut self, node: usize, keeps: bool);

    /// A plain client of it.
    fn check(&self) -> Box<dyn Check>;

    /// Whether all of it runs and agrees.
    fn is_whole(&mut self) -> bool;

    /// What is wrong with the number of connections, of so many processes.
    fn too_many_connections(&self, processes: usize) -> Vec<String>;

    /// What is stored and would stay forever.
    fn without_expiry(&self) -> Vec<String>;

    /// A node, where they are Redis servers.
    fn redis(&self, _node: usize) -> &RedisServer {
        unreachable!("only of those with Redis")
    }

    fn shift_clock(&self, _by: Duration) {
        unreachable!("only of those with a clock of their own")
    }

    /// Lets another take the place of that node; returns whether that is tried.
    fn fail_over(&self, _node: usize) -> bool {
        unreachable!("only of those with replicas")
    }

    fn disturb_sentinel(&mut self, _number: usize, _kills: bool, _hold: Duration) {
        unreachable!("only of those with sentinels")
    }
}

pub(crate) fn start(kind: Kind) -> Box<dyn Place> {
    match kind {
        Kind::Redis => Box::new(server::Server::start()),
        Kind::Cluster => Box::new(cluster::Cluster::start()),
        Kind::Sentinels => Box::new(sentinels::Sentinels::start()),
        Kind::Memcached => Box::new(memcached::Nodes::start()),
    }
}

/// Enough for what a server does by itself.
const SOON: Duration = Duration::from_secs(30);
/// All Redis servers store each write before they answer.
const STORED: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// The reply to a command, when there is one: whoever reconfigures a server closes its connections.
pub(crate) fn ask(server: &RedisServer, text: &str) -> Value {
    let words: Vec<&str> = text.split(' ').collect();
    let mut reply = None;
    wait_until(text, SOON, || {
        reply = server.words(&words).ok().filter(|reply| !reply.is_error());
        reply.is_some()
    });
    reply.unwrap()
}

/// Starts a Redis server that was killed.
fn start_again(server: &mut RedisServer, keeps: bool) {
    if !keeps {
        let stored = server.dir().join("appendonlydir");
        std::fs::remove_dir_all(stored).unwrap();
    }
    server.restart();
}

/// More connections than one a process, on a Redis server.
fn too_many_on(server: &RedisServer, processes: usize) -> Option<String> {
    let list = ask(server, "CLIENT LIST TYPE normal").text();
    let is_ours = |line: &&str| !line.contains(" name=sentinel") && !line.contains(" cmd=client");
    let ours: Vec<&str> = list.lines().filter(is_ours).collect();
    let too_many = ours.len() > processes;
    too_many.then(|| {
        format!("{} connections of {processes} processes:\n{}", ours.len(), ours.join("\n"))
    })
}

/// Keys of ours without a TTL, on the masters among those Redis servers.
fn without_expiry_on<'a>(servers: impl IntoIterator<Item = &'a RedisServer>) -> Vec<String> {
    let (mut stored, mut stay) = (0, Vec::new());
    for server in servers.into_iter().filter(|server| !is_replica(server)) {
        for key in ask(server, &format!("KEYS {NAMESPACE}|*")).array() {
            let Value::Bytes(name) = key else { panic!("not a key: {key:?}") };
            stored += 1;
            if server.command(&[b"PTTL", name]).unwrap().int() == -1 {
                stay.push(format!("{} has no expiry", key.text()));
            }
        }
    }
    assert!(stored > 0, "nothing is stored");
    stay
}

fn is_replica(server: &RedisServer) -> bool {
    ask(server, "ROLE").array()[0].text() == "slave"
}
