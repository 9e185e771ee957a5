//! A Redis cluster.

use std::time::Duration;

use super::proxy::Proxy;
use super::redis::RedisServer;
use super::resp::Value;
use super::wait::{holds_within, wait_until};

const SLOTS: usize = 16_384;
const LIMIT: Duration = Duration::from_secs(20);
/// A node is taken for down after a second, and a replica takes its place at once.
const NODE: [&str; 16] = [
    "--cluster-enabled",
    "yes",
    "--cluster-node-timeout",
    "1000",
    "--cluster-replica-validity-factor",
    "0",
    "--cluster-require-full-coverage",
    "no",
    "--cluster-allow-replica-migration",
    "no",
    "--cluster-config-file",
    "nodes.conf",
    "--repl-diskless-sync-delay",
    "0",
    "--repl-ping-replica-period",
    "1",
];

/// A cluster: the masters come first among its nodes, then their replicas.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
    ids: Vec<String>,
}

impl RedisCluster {
    /// Waits until all nodes agree, and each replica is linked to its master. The slots are
    /// spread evenly, in the order of the masters.
    pub fn start(masters: usize, replicas_per_master: usize) -> Self {
        Self::with(masters, replicas_per_master, &[])
    }

    /// ... with more arguments for each node.
    pub fn with(masters: usize, replicas_per_master: usize, arguments: &[&str]) -> Self {
        let count = masters * (1 + replicas_per_master);
        let arguments = [&NODE, arguments].concat();
        let nodes: Vec<_> = (0..count).map(|_| RedisServer::with(&arguments)).collect();
        let ids = nodes.iter().map(|node| node.cmd("CLUSTER MYID").text()).collect();
        let cluster = Self { nodes, ids };
        cluster.give_slots(masters);
        cluster.meet();
        for replica in masters..count {
            cluster.replicate(replica, replica % masters);
        }
        wait_until("the cluster is up", LIMIT, || cluster.is_up(count - masters));
        for master in &cluster.nodes[..masters] {
            master.wait_for_replicas(replicas_per_master);
        }
        cluster
    }

    /// ... and with a proxy in front of each, by which the nodes are named to all.
    pub fn behind_proxies(
        masters: usize,
        replicas_per_master: usize,
        arguments: &[&str],
    ) -> (Self, Vec<Proxy>) {
        let mut cluster = Self::with(masters, replicas_per_master, arguments);
        let ports = cluster.nodes.iter().map(RedisServer::port);
        let proxies: Vec<Proxy> = ports.map(Proxy::start).collect();
        for (node, proxy) in cluster.nodes.iter_mut().zip(&proxies) {
            let port = proxy.port().to_string();
            node.cmd(&format!("CONFIG SET cluster-announce-port {port}"));
            node.add_arguments(&["--cluster-announce-port", &port]);
        }
        wait_until("all nodes know the proxies", LIMIT, || {
            cluster.nodes.iter().all(|node| {
                let known = node.cmd("CLUSTER NODES").text();
                proxies.iter().all(|proxy| known.contains(&format!(":{}@", proxy.port())))
            })
        });
        (cluster, proxies)
    }

