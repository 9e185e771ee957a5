//! Clearing a large namespace beside other clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use traffik::{Backend, Key, LockOptions, Locks, Redis, Values};

use super::world::{LONG, patient, throttle};
use test_support::servers::resp::Connection;
use test_support::servers::wait::now;
use test_support::servers::{RedisCluster, RedisServer, pause};

/// Keys of the namespace; all of them only where time does not matter.
fn many() -> usize {
    if std::env::var_os("TRAFFIK_SOAK").is_some() { 1_000_000 } else { 50_000 }
}

/// Makes so many values of the namespace, in steps.
fn fill(server: &RedisServer, count: usize) {
    let script = b"for i = ARGV[1], ARGV[2] do redis.call('SET', 'states|v|' .. i, 'value') end";
    for first in (1..=count).step_by(10_000) {
        let (first, last) = (first.to_string(), (first + 9_999).min(count).to_string());
        let words: [&[u8]; 5] = [b"EVAL", script, b"0", first.as_bytes(), last.as_bytes()];
        assert!(!server.command(&words).unwrap().is_error());
    }
}

/// Another client's waits, the shortest first, for as long as it may go on with so many.
fn latencies(mut client: Connection, goes_on: impl Fn(usize) -> bool) -> Vec<Duration> {
    let mut waits = Vec::new();
    while goes_on(waits.len()) {
        let start = now();
        client.cmd("SET other 1").unwrap();
        waits.push(start.elapsed());
    }
    waits.sort();
    waits
}

