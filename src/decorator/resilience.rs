//! [`Resilience`]: decorators in their right order.

use std::sync::Arc;
use std::time::Duration;

use super::{
    CircuitBreaker, CircuitBreakerOptions, Coalesce, DenyCache, DenyCacheOptions, Failover,
    FailoverOptions, Retry, RetryOptions,
};
use crate::backend::{self, Backend};
use crate::error::BuildError;
use crate::observe::{Observer, Observers};

/// Which decorators are put around a store, each in its place, in whatever order they are named: from the outside a deny
/// cache, what lets hits share questions, a failover, a circuit breaker, retries, the store.
///
/// ```
/// use traffik::decorator::Resilience;
/// use traffik::lifespan::{LifespanOptions, Start};
/// use traffik::{InMemory, LifespanExt, Throttle};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let redis = InMemory::new();
/// // Once, for all throttles of a service: they share the circuit and the fallback.
/// let backend = Resilience::recommended().fallback(InMemory::new()).around(redis)?;
/// let life = backend.lifespan_with(LifespanOptions::new().start(Start::Degraded)).await?;
/// let api = Throttle::builder("api").rate("100/min").backend(backend.clone()).build()?;
/// let logins = Throttle::builder("logins").rate("5/min").backend(backend).build()?;
/// # let _ = (api.hit("a").await?, logins.hit("a").await?);
/// life.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "it does nothing until it is put around a store"]
pub struct Resilience {
    deny_cache: Option<DenyCacheOptions>,
    coalesces: bool,
    fallback: Option<(Arc<dyn Backend>, FailoverOptions)>,
    breaker: Option<CircuitBreakerOptions>,
    retry: Option<RetryOptions>,
    observers: Observers,
}

impl Resilience {
    /// Creates one without any decorator.
    pub const fn new() -> Self {
        Self {
            deny_cache: None,
            coalesces: false,
            fallback: None,
            breaker: None,
            retry: None,
            observers: Observers::NONE,
        }
    }

    /// Creates the recommended one: a deny cache, hits that share questions, a circuit breaker and retries, each with
    /// its defaults. Add a [`fallback`](Self::fallback) if the service should go on limiting while the store is away;
    /// else the error policy decides.
    ///
    /// What another process gives back, resets or unblocks is seen by the deny cache up to a second later; see
    /// [`DenyCacheOptions::max_age`].
    pub fn recommended() -> Self {
        Self {
            deny_cache: Some(DenyCacheOptions::new()),
            coalesces: true,
            fallback: None,
            breaker: Some(CircuitBreakerOptions::new()),
            retry: Some(RetryOptions::new()),
            observers: Observers::NONE,
        }
    }

    /// Lets another backend decide while the store is away, as a [`Failover`] does, and adds a circuit breaker if
    /// there is none.
    pub fn fallback(self, fallback: impl Backend) -> Self {
        self.fallback_with(fallback, FailoverOptions::new())
    }

    /// As [`fallback`](Self::fallback), with options.
    pub fn fallback_with(mut self, fallback: impl Backend, options: FailoverOptions) -> Self {
        self.fallback = Some((backend::erase(fallback), options));
        self.breaker.get_or_insert_default();
        self
    }

    /// Adds a [`CircuitBreaker`], or changes its options.
    pub const fn circuit_breaker(mut self, options: CircuitBreakerOptions) -> Self {
        self.breaker = Some(options);
        self
    }

    /// Adds retries by a [`Retry`], or changes their options.
    pub const fn retry(mut self, options: RetryOptions) -> Self {
        self.retry = Some(options);
        self
    }

    /// Remembers who is denied, by a [`DenyCache`], or changes its options.
    pub const fn deny_cache(mut self, options: DenyCacheOptions) -> Self {
        self.deny_cache = Some(options);
        self
    }

    /// Lets equal hits on one key share questions, by a [`Coalesce`].
    pub const fn coalesce(mut self) -> Self {
        self.coalesces = true;
        self
    }

    /// Adds an observer, which is told of the changes of the circuit: see [`observe`](crate::observe). The observers of
    /// throttles are not, for the circuit belongs to none of them. There may be several.
    ///
    /// ```
    /// use traffik::decorator::{CircuitState, Resilience};
    /// use traffik::observe::{Event, Observer};
    /// use traffik::InMemory;
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
    /// # let redis = InMemory::new();
    /// let backend = Resilience::recommended().observer(Log).around(redis)?;
    /// # drop(backend);
    /// # Ok::<(), traffik::BuildError>(())
    /// ```
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.add(observer);
        self
    }

    /// Puts the decorators around a store, which may be an `Arc<dyn Backend>`.
    ///
    /// # Errors
    ///
    /// When an option is out of its range; when the fallback is the store itself; and when a fallback or a circuit breaker
    /// is to be put around a store that [has a fallback](Backend::fallback_after) already, or the fallback has one.
    pub fn around(self, store: impl Backend) -> Result<Arc<dyn Backend>, BuildError> {
        self.around_observed(store, &Observers::default())
    }

    /// As [`around`](Self::around), for a throttle with these observers.
    pub(crate) fn around_observed(
        self,
        store: impl Backend,
        observers: &Observers,
    ) -> Result<Arc<dyn Backend>, BuildError> {
        let mut decorated = backend::erase(store);
        if let Some((fallback, _)) = &self.fallback {
            // Before a breaker finds fault with a fallback that is there already.
            Failover::check(&*decorated, &**fallback)?;
        }
        if let Some(options) = self.retry {
            decorated = Arc::new(Retry::with_options(decorated, options)?);
        }
        if let Some(options) = self.breaker {
            let breaker = CircuitBreaker::with_options(decorated, options)?;
            decorated = Arc::new(breaker.observed_by(observers).observed_by(&self.observers));
        }
        if let Some((fallback, options)) = self.fallback {
            decorated = Arc::new(Failover::with_options(decorated, fallback, options)?);
        }
        if self.coalesces {
            decorated = Arc::new(Coalesce::new(decorated));
        }
        if let Some(options) = self.deny_cache {
            decorated = Arc::new(DenyCache::with_options(decorated, options)?);
        }
        Ok(decorated)
    }

    /// Returns the name of what is asked for, for an error; `None` if that is nothing.
    pub(crate) const fn setting(&self) -> Option<&'static str> {
        match self {
            Self { deny_cache: Some(_), .. } => Some("deny_cache"),
            Self { coalesces: true, .. } => Some("coalesce"),
            Self { fallback: Some(_), .. } => Some("fallback"),
            Self { breaker: Some(_), .. } => Some("circuit_breaker"),
            Self { retry: Some(_), .. } => Some("retry"),
            Self { .. } => None,
        }
    }

    /// For callers that give up after that time, where nothing else was said.
    pub(crate) fn for_callers_of(mut self, deadline: Duration) -> Self {
        // What lies inside has to end first.
        let mut primary = deadline;
        if let Some((_, options)) = &mut self.fallback {
            // For the question that a hit joins, and for its own.
            let most = if self.coalesces { deadline / 5 * 2 } else { deadline / 2 };
            *options = options.of_at_most(most);
            primary = options.time().min(deadline);
        }
        self.breaker = self.breaker.map(|options| options.for_callers_of(primary));
        self.retry = self.retry.map(|options| options.for_callers_of(primary));
        self
    }
}
