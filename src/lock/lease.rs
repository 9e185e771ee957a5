//! Leases: a lock without a TTL on a server, which is stored with one and renewed.

use std::future::Future;
use std::time::Duration;

use tracing::{debug, warn};

use crate::background::{Home, Task};
use crate::clock::monotonic_now;
use crate::error::BackendError;

/// How long a lease is renewed at most. A guard that was forgotten, or whose task hangs, holds its lock
/// for that long and the lease's TTL; no longer.
pub(crate) const LONGEST_LEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// Renews a lock every third of its TTL, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Ends with the lease.
    _task: Task,
}

impl Lease {
    /// Calls `extend` every third of `ttl`, by a task that lives there. It stops when `extend` says that
    /// the lock is lost, or when the lease is [`LONGEST_LEASE`] old; after an error it goes on, for the
    /// next try may be in time.
    pub(crate) fn start<F, Fut>(home: Home, backend: &'static str, ttl: Duration, extend: F) -> Self
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future<Output = Result<bool, BackendError>> + Send + 'static,
    {
        let task = Task::new();
        // The caller has just taken a lock, so it is inside of a runtime.
        task.start_on(home, || renew(backend, ttl, extend));
        Self { _task: task }
    }
}

async fn renew<F, Fut>(backend: &'static str, ttl: Duration, mut extend: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<bool, BackendError>>,
{
    let start = monotonic_now();
    while start.elapsed() < LONGEST_LEASE {
        tokio::time::sleep(ttl / 3).await;
        match extend().await {
            Ok(true) => {}
            Ok(false) => {
                warn!(backend, "a lock was lost while its lease was renewed");
                return;
            }
            Err(error) => debug!(backend, %error, "a lease was not renewed; to be tried again"),
        }
    }
    warn!(backend, age = ?LONGEST_LEASE, "a lease is too old and is not renewed any more");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::error::ErrorKind;

    const TTL: Duration = Duration::from_secs(30);

    fn counting(
        calls: &Arc<AtomicU32>,
        answer: impl Fn(u32) -> Result<bool, BackendError> + Send + 'static,
    ) -> Lease {
        let calls = Arc::clone(calls);
        Lease::start(Home::Caller, "test", TTL, move || {
            let answer = answer(calls.fetch_add(1, Ordering::SeqCst));
            async move { answer }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn renews_at_a_third_until_it_is_dropped() {
        let calls = Arc::new(AtomicU32::new(0));
        let broken = || Err(BackendError::new("test", "lock", ErrorKind::Timeout));
        let lease = counting(&calls, move |call| if call == 1 { broken() } else { Ok(true) });
        tokio::time::sleep(Duration::from_secs(31)).await;
        assert_eq!(calls.load(Ordering::SeqCst), 3, "an error does not end it");
        drop(lease);
        tokio::time::sleep(TTL).await;
        assert_eq!(calls.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_when_the_lock_is_lost() {
        let calls = Arc::new(AtomicU32::new(0));
        let _lease = counting(&calls, |_| Ok(false));
        tokio::time::sleep(TTL).await;
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_at_its_greatest_age() {
        let calls = Arc::new(AtomicU32::new(0));
        let lease = counting(&calls, |_| Ok(true));
        tokio::time::sleep(LONGEST_LEASE + TTL).await;
        let last = calls.load(Ordering::SeqCst);
        assert_eq!(u64::from(last), LONGEST_LEASE.as_secs() / 10);
        tokio::time::sleep(TTL).await;
        assert_eq!(calls.load(Ordering::SeqCst), last);
        drop(lease);
    }
}