/// The median, 999 of 1000, and the longest.
fn shown(waits: &[Duration]) -> String {
    let [median, most, worst] = [500, 999, 1000].map(|part| waits[(waits.len() - 1) * part / 1000]);
    format!("{median:?} in the median, {most:?} in 999 of 1000, {worst:?} at most")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clear_of_many_keys_hardly_disturbs_others() {
    let server = RedisServer::with(&["--latency-tracking-info-percentiles", "50", "99.9", "100"]);
    let count = many();
    tokio::task::block_in_place(|| fill(&server, count));
    let backend = patient().url(server.url()).build().unwrap();
    backend.initialize().await.unwrap();
    assert_eq!(usize::try_from(server.cmd("DBSIZE").int()).unwrap(), count);
    server.cmd("CONFIG RESETSTAT");
    let stop = Arc::new(AtomicBool::new(false));
    let disturbed = thread::spawn({
        let (client, stop) = (server.connect().unwrap(), Arc::clone(&stop));
        move || latencies(client, |_| !stop.load(Ordering::Relaxed))
    });
    let start = now();
    backend.clear().await.unwrap();
    let took = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    let disturbed = disturbed.join().unwrap();
    let stats = server.cmd("INFO latencystats");
    let spent =
        ["scan", "unlink"].map(|name| stats.field(&format!("latency_percentiles_usec_{name}")));

    // As many, with nothing beside them but what this machine does.
    let quiet = tokio::task::block_in_place(|| {
        latencies(server.connect().unwrap(), |so_far| so_far < disturbed.len())
    });
    println!(
        "clear of {count} keys took {took:?}\nanother client waited meanwhile {}\n... and \
         without it {}\nthe server worked on a SCAN, an UNLINK (us): {spent:?}",
        shown(&disturbed),
        shown(&quiet)
    );
    assert_eq!(server.cmd("KEYS *").text(), "other");
}

/// Fills a backend with all that it can keep.
async fn with_all(backend: &Redis) -> Vec<traffik::LockGuard> {
    let throttle = throttle(backend);
    let mut guards = Vec::new();
    for number in 0..40 {
        let _ = throttle.hit(format!("k{number}")).await.unwrap();
        let name = format!("v{number}");
        backend.set(&Key::value(&name), b"1", None).await.unwrap();
        let options = LockOptions::new().ttl(Some(LONG * 10)).blocking(false);
        let guard = backend.lock(&name, options).await.unwrap();
        assert!(backend.set_fenced(&guard, "x", Some(b"1"), None).await.unwrap());
        guards.push(guard);
    }
    guards
}

async fn has_nothing_but_locks(backend: &Redis, guards: Vec<traffik::LockGuard>) {
    let throttle = throttle(backend);
    let options = LockOptions::new().ttl(Some(LONG)).blocking(false);
    for (number, guard) in guards.into_iter().enumerate() {
        let peek = throttle.peek(format!("k{number}")).await.unwrap();
        assert_eq!(peek.remaining(), super::world::CAPACITY);
        let name = format!("v{number}");
        assert_eq!(backend.get(&Key::value(&name)).await.unwrap(), None);
        assert!(backend.lock(&name, options).await.is_err(), "it is still held");
        assert_eq!(backend.get_fenced(&name, "x").await.unwrap().unwrap(), b"1");
        let token = guard.fencing_token();
        assert!(guard.release().await.unwrap());
        assert!(backend.lock(&name, options).await.unwrap().fencing_token() > token);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clear_leaves_locks_and_other_namespaces_on_one_server() {
    let server = RedisServer::start();
    let backend = patient().url(server.url()).build().unwrap();
    let other = patient().url(server.url()).namespace("other").build().unwrap();
    let guards = with_all(&backend).await;
    let others = with_all(&other).await;
    backend.clear().await.unwrap();
    // 40 of each: state, value, lock, fence and what is fenced.
    assert_eq!(server.cmd("KEYS states|*").array().len(), 120);
    assert_eq!(server.cmd("KEYS other|*").array().len(), 200);
    has_nothing_but_locks(&backend, guards).await;
    drop(others);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clear_reaches_every_master_of_a_cluster() {
    let cluster = RedisCluster::start(3, 3);
    let backend = patient().cluster(cluster.urls()).build().unwrap();
    let other = patient().cluster(cluster.urls()).namespace("other").build().unwrap();
    let guards = with_all(&backend).await;
    let others = with_all(&other).await;
    let count = |pattern: &str| -> Vec<usize> {
        let masters = cluster.nodes()[..3].iter();
        masters.map(|node| node.cmd(&format!("KEYS {pattern}")).array().len()).collect()
    };
    let all = "states|[tv]*";
    assert!(count(all).iter().all(|count| *count > 0), "each master has some");
    backend.clear().await.unwrap();
    assert_eq!(count(all), [0, 0, 0]);
    assert_eq!(count("states|*").iter().sum::<usize>(), 120);
    assert_eq!(count("other|*").iter().sum::<usize>(), 200);
    has_nothing_but_locks(&backend, guards).await;
    drop(others);
}

/// A step that takes longer than a call may, and one whose connection is lost: each may be repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clear_goes_on_after_a_slow_step_and_a_lost_connection() {
    let server = RedisServer::start();
    let builder = patient().url(server.url()).command_timeout(Duration::from_millis(150));
    let backend = builder.build().unwrap();
    backend.initialize().await.unwrap();
    for disturb in [
        (|server| {
            server.pause();
            pause::blocking::lasts(Duration::from_millis(400));
            server.resume();
        }) as fn(&RedisServer),
        |server| drop(server.cmd("CLIENT KILL TYPE normal")),
    ] {
        // Other keys too, so that it takes its time.
        fill(&server, 20_000);
        let script = b"for i = 1, 200000 do redis.call('SET', 'other' .. i, 1) end";
        server.command(&[b"EVAL", script, b"0"]).unwrap();
        let before = server.calls("scan");
        let clearing = tokio::spawn({
            let backend = backend.clone();
            async move { backend.clear().await }
        });
        test_support::servers::wait_until("it is under way", LONG, || {
            server.calls("scan") > before + 3
        });
        tokio::task::block_in_place(|| disturb(&server));
        clearing.await.unwrap().unwrap();
        assert_eq!(server.cmd("DBSIZE").int(), 200_000, "what is not ours");
    }
}

/// So many that one step would hold up everybody: they are set in parts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_values_are_set_in_parts_beside_others() {
    let server = RedisServer::with(&["--latency-tracking-info-percentiles", "50", "100"]);
    let backend = patient().url(server.url()).build().unwrap();
    let count = 100_000;
    let names: Vec<String> = (0..count).map(|number| format!("value {number}")).collect();
    let pairs: Vec<(Key<'_>, &[u8])> =
        names.iter().map(|name| (Key::value(name), &b"value"[..])).collect();
    backend.initialize().await.unwrap();
    server.cmd("CONFIG RESETSTAT");
    backend.multi_set(&pairs, None).await.unwrap();
    assert_eq!(server.cmd("DBSIZE").int(), count);
    let steps = server.calls("evalsha") + server.calls("eval");
    assert!(steps >= 100, "{steps} steps for {count} values");
    // The server's own time for the longest, which a busy machine stretches.
    let stats = server.cmd("INFO latencystats");
    println!("{:?}", stats.field("latency_percentiles_usec_evalsha"));
    let few = [(Key::value("x"), &b"1"[..]), (Key::value("y"), b"2")];
    server.cmd("CONFIG RESETSTAT");
    backend.multi_set(&few, None).await.unwrap();
    assert_eq!(server.calls("evalsha"), 1, "a few are one step");
    backend.clear().await.unwrap();

    let cluster = RedisCluster::start(3, 0);
    let backend = patient().cluster(cluster.urls()).command_timeout(LONG).build().unwrap();
    backend.multi_set(&pairs, None).await.unwrap();
    let stored: i64 = cluster.nodes().iter().map(|node| node.cmd("DBSIZE").int()).sum();
    assert_eq!(stored, count);
}
