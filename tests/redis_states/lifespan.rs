//! What a lifespan leaves behind on a shared server.

use traffik::{Backend, ErrorKind, LifespanExt, LockOptions};

use super::world::{CAPACITY, LONG, Log, backend_error, patient, throttle};
use crate::servers::RedisServer;

#[tokio::test]
async fn one_that_is_not_persistent_warns_and_clears_but_for_locks() {
    let log = Log::start();
    let server = RedisServer::start();
    let backend = patient().url(server.url()).build().unwrap();
    let other = patient().url(server.url()).build().unwrap();
    let life = backend.lifespan().await.unwrap();
    assert_eq!(log.warnings("clears what other processes count"), 1, "{}", log.text());
    let throttle = throttle(&backend);
    let _ = throttle.hit("a").await.unwrap();
    let options = LockOptions::new().ttl(Some(LONG)).blocking(false);
    let guard = backend.lock("job", options).await.unwrap();
    life.close().await.unwrap();
    assert_eq!(backend_error(throttle.hit("a").await).kind(), ErrorKind::Closed);
    assert_eq!(super::world::throttle(&other).peek("a").await.unwrap().remaining(), CAPACITY);
    assert!(other.lock("job", options).await.is_err(), "the lock is still held");
    drop(guard);
    // And opens again.
    let life = backend.lifespan().await.unwrap();
    assert_eq!(throttle.hit("a").await.unwrap().remaining(), CAPACITY - 1);
    life.close().await.unwrap();
}

#[tokio::test]
async fn one_that_is_persistent_keeps_what_was_counted() {
    let log = Log::start();
    let server = RedisServer::start();
    for count in 1..=3 {
        let backend = patient().persistent(true).url(server.url()).build().unwrap();
        let life = backend.lifespan().await.unwrap();
        let decision = throttle(&backend).hit("a").await.unwrap();
        assert_eq!(decision.remaining(), CAPACITY - count);
        life.close().await.unwrap();
    }
    assert_eq!(log.warnings("clears what other processes count"), 0, "{}", log.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_while_the_server_is_away_is_an_error_and_closes() {
    let mut server = RedisServer::start();
    let backend = super::world::hasty().url(server.url()).build().unwrap();
    let life = backend.lifespan().await.unwrap();
    server.kill();
    let error = life.close().await.unwrap_err();
    assert_eq!(error.operation(), "clear", "{error}");
    let closed = throttle(&backend).hit("a").await;
    assert_eq!(backend_error(closed).kind(), ErrorKind::Closed);
}
