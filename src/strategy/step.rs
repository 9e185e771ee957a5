//! [`Step`]: one hit over several limits, all or nothing.

use std::time::Duration;

use super::codec::{self, MAX_PARTS, Part};
use super::{Answer, Core, Corrupt, Limit, Op, State, Verdict};
use crate::clock::Timestamp;
use crate::decision::{Decision, Tally};

/// The most limits of one step, and so of one throttle.
pub const MAX_LIMITS: usize = 8;

/// What is asked of a backend for one key: some limits, a cost, and what to do.
///
/// A hit passes only if every limit lets it pass; else it consumes nothing of any.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    limits: &'a [Limit],
    cost: u32,
    op: Op,
}

/// What a [`Step`] comes to on a stored value.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The answer.
    pub decision: Decision,
    /// What must be stored for the answer to hold; `None` if the stored value stays as it is.
    pub write: Option<Write>,
    /// The stored value could not be read. The write is that of a key that was never seen; the error
    /// policy decides about the hit, not the decision.
    pub corrupt: Option<Corrupt>,
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
        /// After that long it says no more than a missing key; round up where the store is coarser.
        keep_for: Duration,
    },
    /// Nothing is left to remember; delete the value.
    Delete,
}

impl<'a> Step<'a> {
    /// A step over `limits`, which have pairwise different tags or periods.
    ///
    /// # Panics
    ///
    /// When there are more than [`MAX_LIMITS`].
    #[must_use]
    #[inline]
    pub const fn new(limits: &'a [Limit], cost: u32, op: Op) -> Self {
        assert!(limits.len() <= MAX_LIMITS, "a step has at most 8 limits");
        Self { limits, cost, op }
    }

    /// The limits.
    #[must_use]
    pub const fn limits(&self) -> &'a [Limit] {
        self.limits
    }

    /// The cost in units.
    #[must_use]
    pub const fn cost(&self) -> u32 {
        self.cost
    }

    /// What is to be done.
    #[must_use]
    pub const fn op(&self) -> Op {
        self.op
    }

    /// Decides on a stored value: the pure function behind every backend that stores bytes.
    ///
    /// A store with transactions of its own reads the value, calls this, and writes what it says, all
    /// in one transaction.
    #[must_use]
    pub fn decide(&self, stored: Option<&[u8]>, asked_at: Timestamp) -> Outcome {
        let (mut parts, mut corrupt) = match stored.map(codec::decode) {
            None => (Vec::new(), None),
            Some(Ok(parts)) => (parts, None),
            Some(Err(error)) => (Vec::new(), Some(error)),
        };
        let place = |parts: &[Part], limit| parts.iter().position(|part| part.belongs_to(limit));
        let mut cells: Vec<Cell> = Vec::with_capacity(self.limits.len());
        for limit in self.limits {
            let state = place(&parts, limit).map(|at| std::mem::take(&mut parts[at].state));
            cells.push(Cell::Words(state.unwrap_or_default()));
        }
        let (applied, healed) = apply_healing(self, &mut cells, asked_at);
        corrupt = healed.or(corrupt);
        let Some(applied) = applied else {
            return Outcome { decision: Decision::deny(Duration::ZERO), write: None, corrupt };
        };
        let write = applied.changed.then(|| {
            for ((limit, cell), fresh_at) in self.limits.iter().zip(cells).zip(applied.fresh_at) {
                let Cell::Words(mut state) = cell else { continue };
                if fresh_at <= applied.at {
                    // Given back to the last: nothing is left to remember.
                    state = State::default();
                }
                let period = limit.rate().period_micros();
                let part = Part { tag: limit.tag(), period, fresh_at, state };
                match place(&parts, limit) {
                    Some(place) => parts[place] = part,
                    None => parts.push(part),
                }
            }
            write(parts, asked_at)
        });
        Outcome { decision: applied.decision(self, asked_at), write, corrupt }
    }
}

