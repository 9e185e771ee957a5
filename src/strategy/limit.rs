//! [`Limit`]: a rate and its strategy, checked and ready to run.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use super::meter::Demand;
use super::{Builtin, CompiledLimit, Strategy, StrategyId, erase};
use crate::rate::Rate;

/// A rate and the strategy that keeps it. Cheap to clone.
#[derive(Clone)]
pub struct Limit {
    rate: Rate,
    strategy: Arc<dyn Strategy>,
    strategy_id: StrategyId,
    compiled: CompiledLimit,
    #[cfg(feature = "redis")]
    builtin: Option<Builtin>,
    name: Option<Arc<str>>,
    /// Brought by a hit, so its state is a separate part.
    per_hit: bool,
    /// Whose limit it is, once a throttle has it.
    throttle: Option<Arc<str>>,
}

/// Which part of a key's stored value holds the state of a limit.
///
/// A throttle's own limits are told apart by strategy and period, so a changed limit or burst acts on
/// what was counted. A rate that a hit brought has, in addition, its limit and burst: so it neither
/// lifts nor fills another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PartId {
    pub(crate) strategy: StrategyId,
    /// Microseconds.
    pub(crate) period: u64,
    /// 0 for a throttle's own limit.
    pub(crate) limit: u32,
    /// 0 for a throttle's own limit.
    pub(crate) burst: u32,
}

/// What a limit decides by: limits that are equal in this answer alike.
///
/// That of a user's own strategy is where the strategy lies, and so means nothing once that is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LimitIdentity {
    part: PartId,
    limit: u32,
    burst: u32,
    algorithm: Algorithm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Algorithm {
    Builtin(Builtin),
    Own { address: usize },
}

impl PartId {
    /// Of a block, which concerns all limits of the key.
    pub(crate) const BLOCK: Self =
        Self { strategy: StrategyId::BLOCK, period: 0, limit: 0, burst: 0 };

    /// Returns whether it is the part of a rate that a hit brought.
    pub(crate) const fn is_per_hit(&self) -> bool {
        // Neither is 0 for such a rate: a limit of 0 has no part.
        self.limit > 0
    }
}

impl Limit {
    /// Joins a rate and a strategy.
    ///
    /// # Errors
    ///
    /// When the strategy cannot keep that rate: a burst on a window strategy, a burst of 0, a burst on a
    /// limit of 0 or on [`Rate::UNLIMITED`], a bucket that would take more than 100 years to fill, or a
    /// limit above a log's `max_entries`.
    pub fn new(rate: Rate, strategy: impl Strategy) -> Result<Self, LimitError> {
        let strategy = erase(strategy);
        match rate.explicit_burst() {
            Some(_) if rate.is_unlimited() => {
                return Err(LimitError::new(&rate, "an unlimited rate takes no burst"));
            }
            Some(0) => return Err(LimitError::new(&rate, "a burst must be at least 1")),
            Some(_) if rate.limit() == 0 => {
                return Err(LimitError::new(&rate, "a limit of 0 denies all and takes no burst"));
            }
            _ => {}
        }
        if !rate.is_unlimited() {
            strategy.check(&rate)?;
        }
        let builtin = Builtin::of(&*strategy);
        Ok(Self {
            rate,
            strategy_id: strategy.id(),
            compiled: CompiledLimit::of(&rate, builtin),
            strategy,
            #[cfg(feature = "redis")]
            builtin,
            name: None,
            per_hit: false,
            throttle: None,
        })
    }

