//! [`Retry`]: asks a store once more that did not do what it was asked.

use std::collections::HashSet;
use std::fmt;
use std::num::NonZeroU32;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use super::forward::decorate_values_and_locks;
use super::part::{self, Failures, Question};
use crate::backend::{self, Answers, Backend, Prepared, Result};
use crate::clock::monotonic_now;
use crate::decision::Decision;
use crate::error::{BackendError, BuildError, Effect, ErrorKind};
use crate::key::Key;
use crate::lock::{LockError, LockGuard};
use crate::step::{BlockChange, KeyState, Step};
use crate::strategy::Limit;
use crate::{random, timer};

/// Asks a store once more if it did not do what it was asked: after a pause at random, a few times, and within a
/// bounded time.
///
/// Only what was certainly not done is repeated ([`Effect::NotApplied`]), and only if the store cannot be reached or
/// refuses to work now. What may have happened never is, nor what failed because
/// [too much](ErrorKind::Overloaded) is asked already. [`initialize`](Backend::initialize),
/// [`ready`](Backend::ready) and [`close`](Backend::close) are asked once. Of several questions together those that
/// failed are repeated, but for one before another of the same key that got through: the steps of a key keep their
/// order.
///
/// The backends on servers already repeat by themselves what they know to be worth it, such as a command that a
/// cluster redirects; this is for moments in which a server is away, and for backends of your own. It belongs *inside* of a
/// [`CircuitBreaker`](super::CircuitBreaker), which asks nobody when it is open.
///
/// ```
/// use std::num::NonZeroU32;
/// use std::time::Duration;
///
/// use traffik::decorator::{Retry, RetryOptions};
/// use traffik::InMemory;
///
/// # let redis = InMemory::new();
/// let once = RetryOptions::new()
///     .retries(NonZeroU32::MIN)
///     .within(Duration::from_millis(50));
/// let backend = Retry::with_options(redis, once)?;
/// # drop(backend);
/// # Ok::<(), traffik::BuildError>(())
/// ```
#[derive(Clone)]
pub struct Retry {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Arc<dyn Backend>,
    options: RetryOptions,
}

/// Options of a [`Retry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct RetryOptions {
    retries: NonZeroU32,
    first_pause: Duration,
    longest_pause: Duration,
    within: Option<Duration>,
}

const WITHIN: Duration = Duration::from_millis(100);

impl RetryOptions {
    /// Creates the default options.
    pub const fn new() -> Self {
        let Some(retries) = NonZeroU32::new(2) else { unreachable!() };
        Self {
            retries,
            first_pause: Duration::from_millis(10),
            longest_pause: Duration::from_millis(40),
            within: None,
        }
    }

    /// Sets how often the store is asked at most after the first time. Defaults to 2. A backend that fails to decide
    /// [at once](Backend::try_apply) is asked once more than that.
    pub const fn retries(mut self, retries: NonZeroU32) -> Self {
        self.retries = retries;
        self
    }

    /// Sets the longest first pause; each pause is random between nothing and its longest, which doubles each time.
    /// Above zero. Defaults to 10 ms.
    pub const fn first_pause(mut self, pause: Duration) -> Self {
        self.first_pause = pause;
        self
    }

    /// Sets where the longest pause stops to double. At least [`first_pause`](Self::first_pause). Defaults to 40 ms.
    pub const fn longest_pause(mut self, pause: Duration) -> Self {
        self.longest_pause = pause;
        self
    }

    /// Sets the time from the first question on after which no other is begun: no pause begins that would end
    /// later. It should be shorter than the time that callers wait, who end the rest. Above zero. Defaults to 100 ms;
    /// for retries that a throttle's builder adds to half of what the throttle, or a failover, waits, if that is
    /// shorter.
    pub const fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }

    /// For callers that give up after that time, if nothing else was said.
    pub(crate) fn for_callers_of(mut self, deadline: Duration) -> Self {
        let shorter = WITHIN.min(deadline / 2).max(Duration::from_nanos(1));
        self.within = self.within.or(Some(shorter));
        self
    }

    fn time(&self) -> Duration {
        self.within.unwrap_or(WITHIN)
    }

    fn check(&self) -> Result<(), BuildError> {
        for (setting, time) in
            [("retry first_pause", self.first_pause), ("retry within", self.time())]
        {
            if time.is_zero() {
                return Err(BuildError::setting(setting, "is zero; use some milliseconds"));
            }
        }
        if self.longest_pause < self.first_pause {
            let (longest, first) = (self.longest_pause, self.first_pause);
            let problem = format!("is {longest:?}, and first_pause {first:?}; use at least that");
            return Err(BuildError::setting("retry longest_pause", problem));
        }
        Ok(())
    }
}

impl Default for RetryOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// The retries of one call.
struct Attempts {
    options: RetryOptions,
    began: Instant,
    done: u32,
}

impl Attempts {
    fn of(options: RetryOptions) -> Self {
        Self { options, began: monotonic_now(), done: 0 }
    }

    /// Waits until it is time to ask again; returns `false` if that is not to be.
    async fn again(&mut self) -> bool {
        if self.done >= self.options.retries.get() {
            return false;
        }
        let factor = 1_u32.checked_shl(self.done).unwrap_or(u32::MAX);
        let longest = self.options.first_pause.saturating_mul(factor);
        let pause = random::up_to(longest.min(self.options.longest_pause));
        let left = self.options.time().saturating_sub(self.began.elapsed());
        if pause >= left || !timer::is_there() {
            return false;
        }
        self.done += 1;
        sleep(pause).await;
        true
    }
}

/// Returns whether it was certainly not done, and may be in a moment.
fn is_worth_it(error: &BackendError) -> bool {
    let is_of_store = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout);
    is_of_store && error.effect() == Effect::NotApplied
}

