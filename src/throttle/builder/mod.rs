//! [`ThrottleBuilder`].

mod checks;
mod decorators;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::checks::{check_names, check_states, number_default_names};
use self::decorators::decorated;
use super::line::Lines;
use super::penalty::{Denials, Penalty};
use super::watch::Watch;
use super::{Mode, ModeCell, Throttle, ThrottleInner};
use crate::backend::{self, Backend};
use crate::clock::micros_ceil;
use crate::decorator::Resilience;
use crate::error::BuildError;
use crate::excerpt::Excerpt;
use crate::observe::{DeniedSketch, Observer, Observers, TrackDenied};
use crate::on_error::{LogLimiter, OnError};
use crate::random;
use crate::rate::{Rate, RateError};
use crate::step::MAX_LIMITS;
use crate::strategy::{self, Limit, PartId, Strategy, TokenBucket};
use crate::turns::Turns;

/// The most bytes of the name of a throttle or a limit.
const MAX_NAME: usize = 128;

/// The number of the next throttle.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Builds a [`Throttle`].
#[must_use = "a builder does nothing until `build`"]
pub struct ThrottleBuilder {
    name: String,
    limits: Vec<LimitSpec>,
    /// A name that was given before any rate.
    stray_name: Option<String>,
    strategy: Option<Arc<dyn Strategy>>,
    backend: Option<Arc<dyn Backend>>,
    on_error: Option<OnError>,
    deadline: Duration,
    min_retry_after: Duration,
    cost: u32,
    penalty: Option<Penalty>,
    resilience: Resilience,
    mode: Mode,
    observers: Observers,
    observes_raw_keys: bool,
    near_limit: Option<u8>,
    track_denied: Option<TrackDenied>,
}

/// A limit as the user gave it.
#[derive(Debug)]
struct LimitSpec {
    rate: Result<Rate, RateError>,
    /// Its own strategy, if not the throttle's.
    strategy: Option<Arc<dyn Strategy>>,
    name: Option<String>,
}

/// A [`Rate`], or text that is parsed as one.
pub trait IntoRate {
    /// Returns the rate, or why it is none.
    ///
    /// # Errors
    ///
    /// When the text is not a rate.
    fn into_rate(self) -> Result<Rate, RateError>;
}

impl IntoRate for Rate {
    fn into_rate(self) -> Result<Rate, RateError> {
        Ok(self)
    }
}

impl IntoRate for &str {
    fn into_rate(self) -> Result<Rate, RateError> {
        self.parse()
    }
}

impl IntoRate for String {
    fn into_rate(self) -> Result<Rate, RateError> {
        self.parse()
    }
}

/// So that a slice of rates or of their texts will do.
impl<T: IntoRate + Clone> IntoRate for &T {
    fn into_rate(self) -> Result<Rate, RateError> {
        self.clone().into_rate()
    }
}

