//! What goes around a throttle's backend: a line for each decorator.

use std::sync::Arc;

use super::ThrottleBuilder;
use crate::backend::Backend;
use crate::decorator::{CircuitBreakerOptions, DenyCacheOptions, Resilience, RetryOptions};
use crate::error::BuildError;
use crate::observe::Observers;

impl ThrottleBuilder {
    /// Lets another backend decide while the throttle's own fails or does not answer, mostly memory: a
    /// [`Failover`](crate::decorator::Failover) with a [`CircuitBreaker`](crate::decorator::CircuitBreaker) around
    /// the [`backend`](Self::backend). Defaults to none: the error policy decides.
    ///
    /// ```
    /// # use traffik::{InMemory, Throttle};
    /// # let redis = InMemory::new();
    /// let throttle = Throttle::builder("api")
    ///     .rate("100/min")
    ///     .backend(redis)
    ///     .fallback(InMemory::new())
    ///     .build()?;
    /// # drop(throttle);
    /// # Ok::<(), traffik::BuildError>(())
    /// ```
    ///
    /// Each throttle that is built so has a circuit breaker of its own. To share one, and to have a lifespan of both
    /// backends, decorate the backend once: [`Resilience::around`].
    pub fn fallback(mut self, fallback: impl Backend) -> Self {
        self.resilience = self.resilience.fallback(fallback);
        self
    }

    /// Puts a circuit breaker around the [`backend`](Self::backend), one of this throttle's own. Defaults to none.
    pub fn circuit_breaker(mut self, options: CircuitBreakerOptions) -> Self {
        self.resilience = self.resilience.circuit_breaker(options);
        self
    }

    /// Asks the [`backend`](Self::backend) once more if it did nothing, by a
    /// [`Retry`](crate::decorator::Retry). Defaults to none.
    pub fn retry(mut self, options: RetryOptions) -> Self {
        self.resilience = self.resilience.retry(options);
        self
    }

    /// Answers hits on a denied key without the [`backend`](Self::backend) for a while, by a
    /// [`DenyCache`](crate::decorator::DenyCache) of this throttle's own. Defaults to none.
    ///
    /// ```
    /// use traffik::decorator::DenyCacheOptions;
    /// # use traffik::{InMemory, Throttle};
    /// # let redis = InMemory::new();
    /// let throttle = Throttle::builder("login")
    ///     .rate("5/min")
    ///     .backend(redis)
    ///     .deny_cache(DenyCacheOptions::new())
    ///     .build()?;
    /// # drop(throttle);
    /// # Ok::<(), traffik::BuildError>(())
    /// ```
    pub fn deny_cache(mut self, options: DenyCacheOptions) -> Self {
        self.resilience = self.resilience.deny_cache(options);
        self
    }

    /// Lets equal hits on one key that come at the same time share a question to the [`backend`](Self::backend), by a
    /// [`Coalesce`](crate::decorator::Coalesce). Defaults to not so.
    pub fn coalesce(mut self) -> Self {
        self.resilience = self.resilience.coalesce();
        self
    }

    /// Puts these decorators around the [`backend`](Self::backend), instead of those that were named before:
    /// `resilience(Resilience::recommended().fallback(InMemory::new()))`. Defaults to none.
    pub fn resilience(mut self, resilience: Resilience) -> Self {
        self.resilience = resilience;
        self
    }
}

/// Puts the decorators around the backend, if there are any.
pub(super) fn decorated(
    throttle: &str,
    backend: Option<Arc<dyn Backend>>,
    resilience: Resilience,
    observers: &Observers,
) -> Result<Option<Arc<dyn Backend>>, BuildError> {
    match (backend, resilience.setting()) {
        (backend, None) => Ok(backend),
        (Some(backend), Some(_)) => resilience.around_observed(backend, observers).map(Some),
        (None, Some(setting)) => Err(BuildError::setting(
            setting,
            format!(
                "of throttle {throttle:?} goes around its backend, and it has none; give it one with \
                 ThrottleBuilder::backend, or decorate the backend that is current in the task"
            ),
        )),
    }
}
