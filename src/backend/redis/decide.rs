//! Decisions by a script: the arguments of one step, and the reply.
//!
//! The scripts repeat [`Step::decide`] in Lua, for our own strategies; `decide/tests.rs` holds the
//! two together. How the answers of several limits are joined is not repeated: the reply has each
//! answer.

#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use ::redis::Value;
use thiserror::Error;

use super::scripts::Script;
use crate::clock::Timestamp;
use crate::decision::{Decision, Tally};
use crate::strategy::{Answer, Builtin, Core, Corrupt, Limit, Op, Step, Verdict};

/// Asks for the server's own time: the first number that is not an instant.
const SERVER_TIME: u64 = Timestamp::MAX.as_micros() + 1;
/// `asked_at`, `at` and whether the value was corrupt.
const REPLY_HEADER: usize = 3;
/// Verdict, remaining, fresh_at.
const REPLY_LIMIT: usize = 3;

/// The files of the rules; of a script only those that it needs.
const RULES: [&str; 5] = [
    include_str!("lua/bucket.lua"),
    include_str!("lua/fixed_window.lua"),
    include_str!("lua/sliding_window_counter.lua"),
    include_str!("lua/sliding_window_log.lua"),
    include_str!("lua/stateless.lua"),
];

/// A script to run on the key of a state, and its one argument.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) script: &'static Script,
    pub(super) argument: Vec<u8>,
}

impl Request {
    /// For a step that is asked at that instant, or else at the server's own time.
    ///
    /// `None` if no script can decide it, because a user's own strategy keeps a limit.
    pub(super) fn new(step: &Step<'_>, asked_at: Option<Timestamp>) -> Option<Self> {
        if step.limits().is_empty() {
            return None;
        }
        let (op, taken_at) = match step.op() {
            _ if step.cost() == 0 => (0, Timestamp::ZERO),
            Op::Peek => (0, Timestamp::ZERO),
            Op::Take => (1, Timestamp::ZERO),
            Op::Refund { taken_at } => (2, taken_at),
        };
        let asked_at = asked_at.map_or(SERVER_TIME, Timestamp::as_micros);
        let mut argument = Vec::with_capacity(21 + 29 * step.limits().len());
        argument.push(op);
        argument.extend_from_slice(&step.cost().to_le_bytes());
        argument.extend_from_slice(&taken_at.as_micros().to_le_bytes());
        argument.extend_from_slice(&asked_at.to_le_bytes());
        let mut needed = 0;
        for limit in step.limits() {
            let rule = Rule::of(limit)?;
            needed |= 1 << rule.file;
            rule.write(limit, &mut argument);
        }
        Some(Self { script: script(needed), argument })
    }
}

/// The script with the rules whose bits are set.
fn script(needed: usize) -> &'static Script {
    static SCRIPTS: [OnceLock<Script>; 1 << RULES.len()] =
        [const { OnceLock::new() }; 1 << RULES.len()];
    SCRIPTS[needed].get_or_init(|| {
        let rules = RULES.iter().enumerate().filter(|(file, _)| needed >> file & 1 == 1);
        let frame = [
            include_str!("lua/codec.lua"),
            include_str!("lua/several.lua"),
            include_str!("lua/decide.lua"),
        ];
        let files = [include_str!("lua/arithmetic.lua")].into_iter();
        Script::compose(files.chain(rules.map(|(_, text)| *text)).chain(frame))
    })
}

/// How the scripts keep a limit.
struct Rule {
    /// Its number in the scripts.
    family: u8,
    /// Its place in [`RULES`].
    file: usize,
    /// Units that a bucket lends beyond its burst.
    debt: u32,
}

impl Rule {
    fn of(limit: &Limit) -> Option<Self> {
        let (family, file, debt) = match (limit.core(), limit.builtin()) {
            (Core::Unlimited, _) => (5, 4, 0),
            (Core::DenyAll, _) => (6, 4, 0),
            (_, Some(Builtin::Bucket { debt })) => (1, 0, debt),
            (_, Some(Builtin::FixedWindow)) => (2, 1, 0),
            (_, Some(Builtin::SlidingWindowCounter)) => (3, 2, 0),
            (_, Some(Builtin::SlidingWindowLog)) => (4, 3, 0),
            (_, None) => return None,
        };
        Some(Self { family, file, debt })
    }

