//! [`Throttle`]: what a service holds and asks.

mod builder;
mod options;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use tracing::trace;

pub use builder::{IntoRate, ThrottleBuilder};
pub use options::HitOptions;

use crate::backend::{Backend, InMemory};
use crate::decision::{Decision, Receipt, Source};
use crate::error::{BackendError, Error};
use crate::key::{self, Key, KeyPart, ToKey};
use crate::lifespan;
use crate::on_error::{self, LogLimit, OnError};
use crate::rate::Rate;
use crate::strategy::{Limit, Op, Step};
use crate::timer::Deadline;

/// A named limit: asks its backend whether a key may pass.
///
/// Cheap to clone, `Send`, `Sync` and not generic, so it sits in any application state.
///
/// ```
/// use traffik::{InMemory, Throttle};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let throttle = Throttle::builder("api:items")
///     .rate("100/min")
///     .backend(InMemory::new())
///     .build()?;
///
/// let decision = throttle.hit("alice").await?;
/// assert!(decision.is_allowed());
/// assert_eq!(decision.remaining(), 99);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Throttle {
    inner: Arc<Inner>,
}

struct Inner {
    name: Arc<str>,
    /// A random number of this name in this process, to bind receipts to it.
    seed: u64,
    hasher: RandomState,
    /// At least one.
    limits: Box<[Limit]>,
    backend: Option<Arc<dyn Backend>>,
    /// The same backend where it is in memory, to ask it without a detour.
    in_memory: Option<InMemory>,
    on_error: Option<OnError>,
    deadline: Duration,
    min_wait: u64,
    cost: u32,
    log: LogLimit,
}

impl Throttle {
    /// The longest that a hit takes by default; an error handler has its own limit on top of it.
    pub const DEFAULT_DEADLINE: Duration = Duration::from_millis(250);

    /// Starts a throttle of that name (its uid): 1 to 128 bytes without control characters.
    ///
    /// Two throttles of the same name on one backend share what they count. A name is configuration
    /// and never user input: the process keeps each name for its whole life.
    pub fn builder(name: impl Into<String>) -> ThrottleBuilder {
        ThrottleBuilder::new(name.into())
    }

    /// Counts a hit of the default cost, and says whether it passes. A hit that is denied consumes
    /// nothing.
    ///
    /// # Errors
    ///
    /// When the backend fails and the policy is [`OnError::Raise`]; for a mistake of the program (a
    /// closed backend, no backend); for a key of too many parts. A key may have any length: see
    /// [`MAX_KEY_BYTES`](crate::key::MAX_KEY_BYTES).
    ///
    /// # Cancel safety
    ///
    /// On the in-memory backend a hit happens at the first poll or not at all. On a networked one, a
    /// dropped future may have consumed the cost.
    #[inline]
    pub async fn hit(&self, key: impl ToKey) -> Result<Decision, Error> {
        match self.try_in_memory(&key) {
            Some(decision) => Ok(decision),
            None => self.run(&key, &self.inner.limits, self.inner.cost, Op::Take).await,
        }
    }

    /// Counts a hit with a cost or a rate of its own.
    ///
    /// # Errors
    ///
    /// As for [`hit`](Self::hit), and when the strategy cannot keep the rate.
    ///
    /// # Cancel safety
    ///
    /// As for [`hit`](Self::hit).
    pub async fn hit_with(&self, key: impl ToKey, options: HitOptions) -> Result<Decision, Error> {
        let cost = options.cost.unwrap_or(self.inner.cost);
        let limits = self.limits_for(options.rate)?;
        let decision = self.run(&key, &limits, cost, Op::Take).await?;
        Ok(decision.by_rate(options.rate))
    }

    /// Answers as [`hit`](Self::hit) would, but consumes nothing.
    ///
    /// # Errors
    ///
    /// As for [`hit`](Self::hit).
    ///
    /// # Cancel safety
    ///
    /// It changes nothing, so it may be dropped.
    pub async fn peek(&self, key: impl ToKey) -> Result<Decision, Error> {
        self.run(&key, &self.inner.limits, self.inner.cost, Op::Peek).await
    }

