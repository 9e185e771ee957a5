//! The sentences of the contract of `Backend`, one after the other.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use traffik::backend::MAX_COUNTER;
use traffik::{
    Backend, BackendError, Error, ErrorKind, Key, LockError, LockOptions, ManualClock, Rate,
    Throttle, TokenBucket,
};

use super::MapBackend;

const SECOND: Duration = Duration::from_secs(1);

fn backend() -> (MapBackend, ManualClock) {
    let clock = ManualClock::new();
    (MapBackend::new("test", clock.clone()).unwrap(), clock)
}

fn kind<T: std::fmt::Debug>(result: Result<T, BackendError>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[tokio::test]
async fn a_value_lives_as_long_as_its_ttl() {
    let (backend, clock) = backend();
    let key = Key::value("k");
    backend.set(&key, b"v", Some(SECOND)).await.unwrap();
    clock.advance(SECOND - Duration::from_micros(1));
    assert_eq!(backend.get(&key).await.unwrap().unwrap(), b"v");
    clock.advance(Duration::from_micros(1));
    assert_eq!(backend.get(&key).await.unwrap(), None);
    assert!(!backend.expire(&key, SECOND).await.unwrap());
    assert!(!backend.delete(&key).await.unwrap());
    assert!(backend.compare_and_set(&key, None, Some(b"w"), None).await.unwrap());
    clock.advance(SECOND * 1_000_000);
    assert!(backend.expire(&key, SECOND).await.unwrap());
    clock.advance(SECOND);
    assert_eq!(backend.get(&key).await.unwrap(), None);
}

#[tokio::test]
async fn a_ttl_of_zero_removes_for_good() {
    let (backend, clock) = backend();
    let key = Key::value("k");
    for way in 0..4 {
        backend.set(&key, b"1", None).await.unwrap();
        match way {
            0 => backend.set(&key, b"2", Some(Duration::ZERO)).await.unwrap(),
            1 => assert!(backend.expire(&key, Duration::ZERO).await.unwrap()),
            2 => assert_eq!(backend.increment_with_ttl(&key, 1, Duration::ZERO).await.unwrap(), 2),
            _ => assert!(
                backend
                    .compare_and_set(&key, Some(b"1"), Some(b"2"), Some(Duration::ZERO))
                    .await
                    .unwrap()
            ),
        }
        clock.set(traffik::Timestamp::ZERO);
        assert_eq!(backend.get(&key).await.unwrap(), None, "way {way}");
    }
}

#[tokio::test]
async fn counters_stay_in_their_range() {
    let (backend, clock) = backend();
    let key = Key::value("k");
    assert_eq!(kind(backend.decrement(&key, 1).await), ErrorKind::NotFound);
    assert_eq!(backend.get(&key).await.unwrap(), None);
    assert_eq!(backend.increment(&key, 5).await.unwrap(), 5);
    assert_eq!(backend.decrement(&key, 7).await.unwrap(), 0);
    assert_eq!(backend.increment(&key, MAX_COUNTER).await.unwrap(), MAX_COUNTER);
    for by in [1, u64::MAX] {
        assert_eq!(kind(backend.increment(&key, by).await), ErrorKind::OutOfRange);
    }
    assert_eq!(backend.get(&key).await.unwrap().unwrap(), MAX_COUNTER.to_string().as_bytes());
    for text in ["", "+1", "-1", "1.0", " 1", "x", "9223372036854775808", "\u{661}"] {
        backend.set(&key, text.as_bytes(), None).await.unwrap();
        assert_eq!(kind(backend.increment(&key, 1).await), ErrorKind::NotANumber, "{text:?}");
        assert_eq!(kind(backend.decrement(&key, 1).await), ErrorKind::NotANumber, "{text:?}");
        assert_eq!(backend.get(&key).await.unwrap().unwrap(), text.as_bytes());
    }
    // A TTL is for a counter that has none.
    backend.set(&key, b"1", None).await.unwrap();
    assert_eq!(backend.increment_with_ttl(&key, 1, SECOND * 2).await.unwrap(), 2);
    clock.advance(SECOND);
    assert_eq!(backend.increment_with_ttl(&key, 1, SECOND * 2).await.unwrap(), 3);
    assert_eq!(backend.increment_with_ttl(&key, 1, Duration::ZERO).await.unwrap(), 4);
    assert_eq!((backend.increment(&key, 1).await.unwrap()), 5);
    assert_eq!((backend.decrement(&key, 1).await.unwrap()), 4);
    clock.advance(SECOND);
    assert_eq!(backend.get(&key).await.unwrap(), None);
}

#[tokio::test]
async fn compare_and_set_creates_replaces_and_deletes() {
    let (backend, clock) = backend();
    let key = Key::value("k");
    let cas = async |expected: Option<&[u8]>, new: Option<&[u8]>, ttl| {
        backend.compare_and_set(&key, expected, new, ttl).await.unwrap()
    };
    assert!(!cas(Some(b"a"), Some(b"b"), None).await);
    assert!(cas(None, None, None).await);
    assert!(cas(None, Some(b"a"), Some(SECOND)).await);
    assert!(!cas(None, Some(b"b"), None).await);
    assert!(!cas(Some(b"b"), None, None).await);
    // The TTL is that of the new value.
    assert!(cas(Some(b"a"), Some(b"b"), None).await);
    clock.advance(SECOND);
    assert!(cas(Some(b"b"), None, None).await);
    assert!(!backend.delete(&key).await.unwrap());
}

#[tokio::test]
async fn a_closed_backend_says_so_until_it_is_opened_again() {
    let (backend, _) = backend();
    let key = Key::value("k");
    for _ in 0..2 {
        backend.close().await.unwrap();
        assert_eq!(kind(backend.ready().await), ErrorKind::Closed);
        assert_eq!(kind(backend.get(&key).await), ErrorKind::Closed);
        assert_eq!(kind(backend.multi_get(&[key]).await), ErrorKind::Closed);
        assert_eq!(kind(backend.increment(&key, 1).await), ErrorKind::Closed);
        let Err(LockError::Backend(error)) = backend.lock("l", LockOptions::new()).await else {
            panic!("closed")
        };
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
    backend.initialize().await.unwrap();
    backend.ready().await.unwrap();
}

#[tokio::test]
async fn many_tasks_on_one_key_take_no_more_than_there_is() {
    let (backend, _) = backend();
    let throttle = Throttle::builder("t")
        .limit(Rate::per_minute(20), TokenBucket::new())
        .deadline(SECOND * 60)
        .shared_backend(Arc::new(backend))
        .build()
        .unwrap();
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let throttle = throttle.clone();
            tokio::spawn(async move { throttle.hit("k").await.map(|d| d.is_allowed()) })
        })
        .collect();
    let mut allowed = 0;
    for task in tasks {
        let passed: Result<bool, Error> = task.await.unwrap();
        allowed += u32::from(passed.unwrap());
    }
    assert_eq!(allowed, 20);
}

