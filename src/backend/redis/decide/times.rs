//! Equal hits that one script decided: what it says of each.

use ::redis::Value;

use super::{BadReply, ScriptRefusal, instant, integer, read};
use crate::backend::redis::connection::own_error;
use crate::backend::redis::failure::Failure;
use crate::decision::Decision;
use crate::step::{Repeat, Step};
use crate::strategy::State;

/// The third number of a reply of which each hit is to be made here.
const REPEATED: i64 = -2;
/// The numbers of such a reply.
const LEN: usize = 9;

/// What became of one of several equal hits.
pub(in crate::backend::redis) type HitOutcome = Result<Result<Decision, ScriptRefusal>, Failure>;

/// Reads the reply to so many hits of that step. There is an outcome for each, or for the first of them, one at
/// least: the others were not asked then.
pub(in crate::backend::redis) fn read_times(
    step: &Step<'_>,
    times: usize,
    reply: Value,
) -> Result<Vec<HitOutcome>, BadReply> {
    let bad = BadReply { expected: LEN };
    let Value::Array(replies) = reply else { return Err(bad) };
    if let [Value::Int(_), ..] = replies[..] {
        return repeat(step, times, &replies).ok_or(bad);
    }
    if replies.is_empty() || replies.len() > times {
        return Err(bad);
    }
    let mut outcomes: Vec<HitOutcome> = Vec::with_capacity(times);
    let mut last = None;
    for reply in replies {
        last = Some(reply.clone());
        outcomes.push(outcome(step, reply)?);
    }
    // It left all as it was, so that those who follow are told the same.
    if outcomes.last().is_some_and(changed_nothing)
        && let Some(last) = last
    {
        while outcomes.len() < times {
            outcomes.push(outcome(step, last.clone())?);
        }
    }
    Ok(outcomes)
}

fn outcome(step: &Step<'_>, reply: Value) -> Result<HitOutcome, BadReply> {
    Ok(match own_error(reply) {
        Ok(reply) => Ok(read(step, &reply)?),
        Err(error) => Err(Failure::of(error)),
    })
}

fn changed_nothing(outcome: &HitOutcome) -> bool {
    match outcome {
        Ok(Ok(decision)) => decision.is_denied(),
        Ok(Err(ScriptRefusal::TooManyRates)) | Err(_) => true,
        Ok(Err(ScriptRefusal::Corrupt(_))) => false,
    }
}

/// Makes the hits once more on the state that they found. `None` if the script cannot have made them.
fn repeat(step: &Step<'_>, times: usize, reply: &[Value]) -> Option<Vec<HitOutcome>> {
    let [asked_at, at, kind, length, first, second, last, over_at, passed] = reply else {
        return None;
    };
    if integer(kind)? != REPEATED {
        return None;
    }
    let words = [u64::try_from(integer(first)?).ok()?, u64::try_from(integer(second)?).ok()?];
    let words = words.get(..usize::try_from(integer(length)?).ok()?)?.to_vec();
    let state = State::new(instant(last)?, words);
    let mut hits = Repeat::new(*step, state, instant(over_at)?, instant(asked_at)?)?;
    let outcomes: Vec<HitOutcome> =
        (0..times).map(|_| hits.hit().map(|decision| Ok(Ok(decision)))).collect::<Option<_>>()?;
    let is_same =
        hits.at() == instant(at)? && hits.passed() == u64::try_from(integer(passed)?).ok()?;
    is_same.then_some(outcomes)
}