    /// As [`hit`](Self::hit), with a denial as an error, for `?`.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`] with the decision, and as for [`hit`](Self::hit).
    ///
    /// # Cancel safety
    ///
    /// As for [`hit`](Self::hit).
    pub async fn enforce(&self, key: impl ToKey) -> Result<Decision, Error> {
        let decision = self.hit(key).await?;
        if decision.is_allowed() { Ok(decision) } else { Err(Error::Denied(Box::new(decision))) }
    }

    /// Gives back what a hit took: at most that, never above the capacity, and for a window strategy
    /// only while the window of the hit lasts. After that it does nothing.
    ///
    /// The key is asked for again because a decision does not keep it: so a hit allocates nothing.
    ///
    /// # Errors
    ///
    /// [`Error::WrongReceipt`] for a receipt of another throttle or key; when the backend fails. No
    /// policy applies. The receipt is used up in any case: what was ambiguous is not given back twice.
    ///
    /// # Cancel safety
    ///
    /// When dropped, it may have been given back or not.
    pub async fn refund(&self, key: impl ToKey, receipt: Receipt) -> Result<(), Error> {
        let parts = key.to_key();
        let Some(parts) = parts.as_slice()? else { return Err(Error::WrongReceipt) };
        let mut room = None;
        let key = self.key(parts, &mut room);
        if self.fingerprint(&key) != receipt.fingerprint() {
            return Err(Error::WrongReceipt);
        }
        let own = receipt.rate().map(|rate| {
            let strategy = Arc::clone(self.inner.limits[0].strategy());
            [Limit::for_refund(rate, strategy).bound_to(&self.inner.name)]
        });
        let limits = own.as_ref().map_or(&*self.inner.limits, |own| own);
        let op = Op::Refund { taken_at: receipt.taken_at() };
        let backend = self.backend()?;
        let step = Step::new(limits, receipt.cost(), op);
        self.ask(&**backend, &key, &step).await.map(drop)?;
        Ok(())
    }

    /// Forgets what was counted for a key.
    ///
    /// # Errors
    ///
    /// When the backend fails. No policy applies.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the key may have been forgotten or not.
    pub async fn reset(&self, key: impl ToKey) -> Result<(), Error> {
        let parts = key.to_key();
        let Some(parts) = parts.as_slice()? else { return Ok(()) };
        let mut room = None;
        let key = self.key(parts, &mut room);
        let backend = self.backend()?;
        self.within_deadline(backend.settings().name(), "forget", backend.forget(&key)).await?;
        Ok(())
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The limits, in the order of the builder.
    #[must_use]
    pub fn limits(&self) -> &[Limit] {
        &self.inner.limits
    }

    /// The way of nearly every hit in memory; `None`, with nothing done, to take the other.
    #[inline(always)]
    fn try_in_memory(&self, key: &(impl ToKey + ?Sized)) -> Option<Decision> {
        let inner = &*self.inner;
        let backend = inner.in_memory.as_ref()?;
        let parts = key.to_key();
        let key = Key::hashed(&inner.hasher, &inner.name, parts.as_slice().ok()??);
        let decision = backend.try_hit(&key, &inner.limits, inner.cost)?;
        Some(self.finish(&key, decision))
    }

    /// The limit that denied, of a decision of this throttle's own rates.
    #[must_use]
    pub fn denied_by(&self, decision: &Decision) -> Option<&Limit> {
        self.inner.limits.get(decision.denied_by()?)
    }

    async fn run(
        &self,
        key: &(impl ToKey + ?Sized),
        limits: &[Limit],
        cost: u32,
        op: Op,
    ) -> Result<Decision, Error> {
        let parts = key.to_key();
        let Some(parts) = parts.as_slice()? else { return Ok(Decision::pass(Source::Exempt)) };
        let mut room = None;
        let key = self.key(parts, &mut room);
        if limits.iter().all(|limit| limit.rate().is_unlimited()) {
            return Ok(Decision::pass(Source::Unlimited));
        }
        let step = Step::new(limits, cost, op);
        let backend = self.backend()?;
        let decision = match backend.try_apply(&key, &step) {
            Some(Ok(decision)) => decision,
            Some(Err(error)) => self.decide_by_policy(&**backend, parts, cost, error).await?,
            None => match self.apply(&**backend, &key, &step).await {
                Ok(decision) => decision,
                Err(error) => self.decide_by_policy(&**backend, parts, cost, error).await?,
            },
        };
        Ok(self.finish(&key, decision))
    }

    /// What every decision goes through. By value: a decision that lies in memory is slower.
    #[inline(always)]
    fn finish(&self, key: &Key<'_>, decision: Decision) -> Decision {
        if decision.is_allowed() {
            return decision.bound_to(self.fingerprint(key));
        }
        let decision = decision.wait_at_least(self.inner.min_wait);
        if tracing::enabled!(tracing::Level::TRACE) {
            self.trace_denied(key, &decision.clone());
        }
        decision
    }

    #[cold]
    fn trace_denied(&self, key: &Key<'_>, decision: &Decision) {
        trace!(throttle = &*self.inner.name, key = ?key.parts(), ?decision, "denied");
    }

    /// The key of those parts; `room` is for the digest of long ones.
    #[inline(always)]
    fn key<'a>(&'a self, parts: &'a [KeyPart<'a>], room: &'a mut Option<key::Digest>) -> Key<'a> {
        Key::hashed(&self.inner.hasher, &self.inner.name, key::bounded(parts, room))
    }

