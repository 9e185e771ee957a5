//! Decisions by a script: the arguments of one step, and the reply.
//!
//! The scripts repeat [`Step::evaluate`] in Lua, for our own strategies; `decide/tests/` holds the
//! two together. How the answers of several limits are joined is not repeated: the reply has each
//! answer.

#[cfg(test)]
mod tests;
mod times;

use std::sync::OnceLock;

use ::redis::Value;
use thiserror::Error;

use super::scripts::Script;
use crate::clock::Timestamp;
use crate::decision::Decision;
use crate::step::Step;
use crate::strategy::{Answer, Builtin, CompiledLimit, CorruptState, Limit, Op, Verdict};

pub(super) use times::{HitOutcome, read_times};

/// Asks for the server's own time: the first number that is not an instant.
pub(super) const SERVER_TIME: u64 = Timestamp::MAX.as_micros() + 1;
/// `asked_at`, `at`, and whether there is no answer.
const REPLY_HEADER: usize = 3;
/// Verdict, remaining, reset_at.
const REPLY_LIMIT: usize = 3;

/// Bytes of an argument before its limits, and of each limit.
const HEADER: usize = 25;
const LIMIT: usize = 29;

/// The files of the rules; of a script only those that it needs.
const RULES: [&str; 5] = [
    include_str!("../lua/bucket.lua"),
    include_str!("../lua/fixed_window.lua"),
    include_str!("../lua/sliding_window_counter.lua"),
    include_str!("../lua/sliding_window_log.lua"),
    include_str!("../lua/stateless.lua"),
];

/// A step, for a script.
#[derive(Debug)]
pub(super) struct Request {
    /// Those that it needs.
    rules: Rules,
    /// The step, as the script reads it.
    pub(super) argument: Vec<u8>,
}

/// Some of [`RULES`], one bit each.
type Rules = usize;

impl Request {
    /// For a step that is asked at that instant, or else at the server's own time.
    ///
    /// `None` if no script can decide it, because a user's own strategy keeps a limit.
    pub(super) fn new(step: &Step<'_>, asked_at: Option<Timestamp>) -> Option<Self> {
        if step.limits().is_empty() {
            return None;
        }
        let (op, taken_at) = match step.op() {
            Op::Drain => (5, Timestamp::ZERO),
            Op::Refund { .. } | Op::Charge if step.cost() == 0 => (7, Timestamp::ZERO),
            _ if step.cost() == 0 => (0, Timestamp::ZERO),
            Op::Peek => (0, Timestamp::ZERO),
            Op::Take => (1, Timestamp::ZERO),
            Op::Refund { taken_at } => (2, taken_at),
            Op::Charge => (3, Timestamp::ZERO),
            Op::TakeUpTo => (4, Timestamp::ZERO),
            Op::Reserve { within } => (6, Timestamp::ZERO.saturating_add(within)),
        };
        let asked_at = asked_at.map_or(SERVER_TIME, Timestamp::as_micros);
        let mut argument = Vec::with_capacity(HEADER + LIMIT * step.limits().len());
        argument.push(op);
        let cost = if step.op() == Op::Drain { 0 } else { step.cost() };
        argument.extend_from_slice(&cost.to_le_bytes());
        argument.extend_from_slice(&step.units_to_leave().to_le_bytes());
        argument.extend_from_slice(&taken_at.as_micros().to_le_bytes());
        argument.extend_from_slice(&asked_at.to_le_bytes());
        let mut rules = 0;
        for limit in step.limits() {
            let family = Family::of(limit)?;
            rules |= 1 << family.file();
            family.write(limit, &mut argument);
        }
        Some(Self { rules, argument })
    }

