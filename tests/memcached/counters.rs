//! Values: no arithmetic wraps, and what expires when.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRng, TestRunner};
use traffik::backend::MAX_COUNTER;
use traffik::{ErrorKind, FixedWindow, Key, ManualClock, Memcached, Values};

use crate::world::{backend, builder, hit, limit};
use test_support::servers::MemcachedServer;
use test_support::wait_of;

#[derive(Clone, Debug)]
enum Op {
    Set(Vec<u8>),
    Add(u64),
    AddWithTtl(u64),
    Subtract(u64),
    Delete,
}

fn op() -> impl Strategy<Value = Op> {
    let number = prop_oneof![
        0u64..10,
        Just(MAX_COUNTER),
        Just(MAX_COUNTER - 1),
        Just(MAX_COUNTER + 1),
        Just(u64::MAX),
        any::<u64>(),
    ];
    let value = prop_oneof![
        "[0-9]{1,20}".prop_map(String::into_bytes),
        "[ 0-9a+-]{0,4}".prop_map(String::into_bytes),
        any::<Vec<u8>>(),
    ];
    prop_oneof![
        value.prop_map(Op::Set),
        number.clone().prop_map(Op::Add),
        number.clone().prop_map(Op::AddWithTtl),
        number.prop_map(Op::Subtract),
        Just(Op::Delete),
    ]
}

/// What a counter comes to by the contract alone.
fn expected(value: Option<&[u8]>, op: &Op) -> (Result<u64, ErrorKind>, Option<Vec<u8>>) {
    let number = |value: &[u8]| {
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let text = std::str::from_utf8(value).ok().filter(|_| digits);
        let number = text.and_then(|text| text.parse::<u128>().ok());
        number.filter(|number| *number <= u128::from(MAX_COUNTER)).ok_or(ErrorKind::NotANumber)
    };
    let result = match op {
        Op::Set(new) => return (Ok(0), Some(new.clone())),
        Op::Delete => return (Ok(value.is_some().into()), None),
        Op::Add(by) | Op::AddWithTtl(by) => value.map_or(Ok(0), number).and_then(|number| {
            let sum = number + u128::from(*by);
            let fits = sum <= u128::from(MAX_COUNTER);
            if fits { Ok(sum) } else { Err(ErrorKind::OutOfRange) }
        }),
        Op::Subtract(by) => value
            .ok_or(ErrorKind::NotFound)
            .and_then(number)
            .map(|number| number.saturating_sub(u128::from(*by))),
    };
    match result {
        Ok(number) => (Ok(u64::try_from(number).unwrap()), Some(number.to_string().into_bytes())),
        Err(kind) => (Err(kind), value.map(<[u8]>::to_vec)),
    }
}

async fn make(backend: &Memcached, key: &Key<'_>, op: &Op) -> Result<u64, ErrorKind> {
    let ttl = Duration::from_secs(600);
    let done = match op {
        Op::Set(value) => backend.set(key, value, None).await.map(|()| 0),
        Op::Add(by) => backend.increment(key, *by).await,
        Op::AddWithTtl(by) => backend.increment_with_ttl(key, *by, ttl).await,
        Op::Subtract(by) => backend.decrement(key, *by).await,
        Op::Delete => backend.delete(key).await.map(u64::from),
    };
    done.map_err(|error| error.kind())
}

#[test]
fn f20_arithmetic_neither_wraps_nor_goes_below_zero() {
    let server = MemcachedServer::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let backend = backend(&server);
    let config = Config { failure_persistence: None, ..Config::with_cases(200) };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let ops = prop::collection::vec(op(), 1..20);
    let outcome = TestRunner::new_with_rng(config, rng).run(&ops, |ops| {
        let key = Key::value("n");
        runtime.block_on(backend.delete(&key)).unwrap();
        let mut value: Option<Vec<u8>> = None;
        for op in ops {
            let (result, after) = expected(value.as_deref(), &op);
            prop_assert_eq!(runtime.block_on(make(&backend, &key, &op)), result, "{:?}", op);
            prop_assert_eq!(runtime.block_on(backend.get(&key)).unwrap(), after.clone());
            value = after;
        }
        Ok(())
    });
    outcome.unwrap();
}

/// What the server says an item has still to live; -1 for ever.
fn lives(server: &MemcachedServer, item: &str) -> i64 {
    let reply = server.command(&format!("mg {item} t\r\n"));
    let ttl = reply.trim().strip_prefix("HD t").unwrap_or_else(|| panic!("{item}: {reply}"));
    ttl.parse().unwrap()
}

#[tokio::test]
async fn f19_what_the_server_is_told() {
    let server = MemcachedServer::start();
    let backend = backend(&server);
    let day = 24 * 60 * 60;
    let key = Key::value("a");
    for (ttl, least, most) in [
        (Duration::from_nanos(1_000), 1, 3),
        (Duration::from_millis(500), 2, 3),
        (Duration::from_secs(1), 2, 3),
        (Duration::from_secs(30 * day - 2), 30 * day - 3, 30 * day),
        (Duration::from_secs(30 * day), 30 * day - 3, 30 * day + 5),
        (Duration::from_secs(60 * day), 60 * day - 3, 60 * day + 5),
        (Duration::from_secs(366 * day), 366 * day - 3, 366 * day + 5),
    ] {
        backend.set(&key, b"1", Some(ttl)).await.unwrap();
        let lives = lives(&server, "test/v/a");
        let (least, most) = (i64::try_from(least).unwrap(), i64::try_from(most).unwrap());
        assert!((least..=most).contains(&lives), "{ttl:?}: {lives}");
    }
    backend.set(&key, b"1", None).await.unwrap();
    assert_eq!(lives(&server, "test/v/a"), -1, "no expiry where none was asked for");
    backend.set(&key, b"1", Some(Duration::MAX)).await.unwrap();
    assert!(lives(&server, "test/v/a") > 1000 * 24 * 60 * 60, "the last date");
    assert_eq!(backend.get(&key).await.unwrap().as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn f19_a_period_of_sixty_days_limits() {
    let server = MemcachedServer::start();
    let backend = backend(&server);
    let limits = [limit("2/60d", FixedWindow::new())];
    for allowed in [true, true, false, false] {
        assert_eq!(hit(&backend, "a", &limits).await.unwrap().is_allowed(), allowed);
    }
}

#[tokio::test]
async fn f19_an_end_does_not_wait_for_the_servers_tick() {
    let server = MemcachedServer::start();
    let clock = ManualClock::new();
    let backend = builder(&server).clock(clock.clone()).build().unwrap();
    let limits = [limit("1/s", FixedWindow::new())];
    for _ in 0..20 {
        assert!(hit(&backend, "a", &limits).await.unwrap().is_allowed());
        let denied = hit(&backend, "a", &limits).await.unwrap();
        clock.advance(wait_of(&denied).unwrap());
    }
    backend.set(&Key::value("a"), b"1", Some(Duration::from_millis(3))).await.unwrap();
    clock.advance(Duration::from_micros(2_999));
    assert!(backend.get(&Key::value("a")).await.unwrap().is_some());
    clock.advance(Duration::from_micros(1));
    assert!(backend.get(&Key::value("a")).await.unwrap().is_none());
    assert!(lives(&server, "test/v/a") > 3000, "kept for an hour under another clock");
}