    fn write(&self, limit: &Limit, argument: &mut Vec<u8>) {
        let rate = limit.rate();
        let burst = rate.effective_burst();
        argument.push(self.family);
        argument.extend_from_slice(&limit.tag().raw().to_le_bytes());
        argument.extend_from_slice(&rate.period_micros().to_le_bytes());
        argument.extend_from_slice(&rate.limit().to_le_bytes());
        argument.extend_from_slice(&burst.to_le_bytes());
        argument.extend_from_slice(&(u64::from(burst) + u64::from(self.debt)).to_le_bytes());
    }
}

/// What a script replied: the decision, and whether it found a value that it could not read. That
/// value is replaced by one that holds this hit; the error policy decides about the hit.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) decision: Decision,
    pub(super) corrupt: Option<Corrupt>,
}

/// A reply that no script of ours gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the reply of the script is not {expected} integers in range")]
pub(super) struct BadReply {
    expected: usize,
}

impl Reply {
    /// Reads the reply to the request of that step.
    pub(super) fn read(step: &Step<'_>, reply: &Value) -> Result<Self, BadReply> {
        let limits = step.limits();
        let bad = BadReply { expected: REPLY_HEADER + REPLY_LIMIT * limits.len() };
        Self::parse(step, reply).ok_or(bad)
    }

    fn parse(step: &Step<'_>, reply: &Value) -> Option<Self> {
        let Value::Array(numbers) = reply else { return None };
        let (header, answers) = numbers.split_first_chunk::<REPLY_HEADER>()?;
        let (answers, []) = answers.as_chunks::<REPLY_LIMIT>() else { return None };
        if answers.len() != step.limits().len() {
            return None;
        }
        let [asked_at, at, corrupt] = header;
        let mut tally = Tally::new();
        for (index, (limit, answer)) in step.limits().iter().zip(answers).enumerate() {
            tally.add(index, limit, read_answer(answer)?);
        }
        let took = if step.op() == Op::Take { step.cost() } else { 0 };
        Some(Self {
            decision: tally.decision(instant(asked_at)?, instant(at)?, took),
            corrupt: read_corrupt(step, integer(corrupt)?)?,
        })
    }
}

fn read_answer([verdict, remaining, fresh_at]: &[Value; REPLY_LIMIT]) -> Option<Answer> {
    Some(Answer {
        verdict: match integer(verdict)? {
            0 => Verdict::Allowed,
            -1 => Verdict::Never,
            _ => Verdict::Denied { retry_at: instant(verdict)? },
        },
        remaining: u32::try_from(integer(remaining)?).ok()?,
        fresh_at: instant(fresh_at)?,
    })
}

/// What could not be read: 0 nothing, 1 the whole value, else the part of a limit, counted from 2.
fn read_corrupt(step: &Step<'_>, code: i64) -> Option<Option<Corrupt>> {
    let index = match usize::try_from(code).ok()? {
        0 => return Some(None),
        1 => return Some(Some(Corrupt("the value is not a list of parts"))),
        code => code - 2,
    };
    Some(Some(match step.limits().get(index)?.builtin()? {
        Builtin::Bucket { .. } => Corrupt("bucket: words out of range"),
        Builtin::FixedWindow => Corrupt("fixed window: words out of range"),
        Builtin::SlidingWindowCounter => Corrupt("sliding window counter: words out of range"),
        Builtin::SlidingWindowLog => Corrupt("sliding window log: wrong words"),
    }))
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        _ => None,
    }
}

fn instant(value: &Value) -> Option<Timestamp> {
    let micros = u64::try_from(integer(value)?).ok()?;
    (micros <= Timestamp::MAX.as_micros()).then(|| Timestamp::from_micros(micros))
}
