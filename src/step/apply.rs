//! All or nothing: runs the limits of a step on their states.

use super::{MAX_LIMITS, Step};
use crate::clock::Timestamp;
use crate::decision::Decision;
use crate::strategy::meter::{self, Demand};
use crate::strategy::{Answer, CompiledLimit, CorruptState, Limit, Op, State, Verdict};

/// The state of one limit while a step runs on it.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) form: Form,
    /// From when on it reads as missing, by whoever wrote it; [`Timestamp::MAX`] for a packed count of
    /// the same rate, which then settles to nothing by itself.
    pub(crate) reset_at: Timestamp,
}

/// The form in which a state is kept.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// A packed count and when it was written; only for a limit whose core is packed.
    Packed { count: u64, last: Timestamp },
    /// Words, for any limit that has a state.
    Words(State),
}

impl Cell {
    /// Of a key that was never seen, as a packed count.
    pub(crate) const FRESH: Self =
        Self { form: Form::Packed { count: 0, last: Timestamp::ZERO }, reset_at: Timestamp::MAX };

    /// Of a key that was never seen, as words.
    pub(crate) fn fresh_words() -> Self {
        Self { form: Form::Words(State::default()), reset_at: Timestamp::MAX }
    }

    /// Of words that read as missing from `reset_at` on.
    pub(crate) const fn words(state: State, reset_at: Timestamp) -> Self {
        Self { form: Form::Words(state), reset_at }
    }

    /// Returns whether nothing is left to remember.
    pub(crate) fn is_fresh(&self) -> bool {
        matches!(&self.form, Form::Words(state) if state.is_fresh())
    }

    pub(super) fn last(&self) -> Timestamp {
        match &self.form {
            Form::Packed { last, .. } => *last,
            Form::Words(state) => state.last(),
        }
    }

    /// Of a key that was never seen, in the same form.
    pub(super) fn fresh_like(&self) -> Self {
        match &self.form {
            Form::Packed { .. } => Self::FRESH,
            Form::Words(_) => Self::fresh_words(),
        }
    }
}

/// What a step did to the cells of its limits, of which there are up to `N`.
pub(crate) struct Applied<const N: usize> {
    /// The instant that counted: the caller's, or the latest that a cell has seen.
    pub(crate) at: Timestamp,
    pub(crate) answers: [Answer; N],
    /// Which cells were changed, one bit each. The others are to stay where they are.
    pub(super) changed: u8,
    pub(super) allowed: bool,
    /// The units that were taken of each limit, for a receipt.
    taken: u32,
    /// They were taken in advance: the answers are denials, with the wait for its turn.
    pub(super) reserved: bool,
}

const _: () = assert!(MAX_LIMITS <= 8, "a bit for each limit");

impl<const N: usize> Applied<N> {
    /// Of no limit.
    #[inline]
    pub(super) const fn none(at: Timestamp) -> Self {
        let unasked = stateless(Verdict::Allowed, u32::MAX, at);
        Self { at, answers: [unasked; N], changed: 0, allowed: true, taken: 0, reserved: false }
    }

    /// The decision for a caller whose clock says `asked_at`.
    #[inline]
    pub(crate) fn decision(&self, step: &Step<'_>, asked_at: Timestamp) -> Decision {
        let answers = &self.answers[..step.limits().len()];
        let decision = Decision::over(step.limits(), answers, (asked_at, self.at), self.taken);
        if self.reserved { decision.reserving(self.taken, self.at) } else { decision }
    }

    /// Returns whether any cell was changed.
    pub(crate) const fn is_changed(&self) -> bool {
        self.changed != 0
    }

    /// Returns whether the cell of that index was changed.
    pub(crate) const fn has_changed(&self, index: usize) -> bool {
        self.changed >> index & 1 == 1
    }

    /// Returns whether the hit fit, or would.
    pub(crate) const fn is_allowed(&self) -> bool {
        self.allowed
    }
}

/// A cell that its strategy could not read, by its index.
pub(super) type Unreadable = (usize, CorruptState);

