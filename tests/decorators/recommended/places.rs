//! The deployments around whose stores the stack is put, each behind proxies, and what is done to them.

use std::sync::Arc;
use std::time::Duration;

use test_support::servers::instance::Instance;
use test_support::servers::sentinel::{SERVICE, Sentinels};
use test_support::servers::{
    Direction, MemcachedServer, Proxy, RedisCluster, RedisServer, wait_until,
};
use traffik::{Backend, Memcached, Redis};

const NAMESPACE: &str = "stack";
/// Enough for whatever must happen at all.
const SOON: Duration = Duration::from_secs(30);
/// Each way, so that an answer takes longer than the deadline of a hit.
const TOO_SLOW: Duration = Duration::from_millis(150);

/// What happens to a store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    /// Its connections are cut, and it comes back without its data.
    Killed,
    /// It stands still (SIGSTOP).
    Silent,
    /// Its connections are cut, and new ones refused.
    Refused,
    /// It does what it is told, and its replies do not come through.
    Mute,
    /// It answers when the deadline of a hit is over.
    TooSlow,
    /// It is there, and says that it does not do it now.
    Unwilling,
}

/// How a fault ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    /// The server is there again.
    Lifted,
    /// Another took its place, where there is another.
    TakenOver,
}

pub(super) trait Place {
    fn store(&self) -> Arc<dyn Backend>;

    /// Whether the node to which the faults happen counts that key.
    fn is_hit(&self, _throttle: &str, _key: &str) -> bool {
        true
    }

    fn begin(&mut self, fault: Fault);

    /// Returns when the store can be written to again by a plain client.
    fn end(&mut self, fault: Fault, end: End);

    /// How many limits more pass at the store because it lost what it had counted.
    fn losses(&self, fault: Fault, _end: End) -> u32 {
        u32::from(fault == Fault::Killed)
    }

    /// Whether it denies all the same while it is unwilling, for which it writes nothing.
    fn denies_unwillingly(&self) -> bool {
        false
    }

    /// Connections to the servers that are ours.
    fn connections(&self) -> usize;

    /// How many there may be.
    fn most_connections(&self) -> usize;

    /// What the Redis servers among them are told.
    fn tell(&self, _command: &str) {
        unreachable!("only of those with Redis")
    }

    /// Lets nothing more through on the connections that are open, and says nothing to either end.
    fn strand(&self) {
        unreachable!("only of one server")
    }
}

fn begin(fault: Fault, server: &mut Instance, proxy: &Proxy) {
    match fault {
        Fault::Killed => server.kill(),
        Fault::Silent => server.pause(),
        Fault::Refused => {
            proxy.refuse();
            proxy.cut();
        }
        Fault::Mute => proxy.hold(Direction::Reply),
        Fault::TooSlow => proxy.delay(TOO_SLOW, TOO_SLOW),
        Fault::Unwilling => unreachable!("each place refuses in its own way"),
    }
}

/// Of all faults but `Killed`, after which a server is started again.
fn lift(fault: Fault, server: &Instance, proxy: &Proxy) {
    match fault {
        Fault::Killed => unreachable!("it is started again"),
        Fault::Silent => server.resume(),
        Fault::Refused | Fault::Mute | Fault::TooSlow => proxy.forward(),
        Fault::Unwilling => unreachable!("each place refuses in its own way"),
    }
}

pub(super) fn is_written(server: &RedisServer, key: &str) -> bool {
    let reply = server.words(&["SET", key, "1", "PX", "1000"]);
    reply.is_ok_and(|reply| !reply.is_error())
}

/// All but the one that asks and those of sentinels.
fn clients(server: &RedisServer) -> usize {
    let list = server.cmd("CLIENT LIST TYPE normal").text();
    let is_ours = |line: &&str| !line.contains(" name=sentinel") && !line.contains(" cmd=client");
    list.lines().filter(is_ours).count()
}

fn url(proxy: &Proxy) -> String {
    format!("redis://127.0.0.1:{}", proxy.port())
}

/// One Redis server.
pub(super) struct OneRedis {
    pub(super) server: RedisServer,
    proxy: Proxy,
}

impl OneRedis {
    pub(super) fn start() -> Self {
        Self::with(&[])
    }

    /// ... with more arguments.
    pub(super) fn with(arguments: &[&str]) -> Self {
        let server = RedisServer::with(arguments);
        let proxy = Proxy::start(server.port());
        Self { server, proxy }
    }
}

impl Place for OneRedis {
    fn store(&self) -> Arc<dyn Backend> {
        let builder = Redis::builder().url(url(&self.proxy)).namespace(NAMESPACE);
        Arc::new(builder.build().unwrap())
    }

    fn begin(&mut self, fault: Fault) {
        begin(fault, &mut self.server, &self.proxy);
    }

    fn end(&mut self, fault: Fault, _end: End) {
        match fault {
            Fault::Killed => self.server.restart(),
            _ => lift(fault, &self.server, &self.proxy),
        }
    }

    fn connections(&self) -> usize {
        clients(&self.server)
    }

    fn most_connections(&self) -> usize {
        1
    }

    fn tell(&self, command: &str) {
        self.server.cmd(command);
    }

    fn strand(&self) {
        self.proxy.strand();
    }
}

/// Three masters, to the first of which all happens.
pub(super) struct Cluster {
    pub(super) cluster: RedisCluster,
    proxies: Vec<Proxy>,
}

impl Cluster {
    pub(super) fn start() -> Self {
        let (cluster, proxies) = RedisCluster::behind_proxies(3, 0, &[]);
        Self { cluster, proxies }
    }