impl Part {
    fn belongs_to(&self, limit: &Limit) -> bool {
        self.tag == limit.tag() && self.period == limit.rate().period_micros()
    }
}

fn write(mut parts: Vec<Part>, asked_at: Timestamp) -> Write {
    // By the caller's clock: after it went back, a part of another rate may count again that was over
    // by this state's time.
    parts.retain(|part| part.fresh_at > asked_at && !part.state.is_fresh());
    while parts.len() > MAX_PARTS {
        let soonest = parts.iter().enumerate().min_by_key(|(_, part)| part.fresh_at);
        let Some((index, _)) = soonest else { break };
        parts.remove(index);
    }
    match parts.iter().map(|part| part.fresh_at).max() {
        Some(last) => Write::Put { value: codec::encode(&parts), keep_for: last.since(asked_at) },
        None => Write::Delete,
    }
}

/// The state of one limit while a step runs on it.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    /// A packed count and when it was written; only for a limit whose core is packed.
    Packed { count: u64, last: Timestamp },
    /// Words, for any limit that has a state.
    Words(State),
}

impl Cell {
    pub(crate) const FRESH: Self = Self::Packed { count: 0, last: Timestamp::ZERO };

    fn last(&self) -> Timestamp {
        match self {
            Self::Packed { last, .. } => *last,
            Self::Words(state) => state.last(),
        }
    }
}

/// What a step did to the cells of its limits.
pub(crate) struct Applied {
    /// The instant that counted: the caller's, or the latest that a cell has seen.
    pub(crate) at: Timestamp,
    pub(crate) tally: Tally,
    /// From when on each limit answers like a fresh one.
    pub(crate) fresh_at: [Timestamp; MAX_LIMITS],
    pub(crate) changed: bool,
}

impl Applied {
    #[inline(always)]
    pub(crate) fn decision(&self, step: &Step<'_>, asked_at: Timestamp) -> Decision {
        let took = if step.op == Op::Take { step.cost } else { 0 };
        self.tally.decision(asked_at, self.at, took)
    }
}

/// Runs a step on the cells of its limits, in the same order. All or nothing.
///
/// The error names the cell that is corrupt; the others are as they were.
#[inline(always)]
fn apply(
    step: &Step<'_>,
    cells: &mut [Cell],
    asked_at: Timestamp,
) -> Result<Applied, (usize, Corrupt)> {
    let at = cells.iter().map(Cell::last).fold(asked_at, Timestamp::max);
    if step.op == Op::Take && step.limits.len() > 1 {
        let peeked = run(&Step { op: Op::Peek, ..*step }, cells, at)?;
        if !peeked.tally.allowed() {
            return Ok(peeked);
        }
    }
    if matches!(step.op, Op::Refund { .. }) && step.limits.len() > 1 {
        return run_drafts(step, cells, at);
    }
    run(step, cells, at)
}

/// Runs a refund, which can find a corrupt cell after it has changed another.
#[cold]
fn run_drafts(
    step: &Step<'_>,
    cells: &mut [Cell],
    at: Timestamp,
) -> Result<Applied, (usize, Corrupt)> {
    let mut drafts = cells.to_vec();
    let applied = run(step, &mut drafts, at)?;
    cells.clone_from_slice(&drafts);
    Ok(applied)
}

/// Runs a step; a cell that its strategy cannot read starts afresh, and the error is returned beside.
///
/// `None` if a strategy cannot even read a fresh state: then nothing is changed.
#[inline(always)]
pub(crate) fn apply_healing(
    step: &Step<'_>,
    cells: &mut [Cell],
    asked_at: Timestamp,
) -> (Option<Applied>, Option<Corrupt>) {
    let mut corrupt = None;
    // Each cell can be healed once.
    for _ in 0..=cells.len() {
        match apply(step, cells, asked_at) {
            Ok(applied) => return (Some(applied), corrupt),
            Err((index, error)) => {
                cells[index] = Cell::Words(State::default());
                corrupt = Some(error);
            }
        }
    }
    (None, corrupt)
}

