//! Strategies: the ways to count hits against a rate.
//!
//! A strategy is a pure function of rate, state, time and cost. It does no I/O, asks no clock, takes
//! no lock and uses no floating point. Every backend runs the same function, or a script that is held
//! to it by tests.
//!
#![doc = include_str!("../../docs/tables/strategies.md")]
//!
//! A strategy of your own implements [`Strategy`]; it works on every backend.

mod bucket;
mod compiled;
mod fixed_window;
mod limit;
pub(crate) mod meter;
mod sliding_window_counter;
mod sliding_window_log;
mod state;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

pub use bucket::{Gcra, LeakyBucket, TokenBucket};
pub use fixed_window::FixedWindow;
pub use limit::{Limit, LimitError};
pub use sliding_window_counter::SlidingWindowCounter;
pub use sliding_window_log::SlidingWindowLog;
pub use state::State;

pub(crate) use compiled::{AnyMeter, Builtin, CompiledLimit, words_of};
pub(crate) use limit::PartId;

use crate::clock::Timestamp;
use crate::rate::Rate;

/// A way to count hits against a rate.
///
/// # Contract
///
/// [`evaluate`](Strategy::evaluate) is a pure function: the same arguments give the same answer and the same
/// new state, on every backend and in every process. The framework around it keeps the rules that
/// hold for every strategy, so an implementation can rely on these:
///
/// * `now` is never before [`State::last`]: when a clock steps back, time stands still for that key.
/// * The rate is not unlimited and its limit is not 0.
/// * What it writes counts only if a [`Op::Take`] was allowed, or for a [`Op::Refund`]. After a peek
///   or a denial the state stays as it was, whatever was written.
///
/// In return:
///
/// * A hit of cost `c` passes exactly when `c` hits of cost 1 at that instant would all pass.
/// * Cost 0 is allowed and writes nothing.
/// * After waiting until `retry_at`, the same cost passes if nobody else came.
/// * Words that `evaluate` did not write give [`CorruptState`], never a panic: they may come from a store that
///   others can write to.
pub trait Strategy: Any + fmt::Debug + Send + Sync {
    /// Answers for a hit of `cost` at `now`, and writes the state that holds after it.
    ///
    /// # Errors
    ///
    /// [`CorruptState`] when the state is not one that this strategy writes.
    fn evaluate(
        &self,
        rate: &Rate,
        state: &mut State,
        now: Timestamp,
        cost: u32,
        op: Op,
    ) -> Result<Answer, CorruptState>;

    /// Marks the state of this strategy where it is stored.
    ///
    /// Defaults to a hash of the type's name. A type that was renamed, or whose words changed their
    /// meaning, starts over; override this to decide that yourself.
    fn id(&self) -> StrategyId {
        StrategyId::of(std::any::type_name::<Self>())
    }

    /// Returns whether this strategy does that operation.
    ///
    /// Defaults to [`Op::Peek`], [`Op::Take`] and [`Op::Refund`], and to what a step makes of these. A charge
    /// that a strategy does not do is an error of the call, and never reaches
    /// [`evaluate`](Self::evaluate); where it does not do [`Op::Reserve`],
    /// [`Throttle::acquire`](crate::Throttle::acquire) asks again instead. A strategy that does
    /// [`Op::Charge`] says so here; the example `custom_strategy` shows it.
    fn supports(&self, op: Op) -> bool {
        !matches!(op, Op::Charge | Op::Reserve { .. })
    }

    /// Refuses a rate that this strategy cannot keep.
    ///
    /// Defaults to accepting any.
    ///
    /// # Errors
    ///
    /// [`LimitError`], which the throttle's `build` returns.
    fn check(&self, rate: &Rate) -> Result<(), LimitError> {
        let _ = rate;
        Ok(())
    }
}

/// A strategy that is already shared, or chosen at run time.
impl Strategy for Arc<dyn Strategy> {
    fn evaluate(
        &self,
        rate: &Rate,
        state: &mut State,
        now: Timestamp,
        cost: u32,
        op: Op,
    ) -> Result<Answer, CorruptState> {
        (**self).evaluate(rate, state, now, cost, op)
    }

    fn id(&self) -> StrategyId {
        (**self).id()
    }

    fn supports(&self, op: Op) -> bool {
        (**self).supports(op)
    }

