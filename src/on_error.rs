//! [`OnError`]: the policy for hits whose backend fails. The only module that applies a policy.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::warn;

use crate::clock::monotonic_now;
use crate::decision::Decision;
use crate::error::{BackendError, Error};
use crate::hit_options::HitOptions;
use crate::key::OwnedKey;
use crate::step::Step;
use crate::strategy::Limit;
use crate::timer::Deadline;
use crate::unwind;

/// The policy for a hit whose backend fails: fail closed, fail open, raise, or ask a handler.
///
/// Which one fits: [`Throttle`](Self::Throttle) where letting too much through does harm (logins,
/// payments, a fragile downstream); [`Allow`](Self::Allow) where turning away a customer is worse than
/// an unlimited minute; [`Raise`](Self::Raise) where the caller has a better idea; a
/// [`handler`](Self::handler) where it depends on the key or on the error.
///
/// A mistake of the program (a closed backend, wrong credentials) is an error under every policy. And a
/// hit that can never pass needs no store to be denied: a limit of 0, or a cost above the capacity, is
/// [`Outcome::Never`](crate::Outcome::Never) under every policy but [`Raise`](Self::Raise), so what is
/// switched off stays off in an outage.
#[derive(Clone)]
#[non_exhaustive]
pub enum OnError {
    /// Deny, and say to come back after a while. The default, with one second.
    #[non_exhaustive]
    Throttle {
        /// What a denied caller is told to wait.
        retry_after: Duration,
    },
    /// Let it pass, uncounted.
    Allow,
    /// Return the error.
    Raise,
    /// Ask an async function.
    Handler(ErrorHandler),
}

impl OnError {
    /// Default `retry_after` of a hit that the policy denies.
    pub const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);
    /// Default time limit of a handler.
    pub const DEFAULT_HANDLER_TIME: Duration = Duration::from_millis(250);

    /// Fails closed: denies, to be retried after `retry_after`, 1 ms or more.
    #[must_use]
    pub const fn throttle(retry_after: Duration) -> Self {
        Self::Throttle { retry_after }
    }

    /// Asks `handler`, which has 250 ms on top of the hit's deadline; a panic or more time than that
    /// counts as [`throttle`](Self::throttle) with the default wait.
    ///
    /// ```
    /// use std::time::Duration;
    /// use traffik::{Decision, OnError};
    ///
    /// let policy = OnError::handler(|failure| async move {
    ///     if failure.cost() > 10 {
    ///         Decision::deny(Duration::from_secs(5))
    ///     } else {
    ///         Decision::allow()
    ///     }
    /// });
    /// # drop(policy);
    /// ```
    #[must_use]
    pub fn handler<F, Fut>(handler: F) -> Self
    where
        F: Fn(FailureContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Decision> + Send + 'static,
    {
        Self::handler_within(Self::DEFAULT_HANDLER_TIME, handler)
    }

    /// Asks a handler as [`handler`](Self::handler) does, with another time limit.
    #[must_use]
    pub fn handler_within<F, Fut>(time_limit: Duration, handler: F) -> Self
    where
        F: Fn(FailureContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Decision> + Send + 'static,
    {
        let call = Arc::new(move |failure| Box::pin(handler(failure)) as HandlerFuture);
        Self::Handler(ErrorHandler { call, time_limit, log: Arc::default() })
    }
}

impl Default for OnError {
    fn default() -> Self {
        Self::throttle(Self::DEFAULT_RETRY_AFTER)
    }
}

impl fmt::Debug for OnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Throttle { retry_after } => write!(f, "Throttle({retry_after:?})"),
            Self::Allow => f.write_str("Allow"),
            Self::Raise => f.write_str("Raise"),
            Self::Handler(handler) => handler.fmt(f),
        }
    }
}

type HandlerFuture = Pin<Box<dyn Future<Output = Decision> + Send>>;

/// An async function that decides when the backend fails; see [`OnError::handler`].
#[derive(Clone)]
pub struct ErrorHandler {
    call: Arc<dyn Fn(FailureContext) -> HandlerFuture + Send + Sync>,
    time_limit: Duration,
    log: Arc<LogLimiter>,
}

impl fmt::Debug for ErrorHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handler(within {:?})", self.time_limit)
    }
}

