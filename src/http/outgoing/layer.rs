//! [`AcquireLayer`]: the layer, and what it does for each request.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, StatusCode};
use tokio::time::{Instant, sleep};
use tower_layer::Layer;

use super::remote;
use super::service::{AcquireError, AcquireService};
use crate::clock::monotonic_now;
use crate::decision::{Decision, Denial, Outcome};
use crate::error::Error;
use crate::hit_options::HitOptions;
use crate::http::identity::{Identified, Identity, Refusal};
use crate::key::{KeyPart, KeyParts, OwnedKey};
use crate::on_error::LogLimiter;
use crate::throttle::{Mode, Permit, PermitDrop, Throttle};

type CostOf = Arc<dyn Fn(&Parts) -> u32 + Send + Sync>;

/// A layer for outgoing requests: each waits for its turn by [`Throttle::acquire`], and heeds what the remote says.
///
/// ```
/// use std::time::Duration;
/// use traffik::http::{AcquireLayer, RemoteHost};
/// use traffik::{InMemory, Throttle};
///
/// let outgoing = Throttle::builder("outgoing").rate("50/s burst 5").backend(InMemory::new()).build()?;
/// let layer = AcquireLayer::new(outgoing, RemoteHost).timeout(Duration::from_secs(10));
/// # drop(layer);
/// # Ok::<(), traffik::BuildError>(())
/// ```
///
/// When a response says to come back later, the key is [blocked](Throttle::block) until then, in all processes that
/// share the store: by `Retry-After` of a 429 or 503, and by a limit of `RateLimit` (revision 11 of the draft) of
/// which nothing is left. A 429 that says no time blocks for a second. The response itself is handed on, and no request
/// is sent again: for that put a layer that retries around this one. Requests that wait already, and those that come
/// meanwhile, wait until then, as long as [`timeout`](Self::timeout) lets them; set one where somebody waits for the
/// answer. A throttle whose rates are all unlimited cannot be blocked.
///
/// A reqwest client follows redirects by itself, behind this layer: they wait for no turn. Give it
/// `redirect::Policy::none()`, or one that stays within a host whose limit allows for them.
///
/// # Errors
///
/// The service fails by [`AcquireError`]: by the throttle when the turn does not come in time, or by the inner service.
///
/// # Cancel safety
///
/// A request that is dropped while it waits gives its turn back, as [`acquire`](Throttle::acquire) does. Once it is
/// sent, its units stay used.
#[derive(Clone)]
#[must_use]
pub struct AcquireLayer {
    throttle: Throttle,
    identity: Arc<dyn Identity>,
    cost: Option<CostOf>,
    timeout: Option<Duration>,
    longest_block: Duration,
    /// Of blocks.
    failures: Arc<LogLimiter>,
}

impl AcquireLayer {
    /// Default of the longest block that a remote can ask for.
    pub const DEFAULT_LONGEST_BLOCK: Duration = Duration::from_secs(3600);

    /// Lets each request wait for its turn, by the key that the identity gives.
    pub fn new(throttle: Throttle, identity: impl Identity) -> Self {
        Self {
            throttle,
            identity: Arc::new(identity),
            cost: None,
            timeout: None,
            longest_block: Self::DEFAULT_LONGEST_BLOCK,
            failures: Arc::default(),
        }
    }

    /// Sets the units that a request costs. Defaults to the throttle's default cost.
    pub fn cost(mut self, cost: impl Fn(&Parts) -> u32 + Send + Sync + 'static) -> Self {
        self.cost = Some(Arc::new(cost));
        self
    }

    /// Sets the longest wait of a request for its turn. Defaults to none. If its turn comes later, that is an error
    /// at once.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the longest time that a remote can hold requests back by one response. Defaults to an hour; zero heeds
    /// nothing that a remote says.
    pub const fn longest_block(mut self, longest: Duration) -> Self {
        self.longest_block = longest;
        self
    }

    /// Returns whose turn it is; `None` if nobody is known, and the throttle denies nothing.
    pub(super) fn key_of(&self, request: &Parts) -> Result<Option<OwnedKey>, AcquireFailure> {
        let identified = self.identity.identify(request);
        match identified.to_key() {
            Ok(key) => match OwnedKey::new(&key) {
                Ok(key) => Ok(Some(key)),
                Err(_) if self.throttle.mode() != Mode::Enforce => Ok(None),
                Err(error) => Err(AcquireFailure::Throttle(error.into())),
            },
            Err(_) if self.throttle.mode() != Mode::Enforce => Ok(None),
            Err(refusal) => Err(AcquireFailure::Unidentified(refusal.clone())),
        }
    }

