//! How many commands an operation is, and what the server keeps.

use std::time::Duration;

use traffik::{
    FixedWindow, Key, ManualClock, Redis, SlidingWindowCounter, SlidingWindowLog, Throttle,
    Timestamp, Values, WallClock,
};

use super::world::{LONG, NAMESPACE, Own, patient};
use test_support::servers::RedisServer;

fn started() -> (RedisServer, Redis) {
    let server = RedisServer::start();
    let backend = patient().url(server.url()).build().unwrap();
    (server, backend)
}

/// Throttles of one limit and of four.
fn throttles(backend: &Redis) -> [Throttle; 2] {
    let one = Throttle::builder("one").rate("5/h").backend(backend.clone()).deadline(LONG);
    let four = Throttle::builder("four")
        .rate("10/h")
        .limit("20/h", FixedWindow::new())
        .limit("30/h", SlidingWindowCounter::new())
        .limit("40/h", SlidingWindowLog::new())
        .backend(backend.clone())
        .deadline(LONG);
    [one.build().unwrap(), four.build().unwrap()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_is_exactly_one_command() {
    let (server, backend) = started();
    for throttle in throttles(&backend) {
        let _ = throttle.hit("a").await.unwrap();
        server.cmd("CONFIG RESETSTAT");
        let mut denied = 0;
        for _ in 0..50 {
            denied += u32::from(throttle.hit("a").await.unwrap().is_denied());
        }
        assert!(denied > 0, "denied hits are no dearer");
        assert_eq!(server.calls("evalsha"), 50);
        assert_eq!(server.calls("get"), 50, "read once, inside of it");
        assert_eq!((server.calls("eval"), server.calls("script|load")), (0, 0));
    }
    // Of the server's script cache nothing is left: one command more, once.
    server.cmd("SCRIPT FLUSH");
    server.cmd("CONFIG RESETSTAT");
    let throttle = &throttles(&backend)[0];
    for _ in 0..50 {
        let _ = throttle.hit("a").await.unwrap();
    }
    assert_eq!((server.calls("evalsha"), server.calls("eval")), (50, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increment_with_ttl_is_one_command() {
    let (server, backend) = started();
    let key = Key::value("n");
    let ttl = Duration::from_secs(60);
    assert_eq!(backend.increment_with_ttl(&key, 1, ttl).await.unwrap(), 1);
    server.cmd("CONFIG RESETSTAT");
    for sum in 2..=20 {
        assert_eq!(backend.increment_with_ttl(&key, 1, ttl).await.unwrap(), sum);
    }
    assert_eq!((server.calls("evalsha"), server.calls("eval")), (19, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_values_are_one_command() {
    let (server, backend) = started();
    let names: Vec<String> = (0..100).map(|number| format!("v{number}")).collect();
    let keys: Vec<Key<'_>> = names.iter().map(Key::value).collect();
    let pairs: Vec<(Key<'_>, &[u8])> = keys.iter().map(|key| (*key, &b"1"[..])).collect();
    backend.multi_set(&pairs, None).await.unwrap();
    backend.multi_set(&pairs, Some(LONG)).await.unwrap();
    let values = backend.multi_get(&keys).await.unwrap();
    assert!(values.iter().all(Option::is_some));
    assert_eq!(server.calls("mget"), 1);
    assert!(server.calls("mset") + server.calls("evalsha") <= 2);
}

/// The milliseconds after which the server forgets each state.
fn ttls(server: &RedisServer) -> Vec<i64> {
    let keys = server.cmd(&format!("KEYS {NAMESPACE}|t|*"));
    let keys = keys.array().iter().map(test_support::servers::Value::text);
    keys.map(|key| server.command(&[b"PTTL", key.as_bytes()]).unwrap().int()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_the_servers_clock_a_state_lives_as_long_as_it_matters() {
    let (server, backend) = started();
    let builder = Throttle::builder("brief").rate("5/min").backend(backend).deadline(LONG);
    let _ = builder.build().unwrap().hit("a").await.unwrap();
    let ttls = ttls(&server);
    assert!(ttls.iter().all(|ttl| (1..=12_000).contains(ttl)), "a fifth of a minute: {ttls:?}");
}

/// The server cannot know when a state is over by another clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_clock_that_is_given_a_state_lives_an_hour_at_least() {
    let server = RedisServer::start();
    let clock = ManualClock::at(Timestamp::from_micros(1_000_000));
    let backends = [
        patient().clock(clock).url(server.url()).build().unwrap(),
        patient().clock(WallClock::new()).url(server.url()).build().unwrap(),
    ];
    for backend in backends {
        server.cmd("FLUSHALL");
        let builder = || Throttle::builder("brief").backend(backend.clone()).deadline(LONG);
        let _ = builder().rate("5/s").build().unwrap().hit("a").await.unwrap();
        let _ = builder().limit("5/s", Own).build().unwrap().hit("b").await.unwrap();
        let ttls = ttls(&server);
        assert_eq!(ttls.len(), 2);
        assert!(ttls.iter().all(|ttl| *ttl > 3_600_000 - 60_000), "{ttls:?}");
    }
}
