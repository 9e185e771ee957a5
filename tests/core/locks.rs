//! Locks in memory, beyond what the conformance suite asks of every backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use traffik::backend::LockKind;
use traffik::{Backend, HasCore, InMemory, LockError, LockOptions, Locks};

fn backend(kind: LockKind) -> InMemory {
    InMemory::builder().lock_kind(kind).build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_tasks_exclude_each_other_and_tokens_rise() {
    for kind in [LockKind::Fair, LockKind::Unfair] {
        let backend = backend(kind);
        let shared = Arc::new(AtomicU64::new(0));
        let last_fence = Arc::new(AtomicU64::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..64 {
            let (backend, shared) = (backend.clone(), Arc::clone(&shared));
            let last_fence = Arc::clone(&last_fence);
            tasks.spawn(async move {
                for round in 0..50 {
                    let guard = backend.lock("a", LockOptions::new()).await.unwrap();
                    let read = shared.load(Ordering::SeqCst);
                    let fence = guard.fencing_token().unwrap();
                    assert!(last_fence.swap(fence, Ordering::SeqCst) < fence);
                    tokio::task::yield_now().await;
                    shared.store(read + 1, Ordering::SeqCst);
                    // Both ways to let go.
                    if round % 2 == 0 {
                        assert!(guard.release().await.unwrap());
                    }
                }
            });
        }
        tasks.join_all().await;
        assert_eq!(shared.load(Ordering::SeqCst), 64 * 50, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fair_lock_is_first_come_first_served() {
    let backend = backend(LockKind::Fair);
    let order = Arc::new(Mutex::new(Vec::new()));
    let holder = backend.lock("a", LockOptions::new()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (backend, order) = (backend.clone(), Arc::clone(&order));
        tasks.spawn(async move {
            let guard = backend.lock("a", LockOptions::new()).await.unwrap();
            order.lock().push(number);
            tokio::time::sleep(Duration::from_millis(1)).await;
            drop(guard);
            // Comes again: behind all who wait already.
            let _guard = backend.lock("a", LockOptions::new()).await.unwrap();
            order.lock().push(number + 100);
        });
        // In the queue before the next one comes.
        tokio::task::yield_now().await;
    }
    drop(holder);
    let newcomer = backend.lock("a", LockOptions::new().blocking(false)).await;
    assert!(matches!(newcomer, Err(LockError::Held)), "a newcomer does not pass those who wait");
    tasks.join_all().await;
    let expected: Vec<i32> = (0..20).chain(100..120).collect();
    assert_eq!(*order.lock(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_or_a_cancelled_waiter_leaves_nothing_behind() {
    for kind in [LockKind::Fair, LockKind::Unfair] {
        let backend = backend(kind);
        let within =
            |millis| LockOptions::new().blocking_timeout(Some(Duration::from_millis(millis)));
        let holder = backend.lock("a", LockOptions::new()).await.unwrap();
        let before = tokio::time::Instant::now();
        let waited = backend.lock("a", within(40)).await;
        assert!(
            matches!(waited, Err(LockError::TimedOut { waited, .. }) if waited.as_millis() == 40)
        );
        assert_eq!(before.elapsed().as_millis(), 40);
        // The first in the queue goes away just when it would be its turn.
        let first = tokio::spawn({
            let backend = backend.clone();
            async move { backend.lock("a", LockOptions::new()).await.map(drop) }
        });
        tokio::task::yield_now().await;
        let second = tokio::spawn({
            let backend = backend.clone();
            async move { backend.lock("a", LockOptions::new()).await.map(drop) }
        });
        tokio::task::yield_now().await;
        drop(holder);
        first.abort();
        second.await.unwrap().unwrap();
        assert!(backend.lock("a", LockOptions::new().blocking(false)).await.is_ok(), "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn waiters_take_over_at_the_ttl_in_order() {
    let backend = backend(LockKind::Fair);
    let ttl = |seconds| LockOptions::new().ttl(Some(Duration::from_secs(seconds)));
    let lost = backend.lock("a", ttl(5)).await.unwrap();
    let start = tokio::time::Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 1..4u64 {
        let backend = backend.clone();
        tasks.spawn(async move {
            let guard = backend.lock("a", ttl(5)).await.unwrap();
            // Held beyond its time, and never let go.
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert!(!guard.is_valid());
            (number, guard.fencing_token().unwrap())
        });
        tokio::task::yield_now().await;
    }
    let last = backend.lock("a", ttl(5)).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 20, "four holders of five seconds each");
    assert!(!lost.is_valid() && !lost.release().await.unwrap());
    assert!(last.is_valid());
    let mut fences: Vec<(u64, u64)> = tasks.join_all().await;
    fences.sort_unstable();
    assert!(fences.windows(2).all(|pair| pair[0].1 < pair[1].1), "{fences:?}");
}

#[tokio::test(start_paused = true)]
async fn extend_keeps_waiters_waiting() {
    let backend = backend(LockKind::Unfair);
    let guard =
        backend.lock("a", LockOptions::new().ttl(Some(Duration::from_secs(1)))).await.unwrap();
    let start = tokio::time::Instant::now();
    let waiter = tokio::spawn({
        let backend = backend.clone();
        async move { backend.lock("a", LockOptions::new()).await.map(drop) }
    });
    tokio::task::yield_now().await;
    assert!(guard.extend(Duration::from_secs(3)).await.unwrap());
    waiter.await.unwrap().unwrap();
    assert_eq!(start.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_clear_leaves_a_lock_that_is_held() {
    let backend = backend(LockKind::Unfair);
    let guard = backend.lock("a", LockOptions::new()).await.unwrap();
    backend.clear().await.unwrap();
    assert!(matches!(
        backend.lock("a", LockOptions::new().blocking(false)).await,
        Err(LockError::Held)
    ));
    assert!(guard.release().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn the_backends_defaults_are_there_to_start_from() {
    let backend = InMemory::builder()
        .lock_blocking(false)
        .lock_ttl(Some(Duration::from_secs(2)))
        .lock_blocking_timeout(Some(Duration::from_secs(3)))
        .build()
        .unwrap();
    let two = Some(Duration::from_secs(2));
    let set = LockOptions::new().blocking(false).ttl(two);
    let set = set.blocking_timeout(Some(Duration::from_secs(3)));
    assert_eq!(backend.core().lock_options(), set);
    assert_eq!(InMemory::new().core().lock_options(), LockOptions::new());
    let request = LockOptions::new().resolve("a", set).unwrap();
    assert_eq!((request.ttl(), request.waits()), (two, false));
    let request = LockOptions::new().resolve("a", LockOptions::new()).unwrap();
    assert_eq!((request.ttl(), request.waits(), request.deadline()), (None, true, None));
}

#[tokio::test(start_paused = true)]
async fn what_a_locks_options_leave_unset_is_the_backends() {
    for kind in [LockKind::Fair, LockKind::Unfair] {
        let builder = InMemory::builder().lock_kind(kind).lock_ttl(Some(Duration::from_millis(20)));
        let backend = builder.lock_blocking(false).build().unwrap();
        let first = backend.lock("a", LockOptions::new()).await.unwrap();
        let second = backend.lock("a", LockOptions::new()).await;
        assert!(matches!(second, Err(LockError::Held)), "{second:?}");
        tokio::time::advance(Duration::from_millis(21)).await;
        assert!(!first.is_valid(), "the backend's ttl is over");
        // What is set wins, also if it is the library's default.
        let forever = LockOptions::new().ttl(None);
        let first = backend.lock("a", forever).await.unwrap();
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(first.is_valid());
        let waits = LockOptions::new().blocking(true);
        let wait = tokio::time::timeout(Duration::from_secs(5), backend.lock("a", waits));
        assert!(wait.await.is_err(), "it waits");
    }
    let builder = InMemory::builder().lock_blocking_timeout(Some(Duration::from_millis(30)));
    let backend = builder.build().unwrap();
    let _held = backend.lock("a", LockOptions::new()).await.unwrap();
    let start = tokio::time::Instant::now();
    let waited = backend.lock("a", LockOptions::new()).await;
    assert!(matches!(waited, Err(LockError::TimedOut { .. })), "{waited:?}");
    assert_eq!(start.elapsed().as_millis(), 30);
    let longer = LockOptions::new().blocking_timeout(Some(Duration::from_millis(70)));
    assert!(backend.lock("a", longer).await.is_err());
    assert_eq!(start.elapsed().as_millis(), 100);
}

/// Polls it once, on a thread without a runtime.
fn poll_once<T>(work: impl Future<Output = T>) -> std::task::Poll<T> {
    let mut work = std::pin::pin!(work);
    work.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

#[test]
fn outside_of_a_runtime_a_lock_is_taken_and_a_timed_wait_is_a_clear_error() {
    use std::task::Poll;

    let backend = backend(LockKind::Unfair);
    let second = Duration::from_secs(1);
    let within = LockOptions::new().blocking_timeout(Some(second));
    let Poll::Ready(Ok(guard)) = poll_once(backend.lock("a", within.ttl(Some(second)))) else {
        panic!("it is free");
    };
    for options in [within, LockOptions::new()] {
        let Poll::Ready(Err(error)) = poll_once(backend.lock("a", options)) else {
            panic!("nothing would wake it");
        };
        assert!(error.to_string().contains("tokio runtime"), "{error}");
    }
    let at_once = poll_once(backend.lock("a", LockOptions::new().blocking(false)));
    assert!(matches!(at_once, Poll::Ready(Err(LockError::Held))), "{at_once:?}");
    drop(guard);
    // A wait without a timer needs no runtime.
    let Poll::Ready(Ok(guard)) = poll_once(backend.lock("a", LockOptions::new())) else {
        panic!("the failed waits left nothing behind");
    };
    assert!(poll_once(backend.lock("a", LockOptions::new())).is_pending());
    drop(guard);
}

#[test]
fn f23_a_guard_may_be_dropped_anywhere() {
    let backend = backend(LockKind::Unfair);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let [a, b, c] = ["a", "b", "c"]
        .map(|name| runtime.block_on(backend.lock(name, LockOptions::new())).unwrap());
    std::thread::spawn(move || drop(a)).join().unwrap();
    assert!(
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _b = b;
            panic!("part of the test");
        }))
        .is_err()
    );
    // A runtime that is gone.
    drop(runtime);
    drop(c);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for name in ["a", "b", "c"] {
        let free = runtime.block_on(backend.lock(name, LockOptions::new().blocking(false)));
        assert!(free.is_ok(), "{name}");
    }
}
