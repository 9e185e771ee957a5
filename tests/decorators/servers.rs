//! Circuit breaker and failover around real servers that are killed, refused and silent.

use std::future::Future;
use std::time::Duration;

use test_support::Counting;
use test_support::servers::{MemcachedServer, RedisServer, wait};
use tokio::task::JoinSet;
use traffik::{
    Backend, DecidedBy, FixedWindow, InMemory, Memcached, OnError, Receipt, Redis, Throttle,
};

/// Enough for whatever must happen at all.
const SOON: Duration = Duration::from_secs(30);
const TASKS: usize = 8;
const HITS: usize = 150;
/// The shortest pause between two probes.
const SHORTEST_PAUSE: Duration = Duration::from_millis(75);

/// Measured: 0.2 s at most, and half a second is promised. The rest is slack for a busy machine.
const BACK: Duration = Duration::from_secs(2);

trait Server {
    fn pause(&mut self);
    fn resume(&mut self);
    fn kill(&mut self);
    fn restart(&mut self);
}

macro_rules! server {
    ($server:ty) => {
        impl Server for $server {
            fn pause(&mut self) {
                (**self).pause();
            }
            fn resume(&mut self) {
                (**self).resume();
            }
            fn kill(&mut self) {
                (**self).kill();
            }
            fn restart(&mut self) {
                <$server>::restart(self);
            }
        }
    };
}

server!(RedisServer);
server!(MemcachedServer);

fn redis(server: &RedisServer) -> Redis {
    Redis::builder().url(server.url()).namespace("decorated").build().unwrap()
}

fn memcached(server: &MemcachedServer) -> Memcached {
    let url = format!("memcached://{}", server.address());
    Memcached::builder().url(url).namespace("decorated").build().unwrap()
}

/// What happens to the server, and how it ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Nobody answers, and no connection is closed.
    Silent,
    /// The connections are cut, and then refused.
    Killed,
}

impl Fault {
    fn begin(self, server: &mut impl Server) {
        match self {
            Self::Silent => server.pause(),
            Self::Killed => server.kill(),
        }
    }

    fn end(self, server: &mut impl Server) {
        match self {
            Self::Silent => server.resume(),
            Self::Killed => server.restart(),
        }
    }
}

fn throttle(backend: impl Backend) -> traffik::ThrottleBuilder {
    // A window that ends during no test.
    let builder = Throttle::builder("decorated").limit("1000000/366d", FixedWindow::new());
    // No machine is so busy that this decides.
    builder.backend(backend).on_error(OnError::Raise).deadline(SOON)
}

/// A service with a fallback, and each participant by itself.
struct Service<B> {
    counting: Counting<B>,
    throttle: Throttle,
    of_store: Throttle,
    of_memory: Throttle,
}

impl<B: Backend + Clone> Service<B> {
    fn new(store: B) -> Self {
        let (counting, memory) = (Counting::new(store.clone()), InMemory::new());
        let built = throttle(counting.clone()).fallback(memory.clone()).build().unwrap();
        let of_store = throttle(store).build().unwrap();
        let of_memory = throttle(memory).build().unwrap();
        Self { counting, throttle: built, of_store, of_memory }
    }

    /// Waits until that one decides, and returns what it took of the key.
    async fn taken_by(&self, by: DecidedBy, key: &str) -> Receipt {
        let mut taken = None;
        wait::eventually(&format!("{by:?} decides"), SOON, async || {
            let decision = ends(self.throttle.hit(key)).await.unwrap();
            let decided_by = decision.decided_by();
            let receipt = decision.receipt().unwrap();
            if decided_by == by {
                taken = Some(receipt);
            } else {
                let _ = ends(self.throttle.refund(key, receipt)).await;
            }
            taken.is_some()
        })
        .await;
        taken.unwrap()
    }

    /// Hits while the store is away: all are decided in memory, and the store is asked by few.
    async fn goes_on(&self) {
        let (start, before) = (wait::now(), self.counting.asked());
        let mut load = JoinSet::new();
        for task in 0..TASKS {
            let throttle = self.throttle.clone();
            load.spawn(async move {
                for number in 0..HITS {
                    let decision = ends(throttle.hit((task as u64, number as u64))).await.unwrap();
                    assert!(decision.is_allowed());
                    assert_eq!(decision.decided_by(), DecidedBy::Fallback);
                }
            });
        }
        while let Some(done) = load.join_next().await {
            done.unwrap();
        }
        let asked = self.counting.asked() - before;
        // Those that opened the circuit: as many as were answered before, a few, and as are under way beside them. And
        // probes.
        let probes = start.elapsed().as_millis() / SHORTEST_PAUSE.as_millis();
        let most = 10 + 2 * TASKS + usize::try_from(probes).unwrap() + 1;
        assert!(asked <= most, "{asked} of {} hits asked the store, at most {most}", TASKS * HITS);
    }
}

/// A call that must end.
async fn ends<F: Future>(call: F) -> F::Output {
    tokio::time::timeout(SOON, call).await.expect("a call ends")
}

