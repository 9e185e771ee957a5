//! [`Decision`]: the answer to a hit.

mod allowed;
mod answer;
mod extra;
mod inline;
mod receipt;
mod shadowed;
mod taken;

use std::fmt;
use std::time::Duration;

pub use allowed::Allowed;
pub use answer::{LimitAnswer, Outcome};
pub use receipt::Receipt;
pub(crate) use receipt::Taker;
pub use shadowed::Shadowed;
pub use taken::Taken;

use crate::clock::{Timestamp, micros_ceil};
use crate::rate::Rate;
use crate::strategy::{Answer, Limit};
use answer::{LONGEST_WAIT, NEVER};
use extra::Extra;
pub(crate) use extra::{BroughtLimits, MAX_ANSWERS};
pub(crate) use inline::InlineDecision;

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
pub struct Decision {
    inline: InlineDecision,
    more: Extra,
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
    /// The key is [blocked](crate::Throttle::block), by hand or by a penalty.
    Blocked,
}

/// The source of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DecidedBy {
    /// The limits, by the backend's state.
    Backend,
    /// The limits, by the state of the fallback, for the backend did not answer; see
    /// [`Failover`](crate::decorator::Failover).
    Fallback,
    /// No limit was asked, because the key is exempt.
    Exempt,
    /// No limit was asked, because the rate is unlimited.
    Unlimited,
    /// The backend was full, and its overflow rule decided.
    Overflow,
    /// The backend failed, and the error policy decided; or the rate alone, if it can never let the hit
    /// pass.
    Policy,
    /// Nobody was asked, because the throttle is [off](crate::Mode::Off).
    Off,
}

impl DecidedBy {
    /// Returns whether limits were asked and decided, wherever their state is.
    pub(crate) const fn is_by_limits(self) -> bool {
        matches!(self, Self::Backend | Self::Fallback)
    }
}

impl Decision {
    /// Makes the decision over some limits from the answer of each. `took` is the cost if it was to be
    /// taken, and 0 else. The instants are the caller's, and that at which the hit counted.
    #[inline]
    pub(crate) fn over(
        limits: &[Limit],
        answers: &[Answer],
        instants: (Timestamp, Timestamp),
        took: u32,
    ) -> Self {
        match (limits, answers) {
            ([limit], [answer]) => InlineDecision::of_one(limit, *answer, instants, took).into(),
            ([first, second], [one, two]) => {
                InlineDecision::of_two([first, second], [*one, *two], instants, took).into()
            }
            _ => Self::over_many(limits, answers.iter().copied(), instants, took, |inline| inline),
        }
    }

    /// As [`over`](Self::over), of any number of limits. `finish` completes it, if any was asked.
    #[inline]
    pub(crate) fn over_many(
        limits: &[Limit],
        answers: impl Iterator<Item = Answer>,
        (asked_at, at): (Timestamp, Timestamp),
        took: u32,
        finish: impl FnOnce(InlineDecision) -> InlineDecision,
    ) -> Self {
        let mut all = Box::new([LimitAnswer::UNASKED; MAX_ANSWERS]);
        let mut asked = 0;
        for ((limit, answer), own) in limits.iter().zip(answers).zip(&mut *all) {
            *own = LimitAnswer::new(limit, answer, asked_at);
            asked += 1;
        }
        let by_rank = all[..asked].iter().enumerate().min_by_key(|(_, one)| one.rank());
        let Some((named, answer)) = by_rank else {
            return Self::pass(DecidedBy::Unlimited);
        };
        // Below 256.
        let index = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
        let inline = InlineDecision::naming(index(named), *answer, at, took);
        let inline = finish(InlineDecision { asked_and_shadowed: index(asked), ..inline });
        Self { inline, more: Extra { answers: Some(all), limits: None } }
    }

    /// Lets a hit pass without counting it: for an error handler.
    pub const fn allow() -> Self {
        Self::pass(DecidedBy::Policy)
    }

    /// Denies a hit, to be tried again after a while, 1 ms or more: for an error handler.
    pub fn deny(retry_after: Duration) -> Self {
        // A client that is told no time at all would come back at once, and again.
        const LEAST: u64 = 1_000;
        let wait = micros_ceil(retry_after).clamp(LEAST, LONGEST_WAIT);
        let answer = LimitAnswer { wait, reset_after: wait, limit: 0, burst: 0, remaining: 0 };
        let denial = Some(Denial::Policy);
        InlineDecision { denial, answer, ..InlineDecision::unasked(DecidedBy::Policy) }.into()
    }