    #[inline(always)]
    fn fingerprint(&self, key: &Key<'_>) -> u64 {
        key.hash() ^ self.inner.seed
    }

    #[inline(always)]
    fn backend(&self) -> Result<Cow<'_, Arc<dyn Backend>>, Error> {
        match &self.inner.backend {
            Some(backend) => Ok(Cow::Borrowed(backend)),
            None => lifespan::current()
                .map(Cow::Owned)
                .ok_or_else(|| Error::NoBackend { throttle: self.inner.name.to_string() }),
        }
    }

    fn limits_for(&self, rate: Option<Rate>) -> Result<Cow<'_, [Limit]>, Error> {
        match rate {
            None => Ok(Cow::Borrowed(&self.inner.limits)),
            Some(rate) => {
                let strategy = Arc::clone(self.inner.limits[0].strategy());
                let limit = Limit::shared(rate, strategy)?.bound_to(&self.inner.name);
                Ok(Cow::Owned(vec![limit]))
            }
        }
    }

    /// Asks at once or by waiting, without a policy.
    async fn ask(
        &self,
        backend: &dyn Backend,
        key: &Key<'_>,
        step: &Step<'_>,
    ) -> Result<Decision, BackendError> {
        match backend.try_apply(key, step) {
            Some(answer) => answer,
            None => self.apply(backend, key, step).await,
        }
    }

    async fn apply(
        &self,
        backend: &dyn Backend,
        key: &Key<'_>,
        step: &Step<'_>,
    ) -> Result<Decision, BackendError> {
        let name = backend.settings().name();
        self.within_deadline(name, "apply", backend.apply(key, step)).await
    }

    /// The deadline is kept out here, whatever the backend waits for inside.
    async fn within_deadline<T>(
        &self,
        backend: &'static str,
        operation: &'static str,
        work: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        Deadline::after(self.inner.deadline).bound(backend, operation, work).await
    }

    #[cold]
    async fn decide_by_policy(
        &self,
        backend: &dyn Backend,
        key: &[KeyPart<'_>],
        cost: u32,
        error: BackendError,
    ) -> Result<Decision, Error> {
        let policy = self.inner.on_error.as_ref().unwrap_or_else(|| backend.error_policy());
        let parts = || key.iter().map(|part| part.as_bytes().to_vec()).collect();
        on_error::decide(policy, &self.inner.name, parts, cost, error, &self.inner.log).await
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle")
            .field("name", &self.inner.name)
            .field("limits", &self.inner.limits)
            .field("backend", &self.inner.backend)
            .field("on_error", &self.inner.on_error)
            .finish_non_exhaustive()
    }
}
