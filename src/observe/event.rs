//! [`Event`]: what an observer is told.

use std::time::Duration;

use crate::decision::{DecidedBy, Denial, Outcome, Shadowed};
use crate::error::{Effect, ErrorKind};
use crate::key::Key;

/// What an [`Observer`](super::Observer) is told.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A hit was decided.
    Decision(DecisionMade<'a>),
    /// A hit passed, and little is left.
    NearLimit(NearLimit<'a>),
    /// A new key found the memory full.
    Overflow(Overflowed<'a>),
    /// A backend failed.
    BackendFailed(BackendFailed<'a>),
    /// A circuit breaker opened, closed, or tries again. It also closes when its store is closed, with a lifespan,
    /// whatever its state was.
    CircuitChanged(CircuitChanged<'a>),
}

impl Event<'_> {
    /// Returns which event it is, in a word for a log.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Decision(_) => "decision",
            Self::NearLimit(_) => "near limit",
            Self::Overflow(_) => "overflow",
            Self::BackendFailed(_) => "backend failed",
            Self::CircuitChanged(_) => "circuit changed",
        }
    }
}

/// The decision about a hit.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct DecisionMade<'a> {
    /// The throttle's name.
    pub throttle: &'a str,
    /// The outcome, as the caller is told: allowed in [`Mode::Shadow`](crate::Mode::Shadow).
    pub outcome: Outcome,
    /// Why it was denied; `None` if it passed.
    pub denial: Option<Denial>,
    /// What it would have been, if it passed in [`Mode::Shadow`](crate::Mode::Shadow) alone.
    pub shadowed: Option<Shadowed>,
    /// Who decided.
    pub decided_by: DecidedBy,
    /// The units that it asked for.
    pub cost: u32,
    /// The name of the limit that the decision names: the one that denies, or that has the least left. `None` where no
    /// limit was asked.
    pub limit: Option<&'a str>,
    /// That limit came with the hit, and is not one of the throttle's. Do not make a label of its name: there is no
    /// bound to them but your own.
    pub is_brought: bool,
    /// It passed, and counts for nothing, because another entry of its [`all`](crate::all) was denied.
    pub withdrawn: bool,
    /// From the question to the decision; of [`all`](crate::all) that about all entries. Without the wait for a turn.
    pub elapsed: Duration,
    /// The key, if the throttle was built to [say it](crate::ThrottleBuilder::observe_raw_keys), and anybody
    /// was asked, or would have been.
    pub key: Option<Key<'a>>,
}

/// A hit passed that left little: see [`ThrottleBuilder::near_limit`](crate::ThrottleBuilder::near_limit). Told after
/// its [`DecisionMade`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct NearLimit<'a> {
    /// The throttle's name.
    pub throttle: &'a str,
    /// The limit's name.
    pub limit: &'a str,
    /// That limit came with the hit; see [`DecisionMade::is_brought`].
    pub is_brought: bool,
    /// The units that remain of it, after the hit.
    pub remaining: u32,
    /// The most that could remain of it.
    pub burst: u32,
    /// As [`DecisionMade::key`].
    pub key: Option<Key<'a>>,
}

/// A hit on a new key found the memory full, and its [overflow rule](crate::backend::Overflow) decided. Told after its
/// [`DecisionMade`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Overflowed<'a> {
    /// The throttle's name.
    pub throttle: &'a str,
    /// The rule lets new keys pass uncounted.
    pub is_allowed: bool,
    /// As [`DecisionMade::key`].
    pub key: Option<Key<'a>>,
}

/// A backend could not do what a throttle asked of it: one event for each hit or other call that failed.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct BackendFailed<'a> {
    /// The throttle's name.
    pub throttle: &'a str,
    /// The backend's name.
    pub backend: &'a str,
    /// The operation that failed.
    pub operation: &'a str,
    /// What kind of failure it was.
    pub kind: ErrorKind,
    /// Whether the operation may have happened all the same.
    pub effect: Effect,
}

/// A circuit breaker changed its state.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CircuitChanged<'a> {
    /// The name of the backend behind the breaker.
    pub backend: &'a str,
    /// The state that it had.
    pub from: CircuitState,
    /// The state that it has.
    pub to: CircuitState,
}

impl<'a> CircuitChanged<'a> {
    /// Creates the event, for a breaker.
    #[must_use]
    pub const fn new(backend: &'a str, from: CircuitState, to: CircuitState) -> Self {
        Self { backend, from, to }
    }
}

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CircuitState {
    /// Calls pass.
    Closed,
    /// Calls fail at once, without asking the store.
    Open,
    /// One call asks the store, whether it answers again; others fail at once.
    HalfOpen,
}