async fn used(throttle: &Throttle, key: &str) -> u32 {
    let peeked = wait::heals("a peek", SOON, || ends(throttle.peek(key))).await;
    1_000_000 - peeked.remaining()
}

/// The service goes on, comes back, and what was taken is given back to whoever took it.
async fn survives<B: Backend + Clone>(mut server: impl Server, store: B, fault: Fault) {
    let service = Service::new(store);
    for round in 0..2 {
        let [here, there] = ["memory", "store"].map(|who| format!("taken by {who} {round}"));
        let of_store = service.taken_by(DecidedBy::Backend, &there).await;
        assert_eq!(used(&service.of_store, &there).await, 1);
        fault.begin(&mut server);
        service.goes_on().await;
        let of_memory = service.taken_by(DecidedBy::Fallback, &here).await;
        assert_eq!(used(&service.of_memory, &here).await, 1);
        fault.end(&mut server);
        let healed = wait::now();
        let probe = service.taken_by(DecidedBy::Backend, "healed").await;
        println!("{fault:?}: back after {:?}", healed.elapsed());
        assert!(healed.elapsed() < BACK);
        ends(service.throttle.refund(here.as_str(), of_memory)).await.unwrap();
        for (key, receipt) in [("healed", probe), (there.as_str(), of_store)] {
            // Of what is lost nothing can be given back, and a connection may be found dead by it.
            let refunded = ends(service.throttle.refund(key, receipt)).await;
            assert!(refunded.is_ok() || fault == Fault::Killed, "{refunded:?}");
        }
        assert_eq!(used(&service.of_store, &there).await, 0, "given back, or lost with all else");
        assert_eq!(used(&service.of_memory, &here).await, 0);
        assert_eq!(used(&service.of_memory, &there).await, 0, "never asked there");
    }
}

/// The store is away when the service begins.
async fn begins_without<B: Backend + Clone>(mut server: impl Server, store: B, fault: Fault) {
    fault.begin(&mut server);
    let service = Service::new(store);
    service.goes_on().await;
    fault.end(&mut server);
    let of_store = service.taken_by(DecidedBy::Backend, "first").await;
    assert!(used(&service.of_store, "first").await >= 1);
    ends(service.throttle.refund("first", of_store)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_a_service_outlives_a_redis_that_is_killed_under_load() {
    let server = RedisServer::start();
    let store = redis(&server);
    survives(server, store, Fault::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_a_service_outlives_a_memcached_that_is_killed_under_load() {
    let server = MemcachedServer::start();
    let store = memcached(&server);
    survives(server, store, Fault::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_a_service_begins_while_its_servers_refuse() {
    let (one, other) = (RedisServer::start(), MemcachedServer::start());
    let (redis, memcached) = (redis(&one), memcached(&other));
    begins_without(one, redis, Fault::Killed).await;
    begins_without(other, memcached, Fault::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_a_service_outlives_a_redis_that_goes_silent() {
    let server = RedisServer::start();
    let store = redis(&server);
    survives(server, store, Fault::Silent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_a_service_outlives_a_memcached_that_goes_silent() {
    let server = MemcachedServer::start();
    let store = memcached(&server);
    survives(server, store, Fault::Silent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_a_service_begins_while_its_servers_are_silent() {
    let (one, other) = (RedisServer::start(), MemcachedServer::start());
    let (redis, memcached) = (redis(&one), memcached(&other));
    begins_without(one, redis, Fault::Silent).await;
    begins_without(other, memcached, Fault::Silent).await;
}

/// A pool of one connection, which nobody answers: those who wait for it are decided in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f21_an_exhausted_pool_is_no_end() {
    let mut server = MemcachedServer::start();
    let url = format!("memcached://{}", server.address());
    let builder = Memcached::builder().url(url).namespace("decorated").pool_size(1);
    let service = Service::new(builder.build().unwrap());
    drop(service.taken_by(DecidedBy::Backend, "a").await);
    server.pause();
    let mut load = JoinSet::new();
    for number in 0..500_u64 {
        let throttle = service.throttle.clone();
        load.spawn(async move { ends(throttle.hit(number)).await.unwrap().decided_by() });
    }
    while let Some(by) = load.join_next().await {
        assert_eq!(by.unwrap(), DecidedBy::Fallback);
    }
    server.resume();
    drop(service.taken_by(DecidedBy::Backend, "a").await);
}

/// The server counts: an open circuit sends nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_an_open_circuit_sends_no_command() {
    let mut server = RedisServer::start();
    let service = Service::new(redis(&server));
    drop(service.taken_by(DecidedBy::Backend, "a").await);
    server.pause();
    service.goes_on().await;
    server.resume();
    drop(service.taken_by(DecidedBy::Backend, "a").await);
    let commands = server.calls("evalsha") + server.calls("eval");
    // Some scripts were sent with their source.
    let most = u64::try_from(service.counting.asked()).unwrap() + 8;
    assert!(commands <= most, "{commands} commands for {most} questions");
}