    /// `redis://127.0.0.1:port` of each node.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(RedisServer::url).collect()
    }

    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// A node, to kill or restart it.
    pub fn node(&mut self, index: usize) -> &mut RedisServer {
        &mut self.nodes[index]
    }

    /// The slot of a key.
    pub fn slot_of(&self, key: &str) -> u16 {
        let slot = self.running().next().unwrap().cmd(&format!("CLUSTER KEYSLOT {key}")).int();
        u16::try_from(slot).unwrap()
    }

    /// The place in `nodes` of the master that serves the slot, by the first running node.
    #[track_caller]
    pub fn master_of_slot(&self, slot: u16) -> usize {
        let node = self.running().next().expect("no node runs");
        self.master_by(node, slot).unwrap_or_else(|| panic!("no node serves slot {slot}"))
    }

    /// Kills the master that serves the slot; its place in `nodes`.
    #[track_caller]
    pub fn kill_master_of(&mut self, slot: u16) -> usize {
        let master = self.master_of_slot(slot);
        self.nodes[master].kill();
        master
    }

    /// Waits until all running nodes agree that another node than `old` serves the slot, and the
    /// cluster is well again; the place in `nodes` of the new master.
    #[track_caller]
    pub fn wait_for_failover(&self, slot: u16, old: usize) -> usize {
        let mut new = old;
        wait_until("another master", LIMIT, || {
            new = self.agreed_master(slot).unwrap_or(old);
            new != old && self.running().all(is_well)
        });
        new
    }

    /// Begins to move a slot: from now on the old master answers `ASK` for keys that it has not.
    #[track_caller]
    pub fn begin_migration(&self, slot: u16, to: usize) {
        let from = self.master_of_slot(slot);
        let set = |node: usize, what: &str, other: usize| {
            self.nodes[node].cmd(&format!("CLUSTER SETSLOT {slot} {what} {}", self.ids[other]));
        };
        set(to, "IMPORTING", from);
        set(from, "MIGRATING", to);
    }

    /// Moves the keys of a slot between `begin_migration` and `end_migration`; how many.
    #[track_caller]
    pub fn move_keys(&self, slot: u16, to: usize) -> usize {
        let from = &self.nodes[self.master_of_slot(slot)];
        let keys = from.cmd(&format!("CLUSTER GETKEYSINSLOT {slot} 100000"));
        let port = self.nodes[to].port().to_string();
        for key in keys.array() {
            let Value::Bytes(key) = key else { panic!("not a key: {key:?}") };
            let reply = from
                .command(&[b"MIGRATE", b"127.0.0.1", port.as_bytes(), key, b"0", b"5000"])
                .unwrap();
            assert!(!reply.is_error(), "{reply:?}");
        }
        keys.array().len()
    }

    /// Ends it: from now on all answer `MOVED` to the new master, who must know it first.
    #[track_caller]
    pub fn end_migration(&self, slot: u16, to: usize) {
        let from = self.master_of_slot(slot);
        for node in [to, from] {
            self.nodes[node].cmd(&format!("CLUSTER SETSLOT {slot} NODE {}", self.ids[to]));
        }
        wait_until("all know the slot's master", LIMIT, || self.agreed_master(slot) == Some(to));
    }

    /// Moves a slot and its keys.
    #[track_caller]
    pub fn migrate(&self, slot: u16, to: usize) {
        self.begin_migration(slot, to);
        self.move_keys(slot, to);
        self.end_migration(slot, to);
    }

    fn running(&self) -> impl Iterator<Item = &RedisServer> {
        self.nodes.iter().filter(|node| node.is_running())
    }

    /// The master of the slot, if all running nodes say the same.
    fn agreed_master(&self, slot: u16) -> Option<usize> {
        let mut masters = self.running().map(|node| self.master_by(node, slot));
        let first = masters.next()??;
        masters.all(|master| master == Some(first)).then_some(first)
    }

    /// The master of the slot as that node knows it.
    fn master_by(&self, node: &RedisServer, slot: u16) -> Option<usize> {
        let ranges = node.cmd("CLUSTER SLOTS");
        let slot = i64::from(slot);
        let range = ranges
            .array()
            .iter()
            .find(|range| (range.array()[0].int()..=range.array()[1].int()).contains(&slot))?;
        let id = range.array()[2].array()[2].text();
        self.ids.iter().position(|known| *known == id)
    }

    fn give_slots(&self, masters: usize) {
        for (index, node) in self.nodes.iter().enumerate() {
            node.cmd(&format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1));
            if index < masters {
                let (first, end) = (SLOTS * index / masters, SLOTS * (index + 1) / masters);
                node.cmd(&format!("CLUSTER ADDSLOTSRANGE {first} {}", end - 1));
            }
        }
    }

    /// Each meets each, which is sooner than to wait for gossip.
    fn meet(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            for other in &self.nodes[..index] {
                node.cmd(&format!("CLUSTER MEET 127.0.0.1 {}", other.port()));
            }
        }
        wait_until("all nodes know each other", LIMIT, || {
            self.nodes.iter().all(|node| self.is_known_to(node))
        });
    }

    /// Whether that node knows all, by their ids and not only as those it is meeting.
    fn is_known_to(&self, node: &RedisServer) -> bool {
        let known = node.cmd("CLUSTER NODES").text();
        known.lines().count() == self.nodes.len()
            && self.ids.iter().all(|id| known.contains(id))
            && !known.contains("handshake")
    }

    fn replicate(&self, replica: usize, master: usize) {
        let command = format!("CLUSTER REPLICATE {}", self.ids[master]);
        let words: Vec<&str> = command.split(' ').collect();
        // Refused until the node knows that the other is a master.
        let done = holds_within(LIMIT, || !self.nodes[replica].words(&words).unwrap().is_error());
        assert!(done, "node {replica} does not replicate node {master}");
    }

    fn is_up(&self, replicas: usize) -> bool {
        self.nodes.iter().all(|node| {
            let info = node.cmd("INFO replication");
            let linked = info.field("role").as_deref() == Some("master")
                || info.field("master_link_status").as_deref() == Some("up");
            let known = node.cmd("CLUSTER NODES").text();
            let known_replicas = known.lines().filter(|line| line.contains("slave")).count();
            linked && is_well(node) && known_replicas == replicas && !known.contains("fail")
        })
    }
}

fn is_well(node: &RedisServer) -> bool {
    let info = node.cmd("CLUSTER INFO");
    let is = |name: &str, value: &str| info.field(name).as_deref() == Some(value);
    is("cluster_state", "ok")
        && is("cluster_slots_assigned", "16384")
        && is("cluster_slots_fail", "0")
}
