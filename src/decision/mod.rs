//! [`Decision`]: the answer to a hit.

mod answer;
mod receipt;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use answer::{LimitAnswer, Outcome};
pub use receipt::Receipt;

use crate::clock::{Timestamp, micros_ceil};
use crate::rate::Rate;
use crate::strategy::{Answer, Limit, Op, Step};
use answer::{ALLOWED, LONGEST_WAIT, NEVER};

/// The answer to a hit or a peek.
///
/// Branch on [`outcome`](Self::outcome), which has the three ways that a hit can go:
///
/// ```
/// use traffik::{InMemory, Outcome, Throttle};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let throttle = Throttle::builder("uploads").rate("0/day").backend(InMemory::new()).build()?;
/// let answer = match throttle.hit("alice").await?.outcome() {
///     Outcome::Allowed => "200".to_owned(),
///     Outcome::Denied { retry_after } => format!("429, come back in {retry_after:?}"),
///     Outcome::Never => "403, no wait helps".to_owned(),
/// };
/// assert_eq!(answer, "403, no wait helps");
/// # Ok(())
/// # }
/// ```
///
/// Of several limits the decision names one: the first that a hit of this cost can never pass, else the
/// one with the longest wait, else the one with the fewest units remaining; the earlier of equals.
/// [`limit`](Self::limit), [`burst`](Self::burst), [`remaining`](Self::remaining),
/// [`reset_after`](Self::reset_after) and the wait are all of that limit.
/// [`answers`](Self::answers) has each limit's own.
///
/// A clone has no [`receipt`](Self::receipt), so nothing is given back twice.
#[must_use = "a decision that is ignored limits nothing"]
#[derive(Debug)]
pub struct Decision {
    denial: Option<Denial>,
    source: Source,
    /// Index of the limit that it names.
    named: u8,
    /// How many limits were asked.
    asked: u8,
    /// The cost that was taken; 0 for none.
    taken: u32,
    taken_at: Timestamp,
    /// Of an allowed hit the throttle and the key, of a denied one the throttle.
    bound_to: u64,
    answer: LimitAnswer,
    others: Others,
}

/// Why a hit was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Denial {
    /// The limit is used up for now.
    Limited,
    /// The cost is more than can ever pass at once; waiting does not help.
    Never,
    /// The backend holds as many keys as it may, and this one is new.
    Full,
    /// The backend failed, and the error policy denies then.
    Policy,
}

/// Who decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// The limits, by the backend's state.
    Backend,
    /// Nobody needed to: the key was exempt.
    Exempt,
    /// Nobody needed to: the rate is unlimited.
    Unlimited,
    /// The backend was full, and its overflow rule decided.
    Overflow,
    /// The backend failed, and the error policy decided.
    Policy,
}

/// The answers of the limits that a decision does not name.
#[derive(Clone, Debug)]
enum Others {
    None,
    /// Of two limits, the other.
    One(LimitAnswer),
    Many(Box<Many>),
    /// None, and the one limit was brought by the hit.
    Brought(Arc<[Limit]>),
}

/// More than two limits, or several of which the hit brought some.
#[derive(Clone, Debug)]
struct Many {
    /// In order, the one that the decision names among them.
    answers: Vec<LimitAnswer>,
    limits: Option<Arc<[Limit]>>,
}

impl Decision {
    /// Makes the decision of a backend from the answer of each limit of a step, in its order.
    ///
    /// `asked_at` is the caller's time, to which the decision's waits are relative; `at` is the instant
    /// at which the step counted: that, or the latest that the key has seen. Without limits the hit
    /// passes.
    #[inline(always)]
    pub fn from_answers(
        step: &Step<'_>,
        answers: &[Answer],
        asked_at: Timestamp,
        at: Timestamp,
    ) -> Self {
        let limits = step.limits();
        let answer = |index: usize| LimitAnswer::new(&limits[index], answers[index], asked_at);
        let (named, answer, others) = match answers.len().min(limits.len()) {
            0 => return Self::pass(Source::Unlimited),
            1 => (0, answer(0), Others::None),
            2 => {
                let (first, second) = (answer(0), answer(1));
                match second.rank() < first.rank() {
                    false => (0, first, Others::One(second)),
                    true => (1, second, Others::One(first)),
                }
            }
            count => named_of_many((0..count).map(answer).collect()),
        };
        let denial = match answer.wait {
            ALLOWED => None,
            NEVER => Some(Denial::Never),
            _ => Some(Denial::Limited),
        };
        let takes = denial.is_none() && matches!(step.op(), Op::Take);
        Self {
            denial,
            source: Source::Backend,
            named,
            // At most `MAX_LIMITS`.
            asked: u8::try_from(answers.len()).unwrap_or(u8::MAX),
            taken: if takes { step.cost() } else { 0 },
            taken_at: at,
            bound_to: 0,
            answer,
            others,
        }
    }

