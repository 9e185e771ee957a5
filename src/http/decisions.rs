//! [`Decisions`]: what the throttles decided about a request, as an extension.

use std::sync::Arc;

use super::rule::Rule;
use crate::decision::{Decision, Outcome};
use crate::throttle::Throttle;

/// What the throttles decided about a request.
///
/// A [`ThrottleLayer`](super::ThrottleLayer) puts it into the extensions of the request that it lets pass, and of the
/// response. Of nested layers it has the decisions of all that put them there ([`DecisionsIn`]), those of the outer ones
/// first. Of a request that no rule concerns, that is skipped, or that comes while the layer is
/// [off](super::Mode::Off), it is empty. A throttle that is off is not in it. With the feature `axum` it is an extractor.
#[derive(Clone, Debug, Default)]
pub struct Decisions {
    all: Arc<[RequestDecision]>,
}

/// In which extensions the [`Decisions`] of a layer are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DecisionsIn {
    /// In those of the request, for handlers, and of its response, for layers around. The default.
    #[default]
    Both,
    /// In those of the request.
    Request,
    /// In none, which saves a request some allocations. Of layers around each other that share a throttle, the log does
    /// not say that it counts twice.
    Neither,
}

/// What one throttle decided about a request.
#[derive(Clone, Debug)]
pub struct RequestDecision {
    /// Its place among the rules of its layer.
    pub(super) rule: usize,
    /// Clients are told of its limits.
    pub(super) is_told: bool,
    pub(super) throttle: Throttle,
    pub(super) decision: Decision,
}

impl RequestDecision {
    /// Returns the throttle.
    #[must_use]
    pub const fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    /// Returns its decision. It has no receipt: the layer keeps that.
    ///
    /// Where no limit was asked, as for an exempt key or an unlimited rate, its
    /// [`remaining`](Decision::remaining) is `u32::MAX`: see [`decided_by`](Decision::decided_by).
    pub const fn decision(&self) -> &Decision {
        &self.decision
    }
}

impl RequestDecision {
    pub(super) fn of(index: usize, rule: &Rule, decision: Decision) -> Self {
        Self { rule: index, is_told: rule.has_fields, throttle: rule.throttle.clone(), decision }
    }

    /// Returns whether two allowed hits were counted for one key of one throttle.
    pub(super) fn is_same_count(&self, other: &Self) -> bool {
        let (one, other) = (&self.decision, &other.decision);
        one.is_counted() && other.is_counted() && one.is_bound_as(other)
    }
}

impl Decisions {
    pub(super) fn of(all: impl Into<Arc<[RequestDecision]>>) -> Self {
        Self { all: all.into() }
    }

    /// Those of an outer layer, and then these.
    pub(super) fn after(&self, outer: &Self) -> Self {
        Self { all: outer.iter().chain(self.iter()).cloned().collect() }
    }

    pub(super) fn as_slice(&self) -> &[RequestDecision] {
        &self.all
    }

    /// Returns each decision, in the order of the layers and their rules. A throttle that was not asked, since one
    /// before it denied, is not among them.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &RequestDecision> {
        self.as_slice().iter()
    }

    /// Returns the one that a client feels first, or would if none were in [`Mode::Shadow`](super::Mode::Shadow): one
    /// that denies, else the one with the smallest share remaining. `None` if no throttle was asked.
    #[must_use]
    pub fn narrowest(&self) -> Option<&RequestDecision> {
        narrowest(self.iter(), |one| &one.decision)
    }

    /// Returns the outcome of all together.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let enforced = self.iter().filter(|one| one.decision.is_denied());
        let denied = narrowest(enforced, |one| &one.decision);
        denied.map_or(Outcome::Allowed, |denied| denied.decision.outcome())
    }

    /// Returns the decision of the throttle of that name; the last one, if it was asked more than once.
    #[must_use]
    pub fn of_throttle(&self, name: &str) -> Option<&Decision> {
        let of_name = |one: &&RequestDecision| one.throttle.name() == name;
        self.as_slice().iter().rfind(of_name).map(|one| &one.decision)
    }
}

/// Returns the one that a client feels first: what never passes, the longest wait, the smallest share.
pub(super) fn narrowest<T>(
    mut all: impl Iterator<Item = T>,
    decision_of: impl Fn(&T) -> &Decision,
) -> Option<T> {
    let mut narrowest = all.next()?;
    for other in all {
        if felt(decision_of(&other)) < felt(decision_of(&narrowest)) {
            narrowest = other;
        }
    }
    Some(narrowest)
}

/// Returns the place of the one that would be felt first of those that would have been denied.
pub(super) fn narrowest_shadow(all: &[RequestDecision]) -> Option<usize> {
    let shadows = all.iter().enumerate().filter(|(_, one)| one.decision.shadowed().is_some());
    narrowest(shadows, |(_, one)| &one.decision).map(|(place, _)| place)
}

/// Smaller is felt before larger.
fn felt(decision: &Decision) -> (u8, u128) {
    match decision.outcome_or_shadowed() {
        Outcome::Never => (0, 0),
        Outcome::Denied { retry_after } => (1, u128::MAX - retry_after.as_micros()),
        Outcome::Allowed => {
            let (remaining, burst) = (decision.remaining(), decision.burst().max(1));
            (2, ((u64::from(remaining) << 32) / u64::from(burst)).into())
        }
    }
}
