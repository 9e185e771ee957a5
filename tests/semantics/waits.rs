//! What a step promises, tried out on the step itself: what would happen if the caller did as told?
//!
//! No model here. A stored state is a value, so each question is asked of a copy.

use std::time::Duration;

use proptest::prelude::*;
use traffik::step::{Evaluation, Step, StepError, Write};
use traffik::strategy::Op;
use traffik::{Decision, Denial, Limit, Timestamp};

use crate::mixes::{several, small_rule};
use crate::model::Rule;
use crate::world::{Tested, check, micros};
use test_support::wait_of;

const START: u64 = 1_704_067_200_000_000;

/// One key of some limits, as a store of bytes would keep it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) limits: Vec<Limit>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) now: u64,
}

impl Stored {
    /// After some waits and hits.
    pub(crate) fn after(rules: &[Rule], hits: &[(u64, u32)]) -> Self {
        let limits = rules.iter().map(|rule| rule.to_limit()).collect();
        let mut stored = Self { limits, value: None, now: START };
        for (wait, cost) in hits {
            stored.now += wait;
            stored.take(*cost);
        }
        stored
    }

    pub(crate) fn try_ask(&self, cost: u32, op: Op) -> Result<Evaluation, StepError> {
        let now = Timestamp::from_micros(self.now);
        Step::new(&self.limits, cost, op).evaluate(self.value.as_deref(), now)
    }

    pub(crate) fn ask(&self, cost: u32, op: Op) -> Evaluation {
        self.try_ask(cost, op).unwrap()
    }

    pub(crate) fn peek(&self, cost: u32) -> Evaluation {
        self.ask(cost, Op::Peek)
    }

    /// What a step finds that cannot be read, after its write.
    pub(crate) fn heal(&mut self, cost: u32, op: Op) {
        match self.try_ask(cost, op) {
            Err(StepError::Corrupt { write, .. }) => self.write(write.as_ref()),
            other => panic!("not corrupt: {other:?}"),
        }
    }

    fn write(&mut self, write: Option<&Write>) {
        match write {
            None => {}
            Some(Write::Put { value, .. }) => self.value = Some(value.clone()),
            Some(_) => self.value = None,
        }
    }

    pub(crate) fn take(&mut self, cost: u32) -> Evaluation {
        let evaluation = self.ask(cost, Op::Take);
        self.write(evaluation.write.as_ref());
        evaluation
    }

    pub(crate) fn at(&self, now: u64) -> Self {
        Self { now, ..self.clone() }
    }

    /// The same state asked by one of the limits.
    fn of_limit(&self, index: usize) -> Self {
        Self { limits: vec![self.limits[index].clone()], ..self.clone() }
    }

    fn remaining(&self) -> u32 {
        self.peek(1).decision.remaining()
    }
}

/// Hits that leave all kinds of states: fresh, in use, used up, and faded.
pub(crate) fn hits() -> impl Strategy<Value = Vec<(u64, u32)>> {
    let waits = prop_oneof![3 => Just(0), 3 => 0..1_500_000u64, 1 => 0..100_000_000u64];
    prop::collection::vec((waits, 1..=6u32), 0..25)
}

fn one_or_several() -> impl Strategy<Value = Vec<Rule>> {
    prop_oneof![2 => small_rule().prop_map(|rule| vec![rule]), 1 => several()]
}

#[test]
fn a_cost_passes_exactly_when_as_many_single_hits_do() {
    check(6_000, (one_or_several(), hits(), 1..=25u32), |(rules, hits, cost)| {
        let state = Stored::after(&rules, &hits);
        let (mut whole, mut parts) = (state.clone(), state);
        let decision = whole.take(cost).decision;
        let passed = (0..cost).all(|_| parts.take(1).decision.is_allowed());
        prop_assert_eq!(decision.is_allowed(), passed);
        if passed {
            prop_assert_eq!(whole.value, parts.value, "and leaves the same behind");
        }
        Ok(())
    });
}

#[test]
fn as_much_passes_as_remains_unless_there_is_debt() {
    check(4_000, (one_or_several(), hits()), |(rules, hits)| {
        let mut state = Stored::after(&rules, &hits);
        let remaining = state.remaining();
        prop_assert!(state.peek(remaining).decision.is_allowed());
        let debt = rules.iter().any(|rule| rule.capacity() > u64::from(rule.shown_capacity()));
        if !debt {
            prop_assert!(state.peek(remaining + 1).decision.is_denied());
        }
        for left in (0..remaining).rev() {
            prop_assert_eq!(state.take(1).decision.remaining(), left, "after this hit");
        }
        Ok(())
    });
}

#[test]
fn a_peek_answers_as_the_hit_would_and_writes_nothing() {
    check(4_000, (one_or_several(), hits(), 0..=25u32), |(rules, hits, cost)| {
        let state = Stored::after(&rules, &hits);
        let (peek, take) = (state.peek(cost), state.ask(cost, Op::Take));
        prop_assert_eq!(&peek.write, &None);
        if take.decision.is_denied() || cost == 0 {
            prop_assert_eq!(&take.write, &None, "nor does a denial, nor a cost of 0");
            prop_assert_eq!(peek.decision, take.decision);
            return Ok(());
        }
        prop_assert!(peek.decision.is_allowed());
        let put = matches!(take.write, Some(Write::Put { .. }));
        prop_assert!(put, "a hit is written");
        let left = peek.decision.remaining().saturating_sub(cost);
        prop_assert_eq!(take.decision.remaining(), left);
        prop_assert!(peek.decision.reset_after() <= take.decision.reset_after());
        Ok(())
    });
}