    /// Lets a hit pass without counting it: for an error handler.
    pub const fn allow() -> Self {
        Self {
            denial: None,
            source: Source::Policy,
            named: 0,
            asked: 0,
            taken: 0,
            taken_at: Timestamp::ZERO,
            bound_to: 0,
            answer: LimitAnswer::UNASKED,
            others: Others::None,
        }
    }

    /// Denies a hit, to be tried again after a while: for an error handler.
    pub fn deny(retry_after: Duration) -> Self {
        let wait = micros_ceil(retry_after).min(LONGEST_WAIT);
        let answer = LimitAnswer { wait, reset_after: wait, limit: 0, burst: 0, remaining: 0 };
        Self { denial: Some(Denial::Policy), answer, ..Self::allow() }
    }

    pub(crate) const fn pass(source: Source) -> Self {
        let mut decision = Self::allow();
        decision.source = source;
        decision
    }

    /// The answer for a new key when no more keys fit.
    pub(crate) fn overflow(rate: &Rate, admit: bool, retry_after: u64) -> Self {
        let (limit, burst) = (rate.limit(), rate.effective_burst());
        let mut decision = Self::pass(Source::Overflow);
        decision.answer = LimitAnswer { limit, burst, ..LimitAnswer::UNASKED };
        if !admit {
            decision.denial = Some(Denial::Full);
            decision.answer.wait = retry_after;
            decision.answer.reset_after = retry_after;
            decision.answer.remaining = 0;
        }
        decision
    }

    /// Returns what a service branches on.
    #[must_use]
    #[inline]
    pub const fn outcome(&self) -> Outcome {
        self.answer.outcome()
    }

    /// Returns `true` if the hit passes.
    #[must_use]
    #[inline]
    pub const fn is_allowed(&self) -> bool {
        self.denial.is_none()
    }

    /// Returns `true` if the hit is denied, for now or for good.
    #[must_use]
    #[inline]
    pub const fn is_denied(&self) -> bool {
        self.denial.is_some()
    }

    /// Returns why it is denied; `None` if it passes.
    #[must_use]
    pub const fn denial(&self) -> Option<Denial> {
        self.denial
    }

    /// Returns who decided.
    #[must_use]
    pub const fn source(&self) -> Source {
        self.source
    }

    /// Returns which limit denied, by its index among the limits of the hit; `None` if the hit passes
    /// or no limit denied it.
    ///
    /// [`Throttle::denied_by`](crate::Throttle::denied_by) gives the limit itself, also of a hit that
    /// brought its own rates.
    #[must_use]
    pub fn denied_by(&self) -> Option<usize> {
        matches!(self.denial, Some(Denial::Limited | Denial::Never))
            .then_some(usize::from(self.named))
    }

    /// Returns the units in a period of the limit that the decision names; `u32::MAX` where no limit
    /// was asked, 0 for a denial by policy.
    #[must_use]
    #[inline]
    pub const fn limit(&self) -> u32 {
        self.answer.limit
    }

    /// Returns the units that can pass at once after a pause, of the limit that the decision names.
    /// [`remaining`](Self::remaining) is never more.
    #[must_use]
    #[inline]
    pub const fn burst(&self) -> u32 {
        self.answer.burst
    }

    /// Returns the whole units that would pass now, after this hit, of the limit that the decision
    /// names.
    #[must_use]
    #[inline]
    pub const fn remaining(&self) -> u32 {
        self.answer.remaining
    }

    /// Returns how long until the limit that the decision names answers like a fresh one, if nobody
    /// else comes.
    #[must_use]
    #[inline]
    pub const fn reset_after(&self) -> Duration {
        self.answer.reset_after()
    }

