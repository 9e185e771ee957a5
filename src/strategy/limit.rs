//! [`Limit`]: a rate and the strategy that keeps it, checked and ready to run.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use super::packed::{self, Settled};
use super::{
    Answer, Bucket, FixedMeter, FixedWindow, Gcra, Interned, LeakyBucket, Op, SlidingMeter,
    SlidingWindowCounter, SlidingWindowLog, Strategy, Tag, TokenBucket, interned,
};
use crate::clock::Timestamp;
use crate::rate::Rate;

/// A rate and the strategy that keeps it. Cheap to clone.
#[derive(Clone)]
pub struct Limit {
    rate: Rate,
    strategy: Arc<dyn Strategy>,
    tag: Tag,
    core: Core,
    #[cfg(feature = "redis")]
    builtin: Option<Builtin>,
    /// Whose limit it is, once a throttle has it.
    interned: Option<&'static Interned>,
}

/// Which of our own strategies keeps a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Builtin {
    /// Token bucket, leaky bucket or GCRA.
    Bucket {
        /// Units beyond the burst.
        debt: u32,
    },
    FixedWindow,
    SlidingWindowCounter,
    SlidingWindowLog,
}

impl Builtin {
    fn of(strategy: &dyn Strategy) -> Option<Self> {
        let any: &dyn Any = strategy;
        if let Some(bucket) = any.downcast_ref::<TokenBucket>() {
            Some(Self::Bucket { debt: bucket.debt() })
        } else if any.is::<LeakyBucket>() || any.is::<Gcra>() {
            Some(Self::Bucket { debt: 0 })
        } else if any.is::<FixedWindow>() {
            Some(Self::FixedWindow)
        } else if any.is::<SlidingWindowCounter>() {
            Some(Self::SlidingWindowCounter)
        } else {
            any.is::<SlidingWindowLog>().then_some(Self::SlidingWindowLog)
        }
    }
}

/// The form in which a limit runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Core {
    Unlimited,
    DenyAll,
    Bucket(Bucket<u64>),
    Fixed(FixedMeter),
    Sliding(SlidingMeter),
    /// On words, by the strategy's own `step`.
    Words {
        /// It keeps its hands off the state on a peek or a denial, so it may run on it in place.
        in_place: bool,
    },
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
        Self::shared(rate, Arc::new(strategy))
    }

    /// Joins a rate and a strategy that is already shared.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn shared(rate: Rate, strategy: Arc<dyn Strategy>) -> Result<Self, LimitError> {
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
        Ok(Self::unchecked(rate, strategy))
    }

    /// For a refund of a hit that was counted at that rate. A refund has no use for the burst, so the
    /// rate may come without, and is not checked again.
    pub(crate) fn for_refund(rate: Rate, strategy: Arc<dyn Strategy>) -> Self {
        Self::unchecked(rate, strategy)
    }

    fn unchecked(rate: Rate, strategy: Arc<dyn Strategy>) -> Self {
        let builtin = Builtin::of(&*strategy);
        let core = Core::of(&rate, builtin);
        Self {
            rate,
            tag: strategy.tag(),
            strategy,
            core,
            #[cfg(feature = "redis")]
            builtin,
            interned: None,
        }
    }

    /// The rate.
    #[must_use]
    pub fn rate(&self) -> &Rate {
        &self.rate
    }

    /// The strategy.
    #[must_use]
    pub fn strategy(&self) -> &Arc<dyn Strategy> {
        &self.strategy
    }

    /// Marks the state of this limit where it is stored, together with the period.
    #[must_use]
    pub fn tag(&self) -> Tag {
        self.tag
    }

    /// The limit of a throttle of that name.
    pub(crate) fn bound_to(self, throttle: &str) -> Self {
        Self { interned: Some(interned::intern(throttle, &self)), ..self }
    }

    /// The number of its state in a throttle of that name.
    #[inline(always)]
    pub(crate) fn interned(&self, throttle: &str) -> &'static Interned {
        match self.interned {
            Some(interned) if interned.is_of(throttle) => interned,
            _ => interned::intern(throttle, self),
        }
    }

    #[inline(always)]
    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// `None` for a user's own strategy.
    #[cfg(feature = "redis")]
    pub(crate) fn builtin(&self) -> Option<Builtin> {
        self.builtin
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Limit({} by {:?})", self.rate, self.strategy)
    }
}

impl Core {
    /// Whether it answers without remembering anything.
    pub(crate) const fn is_stateless(&self) -> bool {
        matches!(self, Self::Unlimited | Self::DenyAll)
    }

    /// Whether its state fits a packed count.
    #[inline(always)]
    pub(crate) const fn is_packed(&self) -> bool {
        matches!(self, Self::Bucket(_) | Self::Fixed(_) | Self::Sliding(_))
    }

    /// One step on a packed count; `None` for a core that has none.
    #[inline(always)]
    pub(crate) fn run_packed(
        &self,
        count: u64,
        last: Timestamp,
        at: Timestamp,
        cost: u32,
        op: Op,
    ) -> Option<Settled<u64>> {
        match self {
            Self::Bucket(meter) => Some(packed::run_packed(meter, count, last, at, cost, op)),
            Self::Fixed(meter) => Some(packed::run_packed(meter, count, last, at, cost, op)),
            Self::Sliding(meter) => Some(packed::run_packed(meter, count, last, at, cost, op)),
            Self::Unlimited | Self::DenyAll | Self::Words { .. } => None,
        }
    }

    /// The answer after a step on a packed count; `None` for a core that has none.
    #[inline(always)]
    pub(crate) fn answer_packed(
        &self,
        settled: Settled<u64>,
        at: Timestamp,
        cost: u32,
    ) -> Option<Answer> {
        match self {
            Self::Bucket(meter) => Some(packed::answer(meter, settled.unpack(meter), at, cost)),
            Self::Fixed(meter) => Some(packed::answer(meter, settled.unpack(meter), at, cost)),
            Self::Sliding(meter) => Some(packed::answer(meter, settled.unpack(meter), at, cost)),
            Self::Unlimited | Self::DenyAll | Self::Words { .. } => None,
        }
    }

    fn of(rate: &Rate, builtin: Option<Builtin>) -> Self {
        if rate.is_unlimited() {
            return Self::Unlimited;
        } else if rate.limit() == 0 {
            return Self::DenyAll;
        }
        match builtin {
            Some(Builtin::Bucket { debt }) => {
                Bucket::new(rate, debt).map_or(Self::Words { in_place: true }, Self::Bucket)
            }
            Some(Builtin::FixedWindow) => Self::Fixed(FixedMeter::new(rate)),
            Some(Builtin::SlidingWindowCounter) => Self::Sliding(SlidingMeter::new(rate)),
            Some(Builtin::SlidingWindowLog) => Self::Words { in_place: true },
            None => Self::Words { in_place: false },
        }
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
    /// Says what is wrong with a rate, and what would be right.
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

    /// The rate that was refused.
    #[must_use]
    pub fn rate(&self) -> &Rate {
        &self.rate
    }
}
