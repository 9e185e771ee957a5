//! [`BegunHit`]: a hit that is under way, from its begin to what its caller is told.

use tokio::time::Instant;

use super::watch::DecidedHit;
use super::{Mode, Throttle};
use crate::clock::monotonic_now;
use crate::decision::{DecidedBy, Decision};
use crate::key::{self, KeyPart, OwnedKey, ToKey};
use crate::step::Step;

/// A hit that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct BegunHit {
    /// In which it began, and ends.
    pub(super) mode: Mode,
    /// If somebody looks on.
    pub(super) began: Option<Instant>,
}

impl BegunHit {
    /// Makes of what was decided what the caller is told.
    pub(super) fn told(self, decision: Decision) -> Decision {
        match self.mode {
            Mode::Shadow => decision.shadow(),
            Mode::Enforce | Mode::Off => decision,
        }
    }
}

impl Throttle {
    /// Begins a hit in the throttle's mode.
    pub(super) fn begin(&self) -> BegunHit {
        self.begin_in(self.mode())
    }

    pub(super) fn begin_in(&self, mode: Mode) -> BegunHit {
        BegunHit { mode, began: self.inner.watch.is_some().then(monotonic_now) }
    }

    /// Ends a hit: makes of what was decided what the caller is told, and tells those who look on. Each hit ends once.
    /// The key is that which is stored, if anybody was asked.
    pub(super) fn end(
        &self,
        hit: BegunHit,
        key: Option<&[KeyPart<'_>]>,
        step: &Step<'_>,
        decision: Decision,
    ) -> Decision {
        let decision = hit.told(decision);
        self.tell_of(&DecidedHit { hit, key, step, decision: &decision, is_withdrawn: false });
        decision
    }

    /// As [`end`](Self::end), of a key that was kept.
    pub(super) fn end_owned(
        &self,
        hit: BegunHit,
        key: &OwnedKey,
        step: &Step<'_>,
        decision: Decision,
    ) -> Decision {
        let decision = hit.told(decision);
        self.tell_of_owned(hit, key, step, (&decision, false));
        decision
    }

    /// Tells those who look on of a decision, and whether it was withdrawn.
    pub(super) fn tell_of_owned(
        &self,
        hit: BegunHit,
        key: &OwnedKey,
        step: &Step<'_>,
        (decision, is_withdrawn): (&Decision, bool),
    ) {
        if hit.began.is_none() {
            return;
        }
        let (parts, mut room) = (key.to_key(), None);
        let key = parts.as_slice().ok().flatten().map(|parts| key::bounded(parts, &mut room));
        self.tell_of(&DecidedHit { hit, key, step, decision, is_withdrawn });
    }

    /// Ends a hit of which nobody is asked, because the throttle is off.
    pub(super) fn end_off(&self, hit: BegunHit, step: &Step<'_>) -> Decision {
        debug_assert_eq!(hit.mode, Mode::Off, "others are asked");
        self.end(hit, None, step, Decision::pass(DecidedBy::Off))
    }
}
