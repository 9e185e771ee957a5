//! The stack before stores that are there and say that they do not work now: out of memory, loading, busy, without
//! replicas, with too many clients, or with slots that nobody serves.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use test_support::servers::resp::{Connection, Value};
use test_support::servers::{RedisServer, wait, wait_until};
use traffik::decorator::Resilience;
use traffik::{Backend, DecidedBy, InMemory, LifespanExt};

use super::places::{Cluster, End, Fault, OneMemcached, OneRedis, Place, is_written};
use super::{OFTEN, Round, SOON, Targets, WIDE, outlives};

/// Why a Redis server does not work.
#[derive(Debug)]
enum Refusal {
    OutOfMemory,
    TooFewReplicas,
    CannotSave,
    /// With the only client that it has a place for.
    TooManyClients(Connection),
    /// Once it began, with the script that keeps it busy.
    Busy(Option<JoinHandle<std::io::Result<Value>>>),
    Loading,
}

/// A Redis server that refuses.
struct Unwilling {
    redis: OneRedis,
    refusal: Refusal,
    /// How often the test has killed a script.
    killed: u64,
}

impl Unwilling {
    fn start(arguments: &[&str], refusal: impl FnOnce(&RedisServer) -> Refusal) -> Self {
        let redis = OneRedis::with(arguments);
        let refusal = refusal(&redis.server);
        Self { redis, refusal, killed: 0 }
    }
}

/// Runs a script without keys, by which a server has something.
fn fill(server: &RedisServer, script: &str) {
    assert!(!server.words(&["EVAL", script, "0"]).unwrap().is_error());
}

/// Waits until a plain client that writes is refused with that word.
fn wait_for(server: &RedisServer, word: &str) {
    wait_until(word, SOON, || {
        let reply = server.words(&["SET", "probe", "1", "PX", "1000"]);
        reply.is_ok_and(|reply| reply.is_error() && reply.text().starts_with(word))
    });
}

impl Place for Unwilling {
    fn store(&self) -> Arc<dyn Backend> {
        self.redis.store()
    }

    fn begin(&mut self, fault: Fault) {
        assert_eq!(fault, Fault::Unwilling);
        let server = &mut self.redis.server;
        match &mut self.refusal {
            Refusal::OutOfMemory => {
                server.cmd("CONFIG SET maxmemory 1mb");
                wait_for(server, "OOM");
            }
            Refusal::TooFewReplicas => {
                server.cmd("CONFIG SET min-replicas-to-write 1");
                wait_for(server, "NOREPLICAS");
            }
            Refusal::CannotSave => {
                server.cmd("CONFIG SET stop-writes-on-bgsave-error yes");
                wait_for(server, "MISCONF");
            }
            Refusal::TooManyClients(operator) => {
                operator.cmd("CONFIG SET maxclients 1").unwrap();
                operator.cmd("CLIENT KILL TYPE normal").unwrap();
            }
            Refusal::Busy(script) => {
                let mut other = server.connect().unwrap();
                other.limit(SOON * 3).unwrap();
                let endless: &[&[u8]] = &[b"EVAL", b"while true do end", b"0"];
                *script = Some(thread::spawn(move || other.command(endless)));
                wait_for(server, "BUSY");
            }
            Refusal::Loading => {
                // It writes all down and ends, so that nothing is lost.
                let _ = server.words(&["SHUTDOWN", "SAVE"]);
                server.kill();
                server.start_again_without_wait();
                wait_for(server, "LOADING");
            }
        }
    }

