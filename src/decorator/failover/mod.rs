//! [`Failover`]: a second backend decides when the first one does not answer.

mod lifecycle;
mod options;
mod share;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tracing::warn;

pub use self::options::FailoverOptions;

use super::forward::pass_values_and_locks;
use super::part::{self, Failures, Question};
use crate::backend::{self, Answers, Backend, HasCore, Prepared, Result};
use crate::decision::Decision;
use crate::error::{BackendError, BuildError, Effect, ErrorKind};
use crate::join::join_all;
use crate::key::Key;
use crate::lifespan::Lifespan;
use crate::on_error::LogLimiter;
use crate::step::{BlockChange, KeyState, Step};
use crate::strategy::{Limit, Op};
use crate::timer::Deadline;

/// Lets a *fallback* decide when the *primary* fails or does not answer in time: mostly memory, when Redis or
/// Memcached is away. A service then goes on limiting, each process by itself, instead of letting all pass or none.
///
/// Such a decision says [`DecidedBy::Fallback`](crate::DecidedBy::Fallback), or
/// [`DecidedBy::Overflow`](crate::DecidedBy::Overflow) where a fallback in memory is full, and its figures are those of
/// the fallback. Of the primary's failures a warning tells, at most once a second.
/// What it took is given back there: a receipt knows who took it. A fallback begins fresh and counts for itself, so
/// while the primary is away up to the whole limit passes once more, in each process; a
/// [share](FailoverOptions::share) bounds that.
///
/// ```
/// use traffik::decorator::{CircuitBreaker, Failover};
/// use traffik::{InMemory, LifespanExt, Throttle};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let redis = InMemory::new();
/// let backend = Failover::new(CircuitBreaker::new(redis), InMemory::new());
/// let life = backend.lifespan().await?; // of both
/// let api = Throttle::builder("api").rate("100/min").backend(backend.clone()).build()?;
/// assert!(api.hit("alice").await?.is_allowed());
/// life.close().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Who is asked
///
/// | call | asked |
/// | --- | --- |
/// | hits, peeks, `acquire`, `reserve`, `take_up_to`, `charge`, `drain`; `hit_many` and `all` | the primary, for its [time](FailoverOptions::primary_timeout) at most; then the fallback |
/// | `refund`, `settle`, a permit that gives back | who took it |
/// | `block`, `unblock`, `reset`, a penalty | both: who is blocked here is blocked there |
/// | [`clear`](Backend::clear) | both; the fallback unless it is open elsewhere too, for others count there |
/// | `inspect`, values, locks, [`ready`](Backend::ready) | the primary |
/// | [`initialize`](Backend::initialize), [`close`](Backend::close) | both |
///
/// * The fallback is asked when the time of the primary is over, and after its errors. A mistake of the program, such as
///   a wrong password, stays an error. So does what the primary answers: that it
///   [cannot do that](ErrorKind::Unsupported), or that a state was [corrupt](ErrorKind::Corrupt), which it has replaced
///   by one that holds this hit.
/// * A hit whose failure is *ambiguous* may have been counted by the primary; it counts there as used, and is asked at
///   the fallback. Not so where the primary failed [at once](Backend::try_apply), or about several hits
///   [together](Backend::apply_all), and the fallback does not decide in the same way, as memory does: then the error is
///   returned, since to ask once more could count twice.
/// * If both fail, the error is the primary's, and the error policy decides. So it does for a key on which the fallback
///   has no room for a block: that is an error of the call, which says so.
/// * A call to both returns what the primary says. It reports the error of the primary, else that of the fallback, after
///   which it has happened at the primary.
///
/// # Time
///
/// While the primary is silent, each hit waits for its time, 100 ms by default; twice as long at most where a
/// [`Coalesce`](super::Coalesce) lies around. So put a
/// [`CircuitBreaker`](super::CircuitBreaker) around the primary, which finds out by the first ones; the one-line form
/// [`ThrottleBuilder::fallback`](crate::ThrottleBuilder::fallback) does. The deadline of the hit goes on.
///
/// # Lifespan
///
/// A lifespan of a failover starts and ends the fallback too. That is counted: a fallback that is used elsewhere stays
/// open there. If the primary cannot be reached, the lifespan fails to begin, as without a fallback, unless it may begin
/// [degraded](crate::lifespan::Start::Degraded). A fallback that cannot be reached fails nothing, and goes on
/// connecting.
///
/// # Nesting
///
/// Failovers are not nested: a receipt says that the fallback took it, and could not say which. Take as the one fallback
/// what is always there.
#[derive(Clone)]
pub struct Failover {
    inner: Arc<Inner>,
}

