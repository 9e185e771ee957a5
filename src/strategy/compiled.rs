//! [`CompiledLimit`]: a limit prepared to run, and [`AnyMeter`]: any strategy whose state of a key is one
//! number.

#![expect(
    clippy::inline_always,
    reason = "without it a hit over two limits takes 1.05x the time: docs/performance.md"
)]

use std::any::Any;

use super::bucket::Bucket;
use super::fixed_window::FixedMeter;
use super::meter::{self, Demand, Meter, Metered, Trial};
use super::sliding_window_counter::SlidingMeter;
use super::{
    Answer, CorruptState, FixedWindow, Gcra, LeakyBucket, Op, SlidingWindowCounter,
    SlidingWindowLog, State, Strategy, StrategyId, TokenBucket,
};
use crate::clock::Timestamp;
use crate::rate::Rate;

/// Which of our own strategies keeps a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
pub(crate) enum CompiledLimit {
    Unlimited,
    DenyAll,
    /// On a packed count, or on the words of one.
    Packed(AnyMeter),
    /// A bucket whose numbers do not fit a packed count; on words.
    Wide(Bucket<u128>),
    /// On words, by the strategy's own `evaluate`.
    Words {
        /// It is one of ours: it leaves the state alone on a peek or a denial, and never panics.
        builtin: bool,
    },
}