/// Takes or peeks, over several limits.
#[inline]
pub(super) fn take<const N: usize>(
    step: &Step<'_>,
    (demand, op): (Demand, Op),
    cells: &mut [Cell],
    at: Timestamp,
) -> Result<Applied<N>, Unreadable> {
    // A user's own strategy may read a state on a peek and not on a hit.
    let is_custom = step.limits().iter().any(|limit| limit.compiled().is_custom());
    let run = |op| match op {
        Op::Take if is_custom => on_drafts(cells, |cells| run(step, (demand, op), cells, at)),
        op => run(step, (demand, op), cells, at),
    };
    all_or_nothing(op, run, Applied::is_allowed)
}

/// Runs an operation over several limits: a hit is taken of all if all would let it pass, and else of none.
#[inline]
pub(crate) fn all_or_nothing<R, E>(
    op: Op,
    mut run: impl FnMut(Op) -> Result<R, E>,
    is_allowed: impl FnOnce(&R) -> bool,
) -> Result<R, E> {
    if op == Op::Take {
        let peeked = run(Op::Peek)?;
        if !is_allowed(&peeked) {
            return Ok(peeked);
        }
    }
    run(op)
}

/// Runs on copies of the cells, which take their place if that succeeds.
#[cold]
pub(super) fn on_drafts<const N: usize>(
    cells: &mut [Cell],
    run: impl FnOnce(&mut [Cell]) -> Result<Applied<N>, Unreadable>,
) -> Result<Applied<N>, Unreadable> {
    let mut drafts = cells.to_vec();
    let applied = run(&mut drafts)?;
    cells.clone_from_slice(&drafts);
    Ok(applied)
}

#[inline]
pub(super) fn run<const N: usize>(
    step: &Step<'_>,
    (demand, op): (Demand, Op),
    cells: &mut [Cell],
    at: Timestamp,
) -> Result<Applied<N>, Unreadable> {
    let mut applied = Applied::none(at);
    if matches!(op, Op::Take | Op::Charge) {
        applied.taken = demand.cost_u32();
    }
    for (index, (limit, cell)) in step.limits().iter().zip(cells).enumerate() {
        let (answer, changed) =
            run_one(limit, cell, at, demand, op).map_err(|error| (index, error))?;
        applied.changed |= u8::from(changed) << index;
        applied.allowed &= answer.verdict == Verdict::Allowed;
        applied.answers[index] = answer;
    }
    Ok(applied)
}

/// One limit of a step; returns whether the cell was changed.
#[inline]
pub(super) fn run_one(
    limit: &Limit,
    cell: &mut Cell,
    at: Timestamp,
    demand: Demand,
    op: Op,
) -> Result<(Answer, bool), CorruptState> {
    let over_at = cell.reset_at;
    if over_at > at {
        let (mut answer, changed) = run_live(limit, cell, at, demand, op)?;
        if !changed && over_at < Timestamp::MAX {
            // Written under another limit, perhaps, and over when its writer said.
            answer.reset_at = answer.reset_at.min(over_at);
            if let Verdict::Denied { retry_at } = &mut answer.verdict {
                *retry_at = (*retry_at).min(over_at);
            }
        }
        return Ok((answer, changed));
    }
    let mut fresh = cell.fresh_like();
    let (answer, changed) = run_live(limit, &mut fresh, at, demand, op)?;
    if changed {
        *cell = fresh;
    }
    Ok((answer, changed))
}

#[inline]
pub(super) fn run_live(
    limit: &Limit,
    cell: &mut Cell,
    at: Timestamp,
    demand: Demand,
    op: Op,
) -> Result<(Answer, bool), CorruptState> {
    match (limit.compiled(), &mut cell.form) {
        (CompiledLimit::Unlimited, _) => Ok((stateless(Verdict::Allowed, u32::MAX, at), false)),
        (CompiledLimit::DenyAll, _) => Ok((deny_all(demand, op, at), false)),
        (CompiledLimit::Packed(meter), Form::Packed { count, last }) if op == Op::Charge => {
            match meter.charge((*count, *last), at, demand.cost_u32()) {
                Some(metered) => {
                    if metered.changed {
                        (*count, *last) = (metered.count, at);
                    }
                    Ok((meter.answer(metered, at, Demand::of(0)), metered.changed))
                }
                // Only words can hold it.
                None => {
                    let mut state = meter.words(*count, *last);
                    let done = run_words(limit, &mut state, at, demand, op)?;
                    cell.form = Form::Words(state);
                    Ok(done)
                }
            }
        }
        (CompiledLimit::Packed(meter), Form::Packed { count, last }) => {
            let metered = meter.run((*count, *last), at, demand, op);
            if metered.changed {
                (*count, *last) = (metered.count, at);
            }
            Ok((meter.answer(metered, at, demand), metered.changed))
        }
        (_, Form::Words(state)) => run_words(limit, state, at, demand, op),
        (_, Form::Packed { .. }) => {
            // Only a cell that was never seen comes packed to a limit that is not.
            let mut state = State::default();
            let done = run_words(limit, &mut state, at, demand, op)?;
            cell.form = Form::Words(state);
            Ok(done)
        }
    }
}

