//! [`Core`]: the form in which a limit runs, and [`Meter`]: our strategies whose state is one number.

use std::any::Any;

use super::packed::{self, Demand, Packed, Settled};
use super::{
    Answer, Bucket, Corrupt, FixedMeter, FixedWindow, Gcra, LeakyBucket, Op, SlidingMeter,
    SlidingWindowCounter, SlidingWindowLog, State, Strategy, TokenBucket,
};
use crate::clock::Timestamp;
use crate::rate::Rate;

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
    pub(super) fn of(strategy: &dyn Strategy) -> Option<Self> {
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
    /// On a packed count, or on the words of one.
    Packed(Meter),
    /// A bucket whose numbers do not fit a packed count; on words.
    Wide(Bucket<u128>),
    /// On words, by the strategy's own `step`.
    Words {
        /// It is one of ours: it leaves the state alone on a peek or a denial, and never panics.
        builtin: bool,
    },
}

impl Core {
    pub(super) fn of(rate: &Rate, builtin: Option<Builtin>) -> Self {
        if rate.is_unlimited() {
            return Self::Unlimited;
        } else if rate.limit() == 0 {
            return Self::DenyAll;
        }
        match builtin {
            Some(Builtin::Bucket { debt }) => match Bucket::new(rate, debt) {
                Some(bucket) => Self::Packed(Meter::Bucket(bucket)),
                None => Self::Wide(Bucket::wide(rate, debt)),
            },
            Some(Builtin::FixedWindow) => Self::Packed(Meter::Fixed(FixedMeter::new(rate))),
            Some(Builtin::SlidingWindowCounter) => {
                Self::Packed(Meter::Sliding(SlidingMeter::new(rate)))
            }
            Some(Builtin::SlidingWindowLog) => Self::Words { builtin: true },
            None => Self::Words { builtin: false },
        }
    }

    /// Returns whether the demand can never pass, whatever the state; `false` for a user's own strategy,
    /// which alone knows.
    pub(super) fn can_never_pass(&self, rate: &Rate, demand: Demand) -> bool {
        let capacity = match self {
            Self::Unlimited | Self::Words { builtin: false } => return false,
            Self::DenyAll => 0,
            Self::Packed(meter) => meter.capacity(),
            Self::Wide(bucket) => bucket.most(),
            Self::Words { builtin: true } => rate.limit().into(),
        };
        demand.cost() > 0 && demand.needed() > capacity
    }

    /// Whether it answers without remembering anything.
    pub(crate) const fn is_stateless(&self) -> bool {
        matches!(self, Self::Unlimited | Self::DenyAll)
    }

    /// Whether its state fits a packed count.
    #[inline(always)]
    pub(crate) const fn is_packed(&self) -> bool {
        matches!(self, Self::Packed(_))
    }

    /// Whether a user's own code runs in its steps.
    pub(crate) const fn is_custom(&self) -> bool {
        matches!(self, Self::Words { builtin: false })
    }
}

/// A strategy whose state of a key is one number, for one rate.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Meter {
    Bucket(Bucket<u64>),
    Fixed(FixedMeter),
    Sliding(SlidingMeter),
}

/// Runs the same expression on whichever meter it is.
macro_rules! on_each {
    ($meter:expr, $name:ident => $body:expr) => {
        match $meter {
            Meter::Bucket($name) => $body,
            Meter::Fixed($name) => $body,
            Meter::Sliding($name) => $body,
        }
    };
}

impl Meter {
    /// One step on a packed count.
    #[inline(always)]
    pub(crate) fn run(
        &self,
        (count, last): (u64, Timestamp),
        at: Timestamp,
        demand: Demand,
        op: Op,
    ) -> Settled<u64> {
        on_each!(self, meter => packed::run_packed(meter, count, last, at, demand, op))
    }

    /// The answer after a step on a packed count.
    #[inline(always)]
    pub(crate) fn answer(&self, settled: Settled<u64>, at: Timestamp, demand: Demand) -> Answer {
        on_each!(self, meter => packed::answer(meter, settled.unpack(meter), at, demand))
    }

    /// One step on the words of a count.
    pub(super) fn step(
        &self,
        state: &mut State,
        at: Timestamp,
        demand: Demand,
        op: Op,
    ) -> Result<Answer, Corrupt> {
        match self {
            Self::Bucket(meter) => packed::step(&meter.widened(), state, at, demand, op),
            Self::Fixed(meter) => packed::step(meter, state, at, demand, op),
            Self::Sliding(meter) => packed::step(meter, state, at, demand, op),
        }
    }

    /// Returns the most units that can ever pass at once.
    pub(super) fn capacity(&self) -> u64 {
        on_each!(self, meter => meter.capacity())
    }

    /// From when on a packed count that was written at `last` reads as missing.
    pub(crate) fn fresh_at(&self, count: u64, last: Timestamp) -> Timestamp {
        fn of<P: Packed>(meter: &P, count: u64, last: Timestamp) -> Timestamp {
            meter.fresh_at(P::unpack(count), last)
        }
        on_each!(self, meter => of(meter, count, last))
    }

    /// The words of a packed count.
    pub(crate) fn words(&self, count: u64, last: Timestamp) -> State {
        on_each!(self, meter => words_of(meter, count, last))
    }
}

/// The words of a packed count.
pub(crate) fn words_of<P: Packed>(meter: &P, count: u64, last: Timestamp) -> State {
    let mut state = State::new(last, Vec::new());
    meter.store(P::unpack(count), &mut state);
    state
}