    /// Names the limit, for reports to clients and metrics: printable ASCII, 1 to 128 bytes, checked by
    /// the throttle's `build`. Defaults to the throttle's name and the period, such as `api:items/min`.
    #[must_use]
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Returns the name; empty for a limit without one that no throttle holds.
    #[must_use]
    pub fn name(&self) -> Cow<'_, str> {
        match (&self.name, &self.throttle) {
            (Some(name), _) => Cow::Borrowed(name),
            (None, Some(throttle)) => Cow::Owned(default_name(throttle, &self.rate)),
            (None, None) => Cow::Borrowed(""),
        }
    }

    /// Returns the rate.
    #[must_use]
    pub fn rate(&self) -> &Rate {
        &self.rate
    }

    /// Returns the strategy.
    #[must_use]
    pub fn strategy(&self) -> &Arc<dyn Strategy> {
        &self.strategy
    }

    /// Returns what marks the state of this limit where it is stored, together with the period.
    #[must_use]
    pub fn strategy_id(&self) -> StrategyId {
        self.strategy_id
    }

    /// Returns the limit as one of the throttle called `throttle`.
    pub(crate) fn bound_to(mut self, throttle: &Arc<str>) -> Self {
        self.throttle = Some(Arc::clone(throttle));
        self
    }

    /// Returns the limit as one that a hit brought to a throttle with the limit `own`.
    pub(crate) fn brought_beside(mut self, own: &Self) -> Self {
        self.per_hit = true;
        self.throttle.clone_from(&own.throttle);
        self
    }

    /// Returns the same limit of another rate; `None` if its strategy cannot keep that.
    pub(crate) fn with_rate(&self, rate: Rate) -> Option<Self> {
        let other = Self::new(rate, Arc::clone(&self.strategy)).ok()?;
        let Self { name, per_hit, throttle, .. } = self.clone();
        Some(Self { name, per_hit, throttle, ..other })
    }

    /// Returns whether the two count the same hits the same way: equal strategies and rates.
    pub(crate) fn counts_like(&self, other: &Self) -> bool {
        let key = |limit: &Self| {
            (
                limit.strategy_id,
                limit.rate.period(),
                limit.rate.limit(),
                limit.rate.effective_burst(),
            )
        };
        key(self) == key(other)
    }

    /// Returns whether both decide alike.
    #[inline]
    pub(crate) fn decides_like(&self, other: &Self) -> bool {
        let is_clone = self.rate == other.rate
            && self.per_hit == other.per_hit
            && Arc::ptr_eq(&self.strategy, &other.strategy);
        is_clone || self.identity() == other.identity()
    }

    /// Returns what it decides by.
    pub(crate) fn identity(&self) -> LimitIdentity {
        let algorithm = match Builtin::of(&*self.strategy) {
            Some(builtin) => Algorithm::Builtin(builtin),
            None => Algorithm::Own { address: Arc::as_ptr(&self.strategy).cast::<()>().addr() },
        };
        let (limit, burst) = (self.rate.limit(), self.rate.effective_burst());
        LimitIdentity { part: self.part(), limit, burst, algorithm }
    }

    /// Returns whether a user's own strategy keeps it.
    pub(crate) fn is_by_own_strategy(&self) -> bool {
        Builtin::of(&*self.strategy).is_none()
    }

    pub(crate) fn explicit_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns the part of a stored value that holds its state.
    #[inline]
    pub(crate) fn part(&self) -> PartId {
        let (limit, burst) = match self.per_hit {
            true => (self.rate.limit(), self.rate.effective_burst()),
            false => (0, 0),
        };
        PartId { strategy: self.strategy_id, period: self.rate.period_micros(), limit, burst }
    }

    /// Returns whether anything is stored for it: not for an unlimited rate, nor for a limit of 0.
    #[inline]
    pub(crate) const fn has_state(&self) -> bool {
        !self.compiled.is_stateless()
    }

    #[inline]
    pub(crate) fn is_per_hit(&self) -> bool {
        self.per_hit
    }

    #[inline]
    pub(crate) fn compiled(&self) -> &CompiledLimit {
        &self.compiled
    }

    /// Returns whether the demand can never pass, as far as that is known without a state.
    pub(crate) fn can_never_pass(&self, demand: Demand) -> bool {
        self.compiled.can_never_pass(&self.rate, demand)
    }

    /// `None` for a user's own strategy.
    #[cfg(feature = "redis")]
    pub(crate) fn builtin(&self) -> Option<Builtin> {
        self.builtin
    }
}

/// The throttle's name and the period; what is not printable ASCII as `?`.
fn default_name(throttle: &str, rate: &Rate) -> String {
    let printable = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let name: String = throttle.chars().map(printable).collect();
    match rate.is_unlimited() {
        true => name,
        false => format!("{name}/{}", rate.period_text()),
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Limit({} by {:?})", self.rate, self.strategy)
    }
}

/// A rate that its strategy cannot keep.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("rate {rate}: {problem}")]
pub struct LimitError {
    rate: Rate,
    problem: Cow<'static, str>,
}

impl LimitError {
    /// Creates the error that tells what is wrong with a rate, and what would be right.
    #[must_use]
    pub fn new(rate: &Rate, problem: impl Into<Cow<'static, str>>) -> Self {
        Self { rate: *rate, problem: problem.into() }
    }

    /// Refuses a burst on a strategy that has no use for it.
    pub(crate) fn refuse_burst(rate: &Rate) -> Result<(), Self> {
        match rate.explicit_burst() {
            None => Ok(()),
            Some(_) => Err(Self::new(
                rate,
                "a window strategy takes no burst; drop it, or use a bucket strategy",
            )),
        }
    }

    /// Returns the rate that was refused.
    #[must_use]
    pub fn rate(&self) -> &Rate {
        &self.rate
    }
}
