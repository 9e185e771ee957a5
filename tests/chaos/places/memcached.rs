//! Two Memcached servers.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};

use test_support::Dice;
use test_support::servers::instance::Instance;
use test_support::servers::{MemcachedServer, Proxy};
use traffik::Memcached;

use super::Place;
use crate::faults::Sort;
use crate::probe::{Check, Items};
use crate::worker::{Kind, NAMESPACE};

pub(super) struct Nodes {
    servers: [MemcachedServer; 2],
    proxies: [Proxy; 2],
    /// Connections before there was any of ours.
    idle: [u64; 2],
}

impl Nodes {
    pub(super) fn start() -> Self {
        let servers = [(); 2].map(|()| MemcachedServer::start());
        let proxies = servers.each_ref().map(|server| Proxy::start(server.port()));
        let idle = servers.each_ref().map(connections);
        Self { servers, proxies, idle }
    }
}

/// With the one that asks.
fn connections(server: &MemcachedServer) -> u64 {
    server.stat("curr_connections")
}

impl Place for Nodes {
    fn kind(&self) -> Kind {
        Kind::Memcached
    }

    fn urls(&self) -> Vec<String> {
        self.proxies.iter().map(|proxy| format!("memcached://127.0.0.1:{}", proxy.port())).collect()
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
            Sort::ClientClock,
        ]
    }

    /// It has only its memory.
    fn grants(&self, sort: Sort) -> u32 {
        u32::from(matches!(sort, Sort::Kill | Sort::ClientClock))
    }

    fn heals_before(&self, _sort: Sort) -> bool {
        false
    }

    fn nodes(&self) -> usize {
        self.servers.len()
    }

    fn target(&mut self, dice: &mut Dice) -> usize {
        usize::from(dice.roll(2) == 1)
    }

    fn proxy(&self, node: usize) -> &Proxy {
        &self.proxies[node]
    }

    fn instance(&mut self, node: usize) -> &mut Instance {
        &mut self.servers[node]
    }

    fn start_again(&mut self, node: usize, _keeps: bool) {
        self.servers[node].restart();
    }

    fn check(&self) -> Box<dyn Check> {
        Box::new(Items(self.proxies.each_ref().map(Proxy::port).to_vec()))
    }

    fn is_whole(&mut self) -> bool {
        self.servers.iter().all(|server| server.try_command(b"version\r\n").is_ok())
    }

    fn too_many_connections(&self, processes: usize) -> Vec<String> {
        let most = u64::try_from(processes * Memcached::DEFAULT_POOL_SIZE).unwrap();
        let too_many = |(server, idle): (&MemcachedServer, &u64)| {
            let ours = connections(server).saturating_sub(*idle);
            (ours > most).then(|| format!("{ours} connections of {processes} processes"))
        };
        self.servers.iter().zip(&self.idle).filter_map(too_many).collect()
    }

    fn without_expiry(&self) -> Vec<String> {
        self.servers.iter().flat_map(without_expiry_on).collect()
    }
}

fn without_expiry_on(server: &MemcachedServer) -> Vec<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port())).unwrap();
    stream.write_all(b"lru_crawler metadump all\r\n").unwrap();
    let lines = BufReader::new(stream).lines().map(Result::unwrap);
    let items: Vec<String> = lines.take_while(|line| line != "END").collect();
    let ours = |line: &&String| line.starts_with(&format!("key={NAMESPACE}"));
    assert!(items.iter().any(|line| ours(&line)), "nothing is counted: {items:?}");
    let stays = items.iter().filter(ours).filter(|line| line.contains(" exp=-1 "));
    stays.map(|line| format!("an item has no expiry: {line}")).collect()
}
