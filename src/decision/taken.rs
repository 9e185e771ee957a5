//! [`Taken`]: the units that a hit of up to so many took.

use super::{Decision, Receipt};

/// The units that [`Throttle::take_up_to`](crate::Throttle::take_up_to) took, with its decision.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "only so many units may be used"]
pub struct Taken {
    units: u32,
    decision: Decision,
}

impl Taken {
    /// Of a decision about up to `asked` units.
    pub(crate) fn of(decision: Decision, asked: u32) -> Self {
        let units = match decision.decided_by() {
            _ if decision.is_denied() => 0,
            decided_by if decided_by.is_by_limits() => decision.inline.taken,
            _ => asked,
        };
        Self { units, decision }
    }

    /// Returns the units that may be used. Where no limit was asked (an exempt key, an unlimited rate, an
    /// error policy that lets pass), these are all that were asked for.
    #[must_use]
    pub const fn units(&self) -> u32 {
        self.units
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