    /// Waits until the node to which all happens can be written to.
    pub(super) fn wait_for_writes(&self) {
        // In its own slots, for the first third is of the first master.
        let mut keys = (0..).map(|number: u32| number.to_string());
        let key = keys.find(|key| self.cluster.slot_of(key) < 5000).unwrap();
        wait_until("the node takes writes", SOON, || is_written(&self.cluster.nodes()[0], &key));
    }

    /// The slot in which the state of a key is.
    pub(super) fn slot_of(&self, throttle: &str, key: &str) -> u16 {
        self.cluster.slot_of(&format!("{{{NAMESPACE}|t|{throttle}|{key}}}"))
    }
}

impl Place for Cluster {
    fn store(&self) -> Arc<dyn Backend> {
        let urls: Vec<String> = self.proxies.iter().map(url).collect();
        Arc::new(Redis::builder().cluster(urls).namespace(NAMESPACE).build().unwrap())
    }

    fn is_hit(&self, throttle: &str, key: &str) -> bool {
        self.cluster.master_of_slot(self.slot_of(throttle, key)) == 0
    }

    fn begin(&mut self, fault: Fault) {
        begin(fault, self.cluster.node(0), &self.proxies[0]);
    }

    fn end(&mut self, fault: Fault, _end: End) {
        match fault {
            Fault::Killed => self.cluster.node(0).restart(),
            _ => lift(fault, self.cluster.node(0), &self.proxies[0]),
        }
        self.wait_for_writes();
    }

    fn connections(&self) -> usize {
        self.cluster.nodes().iter().map(clients).sum()
    }

    fn most_connections(&self) -> usize {
        self.cluster.nodes().len()
    }

    fn tell(&self, command: &str) {
        self.cluster.nodes().iter().for_each(|node| drop(node.cmd(command)));
    }
}

/// A master and its replica, which takes its place when the test says so: the sentinels by themselves wait for
/// longer than any test takes.
pub(super) struct Named {
    servers: Sentinels,
    proxies: [Proxy; 2],
}

const DOWN_AFTER: Duration = Duration::from_secs(600);

impl Named {
    pub(super) fn start() -> Self {
        let (servers, proxies) = Sentinels::behind_proxies(&[], DOWN_AFTER);
        Self { servers, proxies }
    }

    fn named(&self) -> u16 {
        let address = format!("SENTINEL GET-MASTER-ADDR-BY-NAME {SERVICE}");
        let named = self.servers.sentinel(0).cmd(&address);
        u16::try_from(named.array()[1].int()).unwrap()
    }

    fn take_over(&self) {
        let next = self.proxies[1].port();
        let order = ["SENTINEL", "FAILOVER", SERVICE];
        wait_until("the replica takes over", SOON, || {
            // Refused while it is on its way, and until the replica is known to be good.
            let _ = self.servers.sentinel(0).words(&order);
            self.named() == next && is_written(self.servers.server(1), "probe")
        });
    }
}

impl Place for Named {
    fn store(&self) -> Arc<dyn Backend> {
        let builder = Redis::builder().sentinels(self.servers.sentinel_urls(), SERVICE);
        Arc::new(builder.namespace(NAMESPACE).build().unwrap())
    }

    fn begin(&mut self, fault: Fault) {
        begin(fault, &mut self.servers.servers()[0], &self.proxies[0]);
    }

    fn end(&mut self, fault: Fault, end: End) {
        match (fault, end) {
            (Fault::Killed | Fault::Silent, End::TakenOver) => self.take_over(),
            (Fault::Killed, End::Lifted) => self.servers.servers()[0].restart(),
            _ => lift(fault, self.servers.server(0), &self.proxies[0]),
        }
    }

    /// The replica may not have all.
    fn losses(&self, fault: Fault, end: End) -> u32 {
        let takes_over = fault == Fault::Silent && end == End::TakenOver;
        u32::from(fault == Fault::Killed || takes_over)
    }

    fn connections(&self) -> usize {
        let running = [0, 1].map(|node| self.servers.server(node));
        // A replica is a client of its master by a type of its own.
        running.into_iter().filter(|server| server.is_running()).map(clients).sum()
    }

    fn most_connections(&self) -> usize {
        1
    }

    fn tell(&self, command: &str) {
        self.servers.server(0).cmd(command);
    }
}

/// One Memcached server.
pub(super) struct OneMemcached {
    pub(super) server: MemcachedServer,
    proxy: Proxy,
    /// Connections before there was any of ours.
    idle: u64,
}

impl OneMemcached {
    pub(super) fn start() -> Self {
        Self::with(&[])
    }

    /// ... with more arguments.
    pub(super) fn with(arguments: &[&str]) -> Self {
        let server = MemcachedServer::with(arguments);
        let proxy = Proxy::start(server.port());
        let idle = server.stat("curr_connections");
        Self { server, proxy, idle }
    }
}

impl Place for OneMemcached {
    fn store(&self) -> Arc<dyn Backend> {
        let url = format!("memcached://127.0.0.1:{}", self.proxy.port());
        Arc::new(Memcached::builder().url(url).namespace(NAMESPACE).build().unwrap())
    }

    fn begin(&mut self, fault: Fault) {
        begin(fault, &mut self.server, &self.proxy);
    }

    fn end(&mut self, fault: Fault, _end: End) {
        match fault {
            Fault::Killed => self.server.restart(),
            _ => lift(fault, &self.server, &self.proxy),
        }
    }

    fn connections(&self) -> usize {
        let ours = self.server.stat("curr_connections").saturating_sub(self.idle);
        usize::try_from(ours).unwrap()
    }

    fn most_connections(&self) -> usize {
        Memcached::DEFAULT_POOL_SIZE
    }

    fn strand(&self) {
        self.proxy.strand();
    }
}
