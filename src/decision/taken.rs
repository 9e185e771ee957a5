//! [`Taken`]: the units that a hit of up to so many took.

use super::{Decision, Receipt};

/// The units that [`Throttle::take_up_to`](crate::Throttle::take_up_to) took, with its decision.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "only so many units may be used"]
pub struct Taken {
    units: u32,
    /// Without a shadow.
    enforced: u32,
    decision: Decision,
}

impl Taken {
    /// Of a decision about up to `asked` units.
    pub(crate) fn of(decision: Decision, asked: u32) -> Self {
        let enforced = match decision.decided_by() {
            _ if decision.denial_or_shadowed().is_some() => 0,
            decided_by if decided_by.is_by_limits() => decision.inline.taken,
            _ => asked,
        };
        Self { units: enforced, enforced, decision }
    }

    /// Gives all that was asked for, whatever was taken.
    pub(crate) fn in_shadow(self, asked: u32) -> Self {
        Self { units: asked, ..self }
    }

    /// Returns the units that may be used. Where no limit was asked (an exempt key, an unlimited rate, an
    /// error policy that lets pass) or in [`Mode::Shadow`](crate::Mode::Shadow), these are all that were asked for.
    #[must_use]
    pub const fn units(&self) -> u32 {
        self.units
    }

    /// Returns the units that [`Mode::Enforce`](crate::Mode::Enforce) gives, which are fewer than [`units`](Self::units) only in
    /// [`Mode::Shadow`](crate::Mode::Shadow). Where limits were asked, these were taken.
    #[must_use]
    pub const fn enforced_units(&self) -> u32 {
        self.enforced
    }

    /// Returns the decision: a denial if no unit was taken, with the wait for one.
    pub const fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Returns what was taken, to be given back, as [`Decision::receipt`] does.
    #[must_use]
    pub fn receipt(self) -> Option<Receipt> {
        self.decision.receipt()
    }
}
