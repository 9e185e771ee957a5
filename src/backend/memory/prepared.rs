//! [`Prepared`]: the fast path of one throttle's hits in memory.

#![expect(
    clippy::inline_always,
    reason = "without it a hit takes 1.45x the time: docs/performance.md"
)]

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::InMemory;
use super::hashed_key::HashedKey;
use super::state_ids::StateInfo;
use crate::backend::Result;
use crate::decision::{Decision, InlineDecision};
use crate::key::{Key, KeyPart};
use crate::step::{MAX_LIMITS, Step};
use crate::strategy::Limit;

/// The fast path of one throttle's hits, as [`Backend::prepare`](crate::Backend::prepare) returns it.
///
/// Opaque: only the in-memory backend makes one, and a backend that wraps another forwards it. It hashes
/// the keys, and knows the numbers under which the states of the throttle's limits are stored.
pub struct Prepared {
    backend: InMemory,
    throttle: Arc<str>,
    /// Of the throttle's own limits, in their order.
    states: Box<[Arc<StateInfo>]>,
    /// The list of the rates that hits bring; made when the first does.
    brought: OnceLock<Arc<StateInfo>>,
}

impl Prepared {
    pub(super) fn new(backend: InMemory, throttle: &str, limits: &[Limit]) -> Self {
        let states = limits.iter().map(|limit| backend.state_ids().of(throttle, limit)).collect();
        Self { backend, throttle: throttle.into(), states, brought: OnceLock::new() }
    }

    /// Counts a hit of one or two limits, which are the throttle's own, if that is all there is to it;
    /// `None`, without side effects, if the slow path is needed. Returns the hash of the key too.
    #[inline(always)]
    pub(crate) fn try_hit(
        &self,
        parts: &[KeyPart<'_>],
        limits: &[Limit],
        cost: u32,
    ) -> Option<(InlineDecision, u64)> {
        let inner = &*self.backend.inner;
        if inner.is_closed() {
            return None;
        }
        let key = HashedKey::new(inner.hasher(), parts);
        let decision = match (limits, &*self.states) {
            ([limit], [state]) => inner.store.hit_one(&key, limit, state, cost, || inner.now()),
            ([first, second], [one, two]) => {
                inner.store.hit_two(&key, [first, second], [one, two], cost, inner.now())
            }
            _ => None,
        };
        Some((decision?, key.hash()))
    }

    /// Decides any step on a key of the throttle. Inlined it costs a hit of several parts a tenth.
    #[inline(never)]
    pub(crate) fn apply(&self, parts: &[KeyPart<'_>], step: &Step<'_>) -> Result<Decision> {
        let inner = &*self.backend.inner;
        let mut states = [None; MAX_LIMITS];
        for (limit, state) in step.limits().iter().zip(&mut states) {
            *state = self.state_of(limit);
            if state.is_none() {
                // Of a receipt from before the throttle's rates were changed.
                return inner.apply(&Key::new(&self.throttle, parts), step);
            }
        }
        inner.check_open("apply")?;
        let key = HashedKey::new(inner.hasher(), parts);
        let ruling = inner.store.apply(&key, step, &states[..step.limits().len()], inner.now());
        inner.conclude(ruling)
    }

    /// Returns the hash of a key, by which a receipt is bound to it.
    pub(crate) fn hash_of(&self, parts: &[KeyPart<'_>]) -> u64 {
        HashedKey::new(self.backend.inner.hasher(), parts).hash()
    }

    fn state_of(&self, limit: &Limit) -> Option<&StateInfo> {
        if limit.is_per_hit() {
            let of = || self.backend.state_ids().of(&self.throttle, limit);
            return Some(self.brought.get_or_init(of));
        }
        let own = self.states.iter().find(|state| state.is_written_by(limit));
        own.map(|state| &**state)
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("throttle", &self.throttle).finish_non_exhaustive()
    }
}
