//! How hits are counted against a rate.
//!
//! A strategy is a pure function of rate, state, time and cost. It does no I/O, asks no clock, takes
//! no lock and uses no floating point. Every backend runs the same function, or a script that is held
//! to it by tests.
//!
//! | strategy | accuracy | state of a key | bursts |
//! | --- | --- | --- | --- |
//! | [`TokenBucket`] (default) | exact | 16 bytes | up to the rate's burst at once, then smooth; may go into debt |
//! | [`LeakyBucket`] | exact | 16 bytes | the same core seen as a meter that drains |
//! | [`Gcra`] | exact | 16 bytes | the same core under the name from ATM networks |
//! | [`FixedWindow`] | up to twice the limit around a boundary | 8 bytes | the whole limit at the start of a window |
//! | [`SlidingWindowCounter`] | an estimate: assumes that the last window was even | 16 bytes | the limit, then as the last window fades |
//! | [`SlidingWindowLog`] | exact in every window | 16 bytes a hit | the limit, then as each hit leaves |
//!
//! A strategy of your own implements [`Strategy`]; it works on every backend.

mod apply;
mod bucket;
pub(crate) mod codec;
mod fixed_window;
pub(crate) mod interned;
mod limit;
pub(crate) mod meter;
pub(crate) mod packed;
mod sliding_window_counter;
mod sliding_window_log;
mod state;
mod step;

use std::any::Any;
use std::fmt;

use thiserror::Error;

pub use bucket::{Gcra, LeakyBucket, TokenBucket};
pub use fixed_window::FixedWindow;
pub use limit::{Limit, LimitError};
pub use sliding_window_counter::SlidingWindowCounter;
pub use sliding_window_log::SlidingWindowLog;
pub use state::State;
pub use step::{Evaluation, MAX_LIMITS, MAX_RATES_PER_KEY, Step, StepError, Write};

pub(crate) use apply::{Cell, Form, apply_healing};
pub(crate) use bucket::Bucket;
pub(crate) use fixed_window::FixedMeter;
pub(crate) use interned::Interned;
pub(crate) use limit::PartId;
pub(crate) use meter::{Builtin, Core, Meter};
pub(crate) use sliding_window_counter::SlidingMeter;
pub(crate) use step::KEPT_MICROS;

use crate::clock::Timestamp;
use crate::rate::Rate;

/// A way to count hits against a rate.
///
/// # Contract
///
/// [`step`](Strategy::step) is a pure function: the same arguments give the same answer and the same
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
/// * Words that `step` did not write give [`Corrupt`], never a panic: they may come from a store that
///   others can write to.
pub trait Strategy: Any + fmt::Debug + Send + Sync {
    /// Answers for a hit of `cost` at `now`, and writes the state that holds after it.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] when the state is not one that this strategy writes.
    fn step(
        &self,
        rate: &Rate,
        state: &mut State,
        now: Timestamp,
        cost: u32,
        op: Op,
    ) -> Result<Answer, Corrupt>;

    /// Marks the state of this strategy where it is stored.
    ///
    /// Defaults to a hash of the type's name. A type that was renamed, or whose words changed their
    /// meaning, starts afresh; set a tag to decide that yourself.
    fn tag(&self) -> Tag {
        Tag::of(std::any::type_name::<Self>())
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

/// What is to be done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// Answer as for a hit, but consume nothing.
    Peek,
    /// Consume the cost if it passes.
    Take,
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
    pub fresh_at: Timestamp,
}

/// Whether a hit passes.
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
pub struct Tag(u32);

impl Tag {
    /// Of no strategy: the list of the rates that hits brought, in memory.
    pub(crate) const BROUGHT: Self = Self(0);
    pub(crate) const FIXED_WINDOW: Self = Self(1);
    pub(crate) const SLIDING_WINDOW_COUNTER: Self = Self(2);
    pub(crate) const SLIDING_WINDOW_LOG: Self = Self(3);
    /// Of token bucket, leaky bucket and GCRA: they admit the same hits, so one goes on where another
    /// ended.
    pub(crate) const BUCKET: Self = Self(4);

    /// A tag from a name, by 32-bit FNV-1a with the highest bit set; built-in tags have it clear.
    ///
    /// Two strategies of one throttle whose names give the same tag are a build error.
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
pub struct Corrupt(pub &'static str);
