use std::time::Duration;

use super::{Input, limits};
use crate::clock::Timestamp;
use crate::decision::Decision;
use crate::step::codec::{self, Part};
use crate::step::{BlockChange, KeyState, Step, StepError, Write};
use crate::strategy::{Limit, Op, State};

/// Whatever is stored under a key: a value that is read is written back the same, any step on it has an
/// answer or an error, and what a step writes can be read by the next.
pub fn stored_state(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (shape, which) = (input.byte(), input.byte());
    let limits = limits(which);
    let op = op(&mut input);
    let (cost, leave) = (units(&mut input), units(&mut input));
    let now = instant(&mut input);
    let stored = match shape % 2 {
        0 => input.rest().to_vec(),
        // With the parts of these limits, so that their words are looked at.
        _ => codec::encode(&parts(&limits, &mut input)),
    };
    if let Ok(parts) = codec::decode(&stored) {
        assert_eq!(codec::encode(&parts), stored, "written as it was read");
    }
    let _ = KeyState::read(Some(&stored), now);
    for change in
        [BlockChange::Replace(Duration::from_micros(u64::from(cost))), BlockChange::Remove]
    {
        if let Ok((_, Some(Write::Put { value, .. }))) = change.evaluate(Some(&stored), now) {
            assert!(codec::decode(&value).is_ok(), "{change:?}");
        }
    }
    evaluate(&Step::new(&limits, cost, op).leave(leave), &stored, now);
}

fn evaluate(step: &Step<'_>, stored: &[u8], now: Timestamp) {
    let (op, write) = match step.evaluate(Some(stored), now) {
        Ok(evaluation) => {
            judge(step, &evaluation.decision);
            let takes_nothing = evaluation.decision.is_denied()
                && !matches!(step.op(), Op::Reserve { .. } | Op::Refund { .. });
            if takes_nothing {
                assert_eq!(evaluation.write, None, "a denied hit consumes nothing");
            }
            (step.op(), evaluation.write)
        }
        Err(StepError::Corrupt { write, .. }) => (step.op(), write),
        Err(StepError::TooManyRates) => (step.op(), None),
    };
    if op == Op::Peek {
        assert_eq!(write, None, "a peek writes nothing");
    }
    if let Some(Write::Put { value, .. }) = write {
        // One that was over is kept for a while as it was, and counts again when the key's time is given back.
        let before = codec::decode(stored).unwrap_or_default();
        let mut written = codec::decode(&value).expect("it can be read");
        written.retain(|part| !before.contains(part));
        match step.evaluate(Some(&codec::encode(&written)), now) {
            Ok(next) => judge(step, &next.decision),
            Err(error) => {
                assert_eq!(error, StepError::TooManyRates, "it wrote what it cannot read");
            }
        }
    }
}

fn judge(step: &Step<'_>, decision: &Decision) {
    for (answer, limit) in decision.answers().zip(step.limits()) {
        assert!(
            answer.remaining() <= answer.burst() || limit.rate().is_unlimited(),
            "{decision:?}"
        );
    }
}

fn op(input: &mut Input<'_>) -> Op {
    match input.byte() % 7 {
        0 => Op::Peek,
        1 => Op::Take,
        2 => Op::Charge,
        3 => Op::TakeUpTo,
        4 => Op::Reserve { within: Duration::from_micros(input.u64()) },
        5 => Op::Drain,
        _ => Op::Refund { taken_at: instant(input) },
    }
}

/// Small ones mostly.
fn units(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        u8::MAX => input.u32(),
        few => u32::from(few),
    }
}

fn instant(input: &mut Input<'_>) -> Timestamp {
    Timestamp::from_micros(input.u64() & Timestamp::MAX.as_micros())
}

/// A part for each limit that has a state.
fn parts(limits: &[Limit], input: &mut Input<'_>) -> Vec<Part> {
    let part = |limit: &Limit| {
        let (last, reset_at) = (instant(input), instant(input));
        let words = (0..input.byte() % 12).map(|_| input.u64()).collect();
        Part { id: limit.part(), reset_at, state: State::new(last, words) }
    };
    limits.iter().filter(|limit| limit.has_state()).map(part).collect()
}
