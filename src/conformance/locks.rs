//! Checks locks.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use super::{Harness, Subject};
use crate::backend::Backend;
use crate::lock::{LockError, LockOptions};

/// Long enough that nothing expires by itself while a test runs.
const LONG: Duration = Duration::from_secs(600);

pub(super) async fn run(harness: &dyn Harness) {
    one_holds_at_a_time(harness).await;
    waiting_ends_in_time(harness).await;
    bad_options_are_refused(harness).await;
    a_lock_frees_itself_at_its_ttl(harness).await;
    extending_never_shortens(harness).await;
    release_says_whether_it_was_ours(harness).await;
    entering_again_is_explicit(harness).await;
    a_dropped_guard_lets_go(harness).await;
    a_cancelled_waiter_passes_the_turn_on(harness).await;
    clear_leaves_locks(harness).await;
    locks_outlive_close(harness).await;
    fences_rise(harness).await;
}

fn held() -> LockOptions {
    LockOptions::new().ttl(Some(LONG))
}

fn at_once() -> LockOptions {
    held().blocking(false)
}

async fn one_holds_at_a_time(harness: &dyn Harness) {
    const TASKS: u64 = 12;
    const EACH: u64 = 10;
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let shared = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let (backend, shared) = (Arc::clone(&backend), Arc::clone(&shared));
        tasks.spawn(async move {
            for _ in 0..EACH {
                let guard = backend.lock("exclusive", held()).await.expect("lock");
                // Read, let others run, write: a second holder would lose an update.
                let read = shared.load(Ordering::SeqCst);
                tokio::task::yield_now().await;
                shared.store(read + 1, Ordering::SeqCst);
                assert!(guard.release().await.expect("release"), "the lock was ours all the time");
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(shared.load(Ordering::SeqCst), TASKS * EACH, "no update is lost");
}

async fn waiting_ends_in_time(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let guard = backend.lock("a", held()).await.expect("lock");
    assert!(matches!(backend.lock("a", at_once()).await, Err(LockError::Held)), "not blocking");
    let short = held().blocking_timeout(Some(Duration::from_millis(30)));
    let waited = backend.lock("a", short).await;
    assert!(matches!(waited, Err(LockError::TimedOut { .. })), "a bounded wait: {waited:?}");
    let other = backend.lock("b", at_once()).await.expect("another name is another lock");
    drop(other);
    assert!(guard.release().await.expect("release"));
    let again = backend.lock("a", at_once()).await.expect("free after the release");
    drop(again);
}

async fn bad_options_are_refused(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let zero = LockOptions::new().ttl(Some(Duration::ZERO));
    let long = "n".repeat(crate::lock::MAX_LOCK_NAME + 1);
    for (name, options) in [("a", zero), ("", held()), (&long, held())] {
        let refused = backend.lock(name, options).await;
        assert!(matches!(refused, Err(LockError::Invalid { .. })), "{name:.10} {options:?}");
    }
    let guard = backend.lock("a\r\n {*} \u{e9}", at_once()).await.expect("any name");
    assert!(matches!(guard.extend(Duration::ZERO).await, Err(LockError::Invalid { .. })));
}

async fn a_lock_frees_itself_at_its_ttl(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let ttl = harness.ttl();
    let lost = backend.lock("a", LockOptions::new().ttl(Some(ttl))).await.expect("lock");
    assert!(lost.is_valid(), "valid at first");
    // Waits for the expiry.
    let next = backend.lock("a", held()).await.expect("lock after the TTL");
    assert!(!lost.is_valid(), "invalid before another can have it");
    assert!(!lost.extend(LONG).await.expect("extend"), "not ours any more");
    assert!(!lost.release().await.expect("release"), "not ours any more");
    assert!(next.is_valid(), "the next holder's lock is not touched");
    let third = backend.lock("a", at_once()).await;
    assert!(third.is_err(), "the next holder's lock is not touched");
    assert!(next.release().await.expect("release"));
}

async fn extending_never_shortens(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let ttl = harness.ttl();
    let guard = backend.lock("a", LockOptions::new().ttl(Some(ttl))).await.expect("lock");
    assert!(guard.extend(LONG).await.expect("extend"), "still ours");
    assert!(guard.extend(Duration::from_millis(1)).await.expect("extend"), "still ours");
    tokio::time::sleep(ttl + Duration::from_millis(50)).await;
    assert!(guard.is_valid(), "extended, and not shortened");
    assert!(matches!(backend.lock("a", at_once()).await, Err(LockError::Held)), "still held");
    assert!(guard.release().await.expect("release"), "still ours");
}

async fn release_says_whether_it_was_ours(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let guard = backend.lock("a", held()).await.expect("lock");
    assert!(guard.release().await.expect("release"));
    let first = backend.lock("a", held()).await.expect("lock");
    let second = first.reenter();
    assert!(first.release().await.expect("release"), "still ours, by the other guard");
    assert!(backend.lock("a", at_once()).await.is_err(), "held until the last guard is gone");
    assert!(second.release().await.expect("release"));
    assert!(backend.lock("a", at_once()).await.is_ok(), "free");
}

async fn entering_again_is_explicit(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let guard = backend.lock("a", held()).await.expect("lock");
    // Two branches of one task must not share a lock by accident.
    assert!(matches!(backend.lock("a", at_once()).await, Err(LockError::Held)));
    let nested = guard.reenter();
    assert_eq!(nested.fencing_token(), guard.fencing_token(), "the same lock");
    drop(guard);
    assert!(nested.is_valid());
    assert!(matches!(backend.lock("a", at_once()).await, Err(LockError::Held)));
}

async fn a_dropped_guard_lets_go(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let within = held().blocking_timeout(Some(Duration::from_secs(5)));
    drop(backend.lock("a", held()).await.expect("lock"));
    drop(backend.lock("a", within).await.expect("free after a drop"));
    let guard = backend.lock("a", within).await.expect("free after a drop");
    // From a thread without a runtime.
    std::thread::spawn(move || drop(guard)).join().expect("a drop never panics");
    drop(backend.lock("a", within).await.expect("free after a drop elsewhere"));
    let holder = Arc::clone(&backend);
    let panicked = tokio::spawn(async move {
        let _guard = holder.lock("a", held()).await.expect("lock");
        panic!("while holding: this panic is part of the test");
    });
    assert!(panicked.await.is_err());
    drop(backend.lock("a", within).await.expect("free after a panic"));
}

async fn a_cancelled_waiter_passes_the_turn_on(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let guard = backend.lock("a", held()).await.expect("lock");
    let wait = |backend: Arc<dyn Backend>| async move {
        let within = held().blocking_timeout(Some(Duration::from_secs(10)));
        backend.lock("a", within).await.map(drop)
    };
    let first = tokio::spawn(wait(Arc::clone(&backend)));
    let second = tokio::spawn(wait(Arc::clone(&backend)));
    tokio::time::sleep(Duration::from_millis(20)).await;
    // Cancelled while it waits, and released at the same time.
    first.abort();
    assert!(guard.release().await.expect("release"));
    second.await.expect("not cancelled").expect("the other waiter's turn");
    let _ = first.await;
    let after = backend.lock("a", held().blocking_timeout(Some(Duration::from_secs(5)))).await;
    assert!(after.is_ok(), "nobody holds it");
}

async fn clear_leaves_locks(harness: &dyn Harness) {
    if !harness.clears() {
        return;
    }
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let guard = backend.lock("kept", held()).await.expect("lock");
    backend.clear().await.expect("clear");
    assert!(backend.lock("kept", at_once()).await.is_err(), "a lock is not cleared");
    assert!(guard.release().await.expect("release"), "the lock was still held after a clear");
}

/// A service that ends closes its backend right after a guard was dropped, and while locks are held and
/// waited for.
async fn locks_outlive_close(harness: &dyn Harness) {
    let Subject { backend, namespace, clock } = Subject::fresh(harness).await;
    let peer = harness.peer(&namespace, clock).await;
    let guard = backend.lock("held", held()).await.expect("lock");
    let within = held().blocking_timeout(Some(Duration::from_secs(10)));
    let mut waiter = pin!(backend.lock("held", within));
    let waits = poll_fn(|context| Poll::Ready(waiter.as_mut().poll(context).is_pending()));
    assert!(waits.await, "held by another");
    drop(backend.lock("dropped", held()).await.expect("lock"));
    backend.close().await.expect("close");
    let other = match &peer {
        Some(peer) => peer,
        None => {
            backend.initialize().await.expect("initialize after close");
            &backend
        }
    };
    let free = other.lock("dropped", at_once()).await;
    drop(free.expect("free once the backend is closed, for its guard was dropped before"));
    assert!(guard.release().await.expect("release after close"), "still ours");
    drop(waiter.await.expect("a waiter goes on waiting"));
    let free = other.lock("held", held().blocking_timeout(Some(Duration::from_secs(5)))).await;
    drop(free.expect("free after the release"));
}

async fn fences_rise(harness: &dyn Harness) {
    if !harness.has_fences() {
        return;
    }
    let Subject { backend, namespace, clock } = Subject::fresh(harness).await;
    let peer = harness.peer(&namespace, clock).await;
    let mut last = 0;
    for round in 0..10 {
        let from = match &peer {
            Some(peer) if round % 2 == 1 => peer,
            _ => &backend,
        };
        let guard = from.lock("a", held()).await.expect("lock");
        let fence = guard.fencing_token().expect("a fencing token");
        assert!(fence > last, "{fence} after {last}");
        last = fence;
        assert!(from.lock("a", at_once()).await.is_err(), "a failed try changes nothing");
        assert!(guard.release().await.expect("release"));
        if harness.clears() {
            from.clear().await.expect("clear");
        }
    }
}
