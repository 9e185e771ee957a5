//! Runs the operation of a step: a hit, a refund, and what is made of peeks, takes and charges (in advance, up
//! to so many units, all that is left).

use super::Step;
use super::apply::{Applied, Cell, Form, Unreadable, on_drafts, run, run_live, run_one, take};
use crate::clock::Timestamp;
use crate::strategy::meter::{self, Demand};
use crate::strategy::{Answer, CompiledLimit, CorruptState, Limit, Op, State, Verdict};

/// Runs a step; a cell that its strategy cannot read starts over, and the error is returned beside.
///
/// `None` if a strategy cannot even read a fresh state: then nothing is changed.
#[inline]
pub(crate) fn apply_healing<const N: usize>(
    step: &Step<'_>,
    cells: &mut [Cell],
    asked_at: Timestamp,
) -> (Option<Applied<N>>, Option<CorruptState>) {
    let mut corrupt = None;
    // Each cell can be healed once.
    for _ in 0..=cells.len() {
        match apply(step, cells, asked_at) {
            Ok(applied) => return (Some(applied), corrupt),
            Err((index, error)) => {
                cells[index] = Cell::fresh_words();
                corrupt = Some(error);
            }
        }
    }
    (None, corrupt)
}

/// Runs a step on the cells of its limits, in the same order. All or nothing.
///
/// After an error all cells are as they were.
#[inline]
fn apply<const N: usize>(
    step: &Step<'_>,
    cells: &mut [Cell],
    asked_at: Timestamp,
) -> Result<Applied<N>, Unreadable> {
    let at = cells.iter().map(Cell::last).fold(asked_at, Timestamp::max);
    let demand = step.demand();
    match step.op() {
        Op::TakeUpTo => take_up_to(step, cells, at),
        Op::Reserve { within } => reserve(step, cells, at, asked_at.saturating_add(within)),
        Op::Drain => on_drafts(cells, |cells| drain(step, cells, at)),
        // One limit passes or not, all by itself.
        op if step.limits().len() == 1 => run(step, (demand, op), cells, at),
        // Can find a corrupt cell after it has changed another.
        op @ (Op::Refund { .. } | Op::Charge) => {
            on_drafts(cells, |cells| run(step, (demand, op), cells, at))
        }
        op => take(step, (demand, op), cells, at),
    }
}

/// Takes what passes now, or what passes at the latest then; of all limits or of none.
#[cold]
fn reserve<const N: usize>(
    step: &Step<'_>,
    cells: &mut [Cell],
    at: Timestamp,
    latest: Timestamp,
) -> Result<Applied<N>, Unreadable> {
    let demand = step.demand();
    let peeked: Applied<N> = run(step, (demand, Op::Peek), cells, at)?;
    if peeked.allowed {
        return take(step, (demand, Op::Take), cells, at);
    }
    let verdicts = peeked.answers[..step.limits().len()].iter().map(|answer| answer.verdict);
    let in_time = |verdict| match verdict {
        Verdict::Allowed => true,
        Verdict::Denied { retry_at } => retry_at <= latest,
        Verdict::Never => false,
    };
    if !verdicts.clone().all(in_time) {
        return Ok(peeked);
    }
    let mut charged = on_drafts(cells, |cells| run::<N>(step, (demand, Op::Charge), cells, at))?;
    for (answer, verdict) in charged.answers.iter_mut().zip(verdicts) {
        answer.verdict = verdict;
    }
    (charged.allowed, charged.reserved) = (false, true);
    Ok(charged)
}

/// Takes as many units as all limits have, up to the cost; if there are none, answers for one.
#[cold]
fn take_up_to<const N: usize>(
    step: &Step<'_>,
    cells: &mut [Cell],
    at: Timestamp,
) -> Result<Applied<N>, Unreadable> {
    let mut room = u64::MAX;
    for (index, (limit, cell)) in step.limits().iter().zip(&*cells).enumerate() {
        room = room.min(room_of(limit, cell, at).map_err(|error| (index, error))?);
    }
    let leave = step.demand().leave();
    let most = u64::from(step.demand().cost_u32()).min(room.saturating_sub(leave.into()));
    let units = u32::try_from(most).unwrap_or(u32::MAX);
    match units {
        0 => {
            let demand = Demand::leaving(step.demand().cost_u32().min(1), leave);
            run(step, (demand, Op::Peek), cells, at)
        }
        units => take(step, (Demand::leaving(units, leave), Op::Take), cells, at),
    }
}

/// Takes all that each limit has, whatever the others have.
fn drain<const N: usize>(
    step: &Step<'_>,
    cells: &mut [Cell],
    at: Timestamp,
) -> Result<Applied<N>, Unreadable> {
    let mut applied = Applied::none(at);
    for (index, (limit, cell)) in step.limits().iter().zip(cells).enumerate() {
        let (answer, is_changed) = drain_one(limit, cell, at).map_err(|error| (index, error))?;
        applied.answers[index] = answer;
        applied.changed |= u8::from(is_changed) << index;
    }
    Ok(applied)
}

fn drain_one(
    limit: &Limit,
    cell: &mut Cell,
    at: Timestamp,
) -> Result<(Answer, bool), CorruptState> {
    if limit.has_state() {
        let mut live = if cell.reset_at > at { cell.clone() } else { cell.fresh_like() };
        let mut drained = None;
        // A bucket with a burst and a debt may have more than one hit can take, but not thrice as much.
        for _ in 0..3 {
            let room = room_of_live(limit, &live, at)?;
            let demand = Demand::of(u32::try_from(room).unwrap_or(u32::MAX));
            let (answer, is_changed) = run_live(limit, &mut live, at, demand, Op::Take)?;
            if !is_changed {
                break;
            }
            drained = Some(answer);
        }
        if let Some(answer) = drained {
            *cell = Cell { form: live.form, reset_at: Timestamp::MAX };
            return Ok((answer, true));
        }
    }
    run_one(limit, cell, at, Demand::of(0), Op::Peek)
}

/// Returns the whole units of a limit that would pass at once.
fn room_of(limit: &Limit, cell: &Cell, at: Timestamp) -> Result<u64, CorruptState> {
    match cell.reset_at > at {
        true => room_of_live(limit, cell, at),
        false => room_of_live(limit, &cell.fresh_like(), at),
    }
}

/// As [`room_of`], of a cell that is not over.
fn room_of_live(limit: &Limit, cell: &Cell, at: Timestamp) -> Result<u64, CorruptState> {
    match (limit.compiled(), &cell.form) {
        (CompiledLimit::Unlimited, _) => Ok(u64::MAX),
        (CompiledLimit::DenyAll, _) => Ok(0),
        (CompiledLimit::Packed(meter), Form::Packed { count, last }) => {
            Ok(meter.room((*count, *last), at))
        }
        (CompiledLimit::Packed(meter), Form::Words(state)) => meter.room_of_words(state, at),
        (CompiledLimit::Wide(bucket), Form::Words(state)) => {
            meter::room_of_words(bucket, state, at)
        }
        (CompiledLimit::Wide(bucket), Form::Packed { .. }) => {
            meter::room_of_words(bucket, &State::default(), at)
        }
        (CompiledLimit::Words { .. }, form) => {
            let mut state = match form {
                Form::Words(state) => state.clone(),
                Form::Packed { .. } => State::default(),
            };
            let answer = limit.strategy().evaluate(limit.rate(), &mut state, at, 0, Op::Peek)?;
            Ok(answer.remaining.into())
        }
    }
}
