//! Holders that go away, or come back too late.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use traffik::{LockOptions, Locks};

use super::common::{
    LONG, block_on, builder, ends, fence_key, is_free, is_held, millis, on, take, ttl, until,
};
use test_support::servers::{RedisServer, Workers, workers};

/// Takes the lock, waits to be told, and then goes on as if it were still the holder.
#[test]
#[ignore = "run by another test as a process of its own"]
fn worker() {
    if workers::number().is_none() {
        return;
    }
    let time = millis(workers::variable("TTL").parse().unwrap());
    block_on(async {
        let backend = builder().url(workers::variable("URL")).build().unwrap();
        let guard = take(&backend, "a", ttl(time)).await;
        workers::say("HELD");
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        let valid = guard.is_valid();
        let written = backend.set_fenced(&guard, "value", Some(b"stale"), None).await.unwrap();
        let extended = guard.extend(LONG).await.unwrap();
        let released = guard.release().await.unwrap();
        workers::report(&format!("{valid} {written} {extended} {released}"));
    });
}

fn holder(server: &RedisServer, ttl: Duration) -> Workers {
    let (url, ttl) = (server.url(), ttl.as_millis().to_string());
    let mut workers = Workers::spawn(1, "locks::holders::worker", &[("URL", &url), ("TTL", &ttl)]);
    workers.wait_for_line(0, "HELD");
    workers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_a_guard_may_be_dropped_anywhere() {
    let server = RedisServer::start();
    let backend = on(&server);
    let freed = async |how: &str| {
        let is_freed = async || is_free(&backend, "a").await;
        until(how, is_freed).await;
    };
    // With a lease too: its task must not keep the lock.
    for options in [ttl(LONG), LockOptions::new()] {
        drop(take(&backend, "a", options).await);
        freed("dropped in a task").await;
        let guard = take(&backend, "a", options).await;
        std::thread::spawn(move || drop(guard)).join().unwrap();
        freed("dropped on a plain thread").await;
        let guard = take(&backend, "a", options).await;
        let unwound = catch_unwind(AssertUnwindSafe(move || {
            let _guard = guard;
            panic!("part of the test");
        }));
        assert!(unwound.is_err());
        freed("dropped while unwinding").await;
    }
}

#[test]
fn f23_a_guard_outlives_its_runtime() {
    let server = RedisServer::start();
    let backend = builder().url(server.url()).lock_lease(millis(1500)).build().unwrap();
    let [plain, leased] = block_on(async {
        [take(&backend, "a", ttl(millis(1500))).await, {
            take(&backend, "b", LockOptions::new()).await
        }]
    });
    // No runtime here, and that of the backend's tasks is gone.
    drop(plain);
    drop(leased);
    let after = block_on(async {
        for name in ["a", "b"] {
            ends("the TTL", until("the TTL frees it", async || is_free(&backend, name).await))
                .await;
        }
        take(&backend, "a", ttl(LONG)).await
    });
    // In a runtime again, but another one.
    block_on(async {
        drop(after);
        until("the next runtime lets go", async || !is_held(&server, "a")).await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f24_a_killed_holder_frees_its_lock_at_the_ttl() {
    let server = RedisServer::start();
    let backend = on(&server);
    let mut holder = holder(&server, millis(2000));
    let token = server.cmd(&format!("GET {}", fence_key("a"))).int().unsigned_abs();
    holder.kill(0);
    let next = ends("the wait for the TTL", take(&backend, "a", ttl(LONG))).await;
    assert!(next.fencing_token().unwrap() > token);
    assert!(next.release().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f25_a_holder_that_was_paused_beyond_its_ttl_writes_nothing() {
    let server = RedisServer::start();
    let backend = on(&server);
    let mut holder = holder(&server, millis(1000));
    holder.pause(0);
    let next = ends("the wait for the TTL", take(&backend, "a", ttl(LONG))).await;
    assert!(backend.set_fenced(&next, "value", Some(b"new"), None).await.unwrap());
    holder.resume(0);
    assert_eq!(holder.results(), ["false false false false"]);
    assert_eq!(backend.get_fenced("a", "value").await.unwrap().as_deref(), Some(&b"new"[..]));
    assert!(next.is_valid());
    assert!(next.release().await.unwrap(), "the next holder's lock is left alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f25_a_late_holder_writes_nothing_also_when_nobody_came_after_it() {
    let server = RedisServer::start();
    let backend = on(&server);
    let guard = take(&backend, "a", ttl(millis(50))).await;
    until("the TTL is over", async || !is_held(&server, "a")).await;
    assert!(!guard.is_valid(), "known here before the server frees it");
    assert!(!backend.set_fenced(&guard, "value", Some(b"stale"), None).await.unwrap());
    assert_eq!(backend.get_fenced("a", "value").await.unwrap(), None);
    assert!(!guard.release().await.unwrap());
    drop(backend.lock("a", ttl(LONG)).await.unwrap());
}
