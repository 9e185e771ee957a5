//! [`LimitAnswer`]: the answer of one limit, and [`Outcome`]: the three ways that a hit can go.

#![expect(
    clippy::inline_always,
    reason = "without it a hit takes 1.16x the time: docs/performance.md"
)]

use std::time::Duration;

use crate::clock::Timestamp;
use crate::strategy::{Answer, Limit, Verdict};

/// The outcome of a hit, to branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the three ways that a hit can go")]
pub enum Outcome {
    /// The hit passes.
    Allowed,
    /// The hit does not pass now.
    Denied {
        /// The least wait after which the same hit passes if nobody else comes; where no limit denied it
        /// (a full memory, an error policy) or the throttle has a `min_retry_after`, what these say, in
        /// microseconds rounded up.
        retry_after: Duration,
    },
    /// The hit costs more than can ever pass at once; waiting does not help.
    Never,
}

/// One limit's own answer to a hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitAnswer {
    /// In microseconds, or one of the two numbers below.
    pub(super) wait: u64,
    pub(super) reset_after: u64,
    pub(super) limit: u32,
    pub(super) burst: u32,
    pub(super) remaining: u32,
}

/// The wait of a hit that passes.
pub(super) const ALLOWED: u64 = u64::MAX;
/// The wait of a hit that never passes.
pub(super) const NEVER: u64 = u64::MAX - 1;
pub(super) const LONGEST_WAIT: u64 = u64::MAX - 2;

impl LimitAnswer {
    /// Of a decision that asked no limit.
    pub(super) const UNASKED: Self = Self {
        wait: ALLOWED,
        reset_after: 0,
        limit: u32::MAX,
        burst: u32::MAX,
        remaining: u32::MAX,
    };

    #[inline(always)]
    pub(super) fn new(limit: &Limit, answer: Answer, asked_at: Timestamp) -> Self {
        let from_now =
            |instant: Timestamp| instant.as_micros().saturating_sub(asked_at.as_micros());
        let rate = limit.rate();
        Self {
            wait: match answer.verdict {
                Verdict::Allowed => ALLOWED,
                Verdict::Denied { retry_at } => from_now(retry_at),
                Verdict::Never => NEVER,
            },
            reset_after: from_now(answer.reset_at),
            limit: rate.limit(),
            burst: rate.effective_burst(),
            remaining: answer.remaining,
        }
    }

    /// As it is so many microseconds later, if nobody else comes; the units are as they were.
    pub(super) const fn later(self, micros: u64) -> Self {
        let wait = match self.wait {
            ALLOWED | NEVER => self.wait,
            wait if wait <= micros => ALLOWED,
            wait => wait - micros,
        };
        Self { wait, reset_after: self.reset_after.saturating_sub(micros), ..self }
    }

    /// Returns whether this limit lets the hit pass.
    #[must_use]
    #[inline]
    pub const fn outcome(&self) -> Outcome {
        match self.wait {
            ALLOWED => Outcome::Allowed,
            NEVER => Outcome::Never,
            wait => Outcome::Denied { retry_after: Duration::from_micros(wait) },
        }
    }

    /// Returns the units in a period.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Returns the units that can pass at once after a pause.
    #[must_use]
    pub const fn burst(&self) -> u32 {
        self.burst
    }

    /// Returns the whole units that would pass now, after this hit.
    #[must_use]
    pub const fn remaining(&self) -> u32 {
        self.remaining
    }

    /// Returns how long until this limit answers like a fresh one if nobody else comes.
    #[must_use]
    pub const fn reset_after(&self) -> Duration {
        Duration::from_micros(self.reset_after)
    }

    /// In microseconds.
    #[cfg(feature = "http")]
    pub(crate) const fn micros_to_reset(&self) -> u64 {
        self.reset_after
    }

    /// Orders by what a decision names: smaller is named before larger.
    #[inline(always)]
    pub(super) fn rank(&self) -> u128 {
        let (class, within) = match self.wait {
            NEVER => (0, 0),
            ALLOWED => (2, u64::from(self.remaining)),
            wait => (1, LONGEST_WAIT - wait.min(LONGEST_WAIT)),
        };
        class << 64 | u128::from(within)
    }
}
