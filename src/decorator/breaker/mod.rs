//! [`CircuitBreaker`]: does not ask a store that fails.

mod call;
mod circuit;
mod info;
mod options;
mod tally;
mod telling;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::info::CircuitInfo;
pub use self::options::CircuitBreakerOptions;
pub use crate::observe::CircuitState;

use self::call::{Guarded, ManyCall};
use self::circuit::{CallOutcome, Circuit};
use super::forward::decorate_values_and_locks;
use crate::backend::{self, Answers, Backend, Prepared, Result};
use crate::clock::monotonic_now;
use crate::decision::Decision;
use crate::error::BuildError;
use crate::key::Key;
use crate::lock::{LockError, LockGuard};
use crate::observe::{Observer, Observers};
use crate::on_drop::OnDrop;
use crate::step::{BlockChange, KeyState, Step};
use crate::strategy::Limit;

/// Does not ask a store that fails: while the circuit is *open* every call is an error at once, which says so, and
/// from time to time one call is let through as a probe. When that is answered, the circuit *closes*.
///
/// So hits do not wait for a store that is silent: only the first ones do, and the probes. The error policy decides
/// at once, or the fallback of a [`Failover`](super::Failover) around it.
///
/// ```
/// use traffik::decorator::{CircuitBreaker, CircuitState};
/// use traffik::{InMemory, Throttle};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let redis = InMemory::new();
/// // One for all throttles that use this store: what one finds out, all know.
/// let backend = CircuitBreaker::new(redis);
/// let api = Throttle::builder("api").rate("100/min").backend(backend.clone()).build()?;
/// assert!(api.hit("alice").await?.is_allowed());
/// assert_eq!(backend.info().state, CircuitState::Closed);
/// # Ok(())
/// # }
/// ```
///
/// # What opens it
///
/// Failures of the store: it cannot be reached or refuses to work ([`Unavailable`](crate::ErrorKind::Unavailable)),
/// or does not answer in time ([`Timeout`](crate::ErrorKind::Timeout)). A call whose caller gave up, as a throttle
/// does at its deadline, is a failure if the store was silent for
/// [long enough](CircuitBreakerOptions::silent_after), and nothing else. A store that answers by another error (it is
/// full, a value is corrupt) answers. What is of the program or of this process says nothing: a closed backend, a wrong
/// password, [too many calls](crate::ErrorKind::Overloaded) at once.
///
/// It opens after [five failures in a row](CircuitBreakerOptions::failures_in_a_row), or if most calls of the
/// [last ten seconds](CircuitBreakerOptions::window) failed. `hit_many` is one call, which fails if none of its hits
/// got through.
///
/// Of a store with **several nodes**, such as a Redis cluster, one that is silent does not open it while the others
/// are asked and answer: a call that waited in vain while another was answered is in no row. One that refuses
/// connections fails at once, so five of its calls may come one after the other by chance while nothing else is asked
/// for 50 ms; it then stays open for the time of one pause. If most calls fail, it opens for all.
///
/// # What passes
///
/// [`initialize`](Backend::initialize), [`ready`](Backend::ready) and [`clear`](Backend::clear) always ask the store;
/// when they succeed, the circuit closes. [`close`](Backend::close) always passes. A lock may be waited for as long as one likes: neither
/// the wait nor [`Held`](LockError::Held) is a failure; while the circuit is open, a probe goes before it. A call
/// that was under way when the circuit opened or closed changes nothing any more.
///
/// The in-memory backend has a fast path, which is handed on ([`prepare`](Backend::prepare)): its hits do not fail, so
/// a circuit breaker around it costs them nothing, and does nothing.
#[derive(Clone)]
pub struct CircuitBreaker {
    inner: Arc<Guarded>,
}

impl CircuitBreaker {
    /// Creates a breaker with the default options around a backend, which may be an `Arc<dyn Backend>`.
    ///
    /// # Panics
    ///
    /// When the backend [has a fallback](Backend::fallback_after).
    #[must_use]
    #[track_caller]
    pub fn new(backend: impl Backend) -> Self {
        match Self::with_options(backend, CircuitBreakerOptions::new()) {
            Ok(breaker) => breaker,
            Err(error) => panic!("{error}"),
        }
    }

    /// Creates a breaker around a backend.
    ///
    /// # Errors
    ///
    /// When a time is zero, the window is below 10 ms, or `longest_open` is shorter than `first_open`; when the backend
    /// [has a fallback](Backend::fallback_after), which would hide the failures of its primary.
    pub fn with_options(
        backend: impl Backend,
        options: CircuitBreakerOptions,
    ) -> Result<Self, BuildError> {
        let (backend, settings) = (backend::erase(backend), options.check()?);
        if backend.fallback_after().is_some() {
            return Err(BuildError::setting(
                "circuit_breaker",
                "is around a fallback, so it would see no failure; put it around the primary",
            ));
        }
        Ok(Self { inner: Arc::new(Guarded::new(backend, settings)) })
    }

    /// Tells `observer` of each change of the state, as
    /// [`CircuitChanged`](crate::observe::CircuitChanged), from now on. A breaker that a
    /// [`ThrottleBuilder`](crate::ThrottleBuilder) makes tells the observers of its throttle.
    ///
    /// ```
    /// use traffik::InMemory;
    /// use traffik::decorator::{CircuitBreaker, CircuitState};
    /// use traffik::observe::{Event, Observer};
    ///
    /// #[derive(Debug)]
    /// struct Log;
    ///
    /// impl Observer for Log {
    ///     fn on_event(&self, event: &Event<'_>) {
    ///         if let Event::CircuitChanged(changed) = event
    ///             // With each probe it is half open for a moment.
    ///             && changed.to != CircuitState::HalfOpen
    ///         {
    ///             println!("{}: {:?}", changed.backend, changed.to);
    ///         }
    ///     }
    /// }
    ///
    /// let breaker = CircuitBreaker::new(InMemory::new());
    /// breaker.observe(Log);
    /// ```
    pub fn observe(&self, observer: impl Observer) {
        self.inner.observe(|observers| observers.add(observer));
    }