/// How far the clock goes back before the question: mostly not.
fn steps_back() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 1 => 1..2_000_000u64, 1 => 1..7_200_000_000u64]
}

#[test]
fn a_wait_is_the_least_after_which_the_same_cost_passes() {
    let inputs = (one_or_several(), hits(), 1..=25u32, steps_back());
    check(8_000, inputs, |(rules, hits, cost, back)| {
        let state = Stored::after(&rules, &hits);
        // The caller measures from a clock that may have been set back.
        let state = state.at(state.now - back);
        let decision = state.peek(cost).decision;
        let Some(wait) = wait_of(&decision) else {
            prop_assert_ne!(decision.denial(), Some(Denial::Limited));
            return Ok(());
        };
        prop_assert!(wait > Duration::ZERO, "0 would mean that it passes");
        let then = state.now + micros(wait);
        prop_assert!(state.at(then).take(cost).decision.is_allowed());
        let early = state.at(then - 1).peek(cost).decision;
        prop_assert_eq!(wait_of(&early), Some(Duration::from_micros(1)));
        Ok(())
    });
}

#[test]
fn a_decision_over_several_limits_names_one_and_has_the_answer_of_each() {
    check(4_000, (several(), hits(), 1..=15u32), |(rules, hits, cost)| {
        let state = Stored::after(&rules, &hits);
        let all = state.peek(cost).decision;
        let each: Vec<_> =
            (0..rules.len()).map(|index| state.of_limit(index).peek(cost).decision).collect();
        prop_assert_eq!(all.is_allowed(), each.iter().all(|one| one.is_allowed()));
        prop_assert_eq!(all.answers().len(), each.len());
        for (answer, one) in all.answers().zip(&each) {
            prop_assert_eq!(answer.outcome(), one.outcome());
            let own = (one.limit(), one.burst(), one.remaining(), one.reset_after());
            let said = (answer.limit(), answer.burst(), answer.remaining(), answer.reset_after());
            prop_assert_eq!(said, own);
        }
        let never = each.iter().position(|one| one.denial() == Some(Denial::Never));
        let longest = each.iter().filter_map(wait_of).max();
        match (never, all.denied_by()) {
            (None, None) => prop_assert!(all.is_allowed()),
            (None, Some(index)) => {
                prop_assert_eq!(wait_of(&all), longest);
                prop_assert_eq!(wait_of(&each[index]), longest, "that limit has that wait");
            }
            (Some(_), index) => {
                prop_assert_eq!(all.denial(), Some(Denial::Never));
                prop_assert_eq!(wait_of(&all), None);
                prop_assert_eq!(index, never);
            }
        }
        let least = each.iter().map(|one| one.remaining()).min();
        let named = match all.denied_by() {
            Some(index) => index,
            None => each.iter().position(|one| Some(one.remaining()) == least).unwrap(),
        };
        let figures = |one: &Decision| (one.limit(), one.remaining(), one.reset_after());
        prop_assert_eq!(figures(&all), figures(&each[named]), "all of the limit that it names");
        Ok(())
    });
}

fn is_as_fresh(state: &Stored, rules: &[Rule]) -> bool {
    let each = rules.iter().enumerate().filter(|(_, rule)| rule.limit > 0);
    let mut each = each.map(|(index, rule)| (state.of_limit(index).remaining(), rule));
    each.all(|(remaining, rule)| remaining == rule.shown_capacity())
}

fn resets_on_time(rules: &[Rule], state: &Stored) -> Tested {
    let each = state.peek(1).decision;
    let reset = micros(each.answers().map(|answer| answer.reset_after()).max().unwrap());
    let then = state.at(state.now + reset);
    prop_assert!(is_as_fresh(&then, rules), "{reset} us later");
    let fresh = Stored { value: None, ..then.clone() };
    for cost in [1, 5, 12, 100] {
        prop_assert_eq!(then.peek(cost).decision, fresh.peek(cost).decision);
    }
    if reset > 0 {
        prop_assert!(!is_as_fresh(&state.at(then.now - 1), rules), "{reset} us later, less one");
    }
    Ok(())
}

#[test]
fn a_reset_is_when_it_answers_like_a_fresh_one() {
    check(6_000, (one_or_several(), hits(), steps_back()), |(rules, hits, back)| {
        let state = Stored::after(&rules, &hits);
        resets_on_time(&rules, &state.at(state.now - back))
    });
}

#[test]
fn a_state_is_stored_for_as_long_as_it_matters() {
    check(4_000, (one_or_several(), hits(), 1..=6u32), |(rules, hits, cost)| {
        let mut state = Stored::after(&rules, &hits);
        let evaluation = state.take(cost);
        if let Some(Write::Put { ttl, .. }) = evaluation.write {
            let last = evaluation.decision.answers().map(|answer| answer.reset_after()).max();
            prop_assert_eq!(Some(ttl), last);
            let over = state.at(state.now + micros(ttl));
            let gone = Stored { value: None, ..over.clone() };
            prop_assert_eq!(over.ask(cost, Op::Take).decision, gone.ask(cost, Op::Take).decision);
        }
        Ok(())
    });
}