    /// Returns the script that decides the step on its key.
    pub(super) fn script(&self) -> &'static Script {
        static SCRIPTS: Scripts = Scripts::new(include_str!("../lua/one.lua"));
        SCRIPTS.with(self.rules)
    }

    /// Returns the script that decides steps on several keys, each by itself.
    pub(super) fn script_for_each<'a>(requests: impl Iterator<Item = &'a Self>) -> &'static Script {
        static SCRIPTS: Scripts = Scripts::new(include_str!("../lua/each.lua"));
        SCRIPTS.with(requests.fold(0, |rules, request| rules | request.rules))
    }

    /// Returns the script that decides hits of this step, one after the other.
    pub(super) fn script_for_times(&self) -> &'static Script {
        static SCRIPTS: Scripts = Scripts::new(include_str!("../lua/times.lua"));
        SCRIPTS.with(self.rules)
    }

    /// Returns how many equal hits one script is asked for: of those that it mostly repeats by itself more than of
    /// those for which it reads and writes each time.
    pub(super) const fn most_times(&self) -> usize {
        let is_one_limit = self.argument.len() == HEADER + LIMIT;
        if is_one_limit && self.rules & 1 << Family::SlidingWindowLog.file() == 0 {
            256
        } else {
            16
        }
    }

    /// Returns the script that decides hits on several keys, all or nothing.
    pub(super) fn script_for_all(requests: &[Self]) -> &'static Script {
        static SCRIPTS: Scripts = Scripts::new(include_str!("../lua/all.lua"));
        SCRIPTS.with(requests.iter().fold(0, |rules, request| rules | request.rules))
    }
}

/// The scripts with the same last file, one for each set of rules.
struct Scripts {
    last: &'static str,
    made: [OnceLock<Script>; 1 << RULES.len()],
}

impl Scripts {
    const fn new(last: &'static str) -> Self {
        Self { last, made: [const { OnceLock::new() }; 1 << RULES.len()] }
    }

    fn with(&self, rules: Rules) -> &Script {
        self.made[rules].get_or_init(|| {
            let rules = RULES.iter().enumerate().filter(|(file, _)| rules >> file & 1 == 1);
            let frame = [
                include_str!("../lua/codec.lua"),
                include_str!("../lua/several.lua"),
                include_str!("../lua/decide.lua"),
                self.last,
            ];
            let files = [include_str!("../lua/arithmetic.lua")].into_iter();
            Script::compose(files.chain(rules.map(|(_, text)| *text)).chain(frame))
        })
    }
}

/// The rule by which the scripts keep a limit, with its number there.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Family {
    Bucket = 1,
    FixedWindow = 2,
    SlidingWindowCounter = 3,
    SlidingWindowLog = 4,
    Unlimited = 5,
    DenyAll = 6,
}

impl Family {
    /// The rule that keeps a limit; `None` for a user's own strategy.
    fn of(limit: &Limit) -> Option<Self> {
        Some(match limit.compiled() {
            CompiledLimit::Unlimited => Self::Unlimited,
            CompiledLimit::DenyAll => Self::DenyAll,
            _ => match limit.builtin()? {
                Builtin::Bucket { .. } => Self::Bucket,
                Builtin::FixedWindow => Self::FixedWindow,
                Builtin::SlidingWindowCounter => Self::SlidingWindowCounter,
                Builtin::SlidingWindowLog => Self::SlidingWindowLog,
            },
        })
    }

    /// Its place in [`RULES`].
    const fn file(self) -> usize {
        match self {
            Self::Bucket => 0,
            Self::FixedWindow => 1,
            Self::SlidingWindowCounter => 2,
            Self::SlidingWindowLog => 3,
            Self::Unlimited | Self::DenyAll => 4,
        }
    }

    /// Writes a limit as a script reads it.
    fn write(self, limit: &Limit, argument: &mut Vec<u8>) {
        let rate = limit.rate();
        let burst = rate.effective_burst();
        let debt = match limit.builtin() {
            Some(Builtin::Bucket { debt }) => debt,
            _ => 0,
        };
        // The highest bit: a rate that the hit brought.
        argument.push(self as u8 | u8::from(limit.is_per_hit()) << 7);
        argument.extend_from_slice(&limit.strategy_id().raw().to_le_bytes());
        argument.extend_from_slice(&rate.period_micros().to_le_bytes());
        argument.extend_from_slice(&rate.limit().to_le_bytes());
        argument.extend_from_slice(&burst.to_le_bytes());
        argument.extend_from_slice(&(u64::from(burst) + u64::from(debt)).to_le_bytes());
    }
}

/// What a script found beside an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ScriptRefusal {
    /// A value that could not be read. It was replaced by one that holds this hit; the error policy
    /// decides about the hit.
    Corrupt(CorruptState),
    /// The hit would bring one rate more than its key can count.
    TooManyRates,
}

/// A reply that no script of ours gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the reply of the script is not {expected} integers in range")]
pub(super) struct BadReply {
    expected: usize,
}