#[inline(always)]
fn run(step: &Step<'_>, cells: &mut [Cell], at: Timestamp) -> Result<Applied, (usize, Corrupt)> {
    let mut applied =
        Applied { at, tally: Tally::new(), fresh_at: [at; MAX_LIMITS], changed: false };
    for (index, (limit, cell)) in step.limits.iter().zip(cells).enumerate() {
        let (answer, changed) =
            run_one(limit, cell, at, step.cost, step.op).map_err(|error| (index, error))?;
        applied.changed |= changed;
        applied.tally.add(index, limit, answer);
        applied.fresh_at[index] = answer.fresh_at;
    }
    Ok(applied)
}

/// One limit of a step; says whether the cell was changed.
#[inline(always)]
fn run_one(
    limit: &Limit,
    cell: &mut Cell,
    at: Timestamp,
    cost: u32,
    op: Op,
) -> Result<(Answer, bool), Corrupt> {
    match (limit.core(), cell) {
        (Core::Unlimited, _) => Ok((stateless(Verdict::Allowed, u32::MAX, at), false)),
        (Core::DenyAll, _) => Ok((deny_all(cost, op, at), false)),
        (core, Cell::Packed { count, last }) if core.is_packed() => {
            let settled = core.run_packed(*count, *last, at, cost, op);
            let settled = settled.expect("the core is packed");
            if settled.changed {
                (*count, *last) = (settled.count, at);
            }
            let answer = core.answer_packed(settled, at, cost).expect("the core is packed");
            Ok((answer, settled.changed))
        }
        (Core::Words { in_place }, cell) => {
            if let Cell::Packed { .. } = cell {
                // Only a cell that was never seen comes packed to a limit that is not.
                *cell = Cell::Words(State::default());
            }
            let Cell::Words(state) = cell else { unreachable!("set above") };
            run_words(limit, state, at, cost, op, *in_place)
        }
        (_, Cell::Words(state)) => run_words(limit, state, at, cost, op, true),
        (_, Cell::Packed { .. }) => unreachable!("every other core is packed"),
    }
}

/// On words. A strategy that is not trusted to keep its hands off runs on a draft.
fn run_words(
    limit: &Limit,
    state: &mut State,
    at: Timestamp,
    cost: u32,
    op: Op,
    in_place: bool,
) -> Result<(Answer, bool), Corrupt> {
    let (strategy, rate) = (limit.strategy(), limit.rate());
    let op = if cost == 0 { Op::Peek } else { op };
    if in_place && !matches!(op, Op::Refund { .. }) {
        let answer = strategy.step(rate, state, at, cost, op)?;
        let changed = op == Op::Take && answer.verdict == Verdict::Allowed;
        if changed {
            state.touch(at);
        }
        return Ok((answer, changed));
    }
    let mut draft = state.clone();
    let mut answer = strategy.step(rate, &mut draft, at, cost, op)?;
    if cost == 0 || matches!(op, Op::Refund { .. }) {
        answer.verdict = Verdict::Allowed;
    }
    let changed = match op {
        Op::Peek => false,
        // Also with equal words: that there was a hit, and when, is part of the state.
        Op::Take => answer.verdict == Verdict::Allowed,
        Op::Refund { .. } => draft.words() != state.words(),
    };
    if changed {
        draft.touch(at);
        *state = draft;
    }
    Ok((answer, changed))
}

/// The answer of a limit that remembers nothing.
#[inline(always)]
pub(crate) fn stateless(verdict: Verdict, remaining: u32, at: Timestamp) -> Answer {
    Answer { verdict, remaining, fresh_at: at }
}

/// The answer of a limit of 0.
#[inline(always)]
fn deny_all(cost: u32, op: Op, at: Timestamp) -> Answer {
    let passes = cost == 0 || matches!(op, Op::Refund { .. });
    stateless(if passes { Verdict::Allowed } else { Verdict::Never }, 0, at)
}
