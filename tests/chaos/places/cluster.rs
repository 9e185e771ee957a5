//! Three masters, each with a replica. The nodes name their proxies to all.

use std::time::Duration;

use test_support::Dice;
use test_support::servers::instance::Instance;
use test_support::servers::wait::holds_within;
use test_support::servers::{Proxy, RedisCluster, RedisServer, wait_until};

use super::{Place, SOON, STORED, ask, is_replica, start_again, too_many_on, without_expiry_on};
use crate::faults::Sort;
use crate::probe::{Check, Masters};
use crate::worker::{self, Kind, NAMESPACE};

const MASTERS: usize = 3;

pub(super) struct Cluster {
    cluster: RedisCluster,
    proxies: Vec<Proxy>,
}

impl Cluster {
    pub(super) fn start() -> Self {
        let (cluster, proxies) = RedisCluster::behind_proxies(MASTERS, 1, &STORED);
        let place = Self { cluster, proxies };
        wait_until("the cluster is whole", SOON, || place.agrees());
        place
    }

    /// Whether each node says that all is well, and each replica is linked.
    fn agrees(&self) -> bool {
        let replicas = self.proxies.len() - MASTERS;
        self.cluster.nodes().iter().all(|node| {
            let ask = |words: &[&str]| node.words(words).ok().filter(|reply| !reply.is_error());
            let well = || {
                let replication = ask(&["INFO", "replication"])?;
                let info = ask(&["CLUSTER", "INFO"])?;
                let known = ask(&["CLUSTER", "NODES"])?.text();
                let is = |name, value| info.field(name).as_deref() == Some(value);
                let linked = replication.field("role").as_deref() == Some("master")
                    || replication.field("master_link_status").as_deref() == Some("up");
                let count = known.lines().filter(|line| line.contains("slave")).count();
                let good = !known.contains("fail") && !known.contains("handshake");
                Some(linked && good && count == replicas && is("cluster_state", "ok"))
            };
            well() == Some(true)
        })
    }

    /// The node that copies that master.
    fn replica_of(&self, master: usize) -> Option<usize> {
        let port = self.proxies[master].port().to_string();
        let copies = |node: &RedisServer| {
            let info = ask(node, "INFO replication");
            info.field("role").as_deref() == Some("slave")
                && info.field("master_port") == Some(port.clone())
        };
        self.cluster.nodes().iter().position(copies)
    }
}

impl Place for Cluster {
    fn kind(&self) -> Kind {
        Kind::Cluster
    }

    fn urls(&self) -> Vec<String> {
        self.proxies.iter().map(|proxy| format!("redis://127.0.0.1:{}", proxy.port())).collect()
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
        ]
    }

    /// A replica may take over that has not all. A partition is one of clients and replicas only.
    fn grants(&self, sort: Sort) -> u32 {
        u32::from(matches!(sort, Sort::Kill | Sort::Stop | Sort::Failover))
    }

    fn heals_before(&self, sort: Sort) -> bool {
        matches!(sort, Sort::Kill | Sort::Stop | Sort::Failover)
    }

    fn nodes(&self) -> usize {
        self.proxies.len()
    }

    /// Mostly a master.
    fn target(&mut self, dice: &mut Dice) -> usize {
        let all = self.cluster.nodes();
        let masters: Vec<usize> = (0..all.len()).filter(|&node| !is_replica(&all[node])).collect();
        let any: Vec<usize> = (0..all.len()).collect();
        let of_all = dice.roll(8) == 0;
        *dice.choose(if of_all { &any } else { &masters })
    }

    fn proxy(&self, node: usize) -> &Proxy {
        &self.proxies[node]
    }

    fn instance(&mut self, node: usize) -> &mut Instance {
        self.cluster.node(node)
    }

    fn start_again(&mut self, node: usize, keeps: bool) {
        start_again(self.cluster.node(node), keeps);
    }

    fn check(&self) -> Box<dyn Check> {
        let key = |(throttle, key)| {
            // Of the slot of the state.
            let key = format!("{{{NAMESPACE}|t|{throttle}|{key}}}probe");
            let slot = self.cluster.slot_of(&key);
            (key, i64::from(slot))
        };
        let nodes = self.cluster.nodes().iter().map(RedisServer::port).collect();
        Box::new(Masters { nodes, keys: worker::names().into_iter().map(key).collect() })
    }

    fn is_whole(&mut self) -> bool {
        self.agrees()
    }

    fn too_many_connections(&self, processes: usize) -> Vec<String> {
        self.cluster.nodes().iter().filter_map(|node| too_many_on(node, processes)).collect()
    }

    fn without_expiry(&self) -> Vec<String> {
        without_expiry_on(self.cluster.nodes())
    }

    fn redis(&self, node: usize) -> &RedisServer {
        &self.cluster.nodes()[node]
    }

    fn fail_over(&self, node: usize) -> bool {
        let replica = self.replica_of(node).unwrap_or(node);
        // Refused by one that is a master.
        let told = self.redis(replica).words(&["CLUSTER", "FAILOVER"]);
        holds_within(Duration::from_secs(5), || !is_replica(self.redis(replica)));
        !told.is_ok_and(|reply| reply.is_error())
    }
}