/// Reads the reply to the request of that step.
pub(super) fn read(
    step: &Step<'_>,
    reply: &Value,
) -> Result<Result<Decision, ScriptRefusal>, BadReply> {
    let bad = BadReply { expected: REPLY_HEADER + REPLY_LIMIT * step.limits().len() };
    parse(step, reply).ok_or(bad)
}

/// Reads the reply to hits that are decided all or nothing; `None` if they could not be decided so.
pub(super) fn read_all<'a>(
    steps: impl ExactSizeIterator<Item = &'a Step<'a>>,
    reply: &Value,
) -> Result<Option<Vec<Decision>>, BadReply> {
    let bad = BadReply { expected: 1 + steps.len() };
    let Value::Array(replies) = reply else { return Err(bad) };
    let Some((code, replies)) = replies.split_first() else { return Err(bad) };
    let op = match integer(code) {
        Some(1) => Op::Take,
        Some(0) => Op::Peek,
        Some(-1) => return Ok(None),
        _ => return Err(bad),
    };
    if replies.len() != steps.len() {
        return Err(bad);
    }
    let mut decisions = Vec::with_capacity(replies.len());
    for (step, reply) in steps.zip(replies) {
        let step = Step::of_apart(step.limits(), step.cost(), op).leave(step.units_to_leave());
        decisions.push(read(&step, reply)?.map_err(|_refusal| bad)?);
    }
    Ok(Some(decisions))
}

fn parse(step: &Step<'_>, reply: &Value) -> Option<Result<Decision, ScriptRefusal>> {
    let Value::Array(numbers) = reply else { return None };
    let (header, numbers) = numbers.split_first_chunk::<REPLY_HEADER>()?;
    let [asked_at, at, refused] = header;
    if let Some(refusal) = read_refusal(step, integer(refused)?)? {
        return Some(Err(refusal));
    }
    let (numbers, rest) = numbers.as_chunks::<REPLY_LIMIT>();
    if numbers.len() != step.limits().len() {
        return None;
    }
    let mut answers = Vec::with_capacity(numbers.len());
    for numbers in numbers {
        answers.push(read_answer(numbers)?);
    }
    let (asked_at, at) = (instant(asked_at)?, instant(at)?);
    Some(Ok(match (rest, step.op()) {
        ([], _) => step.decision(&answers, asked_at, at),
        ([_, until], _) => {
            let decision = step.decision_taking(0, &answers, (asked_at, at));
            decision.blocked(instant(until)?, asked_at)
        }
        ([taken], Op::TakeUpTo | Op::Reserve { .. }) => {
            let taken = u32::try_from(integer(taken)?).ok()?;
            let decision = step.decision_taking(taken, &answers, (asked_at, at));
            match step.op() {
                Op::Reserve { .. } if taken > 0 && decision.is_denied() => {
                    decision.reserving(taken, at)
                }
                _ => decision,
            }
        }
        _ => return None,
    }))
}

fn read_answer([verdict, remaining, reset_at]: &[Value; REPLY_LIMIT]) -> Option<Answer> {
    Some(Answer {
        verdict: match integer(verdict)? {
            0 => Verdict::Allowed,
            -1 => Verdict::Never,
            _ => Verdict::Denied { retry_at: instant(verdict)? },
        },
        remaining: u32::try_from(integer(remaining)?).ok()?,
        reset_at: instant(reset_at)?,
    })
}

/// Returns what was found: 0 nothing, -1 too many rates, 1 that the whole value could not be read, else
/// that the part of a limit could not, counted from 2.
fn read_refusal(step: &Step<'_>, code: i64) -> Option<Option<ScriptRefusal>> {
    let corrupt = match code {
        0 => return Some(None),
        -1 => return Some(Some(ScriptRefusal::TooManyRates)),
        1 => CorruptState("the value is not a list of parts"),
        code => {
            let index = usize::try_from(code).ok()?.checked_sub(2)?;
            match step.limits().get(index)?.builtin()? {
                Builtin::Bucket { .. } => CorruptState("bucket: words out of range"),
                Builtin::FixedWindow => CorruptState("fixed window: words out of range"),
                Builtin::SlidingWindowCounter => {
                    CorruptState("sliding window counter: words out of range")
                }
                Builtin::SlidingWindowLog => CorruptState("sliding window log: wrong words"),
            }
        }
    };
    Some(Some(ScriptRefusal::Corrupt(corrupt)))
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