    fn end(&mut self, _fault: Fault, _end: End) {
        let server = &mut self.redis.server;
        match &mut self.refusal {
            Refusal::OutOfMemory => drop(server.cmd("CONFIG SET maxmemory 0")),
            Refusal::TooFewReplicas => drop(server.cmd("CONFIG SET min-replicas-to-write 0")),
            Refusal::CannotSave => drop(server.cmd("CONFIG SET stop-writes-on-bgsave-error no")),
            Refusal::TooManyClients(operator) => {
                let stats = operator.cmd("INFO stats").unwrap();
                assert_ne!(stats.field("rejected_connections").as_deref(), Some("0"));
                operator.cmd("CONFIG SET maxclients 100").unwrap();
            }
            Refusal::Busy(script) => {
                let script = script.take().unwrap();
                assert!(!script.is_finished(), "the script of another is not killed");
                server.cmd("SCRIPT KILL");
                assert!(script.join().unwrap().unwrap().is_error());
                self.killed += 1;
                assert_eq!(server.calls("script|kill"), self.killed, "only this test's");
            }
            Refusal::Loading => drop(server.cmd("CONFIG SET key-load-delay 0")),
        }
        wait_until("it takes writes", SOON, || is_written(&self.redis.server, "probe"));
    }

    fn denies_unwillingly(&self) -> bool {
        let Self { refusal, .. } = self;
        matches!(refusal, Refusal::OutOfMemory | Refusal::TooFewReplicas | Refusal::CannotSave)
    }

    fn connections(&self) -> usize {
        self.redis.connections()
    }

