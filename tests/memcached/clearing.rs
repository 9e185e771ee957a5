//! `clear`, with tracked keys and without.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use traffik::strategy::{Answer, CorruptState, Op, State, StrategyId};
use traffik::{
    Backend, ErrorKind, FixedWindow, Key, LifespanExt, Limit, LockOptions, Locks, Memcached, Rate,
    Strategy, Timestamp, TokenBucket, Values,
};

use crate::world::{backend, builder, hit, limit};
use test_support::Log;
use test_support::servers::MemcachedServer;

#[tokio::test]
async fn without_tracked_keys_a_lifespan_warns_once_and_leaves_them() {
    let server = MemcachedServer::start();
    let backend = builder(&server).persistent(false).build().unwrap();
    let (log, _logging) = Log::of_thread(tracing::Level::WARN);
    let life = backend.lifespan().await.unwrap();
    let error = backend.clear().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    backend.set(&Key::value("a"), b"1", None).await.unwrap();
    life.close().await.unwrap();
    assert_eq!(log.count("left the backend as it is"), 1, "{}", log.text());
    backend.initialize().await.unwrap();
    assert!(backend.get(&Key::value("a")).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tracked_keys_are_cleared_by_any_process_also_when_they_come_again() {
    let server = MemcachedServer::start();
    let one = Arc::new(builder(&server).track_keys(true).build().unwrap());
    let other = builder(&server).track_keys(true).build().unwrap();
    let numbers = Arc::new([limit("5/30d", FixedWindow::new())]);
    let buckets = Arc::new([limit("5/30d", TokenBucket::new())]);
    let held = one.lock("kept", LockOptions::new()).await.unwrap();
    for _ in 0..2 {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..300 {
            let one = Arc::clone(&one);
            let limits = if task % 2 == 0 { Arc::clone(&numbers) } else { Arc::clone(&buckets) };
            tasks.spawn(async move {
                hit(&*one, &format!("key {task}"), &*limits).await.unwrap().remaining()
            });
        }
        let left = tasks.join_all().await;
        assert!(left.iter().all(|left| *left == 4), "each key is new: {left:?}");
        other.clear().await.unwrap();
    }
    assert!(held.is_valid() && held.release().await.unwrap(), "locks stay");
}

#[tokio::test]
async fn flush_all_takes_everything() {
    let server = MemcachedServer::start();
    let backend = backend(&server);
    server.command("set theirs 0 0 1\r\n1\r\n");
    backend.set(&Key::value("a"), b"1", None).await.unwrap();
    backend.flush_all_of_dedicated_servers().await.unwrap();
    assert_eq!(backend.get(&Key::value("a")).await.unwrap(), None);
    assert_eq!(server.command("get theirs\r\n"), "END\r\n");
}

/// Does something between the read and the write of a hit: its step runs there.
#[derive(Clone)]
struct Between(Arc<Mutex<Option<Work>>>);

type Work = Box<dyn FnOnce() + Send>;

impl Between {
    fn with(work: impl FnOnce() + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(work)))))
    }
}

impl std::fmt::Debug for Between {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Between")
    }
}

impl Strategy for Between {
    fn evaluate(
        &self,
        rate: &Rate,
        state: &mut State,
        now: Timestamp,
        cost: u32,
        op: Op,
    ) -> Result<Answer, CorruptState> {
        let work = self.0.lock().take();
        if let Some(work) = work {
            work();
        }
        FixedWindow::new().evaluate(rate, state, now, cost, op)
    }

    fn id(&self) -> StrategyId {
        FixedWindow::new().id()
    }
}

async fn remaining(backend: &Memcached, key: &str, limits: &[Limit]) -> u32 {
    hit(backend, key, limits).await.unwrap().remaining()
}

