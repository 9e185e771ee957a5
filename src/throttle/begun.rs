//! [`BegunHit`]: a hit that is under way, from its begin to what its caller is told.

use super::{Mode, Throttle};
use crate::decision::{DecidedBy, Decision};

/// A hit that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct BegunHit {
    /// In which it began, and ends.
    pub(super) mode: Mode,
}

impl Throttle {
    /// Begins a hit in the throttle's mode.
    pub(super) fn begin(&self) -> BegunHit {
        self.begin_in(self.mode())
    }

    pub(super) fn begin_in(&self, mode: Mode) -> BegunHit {
        BegunHit { mode }
    }

    /// Ends a hit: makes of what was decided what the caller is told. Each hit comes here once.
    pub(super) fn end(&self, hit: BegunHit, decision: Decision) -> Decision {
        match hit.mode {
            Mode::Shadow => decision.shadow(),
            Mode::Enforce | Mode::Off => decision,
        }
    }

    /// Ends a hit of which nobody is asked, because the throttle is off.
    pub(super) fn end_off(&self, hit: BegunHit) -> Decision {
        debug_assert_eq!(hit.mode, Mode::Off, "others are asked");
        self.end(hit, Decision::pass(DecidedBy::Off))
    }
}