fn has_not_happened<T>(result: &Result<T>) -> bool {
    result.as_ref().is_err_and(is_worth_it)
}

impl Retry {
    /// Creates a decorator with the default options around a backend, which may be an `Arc<dyn Backend>`.
    #[must_use]
    pub fn new(backend: impl Backend) -> Self {
        Self::of(backend, RetryOptions::new())
    }

    /// Creates a decorator around a backend.
    ///
    /// # Errors
    ///
    /// When a time is zero, or `longest_pause` is shorter than `first_pause`.
    pub fn with_options(backend: impl Backend, options: RetryOptions) -> Result<Self, BuildError> {
        options.check()?;
        Ok(Self::of(backend, options))
    }

    fn of(backend: impl Backend, options: RetryOptions) -> Self {
        Self { inner: Arc::new(Inner { backend: backend::erase(backend), options }) }
    }

    fn inner(&self) -> &Arc<dyn Backend> {
        &self.inner.backend
    }

    fn address(&self) -> usize {
        ptr::from_ref(&*self.inner).addr()
    }

    /// Asks until it is done, or it makes no sense to go on.
    async fn repeat<T, F: Future<Output = T>>(
        &self,
        call: impl Fn() -> F,
        may_be_repeated: impl Fn(&T) -> bool,
    ) -> T {
        let mut attempts = Attempts::of(self.inner.options);
        loop {
            let result = call().await;
            if !may_be_repeated(&result) || !attempts.again().await {
                return result;
            }
        }
    }

    async fn around<T: Send, F: Future<Output = Result<T>> + Send>(
        &self,
        _operation: &'static str,
        call: impl Fn() -> F + Send + Sync,
    ) -> Result<T> {
        self.repeat(call, has_not_happened).await
    }

    async fn around_lock<F: Future<Output = Result<LockGuard, LockError>> + Send>(
        &self,
        call: impl Fn() -> F + Send + Sync,
    ) -> Result<LockGuard, LockError> {
        let failed = |result: &Result<_, LockError>| match result {
            Err(LockError::Backend(error)) => is_worth_it(error),
            _ => false,
        };
        self.repeat(call, failed).await
    }
}

/// Returns the places of steps before which no other of the same key may be repeated, for it got through or may have.
fn last_done(steps: &[Question<'_>], failures: &Failures<'_>) -> Vec<Option<usize>> {
    let mut last = vec![None; steps.len()];
    let failed: HashSet<usize> = failures.places(|_, error| is_worth_it(error)).collect();
    for of_key in backend::by_key(steps) {
        let done = of_key.iter().copied().filter(|place| !failed.contains(place)).max();
        for place in of_key {
            last[place] = done;
        }
    }
    last
}

decorate_values_and_locks!(Retry);

// A default that is not forwarded would replace what the inner backend does.
#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Backend for Retry {
    async fn initialize(&self) -> Result<()> {
        self.inner().initialize().await
    }

    async fn ready(&self) -> Result<()> {
        self.inner().ready().await
    }

    async fn clear(&self) -> Result<()> {
        self.repeat(|| self.inner().clear(), has_not_happened).await
    }

    async fn close(&self) -> Result<()> {
        self.inner().close().await
    }

    fn stop(&self) {
        self.inner().stop();
    }

    fn prepare(&self, throttle: &str, limits: &[Limit]) -> Option<Prepared> {
        self.inner().prepare(throttle, limits)
    }

    fn try_apply(&self, key: &Key<'_>, step: &Step<'_>) -> Option<Result<Decision>> {
        let answer = self.inner().try_apply(key, step)?;
        // It was not done: `apply` asks again.
        (!has_not_happened(&answer)).then_some(answer)
    }

    async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        self.repeat(|| self.inner().apply(key, step), has_not_happened).await
    }

    async fn apply_many(&self, steps: &[(Key<'_>, Step<'_>)], answers: &Answers) {
        let mut attempts = Attempts::of(self.inner.options);
        let mut failures = Failures::of(answers);
        let mut places: Vec<usize> = (0..steps.len()).collect();
        loop {
            let asked: Vec<_> = places.iter().map(|place| steps[*place]).collect();
            let as_it_is = |_, decision| decision;
            part::ask(&**self.inner(), &asked, &places, &mut failures, &as_it_is).await;
            if failures.places(|_, _| true).next().is_none() {
                return;
            }
            let last_done = last_done(steps, &failures);
            let is_right = |place: usize, error: &BackendError| {
                is_worth_it(error) && last_done[place].is_none_or(|done| done < place)
            };
            if failures.places(is_right).next().is_none() || !attempts.again().await {
                return;
            }
            places = failures.take(is_right).into_iter().map(|(place, _)| place).collect();
        }
    }

    fn decides_equal_hits_at_once(&self) -> bool {
        self.inner().decides_equal_hits_at_once()
    }

    fn fallback_after(&self) -> Option<Duration> {
        self.inner().fallback_after()
    }

    async fn apply_all(&self, hits: &[(Key<'_>, Step<'_>)]) -> Option<Result<Vec<Decision>>> {
        let failed = |answer: &Option<Result<_>>| answer.as_ref().is_some_and(has_not_happened);
        self.repeat(|| self.inner().apply_all(hits), failed).await
    }

    async fn change_block(&self, key: &Key<'_>, change: BlockChange) -> Result<bool> {
        self.repeat(|| self.inner().change_block(key, change), has_not_happened).await
    }

    async fn inspect(&self, key: &Key<'_>) -> Result<KeyState> {
        self.repeat(|| self.inner().inspect(key), has_not_happened).await
    }

    async fn forget(&self, key: &Key<'_>) -> Result<()> {
        self.repeat(|| self.inner().forget(key), has_not_happened).await
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("backend", self.inner())
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}