    pub(crate) const fn pass(decided_by: DecidedBy) -> Self {
        Self { inline: InlineDecision::unasked(decided_by), more: Extra::NONE }
    }

    /// The answer for a new key when no more keys fit.
    pub(crate) fn overflow(rate: &Rate, admit: bool, retry_after: u64) -> Self {
        let (limit, burst) = (rate.limit(), rate.effective_burst());
        let mut inline = InlineDecision::unasked(DecidedBy::Overflow);
        if !admit {
            let (wait, reset_after) = (retry_after, retry_after);
            inline.denial = Some(Denial::Full);
            inline.answer = LimitAnswer { wait, reset_after, limit, burst, remaining: 0 };
        }
        inline.into()
    }

    /// Denies a hit of the throttle of that number, which the limit of that index can never let pass:
    /// without a state.
    pub(crate) fn never(limits: &[Limit], index: usize, throttle: u64) -> Self {
        let rate = limits[index].rate();
        let (limit, burst) = (rate.limit(), rate.effective_burst());
        let answer = LimitAnswer { wait: NEVER, reset_after: 0, limit, burst, remaining: 0 };
        let named = u8::try_from(index).unwrap_or(u8::MAX);
        let denial = Some(Denial::Never);
        let unasked = InlineDecision::unasked(DecidedBy::Policy);
        InlineDecision { denial, named, answer, bound_to: throttle, ..unasked }.into()
    }

    /// Returns the denial of a key that is blocked until then. What can never pass stays so.
    pub(crate) fn blocked(self, until: Timestamp, asked_at: Timestamp) -> Self {
        self.map(|inline| inline.blocked(until.as_micros().saturating_sub(asked_at.as_micros())))
    }

    /// As [`blocked`](Self::blocked), for that long.
    pub(crate) fn blocked_for(self, time: Duration) -> Self {
        self.map(|inline| inline.blocked(micros_ceil(time)))
    }

    /// Returns for how long the key is blocked; `None` if that is not why it is denied.
    pub(crate) const fn blocked_time(&self) -> Option<Duration> {
        match self.inline.denial {
            Some(Denial::Blocked) => Some(Duration::from_micros(self.inline.least_wait)),
            _ => None,
        }
    }

    /// Returns the denial of a hit that was taken in advance at that instant: its wait is that for its turn.
    pub(crate) fn reserving(self, taken: u32, at: Timestamp) -> Self {
        self.map(|inline| InlineDecision { taken, taken_at: at, ..inline })
    }

    /// Returns whether a hit that is denied for now was taken in advance.
    pub(crate) const fn is_reserved(&self) -> bool {
        self.inline.is_reserved()
    }

    /// Returns what a denial says that much later: its waits are shorter.
    pub(crate) fn later(mut self, time: Duration) -> Self {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.inline = self.inline.later(micros);
        for answer in self.more.answers.iter_mut().flat_map(|answers| answers.iter_mut()) {
            *answer = answer.later(micros);
        }
        self
    }

    /// Returns the outcome, where a turn that was taken in advance is one that comes.
    pub(crate) const fn outcome_with_turn(&self) -> Outcome {
        if self.is_reserved() { Outcome::Allowed } else { self.outcome() }
    }

    /// Returns the index of the limit that it names, if it asked any.
    pub(crate) fn named(&self) -> usize {
        usize::from(self.inline.named)
    }

    /// Returns the outcome: allowed, denied for now, or never.
    #[must_use]
    #[inline]
    pub const fn outcome(&self) -> Outcome {
        self.inline.outcome()
    }

    /// Returns `true` if the hit passes.
    #[must_use]
    #[inline]
    pub const fn is_allowed(&self) -> bool {
        self.inline.denial.is_none()
    }

    /// Returns `true` if the hit is denied, for now or for good.
    #[must_use]
    #[inline]
    pub const fn is_denied(&self) -> bool {
        self.inline.denial.is_some()
    }

    /// Returns why it is denied; `None` if it passes.
    #[must_use]
    pub const fn denial(&self) -> Option<Denial> {
        self.inline.denial
    }

    /// Returns who decided.
    #[must_use]
    pub const fn decided_by(&self) -> DecidedBy {
        self.inline.decided_by
    }

    /// Returns which limit denied, by its index among the limits of the hit; `None` if the hit passes
    /// or no limit denied it.
    ///
    /// [`Throttle::denied_by`](crate::Throttle::denied_by) gives the limit itself, also of a hit that
    /// brought its own rates.
    #[must_use]
    pub fn denied_by(&self) -> Option<usize> {
        self.inline.denied_by()
    }

