//! A server that answers later than the lock lasts, or than the caller waits.

use std::time::Duration;

use traffik::{LockError, LockOptions, Locks, redis};

use super::common::{
    LONG, SOON, at_once, builder, ends, fence_key, is_held, lock_key, millis, take, ttl, until,
};
use test_support::servers::{Direction, Proxy, RedisServer, pause};

fn url(proxy: &Proxy) -> String {
    format!("redis://127.0.0.1:{}", proxy.port())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f36_a_lock_that_is_granted_too_late_is_not_taken_and_is_released() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let backend = builder().url(url(&proxy)).command_timeout(millis(20_000)).build().unwrap();
    // Connected, and the server knows the scripts.
    assert!(take(&backend, "other", ttl(LONG)).await.release().await.unwrap());
    server.cmd("CONFIG RESETSTAT");
    // The request comes through late: when the answer is here, all of the TTL is left on the server.
    proxy.hold(Direction::Request);
    let time = millis(2000);
    let waiting = tokio::spawn({
        let backend = backend.clone();
        async move { backend.lock("a", ttl(time).blocking(false)).await }
    });
    until("it is asked for", async || proxy.holds(Direction::Request, &lock_key("a"))).await;
    pause::expires(time).await;
    proxy.forward();
    let taken = ends("the try", waiting).await.unwrap();
    assert!(matches!(taken, Err(LockError::Held)), "{taken:?}");
    until("it is released", async || !is_held(&server, "a")).await;
    assert_eq!(server.calls("del"), 1, "released, not expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f36_a_lock_that_is_granted_after_the_caller_gave_up_is_released() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let backend = builder().url(url(&proxy)).command_timeout(millis(300)).build().unwrap();
    assert!(take(&backend, "other", ttl(LONG)).await.release().await.unwrap());
    proxy.blackhole();
    let taken = ends("the try", backend.lock("a", at_once())).await;
    assert!(matches!(taken, Err(LockError::Backend(_))), "{taken:?}");
    proxy.forward();
    until("the server runs it", async || {
        server.cmd(&format!("EXISTS {}", fence_key("a"))).int() == 1
    })
    .await;
    until("it is released", async || !is_held(&server, "a")).await;
    assert!(take(&backend, "a", ttl(LONG)).await.release().await.unwrap());
}

/// A try that came too late is let go of by a task, which may be late itself: it must not let go of what
/// the next try has taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f36_the_release_of_a_late_try_leaves_the_next_try_alone() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    // One connection whatever happens, so what is sent first is done first.
    let client = redis::Client::open(url(&proxy)).unwrap();
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    let one = move || std::future::ready(Ok(connection.clone()));
    let backend = builder().factory(one).command_timeout(SOON).build().unwrap();
    let known = take(&backend, "known", ttl(LONG)).await;
    assert!(known.extend(LONG).await.unwrap() && known.release().await.unwrap());
    let mut others = Vec::new();
    // As many as are released at the same time.
    for number in 0..16 {
        others.push(take(&backend, &format!("other {number}"), ttl(LONG)).await);
    }
    server.cmd("CONFIG RESETSTAT");
    // The first answer comes when its lock is over.
    proxy.hold(Direction::Reply);
    let waiting = tokio::spawn({
        let backend = backend.clone();
        async move { backend.lock("a", ttl(millis(3000))).await }
    });
    let has_fence = async || server.cmd(&format!("EXISTS {}", fence_key("a"))).int() == 1;
    until("the first try is done", has_fence).await;
    until("its lock is over", async || !is_held(&server, "a")).await;
    // Its release waits until one of these is done, and the next try does not.
    proxy.hold(Direction::Request);
    drop(others);
    proxy.pass(Direction::Reply);
    until("the next try", async || proxy.holds(Direction::Request, &lock_key("a"))).await;
    proxy.forward();
    let guard = ends("the lock", waiting).await.unwrap().unwrap();
    assert!(guard.extend(LONG).await.unwrap());
    // More than two tries, an extension and the releases of the others: that of the first try too.
    until("all are released", async || server.calls("evalsha") > 2 + 1 + 16).await;
    assert!(is_held(&server, "a"), "nobody else let go of it");
    assert_eq!(server.calls("del"), 16, "those of the others");
    assert!(guard.release().await.unwrap());
}

/// What can never be held long enough is refused, and what takes longer than the TTL is asked for again
/// after a pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f36_a_ttl_too_short_to_be_kept() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let backend = builder().url(url(&proxy)).build().unwrap();
    for micros in [1, 1000, 4999] {
        let options = LockOptions::new().ttl(Some(Duration::from_micros(micros)));
        let taken = ends("the try", backend.lock("a", options)).await;
        assert!(matches!(taken, Err(LockError::Invalid { .. })), "{taken:?}");
    }
    assert!(take(&backend, "other", ttl(LONG)).await.release().await.unwrap());
    proxy.delay(millis(0), millis(20));
    let options = ttl(millis(10)).blocking_timeout(Some(millis(500)));
    let taken = ends("the wait", backend.lock("a", options)).await;
    assert!(matches!(taken, Err(LockError::TimedOut { .. })), "{taken:?}");
}