impl CompiledLimit {
    pub(super) fn of(rate: &Rate, builtin: Option<Builtin>) -> Self {
        if rate.is_unlimited() {
            return Self::Unlimited;
        } else if rate.limit() == 0 {
            return Self::DenyAll;
        }
        match builtin {
            Some(Builtin::Bucket { debt }) => match Bucket::new(rate, debt) {
                Some(bucket) => Self::Packed(AnyMeter::Bucket(bucket)),
                None => Self::Wide(Bucket::wide(rate, debt)),
            },
            Some(Builtin::FixedWindow) => Self::Packed(AnyMeter::Fixed(FixedMeter::new(rate))),
            Some(Builtin::SlidingWindowCounter) => {
                Self::Packed(AnyMeter::Sliding(SlidingMeter::new(rate)))
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

    /// Returns whether it answers without remembering anything.
    pub(crate) const fn is_stateless(&self) -> bool {
        matches!(self, Self::Unlimited | Self::DenyAll)
    }

    /// Returns whether its state fits a packed count.
    #[inline]
    pub(crate) const fn is_packed(&self) -> bool {
        matches!(self, Self::Packed(_))
    }

    /// Returns whether a user's own code runs in its steps.
    pub(crate) const fn is_custom(&self) -> bool {
        matches!(self, Self::Words { builtin: false })
    }
}

/// A strategy whose state of a key is one number, for one rate.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AnyMeter {
    Bucket(Bucket<u64>),
    Fixed(FixedMeter),
    Sliding(SlidingMeter),
}

/// Runs the same expression on whichever meter it is.
macro_rules! on_each {
    ($meter:expr, $name:ident => $body:expr) => {
        match $meter {
            AnyMeter::Bucket($name) => $body,
            AnyMeter::Fixed($name) => $body,
            AnyMeter::Sliding($name) => $body,
        }
    };
}

impl AnyMeter {
    /// Of a limit of which no more is known than of its counts: enough to tell their words, and from when on they read as
    /// missing. `None` if that strategy has no packed counts, or of a limit of 0.
    pub(crate) fn of_counts(strategy: StrategyId, period: u64, limit: u32) -> Option<Self> {
        let rate = Rate::from_micros(limit, period);
        match strategy {
            _ if limit == 0 => None,
            StrategyId::FIXED_WINDOW => Some(Self::Fixed(FixedMeter::new(&rate))),
            StrategyId::SLIDING_WINDOW_COUNTER => Some(Self::Sliding(SlidingMeter::new(&rate))),
            StrategyId::BUCKET => Bucket::new(&rate.burst(1), 0).map(Self::Bucket),
            _ => None,
        }
    }

    /// Packs the words of a count.
    pub(crate) fn pack(&self, state: &State) -> Result<u64, CorruptState> {
        match self {
            Self::Bucket(meter) => u64::try_from(meter::of_words(&meter.widened(), state)?)
                .map_err(|_| CorruptState("bucket: more than a packed count can hold")),
            Self::Fixed(meter) => meter::of_words(meter, state).map(FixedMeter::pack),
            Self::Sliding(meter) => meter::of_words(meter, state).map(SlidingMeter::pack),
        }
    }

    /// Tries a demand on a packed count.
    #[inline(always)]
    pub(crate) fn try_demand(
        &self,
        (count, last): (u64, Timestamp),
        at: Timestamp,
        demand: Demand,
    ) -> Trial<u64> {
        on_each!(self, meter => meter::try_packed(meter, count, last, at, demand))
    }

    /// One step on a packed count.
    #[inline(always)]
    pub(crate) fn run(
        &self,
        (count, last): (u64, Timestamp),
        at: Timestamp,
        demand: Demand,
        op: Op,
    ) -> Metered<u64> {
        on_each!(self, meter => meter::run_packed(meter, count, last, at, demand, op))
    }

    /// A charge to a packed count; `None` if only words can hold what it makes of it.
    pub(crate) fn charge(
        &self,
        (count, last): (u64, Timestamp),
        at: Timestamp,
        cost: u32,
    ) -> Option<Metered<u64>> {
        on_each!(self, meter => meter::charge_packed(meter, count, last, at, cost))
    }

    /// Returns the whole units that pass at once, of a packed count.
    pub(crate) fn room(&self, (count, last): (u64, Timestamp), at: Timestamp) -> u64 {
        on_each!(self, meter => meter::room_packed(meter, count, last, at))
    }

    /// As [`room`](Self::room), of the words of a count.
    pub(crate) fn room_of_words(&self, state: &State, at: Timestamp) -> Result<u64, CorruptState> {
        match self {
            Self::Bucket(meter) => meter::room_of_words(&meter.widened(), state, at),
            Self::Fixed(meter) => meter::room_of_words(meter, state, at),
            Self::Sliding(meter) => meter::room_of_words(meter, state, at),
        }
    }

    /// The answer after a step on a packed count.
    #[inline(always)]
    pub(crate) fn answer(&self, metered: Metered<u64>, at: Timestamp, demand: Demand) -> Answer {
        on_each!(self, meter => meter::answer(meter, metered.unpack(meter), at, demand))
    }

    /// One step on the words of a count.
    pub(crate) fn evaluate(
        &self,
        state: &mut State,
        at: Timestamp,
        demand: Demand,
        op: Op,
    ) -> Result<Answer, CorruptState> {
        match self {
            Self::Bucket(meter) => meter::evaluate_words(&meter.widened(), state, at, demand, op),
            Self::Fixed(meter) => meter::evaluate_words(meter, state, at, demand, op),
            Self::Sliding(meter) => meter::evaluate_words(meter, state, at, demand, op),
        }
    }

    /// Returns the most units that can ever pass at once.
    pub(super) fn capacity(&self) -> u64 {
        on_each!(self, meter => meter.capacity())
    }

    /// From when on a packed count that was written at `last` reads as missing.
    pub(crate) fn reset_at(&self, count: u64, last: Timestamp) -> Timestamp {
        fn of<P: Meter>(meter: &P, count: u64, last: Timestamp) -> Timestamp {
            meter.reset_at(P::unpack(count), last)
        }
        on_each!(self, meter => of(meter, count, last))
    }

    /// The words of a packed count.
    pub(crate) fn words(&self, count: u64, last: Timestamp) -> State {
        on_each!(self, meter => words_of(meter, count, last))
    }
}

/// The words of a packed count.
pub(crate) fn words_of<P: Meter>(meter: &P, count: u64, last: Timestamp) -> State {
    let mut state = State::new(last, Vec::new());
    meter.store(P::unpack(count), &mut state);
    state
}
