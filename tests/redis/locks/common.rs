//! What the tests of locks share.

use std::future::Future;
use std::time::Duration;

use traffik::backend::redis::RedisBuilder;
use traffik::{LockGuard, LockOptions, Locks, Redis};

use test_support::servers::{RedisServer, wait};

/// Enough for whatever ends by itself, on a machine that does other things too.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// A TTL that is not over before a test is.
pub(crate) const LONG: Duration = Duration::from_secs(600);
const NAMESPACE: &str = "locks";

pub(crate) fn builder() -> RedisBuilder {
    Redis::builder().namespace(NAMESPACE).persistent(true).command_timeout(Duration::from_secs(5))
}

pub(crate) fn on(server: &RedisServer) -> Redis {
    builder().url(server.url()).build().unwrap()
}

pub(crate) fn ttl(ttl: Duration) -> LockOptions {
    LockOptions::new().ttl(Some(ttl)).blocking_timeout(Some(SOON))
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Not blocking.
pub(crate) fn at_once() -> LockOptions {
    ttl(LONG).blocking(false)
}

pub(crate) fn lock_key(name: &str) -> String {
    format!("{NAMESPACE}|L{{{name}}}")
}

pub(crate) fn fence_key(name: &str) -> String {
    format!("{NAMESPACE}|F{{{name}}}")
}

pub(crate) fn is_held(server: &RedisServer, name: &str) -> bool {
    server.cmd(&format!("EXISTS {}", lock_key(name))).int() == 1
}

/// What is left of the lock's TTL in milliseconds; negative if there is no lock or no TTL.
pub(crate) fn pttl(server: &RedisServer, name: &str) -> i64 {
    server.cmd(&format!("PTTL {}", lock_key(name))).int()
}

/// How many writes the server has done.
pub(crate) fn changes(server: &RedisServer) -> u64 {
    let info = server.cmd("INFO persistence");
    info.field("rdb_changes_since_last_save").unwrap().parse().unwrap()
}

/// Takes the lock, if need be by several tries: a server that is down or slow is an error.
pub(crate) async fn take(backend: &Redis, name: &str, options: LockOptions) -> LockGuard {
    wait::heals("taking a lock", SOON, || backend.lock(name, options)).await
}

/// Waits until it holds.
pub(crate) async fn until(what: &str, condition: impl AsyncFnMut() -> bool) {
    wait::eventually(what, SOON, condition).await;
}

/// Fails if it does not end: no test waits forever.
pub(crate) async fn ends<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, work).await {
        Ok(result) => result,
        Err(_elapsed) => panic!("{what} does not end"),
    }
}

/// Whether another can have it now.
pub(crate) async fn is_free(backend: &Redis, name: &str) -> bool {
    match backend.lock(name, at_once()).await {
        Ok(guard) => {
            assert!(guard.release().await.unwrap());
            true
        }
        Err(_) => false,
    }
}

/// Runs a worker's part.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap().block_on(work)
}

pub(crate) fn is_soak() -> bool {
    std::env::var_os("TRAFFIK_SOAK").is_some()
}
