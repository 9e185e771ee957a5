//! Those who wait, and those who stop waiting.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use traffik::{LockError, Locks, Redis};

use super::common::{LONG, SOON, ends, is_free, millis, on, take, ttl, until};
use test_support::servers::{Abandoned, RedisServer, pause, wait};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_waiters_in_a_process_one_asks() {
    let server = RedisServer::start();
    let (holder, waiters) = (on(&server), on(&server));
    let guard = take(&holder, "a", ttl(LONG)).await;
    server.cmd("CONFIG RESETSTAT");
    let start = wait::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let backend = waiters.clone();
        tasks.spawn(async move { backend.lock("a", ttl(LONG)).await.map(drop) });
    }
    let asked = || u128::from(server.calls("evalsha") + server.calls("eval"));
    until("one asks again and again", async || asked() >= 10).await;
    let asked = asked();
    // One who pauses for 5 ms or more after each try; each of fifty would have asked once at least.
    let most = start.elapsed().as_millis() / 5 + 3;
    assert!(asked <= most, "{asked} tries, one waiter makes {most} at most");
    assert!(guard.release().await.unwrap());
    ends("the line", async {
        while let Some(taken) = tasks.join_next().await {
            taken.unwrap().unwrap();
        }
    })
    .await;
    until("all let go of it", async || is_free(&holder, "a").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_that_give_up_leave_nothing_behind() {
    let server = RedisServer::start();
    let (holder, other) = (on(&server), on(&server));
    let guard = take(&holder, "a", ttl(LONG)).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..10 {
        let backend = other.clone();
        let options = ttl(LONG).blocking_timeout(Some(millis(10 * number)));
        tasks.spawn(async move { backend.lock("a", options).await.map(drop) });
    }
    while let Some(waited) = ends("the wait", tasks.join_next()).await {
        let waited = waited.unwrap();
        assert!(matches!(waited, Err(LockError::TimedOut { .. })), "{waited:?}");
    }
    assert!(guard.release().await.unwrap());
    // At once: nobody stands in the way.
    assert!(is_free(&other, "a").await);
}

/// Drops the future when it has been polled that often, if it has not ended by then.
async fn polled<T>(mut polls: usize, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|context| {
        if polls == 0 {
            return Poll::Ready(None);
        }
        polls -= 1;
        match work.as_mut().poll(context) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending if polls == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Its taker has gone away.
async fn becomes_free(backend: &Redis) {
    let abandoned = Abandoned::now();
    until("it is free", async || is_free(backend, "a").await).await;
    abandoned.is_free("the lock");
}

/// A future that is kept and not polled, and a runtime that stands idle, hold no free lock up.
#[test]
fn f28_a_waiter_that_stands_still_keeps_no_free_lock_from_others() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = RedisServer::start();
    let backend = on(&server);
    let (idle, other) = (runtime(), runtime());
    let guard = idle.block_on(backend.lock("a", ttl(LONG))).unwrap();
    let mut kept = Box::pin(backend.lock("a", ttl(LONG)));
    idle.block_on(async {
        assert!(polled(2, kept.as_mut()).await.is_none(), "it waits");
        let backend = backend.clone();
        tokio::spawn(async move { backend.lock("a", ttl(LONG)).await });
        tokio::task::yield_now().await;
    });
    // From here on both waiters stand still.
    assert!(other.block_on(guard.release()).unwrap());
    for _ in 0..3 {
        let guard = other.block_on(backend.lock("a", ttl(LONG))).unwrap();
        assert!(other.block_on(guard.release()).unwrap());
    }
    let guard = other.block_on(kept).unwrap();
    assert!(other.block_on(guard.release()).unwrap(), "polled again, it has its turn");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_a_cancelled_acquisition_leaves_no_lock_behind() {
    let server = RedisServer::start();
    let observer = on(&server);
    for connected in [false, true] {
        for polls in 0.. {
            let backend = on(&server);
            if connected {
                drop(take(&backend, "other", ttl(LONG)).await);
            }
            let taken = polled(polls, backend.lock("a", ttl(LONG))).await;
            let ended = taken.is_some();
            if let Some(guard) = taken {
                assert!(guard.unwrap().release().await.unwrap());
            }
            becomes_free(&observer).await;
            if ended {
                assert!(polls > 0);
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_acquisitions_cancelled_at_any_time_leave_no_lock_behind() {
    let server = RedisServer::start();
    let (backend, observer) = (on(&server), on(&server));
    let mut cancelled = 0;
    for round in 0..300 {
        let taken = tokio::time::timeout(
            std::time::Duration::from_micros(round * 7 % 1500),
            backend.lock("a", ttl(SOON)),
        );
        match taken.await {
            Ok(guard) => assert!(guard.unwrap().release().await.unwrap()),
            Err(_elapsed) => cancelled += 1,
        }
        if round % 10 == 0 {
            becomes_free(&observer).await;
        }
    }
    println!("{cancelled} cancelled");
    becomes_free(&observer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_cancelled_waiters_leave_no_lock_behind() {
    let server = RedisServer::start();
    let (holder, other) = (on(&server), on(&server));
    for polls in 1..8 {
        let guard = take(&holder, "a", ttl(LONG)).await;
        let waiting = polled(polls, other.lock("a", ttl(LONG)));
        let (given_up, released) = tokio::join!(waiting, async {
            pause::pace(millis(polls as u64 * 3)).await;
            guard.release().await
        });
        assert!(released.unwrap());
        drop(given_up);
        becomes_free(&holder).await;
    }
}