    fn check(&self, rate: &Rate) -> Result<(), LimitError> {
        (**self).check(rate)
    }
}

/// Returns the strategy as a trait object; one that is, as itself.
pub(crate) fn erase(strategy: impl Strategy) -> Arc<dyn Strategy> {
    let any: &dyn Any = &strategy;
    match any.downcast_ref::<Arc<dyn Strategy>>() {
        Some(erased) => Arc::clone(erased),
        None => Arc::new(strategy),
    }
}

/// The operation of a step on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// Answer as for a hit, but consume nothing.
    Peek,
    /// Consume the cost if it passes.
    Take,
    /// Consume the cost, whatever is left: it counts what has happened. Always passes. A bucket goes into
    /// debt, a window counts beyond its limit, each up to a bound that no real cost reaches.
    Charge,
    /// Consume as many units of the cost as would pass, perhaps none. A step makes it of peeks and a take;
    /// a strategy is not asked for it.
    TakeUpTo,
    /// Consume the cost now if it passes now, or else in advance if it passes within that time: the answer
    /// is a denial with the wait for its turn, after which it is the caller's. A step makes it of peeks and
    /// charges, and only for buckets; a strategy is not asked for it.
    Reserve {
        /// The longest wait.
        within: Duration,
    },
    /// Consume all units that would pass, of each limit by itself; the cost has no meaning. A step makes it
    /// of peeks and takes; a strategy is not asked for it.
    Drain,
    /// Give back what a hit took.
    Refund {
        /// The instant at which it was taken. Window strategies give back only in the same window.
        taken_at: Timestamp,
    },
}

/// A strategy's answer for one limit. Instants are absolute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a user's strategy makes it; a new field is a new contract"
)]
pub struct Answer {
    /// Whether it passes.
    pub verdict: Verdict,
    /// Whole units that would pass now, after this step.
    pub remaining: u32,
    /// From when on the limiter answers like a fresh one, if nothing else comes.
    pub reset_at: Timestamp,
}

/// The verdict of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the three answers that a limiter can give")]
pub enum Verdict {
    /// It passes.
    Allowed,
    /// Not now.
    Denied {
        /// The first instant at which the same cost passes, if nothing else comes.
        retry_at: Timestamp,
    },
    /// It costs more than can ever pass at once.
    Never,
}

/// Marks the state of a strategy where it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StrategyId(u32);

impl StrategyId {
    /// Of no strategy: the list of the rates that hits brought, in memory.
    pub(crate) const BROUGHT: Self = Self(0);
    pub(crate) const FIXED_WINDOW: Self = Self(1);
    pub(crate) const SLIDING_WINDOW_COUNTER: Self = Self(2);
    pub(crate) const SLIDING_WINDOW_LOG: Self = Self(3);
    /// Of token bucket, leaky bucket and GCRA: they admit the same hits, so one goes on where another
    /// ended.
    pub(crate) const BUCKET: Self = Self(4);
    /// Of no strategy: what an operator or a penalty blocked.
    pub(crate) const BLOCK: Self = Self(5);

    /// Makes an identifier from a name, by 32-bit FNV-1a with the highest bit set; those of the built-in
    /// strategies have it clear.
    ///
    /// Two strategies of one throttle whose names give the same one are a build error if their periods are
    /// equal too.
    #[must_use]
    pub const fn of(name: &str) -> Self {
        let bytes = name.as_bytes();
        let mut hash: u32 = 0x811c_9dc5;
        let mut index = 0;
        while index < bytes.len() {
            hash = (hash ^ bytes[index] as u32).wrapping_mul(0x0100_0193);
            index += 1;
        }
        Self(hash | 1 << 31)
    }

    /// Returns the name of a built-in strategy; `None` for a user's own.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::FIXED_WINDOW => Some("fixed window"),
            Self::SLIDING_WINDOW_COUNTER => Some("sliding window counter"),
            Self::SLIDING_WINDOW_LOG => Some("sliding window log"),
            Self::BUCKET => Some("bucket"),
            _ => None,
        }
    }

    /// Returns whether it is of a user's own strategy.
    pub(crate) const fn is_custom(self) -> bool {
        self.0 >> 31 == 1
    }

    pub(crate) const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    pub(crate) const fn raw(self) -> u32 {
        self.0
    }
}

/// A state that the strategy did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("stored state is corrupt: {0}")]
pub struct CorruptState(pub &'static str);
