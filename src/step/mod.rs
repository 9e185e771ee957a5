//! [`Step`]: one hit over several limits, and what it makes of a stored value.
//!
//! For authors of backends. [`Step::evaluate`] is the pure function behind every backend that stores bytes.

mod apply;
mod block;
pub(crate) mod codec;
mod key_state;
mod operation;
#[cfg(feature = "redis")]
mod repeat;

use std::time::Duration;

use thiserror::Error;

use self::apply::Applied;
pub(crate) use self::apply::{Cell, Form, all_or_nothing};
pub use self::block::BlockChange;
pub(crate) use self::codec::MAX_PARTS;
use self::codec::Part;
pub use self::key_state::{KeyState, StatePart};
pub(crate) use self::operation::apply_healing;
#[cfg(feature = "redis")]
pub(crate) use self::repeat::Repeat;
use crate::clock::Timestamp;
use crate::decision::{Decision, MAX_ANSWERS, Taker};
use crate::strategy::meter::Demand;
use crate::strategy::{Answer, CorruptState, Limit, Op, PartId, State};

/// Maximum number of limits of one step, and so of one hit.
pub const MAX_LIMITS: usize = MAX_ANSWERS;

/// Maximum number of rates that hits bring to one key and that count at the same time.
pub const MAX_RATES_PER_KEY: usize = 32;

/// How far a clock may step back and still find what was over before, in microseconds: an hour.
pub(crate) const KEPT_MICROS: u64 = 3_600_000_000;

/// A request to a backend for one key: some limits, a cost, and an operation.
///
/// A hit passes only if every limit lets it pass; else it consumes nothing of any.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    limits: &'a [Limit],
    demand: Demand,
    op: Op,
    /// About what one of two backends took.
    taker: Option<Taker>,
}

/// The result of a [`Step`] on a stored value.
#[derive(Debug)]
#[non_exhaustive]
pub struct Evaluation {
    /// The decision.
    pub decision: Decision,
    /// What must be stored for the answer to hold; `None` if the stored value stays as it is.
    pub write: Option<Write>,
}

/// Why a [`Step`] has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StepError {
    /// The stored value could not be read. The error policy decides about the hit.
    #[error("{cause}")]
    #[non_exhaustive]
    Corrupt {
        /// What is wrong with it.
        cause: CorruptState,
        /// What must be stored: the value of a key that was never seen, after this hit. `None` if the
        /// stored value stays as it is.
        write: Option<Write>,
    },
    /// The hit would bring one rate more than a key can count.
    #[error("hits brought more than {MAX_RATES_PER_KEY} different rates to this key")]
    TooManyRates,
}

impl StepError {
    /// Returns what must be stored in spite of the error.
    pub(crate) const fn write(&self) -> Option<&Write> {
        match self {
            Self::Corrupt { write, .. } => write.as_ref(),
            Self::TooManyRates => None,
        }
    }
}

/// A change of a stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Write {
    /// Store these bytes.
    #[non_exhaustive]
    Put {
        /// The value.
        value: Vec<u8>,
        /// After that long it reads as a missing key; round up where the store is coarser. Zero if that is so already:
        /// such a value matters only to a caller whose clock is set back, so a store that takes zero for "never" or
        /// for an error deletes it.
        ttl: Duration,
    },
    /// Nothing is left to remember; delete the value.
    Delete,
}

impl<'a> Step<'a> {
    /// Creates a step over `limits`.
    ///
    /// # Panics
    ///
    /// When there are more than [`MAX_LIMITS`], or two share their state: the same strategy (the buckets
    /// are one) and period. A throttle refuses such limits when it is built.
    #[must_use]
    pub fn new(limits: &'a [Limit], cost: u32, op: Op) -> Self {
        for (index, limit) in limits.iter().enumerate() {
            let shares = |other: &Limit| other.has_state() && other.part() == limit.part();
            let shared = limit.has_state() && limits[..index].iter().any(shares);
            assert!(!shared, "{limit:?} shares its state with another limit of the step");
        }
        Self::of_apart(limits, cost, op)
    }

    /// As [`new`](Self::new), over limits that are known to have states of their own.
    #[inline]
    pub(crate) const fn of_apart(limits: &'a [Limit], cost: u32, op: Op) -> Self {
        assert!(limits.len() <= MAX_LIMITS, "a step has at most 8 limits");
        Self { limits, demand: Demand::of(cost), op, taker: None }
    }

