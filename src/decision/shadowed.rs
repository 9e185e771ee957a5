//! [`Shadowed`]: what a hit would have been, that only its throttle's mode let pass.

use super::{Decision, Denial, InlineDecision, Outcome};

/// What a hit would have been that passed in [`Mode::Shadow`](crate::Mode::Shadow) alone; see
/// [`Decision::shadowed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shadowed {
    denial: Denial,
    outcome: Outcome,
    denied_by: Option<usize>,
}

impl Shadowed {
    /// Returns why it would have been denied.
    #[must_use]
    pub const fn denial(&self) -> Denial {
        self.denial
    }

    /// Returns the outcome that it would have had, with the wait: denied for now, or never.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Returns which limit would have denied, as [`Decision::denied_by`] does of a denial.
    #[must_use]
    pub const fn denied_by(&self) -> Option<usize> {
        self.denied_by
    }
}

impl Decision {
    /// Returns what the hit would have been, if it passed in [`Mode::Shadow`](crate::Mode::Shadow) alone; `None` of
    /// a hit that passed by itself, or was denied.
    ///
    /// Such a hit consumed nothing. All figures of the decision are those of the denial:
    /// [`remaining`](Self::remaining), [`reset_after`](Self::reset_after), and the [`answers`](Self::answers) of its
    /// limits, which deny.
    #[must_use]
    pub fn shadowed(&self) -> Option<Shadowed> {
        let denied = InlineDecision { denial: Some(self.inline.shadowed()?), ..self.inline };
        let denied_by = denied.denied_by();
        Some(Shadowed { denial: denied.denial?, outcome: denied.outcome(), denied_by })
    }

    /// Lets a denial pass that is only looked at.
    pub(crate) fn shadow(self) -> Self {
        self.map(InlineDecision::shadow)
    }

    /// Returns whether it passed by itself.
    #[cfg(feature = "http")]
    pub(crate) fn is_counted(&self) -> bool {
        self.denial_or_shadowed().is_none()
    }

    /// Returns why it is denied, or would be.
    pub(crate) fn denial_or_shadowed(&self) -> Option<Denial> {
        self.denial().or_else(|| self.inline.shadowed())
    }

    /// Returns the outcome that it has, or would have.
    pub(crate) fn outcome_or_shadowed(&self) -> Outcome {
        self.shadowed().map_or_else(|| self.outcome(), |shadowed| shadowed.outcome)
    }

    /// Returns which limit denies, or would.
    pub(crate) fn denied_by_or_shadowed(&self) -> Option<usize> {
        self.denied_by().or_else(|| self.shadowed()?.denied_by)
    }
}

impl Denial {
    /// A number of four bits, above zero.
    const fn code(self) -> u8 {
        match self {
            Self::Limited => 1,
            Self::Never => 2,
            Self::Full => 3,
            Self::Policy => 4,
            Self::Blocked => 5,
        }
    }

    const fn of_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Limited),
            2 => Some(Self::Never),
            3 => Some(Self::Full),
            4 => Some(Self::Policy),
            5 => Some(Self::Blocked),
            _ => None,
        }
    }
}

/// The bits that count the limits.
const COUNT: u8 = 0b1111;

impl InlineDecision {
    /// Returns how many limits were asked.
    pub(super) const fn asked(&self) -> usize {
        (self.asked_and_shadowed & COUNT) as usize
    }

    const fn shadowed(&self) -> Option<Denial> {
        Denial::of_code(self.asked_and_shadowed >> 4)
    }

    #[cold]
    fn shadow(self) -> Self {
        let Some(denial) = self.denial else { return self };
        let asked_and_shadowed = self.asked_and_shadowed & COUNT | denial.code() << 4;
        Self { denial: None, taken: 0, asked_and_shadowed, ..self }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{DecidedBy, MAX_ANSWERS};
    use super::*;

    #[test]
    fn each_denial_comes_back_beside_each_count() {
        assert!(MAX_ANSWERS <= usize::from(COUNT));
        let denials =
            [Denial::Limited, Denial::Never, Denial::Full, Denial::Policy, Denial::Blocked];
        for denial in denials {
            for asked in 0..=8 {
                let denied = InlineDecision {
                    denial: Some(denial),
                    asked_and_shadowed: asked,
                    taken: 3,
                    ..InlineDecision::unasked(DecidedBy::Backend)
                };
                let shadow = denied.shadow();
                assert_eq!((shadow.denial, shadow.taken), (None, 0));
                assert_eq!(shadow.shadowed(), Some(denial));
                assert_eq!(shadow.asked(), usize::from(asked));
                assert_eq!(shadow.outcome(), Outcome::Allowed);
            }
        }
    }

    #[test]
    fn what_passes_by_itself_casts_no_shadow() {
        let allowed = Decision::allow().shadow();
        assert_eq!((allowed.shadowed(), allowed.is_allowed()), (None, true));
        let denied = Decision::deny(Duration::from_secs(2));
        let (outcome, shadow) = (denied.outcome(), denied.clone().shadow());
        assert_ne!(denied, shadow);
        assert_eq!(shadow.shadowed().map(|it| it.outcome()), Some(outcome));
        assert_eq!(shadow.to_string(), "allowed in shadow mode: would be denied, retry after 2s");
        assert!(shadow.receipt().is_none());
    }
}