    /// Returns the units in a period of the limit that the decision names; `u32::MAX` where no limit
    /// was asked, 0 for a denial by policy.
    #[must_use]
    #[inline]
    pub const fn limit(&self) -> u32 {
        self.inline.answer.limit
    }

    /// Returns the units that can pass at once after a pause, of the limit that the decision names.
    /// [`remaining`](Self::remaining) is never more.
    #[must_use]
    #[inline]
    pub const fn burst(&self) -> u32 {
        self.inline.answer.burst
    }

    /// Returns the whole units that would pass now, after this hit, of the limit that the decision
    /// names.
    #[must_use]
    #[inline]
    pub const fn remaining(&self) -> u32 {
        self.inline.answer.remaining
    }

    /// Returns how long until the limit that the decision names answers like a fresh one, if nobody
    /// else comes.
    #[must_use]
    #[inline]
    pub const fn reset_after(&self) -> Duration {
        self.inline.answer.reset_after()
    }

    /// Returns each limit's own answer, in the order of the hit's limits; nothing where no limit was
    /// asked.
    #[must_use]
    pub fn answers(&self) -> impl ExactSizeIterator<Item = LimitAnswer> + '_ {
        let many = self.more.answers.as_deref().map_or(&[][..], |all| &all[..]);
        (0..self.inline.asked()).map(move |index| match many.get(index) {
            Some(answer) => *answer,
            None if index == usize::from(self.inline.named) => self.inline.answer,
            None => self.inline.other.unwrap_or(self.inline.answer),
        })
    }

    /// Returns what the hit took, to be given back with
    /// [`Throttle::refund`](crate::Throttle::refund); `None` if it took nothing of this throttle's, as
    /// where an error policy decided. What an error handler took elsewhere, it must give back itself.
    #[must_use]
    pub fn receipt(self) -> Option<Receipt> {
        let InlineDecision { taken, taken_at, bound_to, decided_by, .. } = self.inline;
        let mut more = self.more;
        let limits = more.limits.take();
        let taker = match decided_by {
            DecidedBy::Fallback => Taker::Fallback,
            _ => Taker::Primary,
        };
        (taken > 0).then(|| Receipt::new(taken, taken_at, bound_to, taker, limits))
    }

    /// The same, marked as made by the fallback.
    pub(crate) fn decided_by_fallback(self) -> Self {
        self.map(|inline| match inline.decided_by {
            DecidedBy::Backend => InlineDecision { decided_by: DecidedBy::Fallback, ..inline },
            _ => inline,
        })
    }

    /// The same, but what it could never let pass is denied for that long, in microseconds.
    pub(crate) fn denied_instead_of_never(mut self, micros: u64) -> Self {
        let now = |answer: &mut LimitAnswer| {
            if answer.wait == NEVER {
                answer.wait = micros;
            }
        };
        if self.inline.denial == Some(Denial::Never) {
            self.inline.denial = Some(Denial::Limited);
        }
        now(&mut self.inline.answer);
        self.inline.other.iter_mut().for_each(now);
        self.more.answers.iter_mut().flat_map(|answers| answers.iter_mut()).for_each(now);
        self
    }

    /// The same, marked as made by an error policy.
    pub(crate) fn decided_by_policy(mut self) -> Self {
        self.inline.decided_by = DecidedBy::Policy;
        self.inline.taken = 0;
        // A handler may have asked another throttle, whose limits this one does not know.
        self.inline.bound_to = 0;
        self
    }

    /// The same with other figures.
    #[inline]
    pub(crate) fn map(mut self, change: impl FnOnce(InlineDecision) -> InlineDecision) -> Self {
        self.inline = change(self.inline);
        self
    }

    pub(crate) const fn is_bound_to(&self, fingerprint: u64) -> bool {
        self.inline.bound_to == fingerprint
    }

    /// Returns whether two are bound to the same: allowed ones to a throttle and a key.
    #[cfg(feature = "http")]
    pub(crate) const fn is_bound_as(&self, other: &Self) -> bool {
        self.inline.bound_to != 0 && self.inline.bound_to == other.inline.bound_to
    }

    /// Keeps the limits that the hit brought.
    pub(crate) fn with_limits(mut self, limits: BroughtLimits) -> Self {
        self.more.limits = Some(limits);
        self
    }

    /// The limits that the hit brought, if it did.
    pub(crate) fn brought(&self) -> Option<&[Limit]> {
        self.more.limits.as_deref()
    }
}

