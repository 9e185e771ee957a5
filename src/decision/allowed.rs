//! [`Allowed`]: the decision of a hit that passed.

use std::ops::Deref;

use super::{Decision, Receipt};

/// The decision of a hit that passed, as [`Throttle::enforce`](crate::Throttle::enforce) returns it.
///
/// It may be ignored, which a [`Decision`] may not: whoever has it has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed(Decision);

impl Allowed {
    /// Tells a decision that allows from one that denies.
    pub(crate) fn of(decision: Decision) -> Result<Self, Decision> {
        if decision.is_allowed() { Ok(Self(decision)) } else { Err(decision) }
    }

    /// Returns what the hit took, as [`Decision::receipt`] does.
    #[must_use]
    pub fn receipt(self) -> Option<Receipt> {
        self.0.receipt()
    }

    /// Returns the decision.
    pub fn into_decision(self) -> Decision {
        self.0
    }
}

impl Deref for Allowed {
    type Target = Decision;

    fn deref(&self) -> &Decision {
        &self.0
    }
}
