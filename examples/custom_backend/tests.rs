//! The sentences of the contract of `Backend`, one after the other.

use std::sync::Arc;
use std::time::Duration;

use traffik::backend::MAX_COUNTER;
use traffik::{
    Backend, BackendError, Error, ErrorKind, Key, LockError, LockOptions, Locks, ManualClock, Rate,
    Throttle, TokenBucket, Ttl, Values,
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
    assert!(backend.compare_and_set(&key, None, Some(b"w"), Ttl::Never).await.unwrap());
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
                    .compare_and_set(&key, Some(b"1"), Some(b"2"), Ttl::After(Duration::ZERO))
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
    assert!(!cas(Some(b"a"), Some(b"b"), Ttl::Never).await);
    assert!(cas(None, None, Ttl::Never).await);
    assert!(cas(None, Some(b"a"), Ttl::After(SECOND)).await);
    assert!(!cas(None, Some(b"b"), Ttl::Never).await);
    assert!(!cas(Some(b"b"), None, Ttl::Never).await);
    // The TTL is that of the new value.
    assert!(cas(Some(b"a"), Some(b"b"), Ttl::Never).await);
    clock.advance(SECOND);
    assert!(cas(Some(b"b"), None, Ttl::Never).await);
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
        .backend(Arc::new(backend))
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

/// The suite for backends, on one runtime and on several threads.
#[cfg(feature = "conformance")]
mod conformance {
    use std::sync::Arc;

    use traffik::conformance::{self, Harness};
    use traffik::{Backend, ManualClock};

    use super::MapBackend;

    struct Custom;

    #[async_trait::async_trait]
    impl Harness for Custom {
        async fn backend(&self, namespace: &str, clock: ManualClock) -> Arc<dyn Backend> {
            Arc::new(MapBackend::new(namespace, clock).unwrap())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn on_one_thread() {
        conformance::run(&Custom).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn on_several_threads() {
        conformance::run(&Custom).await;
    }
}