    fn most_connections(&self) -> usize {
        self.redis.most_connections()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f08_the_stack_outlives_a_redis_that_is_out_of_memory() {
    let place = Unwilling::start(&["--maxmemory-policy", "noeviction"], |server| {
        fill(
            server,
            "for i = 1, 40 do redis.call('SET', 'filler' .. i, string.rep('x', 50000)) end",
        );
        Refusal::OutOfMemory
    });
    outlives(place, Fault::Unwilling).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f13_the_stack_outlives_a_redis_that_is_loading_its_data() {
    // It needs minutes unless it is told to hurry, and looks at its clients each few milliseconds.
    let slowly = ["--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024"];
    let place = Unwilling::start(&slowly, |server| {
        fill(server, "for i = 1, 200000 do redis.call('SET', 'filler' .. i, 'x') end");
        Refusal::Loading
    });
    outlives(place, Fault::Unwilling).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f14_the_stack_outlives_a_redis_that_is_busy_with_a_script() {
    let place = Unwilling::start(&["--busy-reply-threshold", "50"], |_| Refusal::Busy(None));
    outlives(place, Fault::Unwilling).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_the_stack_outlives_a_redis_with_too_few_replicas() {
    outlives(Unwilling::start(&[], |_| Refusal::TooFewReplicas), Fault::Unwilling).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_the_stack_outlives_a_redis_that_cannot_save() {
    let place = Unwilling::start(&["--stop-writes-on-bgsave-error", "no"], |server| {
        // A file cannot take the place of a directory.
        std::fs::create_dir(server.dir().join("dump.rdb")).unwrap();
        server.words(&["CONFIG", "SET", "save", "3600 1"]).unwrap();
        server.cmd("BGSAVE");
        wait_until("it cannot save", SOON, || {
            let info = server.cmd("INFO persistence");
            info.field("rdb_last_bgsave_status").as_deref() == Some("err")
        });
        Refusal::CannotSave
    });
    outlives(place, Fault::Unwilling).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_the_stack_outlives_a_redis_with_too_many_clients() {
    let place = Unwilling::start(&[], |server| Refusal::TooManyClients(server.connect().unwrap()));
    outlives(place, Fault::Unwilling).await;
}

/// A cluster whose first master serves none of its slots.
struct Unserved(Cluster);

/// The first third without its last.
const SLOTS: &str = "0 5459";

impl Place for Unserved {
    fn store(&self) -> Arc<dyn Backend> {
        self.0.store()
    }

    fn is_hit(&self, throttle: &str, key: &str) -> bool {
        self.0.is_hit(throttle, key) && self.0.slot_of(throttle, key) < 5460
    }

    fn begin(&mut self, fault: Fault) {
        assert_eq!(fault, Fault::Unwilling);
        let master = &self.0.cluster.nodes()[0];
        master.cmd(&format!("CLUSTER DELSLOTSRANGE {SLOTS}"));
    }

    fn end(&mut self, _fault: Fault, _end: End) {
        self.0.cluster.nodes()[0].cmd(&format!("CLUSTER ADDSLOTSRANGE {SLOTS}"));
        self.0.wait_for_writes();
    }

    fn connections(&self) -> usize {
        self.0.connections()
    }

    fn most_connections(&self) -> usize {
        self.0.most_connections()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_the_stack_outlives_slots_of_a_cluster_that_nobody_serves() {
    let mut place = Unserved(Cluster::start());
    let targets = Targets::of(&place);
    let stack = Resilience::recommended().fallback(InMemory::new());
    let stack = stack.around(place.store()).unwrap();
    let life = stack.lifespan().await.unwrap();
    let running = targets.load(&stack, 0);
    running.load.each_is_decided(DecidedBy::Backend, OFTEN, WIDE, wait::now()).await;
    // Not from the first call too: other nodes answer, so no circuit opens, and each hit takes all of its time.
    let fault = Fault::Unwilling;
    place.begin(fault);
    let round = Round { fault, end: End::Lifted, losses: 0, denies: false };
    round.runs(&mut place, running, wait::now(), "in the middle").await;
    life.close().await.unwrap();
}

/// A Memcached server that evicts nothing, and whose memory others take.
struct Full(OneMemcached);

/// Values of these sizes lie in the classes of memory in which a state may be, each of which has a page of its own.
const SIZES: [usize; 9] = [12, 36, 66, 105, 150, 215, 295, 385, 505];
/// More than a page has room for.
const EACH: usize = 12_000;

impl Full {
    fn start() -> Self {
        let place = Self(OneMemcached::with(&["-m", "8", "-M"]));
        let large = "x".repeat(100_000);
        let fillers = 0..100;
        place.send(
            fillers.map(|number| format!("set large{number} 0 0 100000 noreply\r\n{large}\r\n")),
        );
        place
    }

    /// Sends commands that have no reply, and waits until all are done.
    fn send(&self, commands: impl Iterator<Item = String>) {
        let commands: String = commands.chain(["version\r\n".to_owned()]).collect();
        let reply = self.0.server.try_command(commands.as_bytes()).unwrap();
        assert!(reply.starts_with(b"VERSION"), "{}", String::from_utf8_lossy(&reply));
    }

    fn is_full(&self) -> bool {
        let probe = |size: &usize| {
            let value = "x".repeat(*size);
            self.0.server.command(&format!("set probe-of-size 0 0 {size}\r\n{value}\r\n"))
        };
        SIZES.iter().map(probe).all(|reply| reply.contains("out of memory"))
    }
}

impl Place for Full {
    fn store(&self) -> Arc<dyn Backend> {
        self.0.store()
    }

    fn begin(&mut self, fault: Fault) {
        assert_eq!(fault, Fault::Unwilling);
        for size in SIZES {
            let value = "x".repeat(size);
            let set =
                |number| format!("set filler-{size}-{number} 0 0 {size} noreply\r\n{value}\r\n");
            self.send((0..EACH).map(set));
        }
        assert!(self.is_full());
    }

    fn end(&mut self, _fault: Fault, _end: End) {
        for size in SIZES {
            self.send((0..EACH).map(|number| format!("delete filler-{size}-{number} noreply\r\n")));
        }
        assert!(!self.is_full());
    }

    fn denies_unwillingly(&self) -> bool {
        true
    }

    fn connections(&self) -> usize {
        self.0.connections()
    }

    fn most_connections(&self) -> usize {
        self.0.most_connections()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f18_the_stack_outlives_a_memcached_that_is_out_of_memory() {
    outlives(Full::start(), Fault::Unwilling).await;
}