    pub(super) fn cost_of(&self, request: &Parts) -> Option<u32> {
        self.cost.as_ref().map(|cost| cost(request))
    }

    /// Waits for the turn of a request, and for the end of a block. The units go back unless they are committed.
    pub(super) async fn wait(
        &self,
        key: Option<&OwnedKey>,
        cost: Option<u32>,
    ) -> Result<Option<Permit>, Error> {
        let Some(key) = key else { return Ok(None) };
        let deadline = self.timeout.and_then(|timeout| monotonic_now().checked_add(timeout));
        loop {
            let mut acquire = self.throttle.acquire(key);
            if let Some(cost) = cost {
                acquire = acquire.cost(cost);
            }
            if let Some(deadline) = deadline {
                acquire = acquire.deadline(deadline);
            }
            let denied = match acquire.run().await {
                Ok(permit) => {
                    // A block that came while it waited.
                    let block = if permit.has_waited() { self.block_of(key).await } else { None };
                    let permit = permit.on_drop(PermitDrop::Refund);
                    let Some(denied) = block else {
                        return Ok(Some(permit));
                    };
                    // By its drop: that it fails is no reason not to wait for the end of the block.
                    drop(permit);
                    denied
                }
                Err(Error::Denied(denied)) if denied.denial() == Some(Denial::Blocked) => denied,
                Err(error) => return Err(error),
            };
            let Outcome::Denied { retry_after } = denied.outcome() else {
                return Err(Error::Denied(denied));
            };
            if !is_in_time(retry_after, deadline) {
                return Err(Error::Denied(denied));
            }
            sleep(retry_after).await;
        }
    }

    /// Returns the denial of a key that is blocked. While the store fails nobody knows of a block.
    async fn block_of(&self, key: &OwnedKey) -> Option<Box<Decision>> {
        let decision = self.throttle.peek_with(key, HitOptions::new().cost(0)).await.ok()?;
        (decision.denial() == Some(Denial::Blocked)).then(|| Box::new(decision))
    }

    /// Blocks the key as long as a response says.
    pub(super) async fn heed(
        &self,
        key: Option<&OwnedKey>,
        status: StatusCode,
        headers: &HeaderMap,
    ) {
        let Some(key) = key else { return };
        if self.longest_block.is_zero() || self.throttle.mode() == Mode::Off {
            return;
        }
        let Some(wait) = remote::wait_of(status, headers) else { return };
        let wait = wait.min(self.longest_block);
        if let Err(error) = self.throttle.block_at_least(key, wait).await
            && let Some(suppressed) = self.failures.pass()
        {
            let throttle = self.throttle.name();
            tracing::warn!(throttle, %error, suppressed, "a remote asked to wait, and its key could not be blocked");
        }
    }
}

fn is_in_time(wait: Duration, deadline: Option<Instant>) -> bool {
    let end = monotonic_now().checked_add(wait);
    match (deadline, end) {
        (None, Some(_)) => true,
        (Some(deadline), Some(end)) => end <= deadline,
        (_, None) => false,
    }
}

/// Why a request was not sent.
#[derive(Debug)]
pub(super) enum AcquireFailure {
    Throttle(Error),
    Unidentified(Refusal),
}

impl<E> From<AcquireFailure> for AcquireError<E> {
    fn from(failure: AcquireFailure) -> Self {
        match failure {
            AcquireFailure::Throttle(error) => Self::Throttle(error),
            AcquireFailure::Unidentified(refusal) => Self::Unidentified(refusal),
        }
    }
}

impl<S> Layer<S> for AcquireLayer {
    type Service = AcquireService<S>;

    fn layer(&self, inner: S) -> AcquireService<S> {
        AcquireService::new(inner, Arc::new(self.clone()))
    }
}

impl fmt::Debug for AcquireLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcquireLayer")
            .field("throttle", &self.throttle.name())
            .field("timeout", &self.timeout)
            .field("longest_block", &self.longest_block)
            .finish_non_exhaustive()
    }
}

/// The host of an outgoing request, as its identity: each remote has a count of its own. The port is part of it where
/// the URI has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a mark without content")]
pub struct RemoteHost;

impl Identity for RemoteHost {
    fn identify<'r>(&'r self, request: &'r Parts) -> Identified<'r> {
        let Some(authority) = request.uri.authority() else {
            let refusal = Refusal::new(StatusCode::BAD_REQUEST);
            return Identified::refused(refusal.detail("the URI of the request has no host"));
        };
        // Without the user and the password.
        let text = authority.as_str();
        let host = text.rsplit_once('@').map_or(text, |(_, host)| host);
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Identified::key(host.to_ascii_lowercase());
        }
        Identified::parts(KeyParts::one(KeyPart::bytes(host.as_bytes())))
    }
}
