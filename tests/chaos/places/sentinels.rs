//! A master, its replica and three sentinels. Everybody knows the servers by their proxies, so a partition
//! is one of the sentinels too.

use std::time::Duration;

use test_support::Dice;
use test_support::servers::instance::Instance;
use test_support::servers::sentinel::{SERVICE, Sentinels as Servers};
use test_support::servers::wait::holds_within;
use test_support::servers::{Proxy, RedisServer, Value, pause, wait_until};

use super::{Place, SOON, STORED, ask, start_again, too_many_on, without_expiry_on};
use crate::faults::Sort;
use crate::probe::{Check, Named, named_by_most};
use crate::worker::Kind;

/// The sentinels find a server down that is silent for so long.
const DOWN_AFTER: Duration = Duration::from_millis(500);

pub(super) struct Sentinels {
    servers: Servers,
    proxies: [Proxy; 2],
    sentinels: Vec<u16>,
}

impl Sentinels {
    pub(super) fn start() -> Self {
        let (mut servers, proxies) = Servers::behind_proxies(&STORED, DOWN_AFTER);
        let sentinels = servers.sentinels().iter().map(RedisServer::port).collect();
        let mut place = Self { servers, proxies, sentinels };
        wait_until("the sentinels know the proxies", SOON, || place.is_whole());
        place
    }

    /// The node that most sentinels name.
    fn master(&self) -> Option<usize> {
        let port = named_by_most(&self.sentinels)?;
        self.proxies.iter().position(|proxy| proxy.port() == port)
    }
}

impl Place for Sentinels {
    fn kind(&self) -> Kind {
        Kind::Sentinels
    }

    fn urls(&self) -> Vec<String> {
        self.servers.sentinel_urls()
    }

    fn sorts(&self) -> &'static [Sort] {
        &[
            Sort::Kill,
            Sort::Stop,
            Sort::HoldRequests,
            Sort::HoldReplies,
            Sort::HoldAll,
            Sort::Strand,
            Sort::Cut,
            Sort::Refuse,
            Sort::Slow,
            Sort::TooSlow,
            Sort::FlushScripts,
            Sort::FullMemory,
            Sort::Failover,
            Sort::KillSentinel,
            Sort::StopSentinel,
        ]
    }

    /// Whatever may let the sentinels promote the replica, which may not have all.
    fn grants(&self, sort: Sort) -> u32 {
        u32::from(self.heals_before(sort))
    }

    fn heals_before(&self, sort: Sort) -> bool {
        matches!(
            sort,
            Sort::Kill
                | Sort::Stop
                | Sort::HoldRequests
                | Sort::HoldReplies
                | Sort::HoldAll
                | Sort::Refuse
                | Sort::TooSlow
                | Sort::Failover
        )
    }

    fn nodes(&self) -> usize {
        self.proxies.len()
    }

    /// Mostly the master.
    fn target(&mut self, dice: &mut Dice) -> usize {
        let master = self.master().unwrap_or(0);
        if dice.roll(8) == 0 { 1 - master } else { master }
    }

    fn proxy(&self, node: usize) -> &Proxy {
        &self.proxies[node]
    }

    fn instance(&mut self, node: usize) -> &mut Instance {
        &mut self.servers.servers()[node]
    }

    fn start_again(&mut self, node: usize, keeps: bool) {
        start_again(&mut self.servers.servers()[node], keeps);
        // As its operator would, and as the sentinels do after a while.
        if let Some(master) = self.master().filter(|&master| master != node) {
            let port = self.proxies[master].port();
            ask(self.redis(node), &format!("REPLICAOF 127.0.0.1 {port}"));
        }
    }

    fn check(&self) -> Box<dyn Check> {
        Box::new(Named { sentinels: self.sentinels.clone() })
    }

    fn is_whole(&mut self) -> bool {
        let Some(master) = self.master() else { return false };
        let port = self.proxies[master].port().to_string();
        let [master, replica] = [master, 1 - master].map(|node| {
            let role = self.redis(node).words(&["ROLE"]).ok();
            role.filter(|role| !role.is_error()).map_or(Vec::new(), |role| texts(&role))
        });
        let is_linked = replica.first().is_some_and(|role| role == "slave")
            && replica.get(2) == Some(&port)
            && replica.get(3).is_some_and(|state| state == "connected");
        master.first().is_some_and(|role| role == "master")
            && is_linked
            && self.servers.sentinels().iter().all(|sentinel| knows_all(sentinel, &port))
    }

    fn too_many_connections(&self, processes: usize) -> Vec<String> {
        (0..2).filter_map(|node| too_many_on(self.redis(node), processes)).collect()
    }

    fn without_expiry(&self) -> Vec<String> {
        without_expiry_on((0..2).map(|node| self.redis(node)))
    }

    fn redis(&self, node: usize) -> &RedisServer {
        self.servers.server(node)
    }

    fn fail_over(&self, _node: usize) -> bool {
        let before = self.master();
        // Refused while there is no good replica.
        let told = self.servers.sentinel(0).words(&["SENTINEL", "FAILOVER", SERVICE]);
        if told.is_ok_and(|reply| reply.is_error()) {
            return false;
        }
        holds_within(Duration::from_secs(5), || {
            self.master().is_some_and(|now| before != Some(now))
        });
        true
    }

    fn disturb_sentinel(&mut self, number: usize, kills: bool, hold: Duration) {
        let sentinel = &mut self.servers.sentinels()[number];
        if kills {
            sentinel.kill();
            pause::blocking::lasts(hold);
            sentinel.restart();
            let hurry = ["SENTINEL", "DEBUG", "publish-period", "200", "info-period", "500"];
            let _ = sentinel.words(&hurry);
        } else {
            sentinel.pause();
            pause::blocking::lasts(hold);
            sentinel.resume();
        }
    }
}

fn texts(reply: &Value) -> Vec<String> {
    reply.array().iter().map(Value::text).collect()
}

/// Whether a sentinel sees the master on that port, a good replica, and the other sentinels.
fn knows_all(sentinel: &RedisServer, port: &str) -> bool {
    let ask = |what: &str| sentinel.words(&["SENTINEL", what, SERVICE]).ok();
    let Some(Value::Array(_)) = ask("MASTER") else { return false };
    let known = ask("MASTER").map_or(Vec::new(), |reply| texts(&reply));
    let is = |name: &str, value: &str| known.chunks(2).any(|pair| pair == [name, value]);
    let Some(Value::Array(replicas)) = ask("REPLICAS") else { return false };
    let replicas: Vec<String> = replicas.iter().flat_map(texts).collect();
    let is_good = replicas.chunks(2).any(|pair| pair == ["flags", "slave"])
        && replicas.chunks(2).any(|pair| pair == ["master-link-status", "ok"]);
    is("flags", "master") && is("port", port) && is("num-other-sentinels", "2") && is_good
}
