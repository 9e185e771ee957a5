//! Checks the user's own values.

use std::sync::Arc;
use std::time::Duration;

use super::{Harness, Subject};
use crate::backend::{Backend, MAX_COUNTER, Ttl};
use crate::error::ErrorKind;
use crate::key::{Key, KeyPart, MAX_KEY_PARTS};

pub(super) async fn run(harness: &dyn Harness) {
    values_are_kept_as_they_are(harness).await;
    hostile_keys_never_meet(harness).await;
    values_expire(harness).await;
    counters_count(harness).await;
    counters_refuse_what_is_none(harness).await;
    counters_keep_their_ttl(harness).await;
    compare_and_set_is_exact(harness).await;
    a_write_keeps_or_sets_the_ttl(harness).await;
    several_at_once(harness).await;
    concurrent_counts_are_all_counted(harness).await;
    peers_see_the_same(harness).await;
}

async fn value(backend: &dyn Backend, key: &str) -> Option<Vec<u8>> {
    backend.get(&Key::value(key)).await.expect("get")
}

async fn values_are_kept_as_they_are(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    assert_eq!(value(&*backend, "a").await, None, "a missing value");
    let all_bytes: Vec<u8> = (0..=255).collect();
    for bytes in [&b""[..], b"1", b"\r\nflush_all\r\n", &all_bytes] {
        backend.set(&Key::value("a"), bytes, None).await.expect("set");
        assert_eq!(value(&*backend, "a").await.as_deref(), Some(bytes), "a value that was set");
    }
    assert!(backend.delete(&Key::value("a")).await.expect("delete"), "there was a value");
    assert!(!backend.delete(&Key::value("a")).await.expect("delete"), "there was none");
    assert_eq!(value(&*backend, "a").await, None, "a deleted value");
}

async fn hostile_keys_never_meet(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let long = [b'k'; 4000];
    let names: [&[u8]; 12] = [
        b"",
        b" ",
        b"a",
        b"a:b",
        b"a*",
        b"a\0",
        b"a\r\nflush_all\r\n",
        b"{a}",
        b"\xff\xfe",
        &long[..250],
        &long[..251],
        &long,
    ];
    let parts = names.map(KeyPart::bytes);
    let pair = |first: usize, second: usize| [parts[first], parts[second]];
    let pairs = [pair(2, 3), pair(3, 2), pair(0, 2), pair(2, 0), pair(0, 0)];
    let mut keys: Vec<Key<'_>> = names.iter().map(Key::value).collect();
    keys.extend(parts.iter().map(|part| Key::new("t", std::slice::from_ref(part))));
    keys.extend(pairs.iter().map(|pair| Key::new("t", pair)));
    keys.extend(pairs.iter().map(|pair| Key::new("t:a", pair)));
    // The digest of a long key has one part more than any other.
    keys.extend([MAX_KEY_PARTS, MAX_KEY_PARTS + 1].map(|count| Key::new("t", &parts[..count])));
    for (index, key) in keys.iter().enumerate() {
        backend.set(key, index.to_string().as_bytes(), None).await.expect("set");
    }
    for (index, key) in keys.iter().enumerate() {
        let found = backend.get(key).await.expect("get");
        let expected = index.to_string().into_bytes();
        assert_eq!(found, Some(expected), "each key has its own value: {key:?}");
    }
}

async fn values_expire(harness: &dyn Harness) {
    let Subject { backend, clock, .. } = Subject::fresh(harness).await;
    let ttl = harness.ttl();
    let long = ttl * 1000;
    backend.set(&Key::value("short"), b"1", Some(ttl)).await.expect("set");
    backend.set(&Key::value("long"), b"1", Some(long)).await.expect("set");
    backend.set(&Key::value("ever"), b"1", None).await.expect("set");
    backend.set(&Key::value("given"), b"1", None).await.expect("set");
    assert!(backend.expire(&Key::value("given"), ttl).await.expect("expire"), "there is a value");
    assert!(!backend.expire(&Key::value("none"), ttl).await.expect("expire"), "there is none");
    assert!(value(&*backend, "short").await.is_some(), "not before its time");
    assert!(value(&*backend, "given").await.is_some(), "not before its time");
    harness.elapse(&clock, ttl).await;
    assert_eq!(value(&*backend, "short").await, None, "an expired value is missing");
    assert_eq!(value(&*backend, "given").await, None, "an expired value is missing");
    assert!(value(&*backend, "long").await.is_some(), "a longer one is not");
    assert!(value(&*backend, "ever").await.is_some(), "one without expiry is not");
    let short = Key::value("short");
    let created = backend.compare_and_set(&short, None, Some(b"2"), Ttl::Never).await.expect("cas");
    assert!(created, "an expired value counts as missing");

    for step in ["set", "compare_and_set", "expire"] {
        let key = Key::value(step);
        backend.set(&key, b"1", None).await.expect("set");
        let zero = Duration::ZERO;
        match step {
            "set" => backend.set(&key, b"2", Some(zero)).await.expect("set"),
            "expire" => assert!(backend.expire(&key, zero).await.expect("expire")),
            _ => {
                let done =
                    backend.compare_and_set(&key, Some(b"1"), Some(b"2"), Ttl::After(zero)).await;
                assert!(done.expect("cas"), "it was the expected value");
            }
        }
        assert_eq!(value(&*backend, step).await, None, "{step} with a TTL of zero removes");
    }
}