    /// Returns each limit's own answer, in the order of the hit's limits; nothing where no limit was
    /// asked.
    #[must_use]
    pub fn answers(&self) -> impl ExactSizeIterator<Item = LimitAnswer> + '_ {
        (0..usize::from(self.asked)).map(|index| match &self.others {
            _ if index == usize::from(self.named) => self.answer,
            Others::Many(many) => many.answers[index],
            Others::One(other) => *other,
            Others::None | Others::Brought(_) => self.answer,
        })
    }

    /// Returns what the hit took, to be given back with
    /// [`Throttle::refund`](crate::Throttle::refund); `None` if it took nothing.
    #[must_use]
    pub fn receipt(self) -> Option<Receipt> {
        (self.taken > 0).then(|| {
            let limits = match self.others {
                Others::Many(many) => many.limits,
                Others::Brought(limits) => Some(limits),
                Others::None | Others::One(_) => None,
            };
            Receipt::new(self.taken, self.taken_at, self.bound_to, limits)
        })
    }

    /// The denial waits at least this long. A denial that no wait ends stays as it is.
    #[inline(always)]
    pub(crate) fn wait_at_least(mut self, min_wait: u64) -> Self {
        // Allowed and never are the largest numbers, and stay.
        self.answer.wait = self.answer.wait.max(min_wait.min(LONGEST_WAIT));
        self
    }

    /// The same, marked as made by an error policy.
    pub(crate) fn by_policy(self) -> Self {
        Self { source: Source::Policy, taken: 0, ..self }
    }

    /// Binds it to a throttle, and of an allowed hit to its key.
    #[inline(always)]
    pub(crate) fn bound_to(mut self, fingerprint: u64) -> Self {
        self.bound_to = fingerprint;
        self
    }

    pub(crate) const fn is_bound_to(&self, fingerprint: u64) -> bool {
        self.bound_to == fingerprint
    }

    /// Keeps the limits that the hit brought.
    pub(crate) fn with_limits(mut self, limits: Arc<[Limit]>) -> Self {
        self.others = match self.asked {
            0 | 1 => Others::Brought(limits),
            _ => {
                let answers = self.answers().collect();
                Others::Many(Box::new(Many { answers, limits: Some(limits) }))
            }
        };
        self
    }

    /// The limits that the hit brought, if it did.
    pub(crate) fn brought(&self) -> Option<&[Limit]> {
        match &self.others {
            Others::Many(many) => many.limits.as_deref(),
            Others::Brought(limits) => Some(limits),
            Others::None | Others::One(_) => None,
        }
    }
}

/// The index and the answer that a decision over more than two limits names.
#[cold]
fn named_of_many(answers: Vec<LimitAnswer>) -> (u8, LimitAnswer, Others) {
    let mut named = 0;
    for index in 1..answers.len() {
        if answers[index].rank() < answers[named].rank() {
            named = index;
        }
    }
    let answer = answers[named];
    // At most `MAX_LIMITS` limits, which is below 256.
    let named = u8::try_from(named).unwrap_or(u8::MAX);
    (named, answer, Others::Many(Box::new(Many { answers, limits: None })))
}

impl Clone for Decision {
    /// Clones all but the [`receipt`](Self::receipt).
    fn clone(&self) -> Self {
        Self { taken: 0, others: self.others.clone(), ..*self }
    }
}

/// Compares what can be read, not the receipt.
impl PartialEq for Decision {
    fn eq(&self, other: &Self) -> bool {
        (self.denial, self.source, self.named) == (other.denial, other.source, other.named)
            && self.answer == other.answer
            && self.answers().eq(other.answers())
    }
}

impl Eq for Decision {}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.denial, self.outcome()) {
            (None, _) if self.source != Source::Backend => f.write_str("allowed, not counted"),
            (None, _) => write!(f, "allowed, {} of {} remaining", self.remaining(), self.burst()),
            (Some(_), Outcome::Denied { retry_after }) => {
                write!(f, "denied, retry after {retry_after:?}")
            }
            (Some(_), _) => f.write_str("denied, costs more than can ever pass"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_fits_two_cache_lines() {
        assert!(size_of::<Decision>() <= 112, "{}", size_of::<Decision>());
    }
}