struct Inner {
    primary: Arc<dyn Backend>,
    fallback: Arc<dyn Backend>,
    options: FailoverOptions,
    /// Keeps the fallback open.
    fallback_life: Mutex<Option<Lifespan>>,
    /// Of a primary that fails.
    log: LogLimiter,
    /// Of a fallback that fails too.
    fallback_log: LogLimiter,
}

/// Returns whether the fallback is asked after that error: not if the primary answered by it, or the program has made a
/// mistake.
fn fails_over(error: &BackendError) -> bool {
    let is_answer = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported);
    !is_answer && !error.kind().bypasses_policy()
}

/// Returns whether a step that a primary failed to do is for the fallback. What the primary took is only there.
const fn may_move(step: &Step<'_>) -> bool {
    !matches!(step.op(), Op::Refund { .. }) && step.taker().is_none()
}

/// Returns the error of the primary where the fallback failed too, and may have done it all the same.
fn after(error: BackendError, second: &BackendError) -> BackendError {
    match second.effect() {
        Effect::Ambiguous => error.with_effect(Effect::Ambiguous),
        Effect::NotApplied => error,
    }
}

impl Failover {
    /// Joins a primary and its fallback, which may be an `Arc<dyn Backend>`, with the default options.
    ///
    /// # Panics
    ///
    /// Where [`with_options`](Self::with_options) fails: when the fallback is the primary itself, and when one of them has
    /// a fallback already.
    #[must_use]
    #[track_caller]
    pub fn new(primary: impl Backend, fallback: impl Backend) -> Self {
        match Self::with_options(primary, fallback, FailoverOptions::new()) {
            Ok(failover) => failover,
            Err(error) => panic!("{error}"),
        }
    }