    /// Tells those observers too.
    pub(crate) fn observed_by(self, observers: &Observers) -> Self {
        self.inner.observe(|own| own.extend(observers));
        self
    }

    /// Returns what it knows of its store now.
    #[must_use]
    pub fn info(&self) -> CircuitInfo {
        let refused = self.inner.refused();
        self.inner.read(|circuit| CircuitInfo::of(circuit, refused, monotonic_now()))
    }

    fn inner(&self) -> &Arc<dyn Backend> {
        &self.inner.backend
    }

    fn address(&self) -> usize {
        ptr::from_ref(&*self.inner).addr()
    }

    async fn around<T: Send, F: Future<Output = Result<T>> + Send>(
        &self,
        operation: &'static str,
        call: impl Fn() -> F + Send + Sync,
    ) -> Result<T> {
        self.inner.ask(operation, call).await
    }

    async fn around_lock<F: Future<Output = Result<LockGuard, LockError>> + Send>(
        &self,
        call: impl Fn() -> F + Send + Sync,
    ) -> Result<LockGuard, LockError> {
        // A lock is waited for as long as one likes, so it cannot be cut as a probe is: a short question comes first.
        if !self.inner.read(Circuit::is_closed) {
            self.inner.ask("lock", || self.inner().ready()).await?;
        }
        let entered = self.inner.pass_patiently();
        let result = call().await;
        let (outcome, error) = CallOutcome::of_lock(&result);
        entered.end(outcome, error);
        result
    }

    /// Asks whatever the state: to find out.
    async fn find_out(&self, question: impl Future<Output = Result<()>>) -> Result<()> {
        let call = self.inner.pass();
        let result = question.await;
        call.end_by(&result);
        result
    }
}

decorate_values_and_locks!(CircuitBreaker);

// A default that is not forwarded would replace what the inner backend does.
#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Backend for CircuitBreaker {
    async fn initialize(&self) -> Result<()> {
        self.find_out(self.inner().initialize()).await
    }

    async fn ready(&self) -> Result<()> {
        self.find_out(self.inner().ready()).await
    }

    async fn clear(&self) -> Result<()> {
        let call = self.inner.pass_patiently();
        let result = self.inner().clear().await;
        call.end_by(&result);
        result
    }

    async fn close(&self) -> Result<()> {
        // A closed store is a mistake of those who go on, and no outage that a policy may decide.
        let _reset = OnDrop::new(|| self.inner.reset());
        self.inner().close().await
    }

    fn stop(&self) {
        self.inner().stop();
    }

    fn prepare(&self, throttle: &str, limits: &[Limit]) -> Option<Prepared> {
        self.inner().prepare(throttle, limits)
    }

    fn try_apply(&self, key: &Key<'_>, step: &Step<'_>) -> Option<Result<Decision>> {
        // Otherwise `apply` refuses or probes.
        if !self.inner.read(Circuit::is_closed) {
            return None;
        }
        let call = self.inner.pass();
        let answer = self.inner().try_apply(key, step);
        match &answer {
            None => call.end(CallOutcome::Nothing, None),
            Some(answer) => call.end_by(answer),
        }
        answer
    }

    async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        self.inner.ask("apply", || self.inner().apply(key, step)).await
    }

    async fn apply_many(&self, steps: &[(Key<'_>, Step<'_>)], answers: &Answers) {
        match self.inner.enter("apply_many") {
            Err(refusal) => answers.fail(&refusal),
            Ok(call) => {
                let call = ManyCall::new(call, answers);
                call.bound(self.inner().apply_many(steps, answers)).await;
            }
        }
    }

    fn decides_equal_hits_at_once(&self) -> bool {
        self.inner().decides_equal_hits_at_once()
    }

    fn fallback_after(&self) -> Option<Duration> {
        self.inner().fallback_after()
    }

    async fn apply_all(&self, hits: &[(Key<'_>, Step<'_>)]) -> Option<Result<Vec<Decision>>> {
        let call = match self.inner.enter("apply_all") {
            Ok(call) => call,
            Err(refusal) => return Some(Err(refusal)),
        };
        let answer = call.bound("apply_all", async { Ok(self.inner().apply_all(hits).await) });
        let answer = answer.await.unwrap_or_else(|late| Some(Err(late)));
        match &answer {
            None => call.end(CallOutcome::Nothing, None),
            Some(answer) => call.end_by(answer),
        }
        answer
    }

    async fn change_block(&self, key: &Key<'_>, change: BlockChange) -> Result<bool> {
        self.inner.ask("change_block", || self.inner().change_block(key, change)).await
    }

    async fn inspect(&self, key: &Key<'_>) -> Result<KeyState> {
        self.inner.ask("inspect", || self.inner().inspect(key)).await
    }

    async fn forget(&self, key: &Key<'_>) -> Result<()> {
        self.inner.ask("forget", || self.inner().forget(key)).await
    }
}

impl fmt::Debug for CircuitBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("backend", self.inner())
            .field("state", &self.info().state)
            .finish_non_exhaustive()
    }
}
