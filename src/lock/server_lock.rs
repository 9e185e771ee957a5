//! [`ServerLock`]: the held state of a lock on a server, behind its guard.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{HeldLock, Lease, LockError, LockGuard, LockRequest, later};
use crate::background::Home;
use crate::clock::monotonic_now;
use crate::error::BackendError;

/// The shortest TTL: what is left of it by our clock must be above zero.
pub(crate) const SHORTEST_TTL: Duration = Duration::from_millis(5);

/// Returns for how long a server is to keep a lock: the TTL of the request, or that of a lease.
pub(crate) fn server_ttl(request: &LockRequest, lease: Duration) -> Result<Duration, LockError> {
    let ttl = request.ttl().unwrap_or(lease);
    if ttl < SHORTEST_TTL {
        return Err(LockError::Invalid {
            problem: "a lock's ttl on a server must be 5 ms or more",
        });
    }
    Ok(ttl)
}

/// Returns when a lock must be taken for lost that was asked for at `sent` and lasts `ttl`: before the
/// server frees it, for clocks may differ by a hundredth, and expiry has a granularity. An answer that comes
/// after that grants nothing.
pub(crate) fn valid_until(sent: Instant, ttl: Duration) -> Instant {
    later(sent, ttl.saturating_sub(ttl / 100 + Duration::from_millis(2)))
}

/// A lock that servers keep, as one of their clients sees it.
pub(crate) trait ServerHolding: std::fmt::Debug + Send + Sync + 'static {
    /// Where its lease is renewed.
    const HOME: Home;
    /// The backend's name.
    const BACKEND: &'static str;

    fn fencing_token(&self) -> Option<u64>;

    /// Returns when it must be taken for lost.
    fn valid_until(&self) -> Instant;

    /// Makes it last for `ttl` from now, if that is longer. Returns `true` if it is still ours.
    fn extend(&self, ttl: Duration) -> impl Future<Output = Result<bool, BackendError>> + Send;

    /// Releases it. Returns `true` if it was still ours.
    fn release(&self) -> impl Future<Output = Result<bool, BackendError>> + Send;

    /// Releases it in the background, where that is not done yet. Never blocks or panics.
    fn release_later(&self);
}

/// A lock that servers keep, with its lease if it has one.
#[derive(Debug)]
pub(crate) struct ServerLock<H> {
    holding: Arc<H>,
    lease: Mutex<Option<Lease>>,
}

impl<H: ServerHolding> ServerLock<H> {
    /// Makes the guard of a lock that was just taken; with a lease, it is renewed while the guard lives.
    pub(crate) fn guard(holding: H, lease: Option<Duration>) -> LockGuard {
        let holding = Arc::new(holding);
        let lease = lease.map(|ttl| {
            let holding = Arc::clone(&holding);
            Lease::start(H::HOME, H::BACKEND, ttl, move || {
                let holding = Arc::clone(&holding);
                async move { holding.extend(ttl).await }
            })
        });
        LockGuard::new(Self { holding, lease: Mutex::new(lease) })
    }

    /// Returns the lock as its client sees it.
    #[cfg(feature = "redis")]
    pub(crate) fn holding(&self) -> &H {
        &self.holding
    }

    fn end_lease(&self) {
        let lease = self.lease.lock().take();
        drop(lease);
    }
}

#[async_trait]
impl<H: ServerHolding> HeldLock for ServerLock<H> {
    fn fencing_token(&self) -> Option<u64> {
        self.holding.fencing_token()
    }

    fn valid_until(&self) -> Option<Instant> {
        Some(self.holding.valid_until())
    }

    async fn extend(&self, ttl: Duration) -> Result<bool, BackendError> {
        let was_ours = self.holding.extend(ttl).await?;
        // An answer may come after the time that it grants.
        Ok(was_ours && monotonic_now() < self.holding.valid_until())
    }

    async fn release(&self) -> Result<bool, BackendError> {
        self.end_lease();
        self.holding.release().await
    }

    fn abandon(&self) {
        self.end_lease();
        self.holding.release_later();
    }
}