async fn counters_count(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let key = Key::value("n");
    assert_eq!(backend.increment(&key, 0).await.expect("increment"), 0);
    assert_eq!(backend.increment(&key, 5).await.expect("increment"), 5);
    assert_eq!(value(&*backend, "n").await.as_deref(), Some(&b"5"[..]), "decimal digits");
    assert_eq!(backend.decrement(&key, 2).await.expect("decrement"), 3);
    assert_eq!(backend.decrement(&key, 9).await.expect("decrement"), 0, "not below 0");
    // Beyond 2^53, where a double would lose units.
    let large = (1 << 53) + 1;
    assert_eq!(backend.increment(&key, large).await.expect("increment"), large);
    assert_eq!(backend.increment(&key, 1).await.expect("increment"), large + 1);
    assert_eq!(backend.decrement(&key, 1).await.expect("decrement"), large);
    let rest = MAX_COUNTER - large;
    let most = backend.increment_with_ttl(&key, rest, Duration::from_secs(60)).await;
    assert_eq!(most.expect("increment_with_ttl"), MAX_COUNTER);
}

async fn counters_refuse_what_is_none(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let (key, missing, text) = (Key::value("n"), Key::value("missing"), Key::value("text"));
    let ttl = Duration::from_secs(60);
    let missed = backend.decrement(&missing, 1).await.map_err(|error| error.kind());
    assert_eq!(missed, Err(ErrorKind::NotFound), "a missing counter cannot be decremented");
    assert_eq!(value(&*backend, "missing").await, None, "and stays missing");

    backend.set(&key, MAX_COUNTER.to_string().as_bytes(), None).await.expect("set");
    for result in [backend.increment(&key, 1).await, backend.increment_with_ttl(&key, 1, ttl).await]
    {
        let kind = result.map_err(|error| error.kind());
        assert_eq!(kind, Err(ErrorKind::OutOfRange), "beyond the largest counter");
    }
    let kind = backend.increment(&key, u64::MAX).await.map_err(|error| error.kind());
    assert_eq!(kind, Err(ErrorKind::OutOfRange), "by more than the largest counter");
    let kept = value(&*backend, "n").await;
    assert_eq!(kept, Some(MAX_COUNTER.to_string().into_bytes()), "a refused counter stays");

    for bytes in [&b"one"[..], b"", b" 1", b"1.5", b"+1", b"9223372036854775808"] {
        backend.set(&text, bytes, None).await.expect("set");
        for result in [
            backend.increment(&text, 1).await,
            backend.decrement(&text, 1).await,
            backend.increment_with_ttl(&text, 1, ttl).await,
        ] {
            let kind = result.map_err(|error| error.kind());
            assert_eq!(kind, Err(ErrorKind::NotANumber), "{bytes:?} is no counter");
        }
        assert_eq!(value(&*backend, "text").await.as_deref(), Some(bytes), "and stays");
    }
}

async fn counters_keep_their_ttl(harness: &dyn Harness) {
    let Subject { backend, clock, .. } = Subject::fresh(harness).await;
    let ttl = harness.ttl();
    let long = ttl * 1000;
    let [new, old, kept] = ["new", "old", "kept"].map(Key::value);
    assert_eq!(backend.increment_with_ttl(&new, 1, ttl).await.expect("increment_with_ttl"), 1);
    assert_eq!(backend.increment_with_ttl(&new, 1, long).await.expect("increment_with_ttl"), 2);
    backend.increment(&new, 1).await.expect("increment");
    backend.increment(&old, 1).await.expect("increment");
    backend.increment_with_ttl(&old, 1, ttl).await.expect("increment_with_ttl");
    backend.increment(&kept, 1).await.expect("increment");
    harness.elapse(&clock, ttl).await;
    assert_eq!(value(&*backend, "new").await, None, "the TTL is that of the first increment");
    assert_eq!(value(&*backend, "old").await, None, "a counter without a TTL gets one");
    assert!(value(&*backend, "kept").await.is_some(), "increment gives no TTL");
}

async fn compare_and_set_is_exact(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let key = Key::value("a");
    let cas = async |expected: Option<&[u8]>, new: Option<&[u8]>| {
        backend.compare_and_set(&key, expected, new, Ttl::Never).await.expect("compare_and_set")
    };
    assert!(cas(None, None).await, "missing as expected, and stays");
    assert!(!cas(Some(b"1"), Some(b"2")).await, "missing, but a value was expected");
    assert!(cas(None, Some(b"1")).await, "creates");
    assert!(!cas(None, Some(b"2")).await, "there, but expected to be missing");
    assert!(!cas(Some(b"0"), Some(b"2")).await, "another value");
    assert!(cas(Some(b"1"), Some(b"")).await, "replaces, by an empty value");
    assert!(!cas(None, Some(b"2")).await, "an empty value is not a missing one");
    assert!(cas(Some(b""), Some(b"3")).await, "replaces an empty value");
    assert!(!cas(Some(b"2"), None).await, "does not delete another value");
    assert!(cas(Some(b"3"), None).await, "deletes");
    assert_eq!(value(&*backend, "a").await, None, "a deleted value");
}