#[tokio::test]
async fn a_hit_that_spans_a_clear_counts_as_before_it() {
    let server = Arc::new(MemcachedServer::start());
    let backend = builder(&server).track_keys(true).build().unwrap();
    let limits = [limit("5/30d", FixedWindow::new())];
    assert_eq!(remaining(&backend, "a", &limits).await, 4);
    let other = Arc::clone(&server);
    let clear = Between::with(move || drop(other.command("incr test/g 1\r\n")));
    assert_eq!(remaining(&backend, "a", &[limit("5/30d", clear)]).await, 3, "on the old count");
    assert_eq!(remaining(&backend, "a", &limits).await, 4, "which nobody reads any more");
    assert_eq!(remaining(&backend, "a", &limits).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hit_that_spans_a_clear_never_overwrites_one_that_came_after_it() {
    let server = MemcachedServer::start();
    let backend = builder(&server).track_keys(true).build().unwrap();
    let limits = [limit("5/30d", FixedWindow::new())];
    for key in ["new", "old"] {
        if key == "old" {
            assert_eq!(remaining(&backend, key, &limits).await, 4);
        }
        let other = builder(&server).track_keys(true).build().unwrap();
        let clear_and_hit = Between::with(move || {
            let work = async move {
                other.clear().await.unwrap();
                let limits = [limit("5/30d", FixedWindow::new())];
                assert_eq!(remaining(&other, key, &limits).await, 4, "the first after the clear");
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            std::thread::spawn(move || runtime.unwrap().block_on(work)).join().unwrap();
        });
        assert_eq!(remaining(&backend, key, &[limit("5/30d", clear_and_hit)]).await, 3, "{key}");
        assert_eq!(remaining(&backend, key, &limits).await, 2, "{key}: both count");
    }
}

#[tokio::test]
async fn f17_a_generation_that_is_lost_brings_nothing_old_back() {
    let server = MemcachedServer::start();
    let backend = builder(&server).track_keys(true).build().unwrap();
    let limits = [limit("5/30d", FixedWindow::new())];
    for key in ["a", "b", "c"] {
        assert_eq!(remaining(&backend, key, &limits).await, 4);
    }
    backend.set(&Key::value("v"), b"1", None).await.unwrap();
    backend.clear().await.unwrap();
    for lost in ["delete test/g\r\n", "set test/g 0 0 7\r\ngarbage\r\n", "set test/g 0 0 0\r\n\r\n"]
    {
        assert_eq!(remaining(&backend, "a", &limits).await, 4, "{lost:?}");
        server.command(lost);
        assert_eq!(remaining(&backend, "b", &limits).await, 4, "cleared, or lost: {lost:?}");
        assert_eq!(backend.get(&Key::value("v")).await.unwrap(), None, "{lost:?}");
        server.command(lost);
        backend.clear().await.unwrap();
        assert_eq!(remaining(&backend, "c", &limits).await, 4, "{lost:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tracking_costs_the_same_however_many_keys_there_are() {
    const KEYS: u64 = 20_000;
    let server = MemcachedServer::start();
    let backend = Arc::new(builder(&server).track_keys(true).build().unwrap());
    let limits = Arc::new([limit("5/30d", FixedWindow::new())]);
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (backend, limits, next) =
            (Arc::clone(&backend), Arc::clone(&limits), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= KEYS {
                    break;
                }
                assert_eq!(remaining(&backend, &format!("k{number}"), &*limits).await, 4);
            }
        });
    }
    tasks.join_all().await;
    let cost =
        || ["cmd_get", "cmd_set", "bytes_read", "bytes_written"].map(|name| server.stat(name));
    let before = cost();
    for number in 0..100 {
        assert_eq!(remaining(&backend, &format!("new{number}"), &*limits).await, 4);
    }
    let after = cost();
    let cost: Vec<u64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
    // Two keys for each read; what the server says of itself is some 2,000 bytes.
    assert_eq!(cost[..2], [200, 100], "no round trip more");
    assert!(cost[2] < 100 * 300 && cost[3] < 100 * 300, "{cost:?}");
    let before = server.stat("cmd_set");
    backend.clear().await.unwrap();
    assert_eq!(server.stat("cmd_set") - before, 1, "one step");
    assert_eq!(remaining(&backend, "k7", &*limits).await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_clear_reaches_all_nodes_that_answer_and_names_the_others() {
    let mut servers = [(); 3].map(|()| MemcachedServer::start());
    // What the silent one takes; a server that has just gone on may take longer than the default.
    let builder = Memcached::builder().namespace("test").command_timeout(Duration::from_secs(2));
    let builder =
        servers.iter().fold(builder, |builder, server| builder.url(crate::world::url(server)));
    let backend = builder.track_keys(true).build().unwrap();
    let limits = [limit("5/30d", FixedWindow::new())];
    for number in 0..60 {
        assert_eq!(remaining(&backend, &number.to_string(), &limits).await, 4);
    }
    servers[1].pause();
    let (silent, dead) = (servers[1].address(), servers[2].address());
    servers[2].kill();
    let error = backend.clear().await.unwrap_err().to_string();
    assert!(error.contains("2 of 3 nodes failed"), "{error}");
    assert!(error.contains(&silent) && error.contains(&dead), "{error}");
    assert!(!error.contains(&servers[0].address()), "{error}");
    servers[1].resume();
    servers[2].restart();
    let mut left: Vec<u32> = Vec::new();
    for number in 0..60 {
        left.push(remaining(&backend, &number.to_string(), &limits).await);
    }
    let kept = left.iter().filter(|left| **left == 3).count();
    assert!((5..40).contains(&kept), "those of the node that did not answer: {left:?}");
    assert!(left.iter().all(|left| [3, 4].contains(left)), "{left:?}");
    backend.clear().await.unwrap();
    for number in 0..60 {
        assert_eq!(remaining(&backend, &number.to_string(), &limits).await, 4);
    }
}