impl Clone for Decision {
    /// Clones all but the [`receipt`](Self::receipt).
    fn clone(&self) -> Self {
        Self { inline: InlineDecision { taken: 0, ..self.inline }, more: self.more.clone() }
    }
}

/// Compares what can be read, not the receipt.
impl PartialEq for Decision {
    fn eq(&self, other: &Self) -> bool {
        let said = |one: &InlineDecision| {
            (one.denial, one.decided_by, one.named, one.outcome(), one.answer)
        };
        said(&self.inline) == said(&other.inline)
            && self.shadowed() == other.shadowed()
            && self.answers().eq(other.answers())
    }
}

impl Eq for Decision {}

impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decision")
            .field("outcome", &self.outcome())
            .field("denial", &self.denial())
            .field("shadowed", &self.shadowed())
            .field("decided_by", &self.decided_by())
            .field("denied_by", &self.denied_by())
            .field("limit", &self.limit())
            .field("burst", &self.burst())
            .field("remaining", &self.remaining())
            .field("reset_after", &self.reset_after())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shadowed().is_some() {
            f.write_str("allowed in shadow mode: would be ")?;
        }
        if self.is_reserved()
            && let Outcome::Denied { retry_after } = self.outcome()
        {
            return write!(f, "reserved, passes in {retry_after:?}");
        }
        match (self.denial_or_shadowed(), self.outcome_or_shadowed()) {
            (None, _) if self.decided_by() == DecidedBy::Policy => {
                f.write_str("allowed by the error policy")
            }
            (None, _) if !self.decided_by().is_by_limits() => f.write_str("allowed, not counted"),
            (None, _) => write!(f, "allowed, {} of {} remaining", self.remaining(), self.burst()),
            (Some(Denial::Blocked), Outcome::Denied { retry_after }) => {
                write!(f, "blocked, retry after {retry_after:?}")
            }
            (Some(_), Outcome::Denied { retry_after }) => {
                write!(f, "denied, retry after {retry_after:?}")
            }
            (Some(_), _) if self.limit() == 0 => f.write_str("denied, the limit is 0"),
            (Some(_), _) => f.write_str("denied, asks for more than can ever pass at once"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_all_waits_are_shorter() {
        use crate::rate::Rate;
        use crate::strategy::{TokenBucket, Verdict};

        let at = Timestamp::from_micros(1_000);
        let answer = |wait: Option<u64>, reset: u64| Answer {
            verdict: wait.map_or(Verdict::Allowed, |wait| Verdict::Denied {
                retry_at: at.saturating_add_micros(wait),
            }),
            remaining: 3,
            reset_at: at.saturating_add_micros(reset),
        };
        let limit = |minutes: u64| {
            let rate = Rate::new(5, Duration::from_secs(60 * minutes)).unwrap();
            Limit::new(rate, TokenBucket::new()).unwrap()
        };
        let limits = [limit(1), limit(2), limit(3)];
        let answers = [answer(Some(50), 500), answer(Some(20), 30), answer(None, 0)];
        for count in 1..=3 {
            let denied = Decision::over(&limits[..count], &answers[..count], (at, at), 1);
            let later = denied.clone().later(Duration::from_nanos(30_999));
            let retry_after = Duration::from_micros(20);
            assert_eq!(later.outcome(), Outcome::Denied { retry_after });
            assert_eq!((later.remaining(), later.denied_by()), (3, Some(0)));
            assert_eq!(later.reset_after(), Duration::from_micros(470));
            let outcomes: Vec<Outcome> = later.answers().map(|one| one.outcome()).collect();
            let expected = [Outcome::Denied { retry_after }, Outcome::Allowed, Outcome::Allowed];
            assert_eq!(outcomes, expected[..count], "its wait is over, so it passes");
            assert_eq!(denied.clone().later(Duration::ZERO), denied);
        }
        let blocked = Decision::over(&limits[..1], &answers[2..], (at, at), 1);
        let blocked = blocked.blocked(at.saturating_add_micros(90), at);
        let later = blocked.later(Duration::from_micros(40));
        let retry_after = Duration::from_micros(50);
        assert_eq!(later.outcome(), Outcome::Denied { retry_after });
        assert_eq!(later.denial(), Some(Denial::Blocked));
    }

    #[test]
    fn a_decision_fits_two_cache_lines() {
        assert!(size_of::<Decision>() <= 120, "{}", size_of::<Decision>());
    }
}