/// The context of a failure, for an error handler: enough to make the same hit elsewhere.
///
/// A hit elsewhere is counted by the strategy of that throttle's first limit, and its receipt stays in the
/// handler: the decision of a policy has none. Ask with the throttle's name beside the key, or hits of
/// different throttles with the same key and rate count together.
///
/// ```
/// use traffik::{Decision, InMemory, OnError, Throttle};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let local = Throttle::builder("fallback").rate("10/min").backend(InMemory::new()).build()?;
/// // Each process counts alone while the shared store is down, by the rates of the hit.
/// let policy = OnError::handler(move |failure| {
///     let local = local.clone();
///     async move {
///         let key = (failure.throttle(), failure.key());
///         match local.hit_with(key, failure.options()).await {
///             Ok(decision) => decision,
///             Err(_) => Decision::deny(OnError::DEFAULT_RETRY_AFTER),
///         }
///     }
/// });
/// # drop(policy);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FailureContext {
    throttle: Arc<str>,
    key: OwnedKey,
    options: HitOptions,
    limits: Vec<Limit>,
    error: Arc<BackendError>,
}

impl FailureContext {
    pub(crate) fn new(
        throttle: Arc<str>,
        key: OwnedKey,
        options: HitOptions,
        step: &Step<'_>,
        error: BackendError,
    ) -> Self {
        Self { throttle, key, options, limits: step.limits().to_vec(), error: Arc::new(error) }
    }

    /// Returns the throttle's name.
    #[must_use]
    pub fn throttle(&self) -> &str {
        &self.throttle
    }

    /// Returns the key, which serves for another hit.
    #[must_use]
    pub fn key(&self) -> &OwnedKey {
        &self.key
    }

    /// Returns the cost of the hit, in units.
    #[must_use]
    pub fn cost(&self) -> u32 {
        self.options.cost_or_zero()
    }

    /// Returns the limits of the hit, in order: the throttle's, and those that the hit brought beside or
    /// instead of them.
    #[must_use]
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// Returns options for the same hit on another throttle: its cost, the units that it leaves, and
    /// all its rates instead of that throttle's own.
    pub fn options(&self) -> HitOptions {
        self.options.clone()
    }

    /// Returns what went wrong.
    #[must_use]
    pub fn error(&self) -> &BackendError {
        &self.error
    }
}

/// Decides about a hit whose backend failed. `never` is the decision of one that can never pass.
pub(crate) async fn decide(
    policy: &OnError,
    never: Option<Decision>,
    throttle: &Arc<str>,
    failure: impl FnOnce(BackendError) -> FailureContext,
    error: BackendError,
    log: &LogLimiter,
) -> Result<Decision, Error> {
    if error.kind().bypasses_policy() {
        return Err(error.into());
    }
    if let Some(suppressed) = log.pass() {
        warn!(
            throttle = &**throttle,
            backend = error.backend(),
            operation = error.operation(),
            kind = ?error.kind(),
            effect = ?error.effect(),
            policy = ?policy,
            %error,
            suppressed,
            "the backend failed, the error policy decides"
        );
    }
    match (policy, never) {
        (OnError::Raise, _) => Err(error.into()),
        (_, Some(never)) => Ok(never),
        (OnError::Throttle { retry_after }, None) => Ok(Decision::deny(*retry_after)),
        (OnError::Allow, None) => Ok(Decision::allow()),
        (OnError::Handler(handler), None) => Ok(ask(handler, failure(error)).await),
    }
}

async fn ask(handler: &ErrorHandler, failure: FailureContext) -> Decision {
    let throttle = Arc::clone(&failure.throttle);
    // The call itself may panic, before there is a future.
    let answer = unwind::catch(async { (handler.call)(failure).await });
    match Deadline::after(handler.time_limit).run(answer).await {
        Ok(Ok(decision)) => decision.decided_by_policy(),
        Ok(Err(_panic)) => denied_after(handler, &throttle, "it panicked"),
        Err(unfinished) => denied_after(handler, &throttle, unfinished.reason()),
    }
}

fn denied_after(handler: &ErrorHandler, throttle: &str, reason: &str) -> Decision {
    if let Some(suppressed) = handler.log.pass() {
        warn!(throttle, reason, suppressed, "the error handler did not decide, the hit is denied");
    }
    Decision::deny(OnError::DEFAULT_RETRY_AFTER)
}

/// Lets one log line through in a second, and counts the others.
#[derive(Debug, Default)]
pub(crate) struct LogLimiter {
    /// Milliseconds of the runtime's monotonic time, from an arbitrary start.
    next: AtomicU64,
    suppressed: AtomicU64,
}

impl LogLimiter {
    /// Returns how many lines were suppressed before this one; `None` if it is one of them.
    pub(crate) fn pass(&self) -> Option<u64> {
        static START: std::sync::OnceLock<tokio::time::Instant> = std::sync::OnceLock::new();
        let start = *START.get_or_init(monotonic_now);
        let elapsed = monotonic_now().saturating_duration_since(start);
        let now = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let next = self.next.load(Ordering::Relaxed);
        let won = now >= next
            && self
                .next
                .compare_exchange(next, now + 1000, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if won {
            Some(self.suppressed.swap(0, Ordering::Relaxed))
        } else {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}
