//! [`Decision`]: the answer to a hit, and [`Receipt`]: what the hit took.

use std::fmt;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::rate::Rate;
use crate::strategy::{Answer, Limit, Verdict};

/// The answer to a hit or a peek.
#[must_use = "a decision that is ignored limits nothing"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    denial: Option<Denial>,
    source: Source,
    /// Index of the limit that speaks: the one that denied, or the one with least remaining.
    speaker: u8,
    limit: u32,
    remaining: u32,
    /// The cost that was taken; 0 for none.
    taken: u32,
    /// In microseconds; [`NO_WAIT`] for none.
    retry_after: u64,
    reset_after: u64,
    taken_at: Timestamp,
    /// Of the throttle and the key.
    fingerprint: u64,
    /// Of the hit's own rate, whose limit is `limit`; 0 if it had none.
    own_period: u64,
}

const NO_WAIT: u64 = u64::MAX;
const LONGEST_WAIT: u64 = NO_WAIT - 1;

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

impl Decision {
    /// Lets a hit pass without counting it: for an error handler.
    pub const fn allow() -> Self {
        Self {
            denial: None,
            source: Source::Policy,
            speaker: 0,
            limit: u32::MAX,
            remaining: u32::MAX,
            taken: 0,
            retry_after: NO_WAIT,
            reset_after: 0,
            taken_at: Timestamp::ZERO,
            fingerprint: 0,
            own_period: 0,
        }
    }

    /// Denies a hit, to be tried again after a while: for an error handler.
    pub fn deny(retry_after: Duration) -> Self {
        let wait = LONGEST_WAIT.min(crate::clock::micros_ceil(retry_after));
        Self {
            denial: Some(Denial::Policy),
            limit: 0,
            remaining: 0,
            retry_after: wait,
            reset_after: wait,
            ..Self::allow()
        }
    }

    pub(crate) const fn pass(source: Source) -> Self {
        Self { source, ..Self::allow() }
    }

    /// The answer for a new key when no more keys fit.
    pub(crate) fn overflow(limit: &Rate, admit: bool, retry_after: u64) -> Self {
        let allowed = Self { source: Source::Overflow, limit: limit.limit(), ..Self::allow() };
        if admit {
            return allowed;
        }
        Self {
            denial: Some(Denial::Full),
            remaining: 0,
            retry_after,
            reset_after: retry_after,
            ..allowed
        }
    }

    /// Whether the hit passes.
    #[must_use]
    #[inline]
    pub const fn is_allowed(&self) -> bool {
        self.denial.is_none()
    }

    /// Whether the hit is denied.
    #[must_use]
    #[inline]
    pub const fn is_denied(&self) -> bool {
        self.denial.is_some()
    }

    /// Why it is denied; `None` if it passes.
    #[must_use]
    pub const fn denial(&self) -> Option<Denial> {
        self.denial
    }

    /// Who decided.
    #[must_use]
    pub const fn source(&self) -> Source {
        self.source
    }

    /// Which of several limits denied, by its index in the order of the throttle's builder; the one with the longest wait if several did. `None` if the hit passes or no limit denied it.
    /// [`Throttle::denied_by`](crate::Throttle::denied_by) gives the limit itself.
    #[must_use]
    pub fn denied_by(&self) -> Option<usize> {
        matches!(self.denial, Some(Denial::Limited | Denial::Never))
            .then_some(usize::from(self.speaker))
    }

    /// Units in a period, of the limit that denied or else of the one with the least remaining;
    /// `u32::MAX` where no limit was asked, 0 for a denial by policy.
    #[must_use]
    #[inline]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Whole units that would pass now, after this hit; the least over several limits.
    #[must_use]
    #[inline]
    pub const fn remaining(&self) -> u32 {
        self.remaining
    }

    /// The least wait after which the same hit passes if nobody else comes, in microseconds rounded up;
    /// the longest over the limits that denied. `None` if it passes, and also if it never will: ask
    /// [`is_denied`](Self::is_denied) to tell them apart.
    #[must_use]
    #[inline]
    pub fn retry_after(&self) -> Option<Duration> {
        (self.retry_after != NO_WAIT).then(|| Duration::from_micros(self.retry_after))
    }

    /// How long until the limiter answers like a fresh one if nobody else comes; the longest over
    /// several limits.
    #[must_use]
    #[inline]
    pub const fn reset_after(&self) -> Duration {
        Duration::from_micros(self.reset_after)
    }

    /// What the hit took, to be given back with [`Throttle::refund`](crate::Throttle::refund); `None`
    /// if it took nothing.
    #[must_use]
    pub fn receipt(self) -> Option<Receipt> {
        (self.taken > 0).then_some(Receipt(self))
    }

