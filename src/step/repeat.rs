//! [`Repeat`]: hits that a store made in one go, made once more to tell what each of them was told.

use super::Step;
use super::apply::Cell;
use super::operation::apply_healing;
use crate::clock::Timestamp;
use crate::decision::Decision;
use crate::strategy::State;

/// Equal hits on one limit at one instant, one after the other.
///
/// A store that counts them all in one step need only say what the first of them found.
#[derive(Debug)]
pub(crate) struct Repeat<'a> {
    step: Step<'a>,
    cells: [Cell; 1],
    asked_at: Timestamp,
    at: Timestamp,
    passed: u64,
}

impl<'a> Repeat<'a> {
    /// Starts on a stored state, which reads as missing from `reset_at` on. `None` if the step has not one limit
    /// with a state.
    pub(crate) fn new(
        step: Step<'a>,
        state: State,
        reset_at: Timestamp,
        asked_at: Timestamp,
    ) -> Option<Self> {
        let [limit] = step.limits() else { return None };
        let cell =
            if state.is_fresh() { Cell::fresh_words() } else { Cell::words(state, reset_at) };
        let repeat = Self { step, cells: [cell], asked_at, at: asked_at, passed: 0 };
        limit.has_state().then_some(repeat)
    }

    /// Makes the next hit. `None` if the state cannot be read.
    pub(crate) fn hit(&mut self) -> Option<Decision> {
        let (applied, corrupt) = apply_healing::<1>(&self.step, &mut self.cells, self.asked_at);
        let applied = applied.filter(|_| corrupt.is_none())?;
        if applied.is_changed() {
            // As it is stored and read again.
            let [cell] = &mut self.cells;
            cell.reset_at = applied.answers[0].reset_at;
            if cell.reset_at <= applied.at {
                *cell = Cell::fresh_words();
            }
        }
        self.at = applied.at;
        self.passed += u64::from(applied.is_allowed());
        Some(applied.decision(&self.step, self.asked_at))
    }

    /// Returns the instant at which the last one counted.
    pub(crate) const fn at(&self) -> Timestamp {
        self.at
    }

    /// Returns how many passed.
    pub(crate) const fn passed(&self) -> u64 {
        self.passed
    }
}
