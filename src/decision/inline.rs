//! [`InlineDecision`]: a decision that fits without heap memory.
//!
//! It is copied and has nothing to drop, so a hit in memory hands it on in registers, where the functions that make it
//! are inlined. A [`Decision`] in its place lies in memory wherever something might unwind, and what is moved in memory
//! just after it was written by parts waits for the writes: `docs/performance.md`, "What waits for what".

#![expect(
    clippy::inline_always,
    reason = "without it a hit takes 1.16x the time: docs/performance.md"
)]

use super::answer::{ALLOWED, LONGEST_WAIT, LimitAnswer, NEVER, Outcome};
use super::{DecidedBy, Decision, Denial, Extra};
use crate::clock::Timestamp;
use crate::strategy::{Answer, Limit};

/// A decision with the answers of up to two limits, which is all that it has of more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InlineDecision {
    pub(super) denial: Option<Denial>,
    pub(super) decided_by: DecidedBy,
    /// Index of the limit that it names.
    pub(super) named: u8,
    /// How many limits were asked, in four bits; above them what a shadow let pass: see [`Decision::shadowed`].
    pub(super) asked_and_shadowed: u8,
    /// The cost that was taken; 0 for none.
    pub(super) taken: u32,
    pub(super) taken_at: Timestamp,
    /// Of an allowed hit the throttle and the key, of a denied one the throttle.
    pub(super) bound_to: u64,
    /// The least wait that the throttle tells, in microseconds; its limits may tell less.
    pub(super) least_wait: u64,
    /// Of the limit that it names.
    pub(super) answer: LimitAnswer,
    /// Of two limits, the other's.
    pub(super) other: Option<LimitAnswer>,
}

impl InlineDecision {
    /// Nobody was asked.
    pub(super) const fn unasked(decided_by: DecidedBy) -> Self {
        Self {
            denial: None,
            decided_by,
            named: 0,
            asked_and_shadowed: 0,
            taken: 0,
            taken_at: Timestamp::ZERO,
            bound_to: 0,
            least_wait: 0,
            answer: LimitAnswer::UNASKED,
            other: None,
        }
    }

    /// Of one limit. `took` is the cost if it was to be taken, and 0 else.
    #[inline(always)]
    pub(crate) fn of_one(
        limit: &Limit,
        answer: Answer,
        (asked_at, at): (Timestamp, Timestamp),
        took: u32,
    ) -> Self {
        let answer = LimitAnswer::new(limit, answer, asked_at);
        Self { asked_and_shadowed: 1, ..Self::naming(0, answer, at, took) }
    }

    /// As [`of_one`](Self::of_one), of two limits.
    #[inline(always)]
    pub(crate) fn of_two(
        limits: [&Limit; 2],
        answers: [Answer; 2],
        (asked_at, at): (Timestamp, Timestamp),
        took: u32,
    ) -> Self {
        let first = LimitAnswer::new(limits[0], answers[0], asked_at);
        let second = LimitAnswer::new(limits[1], answers[1], asked_at);
        let (named, answer, other) = match second.rank() < first.rank() {
            false => (0, first, second),
            true => (1, second, first),
        };
        Self { asked_and_shadowed: 2, other: Some(other), ..Self::naming(named, answer, at, took) }
    }

    /// With the answer of the limit that it names.
    #[inline(always)]
    pub(super) fn naming(named: u8, answer: LimitAnswer, at: Timestamp, took: u32) -> Self {
        let denial = match answer.wait {
            ALLOWED => None,
            NEVER => Some(Denial::Never),
            _ => Some(Denial::Limited),
        };
        Self {
            denial,
            named,
            taken: if denial.is_none() { took } else { 0 },
            taken_at: at,
            answer,
            ..Self::unasked(DecidedBy::Backend)
        }
    }

    /// Returns which limit denied.
    pub(super) fn denied_by(&self) -> Option<usize> {
        matches!(self.denial, Some(Denial::Limited | Denial::Never))
            .then_some(usize::from(self.named))
    }

    #[inline]
    pub(crate) const fn is_allowed(&self) -> bool {
        self.denial.is_none()
    }

    /// Returns whether a hit that is denied for now was taken in advance.
    pub(crate) const fn is_reserved(&self) -> bool {
        self.denial.is_some() && self.taken > 0
    }

    /// The denial waits at least this long. A denial that no wait ends stays as it is.
    #[inline]
    pub(crate) fn wait_at_least(self, min_retry_after: u64) -> Self {
        Self { least_wait: self.least_wait.max(min_retry_after.min(LONGEST_WAIT)), ..self }
    }

    /// Denied by a block for that many microseconds. The outcome of what can never pass stays that.
    #[cold]
    pub(super) fn blocked(self, micros: u64) -> Self {
        Self { denial: Some(Denial::Blocked), taken: 0, ..self }.wait_at_least(micros.max(1))
    }

    /// As it is so many microseconds later.
    #[cold]
    pub(super) fn later(self, micros: u64) -> Self {
        let answer = self.answer.later(micros);
        let other = self.other.map(|other| other.later(micros));
        Self { answer, other, least_wait: self.least_wait.saturating_sub(micros), ..self }
    }

    /// Returns what a service branches on.
    #[inline]
    pub(super) const fn outcome(&self) -> Outcome {
        if self.denial.is_none() {
            // In a shadow, whatever the limits say.
            return Outcome::Allowed;
        }
        let mut answer = self.answer;
        if answer.wait == ALLOWED {
            // By a block, whatever the limits say.
            answer.wait = 0;
        }
        // Never is the larger number, and stays.
        if answer.wait < self.least_wait {
            answer.wait = self.least_wait;
        }
        answer.outcome()
    }

    /// Binds it to a throttle, and of an allowed hit to its key.
    #[inline]
    pub(crate) fn bound_to(self, fingerprint: u64) -> Self {
        Self { bound_to: fingerprint, ..self }
    }
}

impl From<InlineDecision> for Decision {
    #[inline]
    fn from(inline: InlineDecision) -> Self {
        Self { inline, more: Extra::NONE }
    }
}
