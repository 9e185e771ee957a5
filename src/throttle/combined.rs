//! [`CombinedDecision`]: the answer to several hits that count together or not at all.

use super::begun::BegunHit;
use super::{Permit, PermitDrop, Throttle};
use crate::decision::{BroughtLimits, Decision, Outcome};
use crate::key::OwnedKey;
use crate::step::Step;
use crate::strategy::Op;

/// The answer to [`all`](crate::all).
///
/// [`outcome`](Self::outcome) is that of the entry which decided: one that can never pass, else the one with the
/// longest wait. If all pass, [`into_permits`](Self::into_permits) gives what each took.
///
/// # Cancel safety
///
/// If the future of [`all`](crate::all) is dropped before all is decided, what it took is given back: the
/// question that is under way is asked to its end by a task of the runtime. Units stay used only if their backend
/// does not answer, or the runtime ends.
#[derive(Debug)]
#[must_use = "a decision that is ignored limits nothing"]
pub struct CombinedDecision {
    entries: Vec<EntryDecision>,
    /// The entry that decided, if it is denied.
    denied_by: Option<usize>,
    not_given_back: Vec<usize>,
}

/// The decision about one entry.
#[derive(Debug, Default)]
pub(super) struct EntryDecision {
    /// `None` if it was not asked.
    pub(super) decision: Option<Decision>,
    /// If all passed.
    pub(super) permit: Option<Permit>,
    /// If somebody looks on.
    pub(super) watched: Option<WatchedEntry>,
}

/// An entry of which those who look on are told when all are decided.
#[derive(Debug)]
pub(super) struct WatchedEntry {
    throttle: Throttle,
    hit: BegunHit,
    key: OwnedKey,
    brought: Option<BroughtLimits>,
    cost: u32,
}

impl WatchedEntry {
    /// `None` if nobody looks on.
    pub(super) fn new(
        throttle: &Throttle,
        hit: BegunHit,
        key: &OwnedKey,
        brought: Option<&BroughtLimits>,
        cost: u32,
    ) -> Option<Self> {
        hit.began.map(|_| Self {
            throttle: throttle.clone(),
            hit,
            key: key.clone(),
            brought: brought.cloned(),
            cost,
        })
    }

    fn tell(self, decision: &Decision, is_withdrawn: bool) {
        let Self { throttle, hit, key, brought, cost } = self;
        let limits = brought.as_deref().unwrap_or(throttle.limits());
        let step = Step::of_apart(limits, cost, Op::Take);
        throttle.tell_of_owned(hit, &key, &step, (decision, is_withdrawn));
    }
}

/// Tells those who look on of each entry that was asked.
fn tell(entries: &mut [EntryDecision], is_denied: bool) {
    for entry in entries {
        if let (Some(watched), Some(decision)) = (entry.watched.take(), &entry.decision) {
            watched.tell(decision, is_denied && decision.is_allowed());
        }
    }
}

impl CombinedDecision {
    pub(super) fn allowed(mut entries: Vec<EntryDecision>) -> Self {
        tell(&mut entries, false);
        Self { entries, denied_by: None, not_given_back: Vec::new() }
    }

    /// Keeps the units from now on when a permit is dropped: the caller has it.
    pub(super) fn claimed(mut self) -> Self {
        for entry in &mut self.entries {
            entry.permit = entry.permit.take().map(|permit| permit.on_drop(PermitDrop::Keep));
        }
        self
    }

    /// Of entries of which some were denied, and some keep their units all the same.
    pub(super) fn denied(mut entries: Vec<EntryDecision>, mut not_given_back: Vec<usize>) -> Self {
        tell(&mut entries, true);
        let rank = |outcome| match outcome {
            Outcome::Never => Some((1, None)),
            Outcome::Denied { retry_after } => Some((0, Some(retry_after))),
            Outcome::Allowed => None,
        };
        let ranked = entries.iter().enumerate().filter_map(|(index, entry)| {
            Some((rank(entry.decision.as_ref()?.outcome())?, std::cmp::Reverse(index)))
        });
        let denied_by = ranked.max().map(|(_, index)| index.0);
        not_given_back.sort_unstable();
        Self { entries, denied_by, not_given_back }
    }

    /// Returns the outcome for all together: allowed, denied for now, or never.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let denial = self.denied_by.and_then(|index| self.decision(index));
        denial.map_or(Outcome::Allowed, Decision::outcome)
    }

    /// Returns `true` if all passed, and all are counted.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        self.denied_by.is_none()
    }

    /// Returns `true` if one was denied, so that none is counted.
    #[must_use]
    pub const fn is_denied(&self) -> bool {
        self.denied_by.is_some()
    }

    /// Returns the entry that decided, by its place; `None` if all passed.
    #[must_use]
    pub const fn denied_by(&self) -> Option<usize> {
        self.denied_by
    }

    /// Returns the decision about the entry of that place; `None` if there is none, or if it was not asked, because
    /// one before it was denied. Entries that are one, of the same throttle and key, have the same.
    ///
    /// If the whole is denied, a decision that allows says what a peek would; or, where one is asked after the
    /// other, what its hit was told before it was given back.
    #[must_use]
    pub fn decision(&self, entry: usize) -> Option<&Decision> {
        self.entries.get(entry)?.decision.as_ref()
    }

    /// Returns the decision about each entry, as [`decision`](Self::decision) does.
    #[must_use]
    pub fn decisions(&self) -> impl ExactSizeIterator<Item = Option<&Decision>> {
        self.entries.iter().map(|entry| entry.decision.as_ref())
    }

    /// Returns the entries whose units are still used though the whole is denied: they were taken before, and
    /// their backend failed when they were to be given back, or has not answered by the deadline. In that case it
    /// may still come.
    #[must_use]
    pub fn not_given_back(&self) -> &[usize] {
        &self.not_given_back
    }

    /// Returns what each entry took, in their order.
    ///
    /// # Errors
    ///
    /// The decision itself, if it is denied.
    pub fn into_permits(self) -> Result<Vec<Permit>, Self> {
        if self.is_denied() {
            return Err(self);
        }
        Ok(self.entries.into_iter().filter_map(|entry| entry.permit).collect())
    }

    /// The decision of the entry that decided.
    pub(super) fn into_denial(mut self) -> Decision {
        let decision = self.denied_by.and_then(|index| self.entries[index].decision.take());
        decision.unwrap_or_else(|| Decision::deny(std::time::Duration::ZERO))
    }
}