    /// Lets the hit pass only if `units` more would pass with it. The answer is that of a hit of
    /// `cost + units`; what is taken is the cost. A cost of 0 passes all the same. Defaults to 0.
    #[must_use]
    #[inline]
    pub const fn leave(mut self, units: u32) -> Self {
        self.demand = Demand::leaving(self.demand.cost_u32(), units);
        self
    }

    /// The same, about what that one took; `None` for one about nothing that was taken.
    #[must_use]
    #[inline]
    pub(crate) const fn taken_by(mut self, taker: Option<Taker>) -> Self {
        self.taker = taker;
        self
    }

    pub(crate) const fn taker(&self) -> Option<Taker> {
        self.taker
    }

    pub(crate) const fn is_of_fallback(&self) -> bool {
        matches!(self.taker, Some(Taker::Fallback))
    }

    /// The same question over other limits, which have states of their own.
    pub(crate) const fn over<'b>(&self, limits: &'b [Limit]) -> Step<'b> {
        let Self { demand, op, taker, .. } = *self;
        Step { limits, demand, op, taker }
    }

    /// Returns the limits.
    #[must_use]
    pub const fn limits(&self) -> &'a [Limit] {
        self.limits
    }

    /// Returns the cost in units.
    #[must_use]
    pub const fn cost(&self) -> u32 {
        self.demand.cost_u32()
    }

    /// Returns the units that must be left after the cost for the hit to pass.
    #[must_use]
    pub const fn units_to_leave(&self) -> u32 {
        self.demand.leave()
    }

    /// Returns what is to be done.
    #[must_use]
    pub const fn op(&self) -> Op {
        self.op
    }

    /// Returns whether both ask the same of a key.
    #[cfg(feature = "redis")]
    pub(crate) fn is_same(&self, other: &Step<'_>) -> bool {
        let alike = self.op == other.op && self.demand == other.demand;
        alike && self.has_limits(other.limits)
    }

    /// Returns whether its limits decide as these do.
    pub(crate) fn has_limits(&self, limits: &[Limit]) -> bool {
        std::ptr::eq(self.limits, limits)
            || self.limits.len() == limits.len()
                && self.limits.iter().zip(limits).all(|(one, other)| one.decides_like(other))
    }

    #[inline]
    pub(crate) const fn demand(&self) -> Demand {
        self.demand
    }

    /// Returns the first limit that can never let the hit pass, by its index, as far as that is known
    /// without a state.
    pub(crate) fn never_passes(&self) -> Option<usize> {
        let demand = match self.op {
            Op::Peek | Op::Take | Op::Reserve { .. } => self.demand,
            Op::TakeUpTo => Demand::leaving(self.cost().min(1), self.units_to_leave()),
            Op::Refund { .. } | Op::Charge | Op::Drain => return None,
        };
        self.limits.iter().position(|limit| limit.can_never_pass(demand))
    }

    /// Decides on a stored value: the pure function behind every backend that stores bytes.
    ///
    /// A store with transactions reads the value, calls this, and does its write, all in one transaction.
    ///
    /// # Errors
    ///
    /// When the stored value cannot be read, and when the hit brings one rate too many. Only the first
    /// has something to write.
    pub fn evaluate(
        &self,
        stored: Option<&[u8]>,
        asked_at: Timestamp,
    ) -> Result<Evaluation, StepError> {
        let (mut parts, mut corrupt) = match stored.map(codec::decode) {
            None => (Vec::new(), None),
            Some(Ok(parts)) => (parts, None),
            Some(Err(error)) => (Vec::new(), Some(error)),
        };
        let mut cells: Vec<Cell> = Vec::with_capacity(self.limits.len());
        for limit in self.limits {
            let mine = |part: &&mut Part| limit.has_state() && part.id == limit.part();
            cells.push(match parts.iter_mut().find(mine) {
                Some(part) => Cell::words(std::mem::take(&mut part.state), part.reset_at),
                None => Cell::fresh_words(),
            });
        }
        if let Some(blocked) = self.decide_blocked(&mut cells, block::until(&parts), asked_at) {
            return match blocked {
                Ok(decision) => Ok(Evaluation { decision, write: None }),
                Err(cause) => Err(StepError::Corrupt { cause, write: None }),
            };
        }
        let (applied, healed) = apply_healing::<MAX_LIMITS>(self, &mut cells, asked_at);
        corrupt = healed.or(corrupt);
        let Some(applied) = applied else {
            let cause = corrupt.unwrap_or(CorruptState("a strategy cannot read a fresh state"));
            return Err(StepError::Corrupt { cause, write: None });
        };
        if self.brings_too_many(&applied, parts.iter().map(|part| (part.id, part.reset_at))) {
            return Err(StepError::TooManyRates);
        }
        let write = match applied.is_changed() {
            true => Some(self.write(parts, cells, &applied, asked_at)?),
            false => None,
        };
        match corrupt {
            None => Ok(Evaluation { decision: applied.decision(self, asked_at), write }),
            Some(cause) => Err(StepError::Corrupt { cause, write }),
        }
    }

    /// Makes the decision from the answer of each limit, in their order: for a store that evaluates the
    /// step itself.
    ///
    /// `asked_at` is the caller's time, to which the decision's waits are relative; `at` is the instant
    /// at which the step counted: that, or the latest that the key has seen. Without limits the hit
    /// passes.
    #[inline]
    pub fn decision(&self, answers: &[Answer], asked_at: Timestamp, at: Timestamp) -> Decision {
        let took = if matches!(self.op, Op::Take | Op::Charge) { self.cost() } else { 0 };
        self.decision_taking(took, answers, (asked_at, at))
    }

    /// As [`decision`](Self::decision), where that many units were taken if it passes.
    pub(crate) fn decision_taking(
        &self,
        took: u32,
        answers: &[Answer],
        instants: (Timestamp, Timestamp),
    ) -> Decision {
        Decision::over(self.limits, answers, instants, took)
    }

    /// Returns whether a hit that passes would bring more rates to its key than count at the same time.
    pub(crate) fn brings_too_many<const N: usize>(
        &self,
        applied: &Applied<N>,
        parts: impl Iterator<Item = (PartId, Timestamp)>,
    ) -> bool {
        let brought = |limit: &&Limit| limit.is_per_hit() && limit.has_state();
        let mut brought = self.limits.iter().filter(brought).peekable();
        let takes = self.cost() > 0 && !matches!(self.op, Op::Refund { .. } | Op::Drain);
        if !takes || !applied.is_allowed() || brought.peek().is_none() {
            return false;
        }
        let live: Vec<_> = parts
            .filter(|(id, reset_at)| id.is_per_hit() && *reset_at > applied.at)
            .map(|(id, _)| id)
            .collect();
        let new = brought.filter(|limit| !live.contains(&limit.part())).count();
        new > 0 && live.len() + new > MAX_RATES_PER_KEY
    }

    /// The stored value after the step.
    fn write(
        &self,
        mut parts: Vec<Part>,
        cells: Vec<Cell>,
        applied: &Applied<MAX_LIMITS>,
        asked_at: Timestamp,
    ) -> Result<Write, StepError> {
        for (index, (limit, cell)) in self.limits.iter().zip(cells).enumerate() {
            let Form::Words(mut state) = cell.form else { continue };
            if !limit.has_state() {
                continue;
            }
            let id = limit.part();
            let place = parts.iter().position(|part| part.id == id);
            let mut reset_at = cell.reset_at;
            if applied.has_changed(index) {
                reset_at = applied.answers[index].reset_at;
                if reset_at <= applied.at {
                    // Given back to the last: nothing is left to remember.
                    state = State::default();
                }
            }
            let part = Part { id, reset_at, state };
            match place {
                Some(place) => parts[place] = part,
                None => parts.push(part),
            }
        }
        joined(parts, asked_at)
    }
}

/// The parts that are still of use, as a stored value.
fn joined(mut parts: Vec<Part>, asked_at: Timestamp) -> Result<Write, StepError> {
    // One that is over may count again after the clock stepped back.
    let kept = |part: &Part| part.reset_at.saturating_add_micros(KEPT_MICROS) > asked_at;
    parts.retain(|part| !part.state.is_fresh() && kept(part));
    let counted = |part: &&Part| part.id != PartId::BLOCK;
    while parts.iter().filter(counted).count() > MAX_PARTS {
        let soonest = parts.iter().enumerate().filter(|(_, part)| counted(part));
        let soonest = soonest.min_by_key(|(_, part)| part.reset_at);
        match soonest {
            Some((index, part)) if part.reset_at <= asked_at => drop(parts.remove(index)),
            _ => return Err(StepError::TooManyRates),
        }
    }
    Ok(match parts.iter().map(|part| part.reset_at).max() {
        Some(last) => Write::Put {
            value: codec::encode(&parts),
            ttl: last.saturating_duration_since(asked_at),
        },
        None => Write::Delete,
    })
}