impl ThrottleBuilder {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            limits: Vec::new(),
            stray_name: None,
            strategy: None,
            backend: None,
            on_error: None,
            deadline: Throttle::DEFAULT_DEADLINE,
            min_retry_after: Duration::ZERO,
            cost: 1,
            penalty: None,
            resilience: Resilience::new(),
            mode: Mode::Enforce,
            observers: Observers::default(),
            observes_raw_keys: false,
            near_limit: None,
            track_denied: None,
        }
    }

    /// Adds a rate, which uses the throttle's [`strategy`](Self::strategy). A hit must pass all rates.
    /// There are at most eight.
    pub fn rate(mut self, rate: impl IntoRate) -> Self {
        self.limits.push(LimitSpec { rate: rate.into_rate(), strategy: None, name: None });
        self
    }

    /// Adds several rates.
    pub fn rates(self, rates: impl IntoIterator<Item = impl IntoRate>) -> Self {
        rates.into_iter().fold(self, Self::rate)
    }

    /// Adds a rate with its own strategy, which may be an `Arc<dyn Strategy>`.
    pub fn limit(mut self, rate: impl IntoRate, strategy: impl Strategy) -> Self {
        let strategy = Some(strategy::erase(strategy));
        self.limits.push(LimitSpec { rate: rate.into_rate(), strategy, name: None });
        self
    }

    /// Names the limit that was added last, for reports to clients and metrics: 1 to 128 bytes of
    /// printable ASCII, different for each limit. Defaults to the throttle's name and the period, such
    /// as `api:items/min`.
    ///
    /// ```
    /// # use traffik::{InMemory, Throttle};
    /// let throttle = Throttle::builder("api")
    ///     .rate("20/s")
    ///     .named("burst")
    ///     .rate("5000/day")
    ///     .named("daily")
    ///     .backend(InMemory::new())
    ///     .build()?;
    /// assert_eq!(throttle.limits()[1].name(), "daily");
    /// # Ok::<(), traffik::BuildError>(())
    /// ```
    pub fn named(mut self, name: impl Into<String>) -> Self {
        match self.limits.last_mut() {
            Some(limit) => limit.name = Some(name.into()),
            None => self.stray_name = Some(name.into()),
        }
        self
    }

    /// Sets the strategy of rates that have none of their own. Defaults to [`TokenBucket`].
    ///
    /// A strategy that is chosen at run time is an `Arc<dyn Strategy>`:
    ///
    /// ```
    /// use std::sync::Arc;
    /// use traffik::{FixedWindow, InMemory, Strategy, Throttle, TokenBucket};
    ///
    /// # let smooth = true;
    /// let strategy: Arc<dyn Strategy> =
    ///     if smooth { Arc::new(TokenBucket::new()) } else { Arc::new(FixedWindow::new()) };
    /// let throttle = Throttle::builder("api")
    ///     .rate("100/min")
    ///     .strategy(strategy)
    ///     .backend(InMemory::new())
    ///     .build()?;
    /// # Ok::<(), traffik::BuildError>(())
    /// ```
    pub fn strategy(mut self, strategy: impl Strategy) -> Self {
        self.strategy = Some(strategy::erase(strategy));
        self
    }

    /// Sets the backend that keeps the state, which may be an `Arc<dyn Backend>`. Defaults to the backend
    /// that is current in the task of each hit; see
    /// [`ambient::with_backend`](crate::ambient::with_backend).
    pub fn backend(mut self, backend: impl Backend) -> Self {
        self.backend = Some(backend::erase(backend));
        self
    }

    /// Sets the error policy: what is decided when the backend fails. Defaults to the backend's own
    /// policy.
    pub fn on_error(mut self, policy: OnError) -> Self {
        self.on_error = Some(policy);
        self
    }

    /// Sets the deadline of a hit, with the wait for connections and retries; when it passes, the error
    /// policy decides. An error handler has its own limit on top of it. Must be above zero. If the backend has a
    /// failover, use more than its
    /// [`primary_timeout`](crate::decorator::FailoverOptions::primary_timeout), or twice that where hits share questions
    /// ([`Backend::fallback_after`] tells), or a warning is logged. Defaults to 250 ms.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets the minimum `retry_after` of a denied hit, rounded up to the microsecond. Has no effect on
    /// hits that pass. Defaults to zero.
    pub fn min_retry_after(mut self, wait: Duration) -> Self {
        self.min_retry_after = wait;
        self
    }

    /// Sets the default cost of a hit, in units, 1 at least. Defaults to 1.
    pub fn cost(mut self, units: u32) -> Self {
        self.cost = units;
        self
    }

    /// Blocks keys that go on though they are denied. Defaults to none.
    pub fn penalty(mut self, penalty: Penalty) -> Self {
        self.penalty = Some(penalty);
        self
    }

    /// Sets the mode in which it starts; see [`Throttle::set_mode`], which switches it. Defaults to
    /// [`Mode::Enforce`].
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Adds an observer, which is told of each decision and failure: see [`observe`](crate::observe). There may be
    /// several. Defaults to none.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.add(observer);
        self
    }

    /// Gives observers the key of each hit: it may be personal data, or a secret. Defaults to no key.
    pub fn observe_raw_keys(mut self) -> Self {
        self.observes_raw_keys = true;
        self
    }

    /// Tells observers of each hit that passes and leaves at most that percentage of a limit's burst: 0
    /// to 99. With 20, of a burst of 50 those that leave 10 units or fewer. Defaults to no such event.
    pub fn near_limit(mut self, percent: u8) -> Self {
        self.near_limit = Some(percent);
        self
    }

    /// Tracks who is denied most, in bounded memory: see [`Throttle::top_denied`]. Defaults to none.
    pub fn track_denied(mut self, track: TrackDenied) -> Self {
        self.track_denied = Some(track);
        self
    }

    /// Checks the settings and builds the throttle.
    ///
    /// # Errors
    ///
    /// When a rate cannot be read or its strategy cannot keep it, when there is no rate or more than
    /// eight, when two limits would share their state or have the same name, when the name is not 1 to 128
    /// bytes without control characters, when the deadline is zero, when the penalty, the share of
    /// [`near_limit`](Self::near_limit), the keys of [`track_denied`](Self::track_denied) or an option of a decorator
    /// are out of their range, when there are decorators and no backend, or when a fallback or a circuit breaker is to be
    /// put around a backend that [has a fallback](Backend::fallback_after) already.
    pub fn build(mut self) -> Result<Throttle, BuildError> {
        self.check_settings()?;
        let resilience = std::mem::take(&mut self.resilience).for_callers_of(self.deadline);
        let Self { name, limits: wanted, strategy, backend, on_error, .. } = self;
        let backend = decorated(&name, backend, resilience, &self.observers)?;
        if let Some(after) = backend.as_ref().and_then(|backend| backend.fallback_after())
            && after >= self.deadline
        {
            let (throttle, deadline) = (&name, self.deadline);
            tracing::warn!(
                throttle,
                ?deadline,
                ?after,
                "hits may end before the fallback of a silent store is asked; raise the deadline, or lower the failover's \
                 primary_timeout"
            );
        }
        let strategy = strategy.unwrap_or_else(|| strategy::erase(TokenBucket::new()));
        let mut limits = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let own = wanted.strategy.unwrap_or_else(|| Arc::clone(&strategy));
            let rate = wanted
                .rate
                .map_err(|source| BuildError::Rate { throttle: name.clone(), source })?;
            let limit = Limit::new(rate, own)
                .map_err(|source| BuildError::Limit { throttle: name.clone(), source })?;
            limits.push(match wanted.name {
                Some(name) => limit.named(name),
                None => limit,
            });
        }
        if limits.is_empty() {
            return Err(BuildError::NoRate { throttle: name });
        }
        check_states(&name, &limits)?;
        let name: Arc<str> = name.into();
        let limits: Box<[Limit]> = limits.into_iter().map(|limit| limit.bound_to(&name)).collect();
        let limits = number_default_names(limits);
        check_names(&name, &limits)?;
        let prepared = backend.as_ref().and_then(|backend| backend.prepare(&name, &limits));
        let prepared = prepared.filter(|prepared| prepared.is_of(&limits));
        let is_watched = !self.observers.is_empty() || self.track_denied.is_some();
        let watch = is_watched.then(|| {
            Box::new(Watch {
                observers: self.observers,
                limit_names: limits.iter().map(|limit| limit.name().into()).collect(),
                near_limit: self.near_limit,
                sees_keys: self.observes_raw_keys,
                denied: self.track_denied.map(DeniedSketch::new),
            })
        });
        // A penalty has to see the denials.
        let is_seen = prepared.is_none() || self.penalty.is_some() || is_watched;
        let mode = if is_seen { ModeCell::seen(self.mode) } else { ModeCell::new(self.mode) };
        Ok(Throttle {
            inner: Arc::new(ThrottleInner {
                id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
                seed: seed(&name, &limits, backend.as_deref()),
                name,
                mode,
                limits,
                prepared,
                backend,
                on_error,
                deadline: self.deadline,
                min_retry_after: micros_ceil(self.min_retry_after),
                cost: self.cost,
                log: LogLimiter::default(),
                lines: Lines::default(),
                turns: Turns::default(),
                denials: self.penalty.map(Denials::new),
                watch,
            }),
        })
    }

    fn check_settings(&self) -> Result<(), BuildError> {
        let name = &self.name;
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            let shown = Excerpt(name.as_bytes());
            return Err(BuildError::setting(
                "throttle name",
                format!("{shown} is not 1 to {MAX_NAME} bytes without control characters"),
            ));
        }
        if self.limits.len() > MAX_LIMITS {
            return Err(BuildError::setting(
                "rates",
                format!("of throttle {name:?} are {}; the most is {MAX_LIMITS}", self.limits.len()),
            ));
        }
        if let Some(stray) = &self.stray_name {
            return Err(BuildError::setting(
                "limit name",
                format!(
                    "{} of throttle {name:?} was given before any rate; call `named` after the rate",
                    Excerpt(stray.as_bytes())
                ),
            ));
        }
        if self.cost == 0 {
            let problem = format!(
                "of throttle {name:?} is 0, so no hit would count; give the cost of a hit that is free with the hit"
            );
            return Err(BuildError::setting("cost", problem));
        }
        if let Some(penalty) = &self.penalty {
            penalty.check(name)?;
        }
        if let Some(track) = &self.track_denied {
            track.check(name)?;
        }
        if let Some(percent @ 100..) = self.near_limit {
            return Err(BuildError::setting(
                "near_limit",
                format!("of throttle {name:?} is {percent} percent; it must be 0 to 99"),
            ));
        }
        if self.deadline.is_zero() {
            return Err(BuildError::setting(
                "deadline",
                format!("of throttle {name:?} is zero; use some milliseconds at least"),
            ));
        }
        Ok(())
    }
}

/// Returns what tells the receipts of a throttle from others. A changed limit or burst acts on what was
/// counted, so receipts outlive it.
fn seed(name: &str, limits: &[Limit], backend: Option<&dyn Backend>) -> u64 {
    let parts: Vec<PartId> = limits.iter().map(Limit::part).collect();
    let store = backend.map_or(0, |backend| backend.core().store_id());
    random::hasher().hash_one((name, parts, store))
}

impl fmt::Debug for ThrottleBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThrottleBuilder")
            .field("name", &self.name)
            .field("limits", &self.limits)
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}
