//! Keys that would be commands, and ones that do not fit.

use traffik::key::KeyPart;
use traffik::{
    Backend, FixedWindow, Key, LockOptions, Locks, OnError, Throttle, TokenBucket, Values,
};

use crate::world::{PATIENCE, backend, hit, limit};
use test_support::servers::MemcachedServer;

fn corpus() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    for text in [
        "",
        "a b",
        "a\r\nflush_all\r\n",
        "a\r\nset canary 0 0 1\r\nx\r\n",
        "a 0 0 0 noreply\r\nflush_all",
        "a\nflush_all\n",
        "a\0b",
        "../../a",
        "a/b",
        "T/x",
        "\u{e9}\u{2028}",
    ] {
        keys.push(text.into());
    }
    // Around 250 bytes with what comes before them.
    for length in [199, 200, 240, 241, 242, 243, 244, 249, 250, 251, 4096] {
        keys.push(vec![b'k'; length]);
        keys.push([vec![b'k'; length - 1], vec![b'\n']].concat());
    }
    keys
}

#[tokio::test]
async fn f31_hostile_keys_neither_inject_nor_collide() {
    let server = MemcachedServer::start();
    server.command("set canary 0 0 4\r\nalive\r\n".replace("4\r\n", "5\r\n").as_str());
    let backend = backend(&server);
    let strategies =
        [vec![limit("1/30d", FixedWindow::new())], vec![limit("1/30d", TokenBucket::new())]];
    for (limits, throttle) in strategies.iter().zip(["f", "b\r\nflush_all\r\n"]) {
        for expected in [true, false] {
            for bytes in corpus() {
                let parts = [KeyPart::bytes(&bytes)];
                let step = traffik::step::Step::new(limits, 1, traffik::strategy::Op::Take);
                let decision = backend.apply(&Key::new(throttle, &parts), &step).await.unwrap();
                assert_eq!(decision.is_allowed(), expected, "{:?}", bytes.escape_ascii());
            }
        }
    }
    for bytes in corpus() {
        let key = Key::value(&bytes);
        assert_eq!(backend.increment(&key, 1).await.unwrap(), 1, "{:?}", bytes.escape_ascii());
        backend.set(&key, &bytes, None).await.unwrap();
        assert_eq!(backend.get(&key).await.unwrap(), Some(bytes.clone()));
    }
    let keys = corpus();
    let keys: Vec<Key<'_>> = keys.iter().map(Key::value).collect();
    let values = backend.multi_get(&keys).await.unwrap();
    assert_eq!(values.into_iter().flatten().count(), keys.len());
    for name in ["a\r\nflush_all\r\n", "a b", &"n".repeat(200), "\u{e9}"] {
        let guard = backend.lock(name, LockOptions::new()).await.unwrap();
        assert!(guard.release().await.unwrap());
    }
    let canary = server.command("get canary\r\n");
    assert!(canary.contains("alive"), "{canary}");
    assert_eq!(server.stat("cmd_flush"), 0);
}

#[tokio::test]
async fn values_are_bounded() {
    let server = MemcachedServer::start();
    let backend = backend(&server);
    let most = vec![b'x'; 1024 * 1024 - 1024];
    let key = Key::value("a");
    let too_large = backend.set(&key, &[&most[..], b"x"].concat(), None).await.unwrap_err();
    assert_eq!(too_large.kind(), traffik::ErrorKind::OutOfRange, "{too_large}");
    backend.set(&key, &most, None).await.unwrap();
    assert_eq!(backend.get(&key).await.unwrap(), Some(most));
    assert!(hit(&backend, "a", &[limit("5/s", FixedWindow::new())]).await.unwrap().is_allowed());
}

/// What a helper says is what the server has, so that a customer can be looked up.
#[tokio::test]
async fn stored_names_are_readable_and_said_by_a_helper() {
    let server = MemcachedServer::start();
    let backend = backend(&server);
    let throttle = traffik::Throttle::builder("api").rate("5/h").backend(backend.clone());
    let throttle = throttle.deadline(crate::world::PATIENCE).build().unwrap();
    let has = |name: &str| server.command(&format!("mg {name} t\r\n")).starts_with("HD");
    for (key, name) in [
        ("alice@example.com", "test/t/api/alice@example.com"),
        ("a:b|c", "test/t/api/a:b|c"),
        ("{x}/100%", "test/t/api/%7Bx%7D%2F100%25"),
        ("b\u{e9}a c", "test/t/api/b%C3%A9a%20c"),
    ] {
        assert!(throttle.hit(key).await.unwrap().is_allowed());
        assert_eq!(backend.stored_name("api", key).unwrap().as_deref(), Some(name));
        assert!(has(name), "{name}");
    }
    let long = vec![b'x'; traffik::key::MAX_KEY_BYTES + 1];
    for key in corpus().into_iter().chain([long]) {
        assert!(throttle.hit(&key[..]).await.unwrap().is_allowed());
        let name = backend.stored_name("api", &key[..]).unwrap().unwrap();
        assert!(name.len() <= 250 && has(&name), "{name}");
    }
}

#[tokio::test]
async fn f31_a_long_key_is_stored_as_a_digest_and_counted_apart() {
    let server = MemcachedServer::start();
    let throttle = Throttle::builder("long")
        .limit("5/30d", FixedWindow::new())
        .backend(backend(&server))
        .deadline(PATIENCE)
        .on_error(OnError::Raise)
        .build()
        .unwrap();
    let long = vec![b'x'; traffik::key::MAX_KEY_BYTES + 1];
    for (count, key) in [&long[1..], &long[..], &long.repeat(100)[..]].into_iter().enumerate() {
        for left in [4, 3] {
            assert_eq!(throttle.hit(key).await.unwrap().remaining(), left, "key {count}");
        }
    }
    assert_eq!(server.stat("curr_items"), 3);
}
