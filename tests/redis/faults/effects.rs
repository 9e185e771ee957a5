//! What an error says about the hit, and that nothing is sent twice.

use std::time::Duration;

use tokio::task::JoinSet;
use traffik::{Effect, ErrorKind, Key, Values};

use super::common::{
    PATIENT, PLENTY, admits, builder, ends, error, patient, throttle, until, used,
};
use test_support::servers::{Proxy, RedisServer, ports};

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_a_refused_connection_applies_nothing() {
    let backend = builder(format!("redis://127.0.0.1:{}", ports::free())).build().unwrap();
    let throttle = throttle(&backend, PLENTY);
    for _ in 0..20 {
        let error = error(ends(throttle.hit("key")).await);
        assert_eq!(error.effect(), Effect::NotApplied, "{error}");
        assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error}");
    }
    let error = ends(backend.get(&Key::value("a"))).await.unwrap_err();
    assert_eq!(error.effect(), Effect::NotApplied, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_in_flight_when_the_connection_dies_is_ambiguous_and_sent_once() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let backend = patient(format!("redis://127.0.0.1:{}", proxy.port()));
    let throttle = throttle(&backend, PLENTY);
    admits(&throttle, "key").await;
    for round in 0..20 {
        proxy.delay(Duration::ZERO, LONG);
        let before = server.calls("evalsha");
        let hit = tokio::spawn({
            let throttle = throttle.clone();
            async move { throttle.hit("key").await }
        });
        until("the server runs it", || server.calls("evalsha") == before + 1).await;
        proxy.cut();
        let error = error(ends(hit).await.unwrap());
        assert_eq!(error.effect(), Effect::Ambiguous, "{error}");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        proxy.forward();
        admits(&throttle, "other").await;
        assert_eq!(used(&throttle, "key", PLENTY).await, 2 + round, "counted once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_a_timeout_is_ambiguous_and_sent_once() {
    const HITS: u32 = 10;
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let backend = builder(url).connect_timeout(PATIENT).build().unwrap();
    let throttle = throttle(&backend, PLENTY);
    admits(&throttle, "first").await;
    let before = server.calls("evalsha");
    proxy.delay(Duration::ZERO, LONG);
    // Together: later ones would find the connection replaced.
    let mut hits = JoinSet::new();
    for _ in 0..HITS {
        let throttle = throttle.clone();
        hits.spawn(async move { throttle.hit("key").await });
    }
    let mut ambiguous = 0;
    for hit in ends(hits.join_all()).await {
        let error = error(hit);
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        ambiguous += u32::from(error.effect() == Effect::Ambiguous);
    }
    let sent = server.calls("evalsha") - before;
    assert!(sent <= u64::from(HITS), "{sent} of {HITS} came: none twice");
    proxy.forward();
    admits(&throttle, "other").await;
    let used = used(&throttle, "key", PLENTY).await;
    assert!(used <= ambiguous, "{used} ran, {ambiguous} said that they may have");
}