    /// Joins a primary and its fallback.
    ///
    /// # Errors
    ///
    /// When the primary's time is zero, or the share is above 1; when the fallback is the primary itself, which would
    /// count each hit twice that was not answered; when one of them [has a fallback](Backend::fallback_after) already, for
    /// what was taken there would be given back elsewhere.
    pub fn with_options(
        primary: impl Backend,
        fallback: impl Backend,
        options: FailoverOptions,
    ) -> Result<Self, BuildError> {
        options.check()?;
        let (primary, fallback) = (backend::erase(primary), backend::erase(fallback));
        Self::check(&*primary, &*fallback)?;
        let inner = Inner {
            primary,
            fallback,
            options,
            fallback_life: Mutex::new(None),
            log: LogLimiter::default(),
            fallback_log: LogLimiter::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Fails if these two are not to be joined.
    pub(super) fn check(primary: &dyn Backend, fallback: &dyn Backend) -> Result<(), BuildError> {
        let problem = if ptr::eq(primary.core(), fallback.core()) {
            "is the primary itself; use another backend, such as InMemory::new()"
        } else if primary.fallback_after().is_some() {
            "cannot be added, for the backend has one already; use it as it is"
        } else if fallback.fallback_after().is_some() {
            "has a fallback of its own; use one that stands alone, such as InMemory::new()"
        } else {
            return Ok(());
        };
        Err(BuildError::setting("fallback", problem))
    }

    /// Returns the primary.
    #[must_use]
    pub fn primary(&self) -> &Arc<dyn Backend> {
        &self.inner.primary
    }

    /// Returns the fallback.
    #[must_use]
    pub fn fallback(&self) -> &Arc<dyn Backend> {
        &self.inner.fallback
    }

    fn inner(&self) -> &Arc<dyn Backend> {
        &self.inner.primary
    }

    fn address(&self) -> usize {
        ptr::from_ref(&*self.inner).addr()
    }

    fn shared(&self, limits: &[Limit]) -> Option<Vec<Limit>> {
        self.inner.options.fallback_share().of_limits(limits)
    }

    fn primary_deadline(&self) -> Deadline {
        Deadline::after(self.inner.options.time())
    }

    /// Asks the fallback about what the primary failed to decide.
    async fn fall_back(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        let limits = self.shared(step.limits());
        let own = step.over(limits.as_deref().unwrap_or(step.limits())).taken_by(None);
        let fallback = &self.inner.fallback;
        let decided = match fallback.try_apply(key, &own) {
            Some(decided) => decided,
            None => fallback.apply(key, &own).await,
        };
        decided.map(|decision| share::finish(decision, step))
    }

    /// Tells of a primary that failed, of which nobody hears if the fallback decides.
    fn warn_of_primary(&self, error: &BackendError) {
        if let Some(suppressed) = self.inner.log.pass() {
            let (backend, namespace) = (self.core().name(), self.core().namespace());
            warn!(
                backend,
                namespace,
                operation = error.operation(),
                kind = ?error.kind(),
                effect = ?error.effect(),
                %error,
                suppressed,
                "the primary failed, the fallback is asked"
            );
        }
    }

    /// Tells of a fallback that fails too. The caller hears of the primary.
    fn warn_of_fallback(&self, error: &BackendError) {
        if let Some(suppressed) = self.inner.fallback_log.pass() {
            let (backend, namespace) = (self.core().name(), self.core().namespace());
            warn!(backend, namespace, %error, suppressed, "the fallback failed too");
        }
    }

    /// Asks the fallback about those that the primary failed to decide.
    async fn fall_back_many(
        &self,
        steps: &[Question<'_>],
        failed: Vec<(usize, BackendError)>,
        answers: &Answers,
    ) {
        let (places, errors): (Vec<usize>, Vec<BackendError>) = failed.into_iter().unzip();
        let limits: Vec<_> =
            places.iter().map(|place| self.shared(steps[*place].1.limits())).collect();
        let asked = places.iter().zip(&limits).map(|(place, limits)| {
            let (key, step) = &steps[*place];
            let limits = limits.as_deref().unwrap_or(step.limits());
            (*key, step.over(limits).taken_by(None))
        });
        let asked: Vec<_> = asked.collect();
        let finish = |place: usize, decision| share::finish(decision, &steps[place].1);
        let mut failures = Failures::of(answers);
        part::ask(&*self.inner.fallback, &asked, &places, &mut failures, &finish).await;
        let seconds: HashMap<usize, BackendError> =
            failures.take(|_, _| true).into_iter().collect();
        if let Some(error) = seconds.values().next() {
            self.warn_of_fallback(error);
        }
        for (place, error) in places.into_iter().zip(errors) {
            let error = match seconds.get(&place) {
                Some(second) => after(error, second),
                None => error,
            };
            // To those that the fallback decided this is no news.
            answers.put(place, Err(error));
        }
    }

    /// Asks both, and returns what the primary says; its error first.
    async fn both<'a, T: Send + 'a>(
        &'a self,
        ask: impl Fn(&'a Arc<dyn Backend>) -> Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>,
    ) -> Result<T> {
        let both = [&self.inner.primary, &self.inner.fallback].into_iter();
        let mut asked = join_all(both.map(ask)).await.into_iter();
        match (asked.next(), asked.next()) {
            (Some(Ok(_)), Some(Err(fallback))) => Err(fallback.with_effect(Effect::Ambiguous)),
            // It was done at the fallback.
            (Some(Err(primary)), Some(Ok(_))) => Err(primary.with_effect(Effect::Ambiguous)),
            (Some(primary), _) => primary,
            (None, _) => unreachable!("two were asked"),
        }
    }
}

pass_values_and_locks!(Failover);

// A default that is not forwarded would replace what the inner backend does.
#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Backend for Failover {
    async fn initialize(&self) -> Result<()> {
        self.inner.initialize().await
    }

    async fn ready(&self) -> Result<()> {
        self.inner.primary.ready().await
    }

    async fn clear(&self) -> Result<()> {
        self.inner.clear().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }

    fn stop(&self) {
        self.inner.stop();
    }

    fn prepare(&self, throttle: &str, limits: &[Limit]) -> Option<Prepared> {
        // Hits in memory do not fail, so none goes to the fallback.
        self.inner.primary.prepare(throttle, limits)
    }

    fn try_apply(&self, key: &Key<'_>, step: &Step<'_>) -> Option<Result<Decision>> {
        if step.is_of_fallback() {
            return None;
        }
        match self.inner.primary.try_apply(key, step)? {
            Err(error) if fails_over(&error) && may_move(step) => {
                let limits = self.shared(step.limits());
                let own = step.over(limits.as_deref().unwrap_or(step.limits()));
                match self.inner.fallback.try_apply(key, &own) {
                    Some(Ok(decision)) => {
                        self.warn_of_primary(&error);
                        Some(Ok(share::finish(decision, step)))
                    }
                    Some(Err(second)) => {
                        self.warn_of_primary(&error);
                        self.warn_of_fallback(&second);
                        Some(Err(after(error, &second)))
                    }
                    // It was not done, so `apply` may ask again.
                    None if error.effect() == Effect::NotApplied => None,
                    None => Some(Err(error)),
                }
            }
            decided => Some(decided),
        }
    }

    async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        if step.is_of_fallback() {
            return self.fall_back(key, step).await;
        }
        let primary = &self.inner.primary;
        if !may_move(step) {
            return primary.apply(key, step).await;
        }
        let decided = primary.apply(key, step);
        match self.primary_deadline().bound(primary.core().name(), "apply", decided).await {
            Err(error) if fails_over(&error) => {
                self.warn_of_primary(&error);
                self.fall_back(key, step).await.map_err(|second| {
                    self.warn_of_fallback(&second);
                    after(error, &second)
                })
            }
            decided => decided,
        }
    }

    async fn apply_many(&self, steps: &[(Key<'_>, Step<'_>)], answers: &Answers) {
        let (at_fallback, places): (Vec<usize>, Vec<usize>) =
            (0..steps.len()).partition(|place| steps[*place].1.is_of_fallback());
        let name = self.core().name();
        let missing = BackendError::new(name, "apply_many", ErrorKind::Timeout);
        let mut failures = Failures::of(answers);
        if !places.is_empty() {
            let asked: Vec<_> = places.iter().map(|place| steps[*place]).collect();
            let as_it_is = |_, decision| decision;
            let primary = &*self.inner.primary;
            let answered = part::ask(primary, &asked, &places, &mut failures, &as_it_is);
            let answered = async {
                answered.await;
                Ok(())
            };
            let late = self.primary_deadline().bound(name, "apply_many", answered).await.err();
            let mut has_failed = vec![false; steps.len()];
            failures.places(|_, _| true).for_each(|place| has_failed[place] = true);
            for place in places {
                if !answers.has(place) && !has_failed[place] {
                    failures.add(place, late.as_ref().unwrap_or(&missing).shared());
                }
            }
        }
        let is_right =
            |place: usize, error: &BackendError| fails_over(error) && may_move(&steps[place].1);
        let mut failed = failures.take(is_right);
        drop(failures);
        if let Some((_, error)) = failed.first() {
            self.warn_of_primary(error);
        }
        failed.extend(at_fallback.into_iter().map(|place| (place, missing.shared())));
        // Steps of one key count in the order in which they were given.
        failed.sort_unstable_by_key(|(place, _)| *place);
        if !failed.is_empty() {
            self.fall_back_many(steps, failed, answers).await;
        }
    }

    fn decides_equal_hits_at_once(&self) -> bool {
        self.inner().decides_equal_hits_at_once()
    }

    fn fallback_after(&self) -> Option<Duration> {
        Some(self.inner.options.time())
    }

    async fn apply_all(&self, hits: &[(Key<'_>, Step<'_>)]) -> Option<Result<Vec<Decision>>> {
        let (primary, name) = (&self.inner.primary, self.core().name());
        let decided = async { Ok(primary.apply_all(hits).await) };
        let decided = self.primary_deadline().bound(name, "apply_all", decided).await;
        let error = match decided.unwrap_or_else(|late| Some(Err(late))) {
            Some(Err(error)) if fails_over(&error) => error,
            decided => return decided,
        };
        self.warn_of_primary(&error);
        let limits: Vec<_> = hits.iter().map(|(_, step)| self.shared(step.limits())).collect();
        let own = hits.iter().zip(&limits).map(|((key, step), limits)| {
            (*key, step.over(limits.as_deref().unwrap_or(step.limits())))
        });
        let own: Vec<_> = own.collect();
        match self.inner.fallback.apply_all(&own).await {
            Some(Ok(decisions)) => {
                let finished = decisions.into_iter().zip(hits);
                let finished = finished.map(|(decision, (_, step))| share::finish(decision, step));
                Some(Ok(finished.collect()))
            }
            Some(Err(second)) => {
                self.warn_of_fallback(&second);
                Some(Err(after(error, &second)))
            }
            // Nothing was done anywhere, so they are decided one after the other.
            None if error.effect() == Effect::NotApplied => None,
            None => Some(Err(error)),
        }
    }

    async fn change_block(&self, key: &Key<'_>, change: BlockChange) -> Result<bool> {
        self.both(|backend| backend.change_block(key, change)).await
    }

    async fn inspect(&self, key: &Key<'_>) -> Result<KeyState> {
        self.inner.primary.inspect(key).await
    }

    async fn forget(&self, key: &Key<'_>) -> Result<()> {
        self.both(|backend| backend.forget(key)).await
    }
}

impl fmt::Debug for Failover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failover")
            .field("primary", &self.inner.primary)
            .field("fallback", &self.inner.fallback)
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}
