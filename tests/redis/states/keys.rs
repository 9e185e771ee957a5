//! Keys that were made to do harm.

use std::collections::{HashMap, HashSet};

use traffik::{Backend, ErrorKind, Key, LockOptions, Locks, Redis, Ttl, Values};

use super::world::{CAPACITY, backend_error, patient, throttle};
use test_support::servers::{RedisServer, Value};

fn hostile() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = [
        "\r\nFLUSHALL\r\n",
        "*1\r\n$8\r\nFLUSHALL\r\n",
        "a\r\n",
        "a\n",
        "\0",
        "a\0b",
        "{",
        "}",
        "{}",
        "{a}",
        "{a}b",
        "a{b}",
        "}{",
        "{job}",
        "%7Bjob%7D",
        "%",
        "%25",
        "a%7Cb",
        "*",
        "?",
        "[a-z]*",
        "\\",
        "\\*",
        "|",
        "a|b",
        "t",
        "v",
        "states|v|a",
        "' or 1=1",
        "\"",
        "';redis.call('FLUSHALL')--",
        "%s%n",
        "\u{202e}",
        "\u{e9}",
        "e\u{301}",
        " ",
        "  ",
        "\t",
        "0",
        "-1",
        "nan",
        "canary ",
        "CANARY",
        "canary\0",
    ]
    .iter()
    .map(|key| key.as_bytes().to_vec())
    .collect();
    keys.push(Vec::new());
    keys.push(vec![b'x'; 4096]);
    keys.push([vec![b'x'; 4095], vec![b'y']].concat());
    keys.push((0..=255).collect());
    keys.extend((0..=255u8).map(|byte| vec![byte, byte ^ 1]));
    let known: HashSet<&Vec<u8>> = keys.iter().collect();
    assert_eq!(known.len(), keys.len());
    keys
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f31_hostile_keys_do_no_harm_and_never_meet() {
    let server = RedisServer::start();
    server.cmd("SET foreign untouched");
    let backend = patient().url(server.url()).build().unwrap();
    let throttle = throttle(&backend);
    let _ = throttle.hit("canary").await.unwrap();
    backend.set(&Key::value("canary"), b"alive", None).await.unwrap();
    let keys = hostile();
    // Each as many times as its place says, so that any two that meet are seen.
    for (place, key) in (1..).zip(&keys) {
        let first = throttle.hit(&key[..]).await.unwrap();
        assert_eq!(first.remaining(), CAPACITY - 1, "a fresh key: {key:?}");
        let cost = traffik::HitOptions::new().cost(place);
        let _ = throttle.hit_with(&key[..], cost).await.unwrap();
        backend.set(&Key::value(key), key, None).await.unwrap();
        assert_eq!(backend.increment(&Key::value(&[b"n", &key[..]].concat()), 5).await.unwrap(), 5);
    }
    for (place, key) in (1..).zip(&keys) {
        let left = throttle.peek(&key[..]).await.unwrap().remaining();
        assert_eq!(left, CAPACITY - 1 - place, "{key:?}");
        assert_eq!(backend.get(&Key::value(key)).await.unwrap().as_ref(), Some(key));
    }
    let pairs: Vec<Key<'_>> = keys.iter().map(Key::value).collect();
    let values = backend.multi_get(&pairs).await.unwrap();
    assert!(values.iter().zip(&keys).all(|(value, key)| value.as_ref() == Some(key)));
    assert_eq!(throttle.peek("canary").await.unwrap().remaining(), CAPACITY - 1);
    let canary = backend.get(&Key::value("canary")).await.unwrap();
    assert_eq!(canary.as_deref(), Some(&b"alive"[..]));
    assert_eq!(server.cmd("GET foreign").text(), "untouched");
    assert_eq!(server.calls("flushall"), 0);
    let count = usize::try_from(server.cmd("DBSIZE").int()).unwrap();
    assert_eq!(count, 3 * keys.len() + 3, "a key each, and no other");

    backend.clear().await.unwrap();
    assert_eq!(server.cmd("KEYS *").text(), "foreign", "clear finds them all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f31_a_long_key_is_stored_as_a_digest_and_counted_apart() {
    let server = RedisServer::start();
    let backend = patient().url(server.url()).build().unwrap();
    let throttle = throttle(&backend);
    let long = vec![b'x'; traffik::key::MAX_KEY_BYTES + 1];
    for (count, key) in [&long[1..], &long[..], &long.repeat(100)[..]].into_iter().enumerate() {
        for left in 1..=2 {
            let decision = throttle.hit(key).await.unwrap();
            assert_eq!(decision.remaining(), super::world::CAPACITY - left, "key {count}");
        }
    }
    let names = server.cmd("KEYS *");
    let names = names.text();
    assert_eq!(server.cmd("DBSIZE").int(), 3);
    assert!(names.len() < 6000, "one key is stored whole, the others short: {}", names.len());
    throttle.reset(&long[..]).await.unwrap();
    assert_eq!(server.cmd("DBSIZE").int(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f31_hostile_names_of_locks_and_their_values() {
    let server = RedisServer::start();
    let backend = patient().url(server.url()).build().unwrap();
    let names = ["a", "}", "{}", "a}b", "{n:a}", "*", "a\r\nFLUSHALL", "|", "1|a", "\u{e9}"];
    let options = LockOptions::new().ttl(Some(super::world::LONG)).blocking(false);
    let mut guards = HashMap::new();
    for name in names {
        let guard = backend.lock(name, options).await.unwrap();
        for value in names {
            let text = format!("{name}/{value}");
            assert!(backend.set_fenced(&guard, value, Some(text.as_bytes()), None).await.unwrap());
        }
        guards.insert(name, guard);
    }
    for name in names {
        assert!(backend.lock(name, options).await.is_err(), "{name:?} is held");
        for value in names {
            let stored = backend.get_fenced(name, value).await.unwrap().unwrap();
            assert_eq!(String::from_utf8(stored).unwrap(), format!("{name}/{value}"));
        }
    }
    for (_, guard) in guards {
        assert!(guard.release().await.unwrap());
    }
}

/// What a helper says is what the server has, so that a customer can be looked up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_names_are_readable_and_said_by_a_helper() {
    let server = RedisServer::start();
    let backend = patient().url(server.url()).build().unwrap();
    let throttle = throttle(&backend);
    for (key, name) in [
        ("alice@example.com", "states|t|states|alice@example.com"),
        ("a:b/c", "states|t|states|a:b/c"),
        ("{x}|100%", "states|t|states|%7Bx%7D%7C100%25"),
        ("b\u{e9}a c", "states|t|states|b%C3%A9a%20c"),
    ] {
        let _ = throttle.hit(key).await.unwrap();
        assert_eq!(server.words(&["EXISTS", name]).unwrap().int(), 1, "{name}");
        assert_eq!(backend.stored_name("states", key).unwrap().as_deref(), Some(name));
    }
    let _ = throttle.hit(("tenant-7", "alice")).await.unwrap();
    let name = backend.stored_name("states", ("tenant-7", "alice")).unwrap().unwrap();
    assert_eq!(server.words(&["EXISTS", &name]).unwrap().int(), 1, "{name}");
    assert_eq!(backend.stored_name("states", traffik::Exempt).unwrap(), None);
    // All are of visible bytes, and none has a hash tag. A long key is under its digest.
    let longest = vec![b'x'; traffik::key::MAX_KEY_BYTES];
    let long = [&longest[..], b"x"].concat();
    for key in hostile().into_iter().chain([longest, long]) {
        let _ = throttle.hit(&key[..]).await.unwrap();
        let name = backend.stored_name("states", &key[..]).unwrap().unwrap();
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && !b"{}".contains(&byte)));
        assert_eq!(server.words(&["EXISTS", &name]).unwrap().int(), 1, "{name}");
        assert_eq!(name.contains("|sha256|"), key.len() > traffik::key::MAX_KEY_BYTES, "{name}");
    }
}

async fn count(backend: &Redis, name: &str) -> usize {
    let found = backend.get(&Key::value(name)).await.unwrap();
    usize::from(found.is_some())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f31_clear_leaves_what_only_looks_like_its_namespace() {
    let server = RedisServer::start();
    let namespaces = ["app", "app:eu", "app.eu", "a-z", "amz", "appp", "ap", "App", "."];
    let mut backends = Vec::new();
    for namespace in namespaces {
        let backend = patient().url(server.url()).namespace(namespace).build().unwrap();
        backend.set(&Key::value("x"), b"1", None).await.unwrap();
        let _ = throttle(&backend).hit("x").await.unwrap();
        backends.push((namespace, backend));
    }
    // Keys of others, one of which a glob that is not escaped would match.
    let foreign: [&[u8]; 9] = [
        b"app|x",
        b"app",
        b"app|",
        b"app|L{job}",
        b"app|F{job}",
        b"app|G{job}|v",
        b"xapp|vx",
        b"app|[tv]",
        b"a[b]c",
    ];
    for key in foreign {
        server.command(&[b"SET", key, b"1"]).unwrap();
    }
    let mut left = namespaces.len();
    for (namespace, backend) in &backends {
        assert_eq!(count(backend, "x").await, 1, "{namespace} before its clear");
        backend.clear().await.unwrap();
        left -= 1;
        assert_eq!(count(backend, "x").await, 0, "{namespace} after it");
        let size = usize::try_from(server.cmd("DBSIZE").int()).unwrap();
        assert_eq!(size, 2 * left + foreign.len(), "after {namespace}");
    }
    for key in foreign {
        assert_eq!(server.command(&[b"GET", key]).unwrap(), Value::Bytes(b"1".to_vec()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f31_a_value_of_another_type_is_an_error_of_its_kind() {
    let server = RedisServer::start();
    let backend = patient().url(server.url()).build().unwrap();
    let key = Key::value("v");
    backend.set(&key, b"1", None).await.unwrap();
    let stored = server.cmd("KEYS *").array()[0].text();
    server.cmd("FLUSHALL");
    server.command(&[b"RPUSH", stored.as_bytes(), b"1"]).unwrap();
    for outcome in [
        backend.get(&key).await.map(drop),
        backend.increment(&key, 1).await.map(drop),
        backend.decrement(&key, 1).await.map(drop),
        backend.increment_with_ttl(&key, 1, super::world::LONG).await.map(drop),
    ] {
        let error = backend_error::<()>(outcome.map_err(Into::into));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
    assert!(!backend.compare_and_set(&key, Some(b"1"), Some(b"2"), Ttl::Never).await.unwrap());
    backend.set(&key, b"1", None).await.unwrap();
    assert_eq!(backend.increment(&key, 1).await.unwrap(), 2, "set replaces anything");
}
