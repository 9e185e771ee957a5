//! [`Share`]: the part of the limits that a fallback grants.

use std::num::NonZeroU32;

use crate::clock::micros_ceil;
use crate::decision::{Decision, Outcome};
use crate::on_error::OnError;
use crate::rate::Rate;
use crate::step::{MAX_LIMITS, Step};
use crate::strategy::Limit;

/// A part of a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) part: NonZeroU32,
    pub(super) whole: NonZeroU32,
}

impl Share {
    pub(super) const ALL: Self = Self { part: NonZeroU32::MIN, whole: NonZeroU32::MIN };

    fn is_all(self) -> bool {
        self.part == self.whole
    }

    /// Rounded up, so that it is nothing only of nothing.
    fn of(self, units: u32) -> u32 {
        let (part, whole) = (u64::from(self.part.get()), u64::from(self.whole.get()));
        u32::try_from((u64::from(units) * part).div_ceil(whole)).unwrap_or(units)
    }

    fn of_limit(self, limit: &Limit, more: u32) -> Limit {
        match limit.rate().is_unlimited() {
            true => limit.clone(),
            // What the strategy could not keep stays whole.
            false => {
                limit.with_rate(self.of_rate(limit.rate(), more)).unwrap_or_else(|| limit.clone())
            }
        }
    }

    fn of_rate(self, rate: &Rate, more: u32) -> Rate {
        let units = self.of(rate.limit()).saturating_add(more);
        let shared = Rate::from_micros(units, rate.period_micros());
        match rate.explicit_burst() {
            Some(burst) => shared.burst(self.of(burst)),
            None => shared,
        }
    }

    /// Returns the limits of the share; `None` if these are the limits as they are.
    pub(super) fn of_limits(self, limits: &[Limit]) -> Option<Vec<Limit>> {
        if self.is_all() {
            return None;
        }
        let mut all: Vec<Limit> = Vec::with_capacity(limits.len());
        for limit in limits {
            // Two that a hit brought may be one in parts, and must not share a state: then it is a unit more.
            let tries = (0..).take(MAX_LIMITS).map(|more| self.of_limit(limit, more));
            let is_free = |one: &Limit| {
                !one.is_per_hit() || all.iter().all(|other| other.part() != one.part())
            };
            let shared = tries.into_iter().find(is_free).unwrap_or_else(|| limit.clone());
            all.push(shared);
        }
        Some(all)
    }
}

/// Finishes what a fallback decided: it says so, and a hit that only its share can never let pass is denied for now.
pub(super) fn finish(decision: Decision, asked: &Step<'_>) -> Decision {
    let decision = decision.decided_by_fallback();
    match decision.outcome() == Outcome::Never && asked.never_passes().is_none() {
        true => decision.denied_instead_of_never(micros_ceil(OnError::DEFAULT_RETRY_AFTER)),
        false => decision,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::{FixedWindow, TokenBucket};

    fn share(part: u32, whole: u32) -> Share {
        let [part, whole] = [part, whole].map(|it| NonZeroU32::new(it).unwrap());
        Share { part, whole }
    }

    #[test]
    fn rounds_up_and_keeps_nothing_and_everything() {
        let quarter = share(1, 4);
        assert_eq!([0, 1, 4, 5, u32::MAX].map(|it| quarter.of(it)), [0, 1, 1, 2, 1 << 30]);
        assert_eq!(share(3, 3).of(u32::MAX), u32::MAX);
        assert!(share(7, 7).of_limits(&[]).is_none(), "nothing to change");
    }

    #[test]
    fn two_of_a_hit_are_not_one_in_parts() {
        let own = Limit::new(Rate::per_day(3), FixedWindow::new()).unwrap();
        let brought = [24, 7, 8].map(|units| own.with_rate(Rate::per_day(units)).unwrap());
        let shared =
            share(1, 4).of_limits(&brought.map(|limit| limit.brought_beside(&own))).unwrap();
        assert_eq!(shared.iter().map(|limit| limit.rate().limit()).collect::<Vec<_>>(), [6, 2, 3]);
    }

    #[test]
    fn limits_keep_their_period_and_name_and_what_cannot_be_shared() {
        let bucket = |rate: Rate| Limit::new(rate, TokenBucket::new()).unwrap();
        let limits = [
            bucket(Rate::per_minute(100).burst(10)).named("burst"),
            bucket(Rate::per_hour(0)),
            bucket(Rate::UNLIMITED),
            Limit::new(Rate::per_day(3), FixedWindow::new()).unwrap(),
        ];
        let shared = share(1, 4).of_limits(&limits).unwrap();
        let rates: Vec<Rate> = shared.iter().map(|limit| *limit.rate()).collect();
        let expected =
            [Rate::per_minute(25).burst(3), Rate::per_hour(0), Rate::UNLIMITED, Rate::per_day(1)];
        assert_eq!(rates, expected);
        assert_eq!(shared[0].name(), "burst");
        assert!(shared.iter().zip(&limits).all(|(one, other)| one.part() == other.part()));
    }
}