    /// The denial waits at least this long. A denial that no wait ends stays as it is.
    #[inline(always)]
    pub(crate) fn wait_at_least(self, min_wait: u64) -> Self {
        // No wait is the largest number, and stays.
        Self { retry_after: self.retry_after.max(min_wait.min(LONGEST_WAIT)), ..self }
    }

    /// The same, marked as made by an error policy.
    pub(crate) fn by_policy(self) -> Self {
        Self { source: Source::Policy, taken: 0, ..self }
    }

    /// Binds what was taken to a throttle and key.
    #[inline(always)]
    pub(crate) fn bound_to(self, fingerprint: u64) -> Self {
        Self { fingerprint, ..self }
    }

    /// Notes that the hit had a rate of its own.
    pub(crate) fn by_rate(mut self, rate: Option<Rate>) -> Self {
        self.own_period = rate.map_or(0, |rate| rate.period_micros());
        self
    }
}

/// What a hit took, to be given back once.
///
/// It belongs to the throttle and the key of the hit. It holds the cost and the instant: a bucket
/// takes the cost back at any time, up to its capacity; a window takes it back only while the same
/// window lasts.
#[derive(Debug)]
#[must_use = "a receipt does nothing by itself; give it to Throttle::refund"]
pub struct Receipt(Decision);

impl Receipt {
    /// The cost that was taken.
    #[must_use]
    pub const fn cost(&self) -> u32 {
        self.0.taken
    }

    /// The instant at which it was taken, by the backend's clock.
    #[must_use]
    pub const fn taken_at(&self) -> Timestamp {
        self.0.taken_at
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        self.0.fingerprint
    }

    /// The hit's own rate, if it had one; without its burst, which a refund has no use for.
    pub(crate) fn rate(&self) -> Option<Rate> {
        (self.0.own_period > 0).then(|| Rate::from_micros(self.0.limit, self.0.own_period))
    }
}

/// Joins the answers of several limits into one decision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    denial: Option<Denial>,
    speaker: u8,
    limit: u32,
    spoken_remaining: u32,
    remaining: u32,
    retry_at: Timestamp,
    fresh_at: Timestamp,
}

impl Tally {
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self {
            denial: None,
            speaker: 0,
            limit: u32::MAX,
            spoken_remaining: u32::MAX,
            remaining: u32::MAX,
            retry_at: Timestamp::ZERO,
            fresh_at: Timestamp::ZERO,
        }
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, index: usize, limit: &Limit, answer: Answer) {
        self.remaining = self.remaining.min(answer.remaining);
        self.fresh_at = self.fresh_at.max(answer.fresh_at);
        let speaks = match answer.verdict {
            Verdict::Allowed => {
                self.denial.is_none() && answer.remaining < self.spoken_remaining || index == 0
            }
            Verdict::Denied { retry_at } => {
                let first = self.denial.is_none();
                let longer = self.denial == Some(Denial::Limited) && retry_at > self.retry_at;
                self.denial = self.denial.or(Some(Denial::Limited));
                self.retry_at = self.retry_at.max(retry_at);
                first || longer
            }
            Verdict::Never => self.denial.replace(Denial::Never) != Some(Denial::Never),
        };
        if speaks {
            // At most `MAX_LIMITS` limits, which is below 256.
            self.speaker = u8::try_from(index).unwrap_or(u8::MAX);
            self.limit = limit.rate().limit();
            self.spoken_remaining = answer.remaining;
        }
    }

    #[inline(always)]
    pub(crate) fn allowed(&self) -> bool {
        self.denial.is_none()
    }

    /// The decision for a caller whose clock says `asked_at`, of a step that counted at `at`.
    #[inline(always)]
    pub(crate) fn decision(self, asked_at: Timestamp, at: Timestamp, took: u32) -> Decision {
        let from_now =
            |instant: Timestamp| instant.as_micros().saturating_sub(asked_at.as_micros());
        let denied_for_now = self.denial == Some(Denial::Limited);
        Decision {
            denial: self.denial,
            source: Source::Backend,
            speaker: self.speaker,
            limit: self.limit,
            remaining: self.remaining,
            taken: if self.denial.is_none() { took } else { 0 },
            retry_after: if denied_for_now { from_now(self.retry_at) } else { NO_WAIT },
            reset_after: from_now(self.fresh_at),
            taken_at: at,
            fingerprint: 0,
            own_period: 0,
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.denial {
            None if self.limit == u32::MAX => f.write_str("allowed, not counted"),
            None => write!(f, "allowed, {} of {} remaining", self.remaining, self.limit),
            Some(Denial::Never) => f.write_str("denied, costs more than can ever pass"),
            Some(_) => {
                write!(f, "denied, retry after {:?}", self.retry_after().unwrap_or_default())
            }
        }
    }
}
