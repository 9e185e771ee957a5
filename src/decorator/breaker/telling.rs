//! [`Telling`]: changes of a circuit are told in the order in which they happen.

use std::collections::VecDeque;

use parking_lot::{Mutex, RwLock};
use tracing::{debug, info, warn};

use super::circuit::Transition;
use crate::backend::BackendCore;
use crate::observe::{CircuitChanged, CircuitState, Event, Observers};
use crate::on_drop::OnDrop;

/// Who is told of changes, and those of which nobody has been told.
#[derive(Debug, Default)]
pub(super) struct Telling {
    backlog: Mutex<Backlog>,
    observers: RwLock<Observers>,
}

#[derive(Debug, Default)]
struct Backlog {
    waiting: VecDeque<Untold>,
    /// Somebody tells of them, and goes on with those that are added meanwhile.
    is_told: bool,
}

/// A change, and the failure that caused it.
#[derive(Debug)]
struct Untold {
    change: Transition,
    cause: String,
}

impl Telling {
    pub(super) fn observe(&self, add: impl FnOnce(&mut Observers)) {
        add(&mut self.observers.write());
    }

    /// Adds a change. Call it while the circuit is locked, or a later change could come before.
    pub(super) fn add(&self, change: Transition, cause: String) {
        self.backlog.lock().waiting.push_back(Untold { change, cause });
    }

    /// Tells of what was added, unless somebody does. Call it outside of locks: who is told may ask for the state.
    #[cold]
    pub(super) fn tell(&self, core: &BackendCore) {
        let mut next = {
            let mut backlog = self.backlog.lock();
            if backlog.is_told { None } else { backlog.next() }
        };
        while let Some(untold) = next {
            // A subscriber of tracing may panic. What is left is told with the next change.
            let broken = OnDrop::new(|| self.backlog.lock().is_told = false);
            self.tell_of(core, &untold);
            broken.defuse();
            next = self.backlog.lock().next();
        }
    }

    fn tell_of(&self, core: &BackendCore, Untold { change, cause }: &Untold) {
        let (backend, namespace) = (core.name(), core.namespace());
        let (from, to) = change.states();
        // An observer may add another.
        let observers = self.observers.read().clone();
        observers.tell(&Event::CircuitChanged(CircuitChanged::new(backend, from, to)));
        let error = &**cause;
        match change {
            Transition::Opened { pause, failures } => {
                warn!(
                    backend,
                    namespace,
                    error,
                    failures_in_a_row = failures,
                    ?pause,
                    "the circuit opened"
                );
            }
            Transition::ProbeFailed { pause } => {
                debug!(backend, namespace, error, ?pause, "a probe failed, the circuit stays open");
            }
            Transition::Probing | Transition::ProbeVoid => {}
            Transition::Reset { .. } => {
                debug!(backend, namespace, "the store was closed, and its circuit begins anew");
            }
            Transition::Closed { open_for, .. } => {
                info!(backend, namespace, ?open_for, "the circuit closed: the store answers again");
            }
        }
    }
}

impl Backlog {
    fn next(&mut self) -> Option<Untold> {
        let next = self.waiting.pop_front();
        self.is_told = next.is_some();
        next
    }
}

impl Transition {
    /// Returns the state before, and that after it.
    const fn states(&self) -> (CircuitState, CircuitState) {
        match self {
            Self::Opened { .. } => (CircuitState::Closed, CircuitState::Open),
            Self::Probing => (CircuitState::Open, CircuitState::HalfOpen),
            Self::ProbeFailed { .. } | Self::ProbeVoid => {
                (CircuitState::HalfOpen, CircuitState::Open)
            }
            Self::Closed { was_probing: true, .. } | Self::Reset { was_probing: true } => {
                (CircuitState::HalfOpen, CircuitState::Closed)
            }
            Self::Closed { .. } | Self::Reset { .. } => (CircuitState::Open, CircuitState::Closed),
        }
    }
}
