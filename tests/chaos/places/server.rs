//! One Redis server, which stores each write before it answers and whose clock can be shifted.

use std::time::Duration;

use test_support::Dice;
use test_support::servers::instance::Instance;
use test_support::servers::{FakeTime, Proxy, RedisServer};

use super::{Place, STORED, start_again, too_many_on, without_expiry_on};
use crate::faults::Sort;
use crate::probe::{self, Check};
use crate::worker::Kind;

pub(super) struct Server {
    server: RedisServer,
    proxy: Proxy,
    time: FakeTime,
}

impl Server {
    pub(super) fn start() -> Self {
        let time = FakeTime::new();
        let server = RedisServer::with_env(&STORED, &time.env());
        let proxy = Proxy::start(server.port());
        Self { server, proxy, time }
    }
}

impl Place for Server {
    fn kind(&self) -> Kind {
        Kind::Redis
    }

    fn urls(&self) -> Vec<String> {
        vec![format!("redis://127.0.0.1:{}", self.proxy.port())]
    }

    fn sorts(&self) -> &'static [Sort] {
        &[
            Sort::Kill,
            Sort::KillAndForget,
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
            Sort::ServerClock,
            Sort::FullMemory,
        ]
    }

    /// What it has stored is kept, and no partition loses anything.
    fn grants(&self, sort: Sort) -> u32 {
        u32::from(matches!(sort, Sort::KillAndForget | Sort::ServerClock))
    }

    fn heals_before(&self, _sort: Sort) -> bool {
        false
    }

    fn nodes(&self) -> usize {
        1
    }

    fn target(&mut self, _dice: &mut Dice) -> usize {
        0
    }

    fn proxy(&self, _node: usize) -> &Proxy {
        &self.proxy
    }

    fn instance(&mut self, _node: usize) -> &mut Instance {
        &mut self.server
    }

    fn start_again(&mut self, _node: usize, keeps: bool) {
        start_again(&mut self.server, keeps);
    }

    fn check(&self) -> Box<dyn Check> {
        Box::new(probe::Server(self.proxy.port()))
    }

    fn is_whole(&mut self) -> bool {
        self.server.words(&["PING"]).is_ok_and(|reply| !reply.is_error())
    }

    fn too_many_connections(&self, processes: usize) -> Vec<String> {
        too_many_on(&self.server, processes).into_iter().collect()
    }

    fn without_expiry(&self) -> Vec<String> {
        without_expiry_on([&self.server])
    }

    fn redis(&self, _node: usize) -> &RedisServer {
        &self.server
    }

    fn shift_clock(&self, by: Duration) {
        self.time.shift(i64::try_from(by.as_secs()).unwrap());
    }
}