async fn a_write_keeps_or_sets_the_ttl(harness: &dyn Harness) {
    let Subject { backend, clock, .. } = Subject::fresh(harness).await;
    let ttl = harness.ttl();
    let (short, long) = (Some(ttl), Some(ttl * 1000));
    // The TTL before, what the write says, and whether the value is there when the short one is over.
    let cases = [
        ("keep short", short, Ttl::Keep, false),
        ("keep long", long, Ttl::Keep, true),
        ("keep none", None, Ttl::Keep, true),
        ("short if none, on long", long, Ttl::IfNone(ttl), true),
        ("long if none, on short", short, Ttl::IfNone(ttl * 1000), false),
        ("short if none, on none", None, Ttl::IfNone(ttl), false),
        ("short after long", long, Ttl::After(ttl), false),
        ("long after short", short, Ttl::After(ttl * 1000), true),
        ("never after short", short, Ttl::Never, true),
    ];
    for (name, before, write, _) in cases {
        let key = Key::value(name);
        backend.set(&key, b"1", before).await.expect("set");
        let done = backend.compare_and_set(&key, Some(b"1"), Some(b"2"), write).await;
        assert!(done.expect("compare_and_set"), "{name}");
        assert_eq!(value(&*backend, name).await.as_deref(), Some(&b"2"[..]), "{name}");
    }
    for (name, write) in [("new, keep", Ttl::Keep), ("new, short if none", Ttl::IfNone(ttl))] {
        let made = backend.compare_and_set(&Key::value(name), None, Some(b"2"), write).await;
        assert!(made.expect("compare_and_set"), "{name}");
    }
    harness.elapse(&clock, ttl).await;
    for (name, _, _, is_there) in cases {
        assert_eq!(value(&*backend, name).await.is_some(), is_there, "{name}");
    }
    assert!(value(&*backend, "new, keep").await.is_some(), "a new value never expires");
    assert_eq!(value(&*backend, "new, short if none").await, None, "a new value has none");
}

async fn several_at_once(harness: &dyn Harness) {
    let Subject { backend, clock, .. } = Subject::fresh(harness).await;
    let ttl = harness.ttl();
    let [a, b, c] = ["a", "b", "c"].map(Key::value);
    backend.multi_set(&[(a, b"1"), (c, b""), (a, b"2")], None).await.expect("multi_set");
    let found = backend.multi_get(&[c, b, a, a]).await.expect("multi_get");
    let expected = [Some(&b""[..]), None, Some(b"2"), Some(b"2")];
    let found: Vec<_> = found.iter().map(Option::as_deref).collect();
    assert_eq!(found, expected, "the same order, the last of equal keys, None for missing");
    assert!(backend.multi_get(&[]).await.expect("multi_get").is_empty(), "of nothing");
    backend.multi_set(&[], None).await.expect("multi_set of nothing");
    backend.multi_set(&[(a, b"3"), (b, b"3")], Some(ttl)).await.expect("multi_set");
    harness.elapse(&clock, ttl).await;
    let found = backend.multi_get(&[a, b, c]).await.expect("multi_get");
    assert_eq!(found, [None, None, Some(vec![])], "a TTL holds for all of them");
}

async fn concurrent_counts_are_all_counted(harness: &dyn Harness) {
    const TASKS: u64 = 16;
    const EACH: u64 = 50;
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let backend = Arc::clone(&backend);
        tasks.spawn(async move {
            for _ in 0..EACH {
                let key = Key::value("n");
                let added = if task % 2 == 0 {
                    backend.increment(&key, 1).await
                } else {
                    backend.increment_with_ttl(&key, 1, Duration::from_secs(3600)).await
                };
                added.expect("increment");
            }
        });
    }
    tasks.join_all().await;
    let sum = backend.increment(&Key::value("n"), 0).await.expect("increment");
    assert_eq!(sum, TASKS * EACH, "no increment is lost");
}

async fn peers_see_the_same(harness: &dyn Harness) {
    let Subject { backend, namespace, clock } = Subject::fresh(harness).await;
    let Some(peer) = harness.peer(&namespace, clock).await else { return };
    peer.initialize().await.expect("initialize");
    backend.set(&Key::value("a"), b"1", None).await.expect("set");
    assert_eq!(value(&*peer, "a").await.as_deref(), Some(&b"1"[..]), "what the other wrote");
    peer.close().await.expect("close");
    assert!(value(&*backend, "a").await.is_some(), "closing one does not close the other");
}