#[tokio::test]
async fn clear_takes_values_and_leaves_locks() {
    let (backend, _) = backend();
    let key = Key::value("k");
    backend.set(&key, b"v", None).await.unwrap();
    let guard = backend.lock("k", LockOptions::new()).await.unwrap();
    backend.clear().await.unwrap();
    assert_eq!(backend.get(&key).await.unwrap(), None);
    assert!(guard.is_valid());
    assert!(guard.release().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_held_until_it_is_released_dropped_or_expired() {
    let (backend, _) = backend();
    let now = LockOptions::new().blocking(false);
    let first = backend.lock("l", LockOptions::new()).await.unwrap();
    assert!(matches!(backend.lock("l", now).await, Err(LockError::Held)));
    let soon = LockOptions::new().blocking_timeout(Some(SECOND));
    assert!(backend.lock("l", soon).await.is_err());
    let (fence, other) = (first.fence(), backend.lock("other", now).await.unwrap());
    assert!(first.release().await.unwrap() && other.fence() > fence);

    let second = backend.lock("l", now).await.unwrap();
    assert!(second.fence() > fence);
    drop(second);
    let third = backend.lock("l", now.ttl(Some(SECOND))).await.unwrap();
    tokio::time::advance(SECOND).await;
    assert!(!third.is_valid() && !third.extend(SECOND).await.unwrap());
    let fourth = backend.lock("l", now).await.unwrap();
    assert!(!third.release().await.unwrap());
    assert!(fourth.is_valid() && fourth.release().await.unwrap());
    assert!(matches!(
        backend.lock("l", now.ttl(Some(Duration::ZERO))).await,
        Err(LockError::Invalid { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn an_extension_is_never_shorter() {
    let (backend, _) = backend();
    let options = LockOptions::new().ttl(Some(SECOND * 10));
    let guard = backend.lock("l", options).await.unwrap();
    assert!(guard.extend(SECOND).await.unwrap());
    tokio::time::advance(SECOND * 9).await;
    assert!(guard.is_valid() && guard.extend(SECOND * 5).await.unwrap());
    // A waiter that meant to wake at the first expiry waits on.
    let waiter = backend.lock("l", LockOptions::new());
    assert!(timeout(SECOND * 4, waiter).await.is_err());
    assert!(guard.is_valid());
    let next = backend.lock("l", LockOptions::new()).await.unwrap();
    assert!(next.is_valid() && !guard.is_valid());

    let endless = backend.lock("endless", LockOptions::new()).await.unwrap();
    assert!(endless.extend(SECOND).await.unwrap());
    tokio::time::advance(SECOND * 2).await;
    assert!(endless.is_valid());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_gives_up_takes_nothing_with_it() {
    let (backend, _) = backend();
    let guard = backend.lock("l", LockOptions::new()).await.unwrap();
    let waiters: Vec<_> = (0..10)
        .map(|_| {
            let backend = backend.clone();
            tokio::spawn(async move {
                backend.lock("l", LockOptions::new()).await.unwrap().release().await.unwrap()
            })
        })
        .collect();
    tokio::time::sleep(SECOND).await;
    for waiter in waiters.iter().step_by(2) {
        waiter.abort();
    }
    drop(guard);
    for (index, waiter) in waiters.into_iter().enumerate() {
        assert_eq!(waiter.await.ok(), (index % 2 == 1).then_some(true));
    }
}