fn run_words(
    limit: &Limit,
    state: &mut State,
    at: Timestamp,
    demand: Demand,
    op: Op,
) -> Result<(Answer, bool), CorruptState> {
    let op = if demand.cost_u32() == 0 { Op::Peek } else { op };
    let refund = matches!(op, Op::Refund { .. });
    // Custom strategies run on a copy, because they may modify it on a peek or a denial.
    if limit.compiled().is_custom() || refund {
        let mut draft = state.clone();
        let mut answer = step_words(limit, &mut draft, at, demand, op)?;
        if demand.cost_u32() == 0 || refund {
            answer.verdict = Verdict::Allowed;
        }
        let changed = match op {
            Op::Peek => false,
            // Also with equal words: that there was a hit, and when, is part of the state.
            Op::Take | Op::Charge => answer.verdict == Verdict::Allowed,
            Op::Refund { .. } => draft.words() != state.words(),
            // A step makes them of others.
            Op::TakeUpTo | Op::Reserve { .. } | Op::Drain => false,
        };
        if changed {
            draft.touch(at);
            *state = draft;
        }
        return Ok((answer, changed));
    }
    let answer = step_words(limit, state, at, demand, op)?;
    let changed = matches!(op, Op::Take | Op::Charge) && answer.verdict == Verdict::Allowed;
    if changed {
        state.touch(at);
    }
    Ok((answer, changed))
}

/// Runs the strategy of a limit on words.
fn step_words(
    limit: &Limit,
    state: &mut State,
    at: Timestamp,
    demand: Demand,
    op: Op,
) -> Result<Answer, CorruptState> {
    let (strategy, rate) = (limit.strategy(), limit.rate());
    match limit.compiled() {
        CompiledLimit::Packed(meter) => return meter.evaluate(state, at, demand, op),
        CompiledLimit::Wide(bucket) => return meter::evaluate_words(bucket, state, at, demand, op),
        CompiledLimit::Unlimited | CompiledLimit::DenyAll | CompiledLimit::Words { .. } => {}
    }
    let cost = demand.cost_u32();
    if demand.leave() == 0 || cost == 0 || matches!(op, Op::Refund { .. } | Op::Charge) {
        return strategy.evaluate(rate, state, at, cost, op);
    }
    // Units are left behind by asking for more than is taken.
    let Some(needed) = cost.checked_add(demand.leave()) else {
        let answer = strategy.evaluate(rate, &mut state.clone(), at, 0, Op::Peek)?;
        return Ok(Answer { verdict: Verdict::Never, ..answer });
    };
    let peeked = strategy.evaluate(rate, &mut state.clone(), at, needed, Op::Peek)?;
    match (peeked.verdict, op) {
        (Verdict::Allowed, Op::Take) => strategy.evaluate(rate, state, at, cost, op),
        _ => Ok(peeked),
    }
}

/// The answer of a limit that remembers nothing.
#[inline]
const fn stateless(verdict: Verdict, remaining: u32, at: Timestamp) -> Answer {
    Answer { verdict, remaining, reset_at: at }
}

/// The answer of a limit of 0.
#[inline]
fn deny_all(demand: Demand, op: Op, at: Timestamp) -> Answer {
    let passes = demand.cost_u32() == 0 || matches!(op, Op::Refund { .. } | Op::Charge);
    stateless(if passes { Verdict::Allowed } else { Verdict::Never }, 0, at)
}
