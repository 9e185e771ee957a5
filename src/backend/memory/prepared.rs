//! [`Prepared`]: the fast path of one throttle's hits in memory.

#![expect(
    clippy::inline_always,
    reason = "without it a hit takes 1.45x the time: docs/performance.md"
)]

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::InMemory;
use super::state_ids::StateInfo;
use crate::backend::Result;
use crate::clock::Timestamp;
use crate::decision::{Decision, InlineDecision};
use crate::key::{Key, KeyPart};
use crate::step::{MAX_LIMITS, Step};
use crate::strategy::meter::Demand;
use crate::strategy::{Limit, Op};

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

    /// Returns whether it was made for these limits, in their order: a wrapper may have asked for others.
    pub(crate) fn is_of(&self, limits: &[Limit]) -> bool {
        limits.len() == self.states.len()
            && limits.iter().zip(&self.states).all(|(limit, state)| state.is_written_by(limit))
    }

    /// Decides a hit or a peek of one or two limits, which are the throttle's own, if that is all there is to it;
    /// `None`, without side effects, if the slow path is needed. Returns the hash of the key too.
    #[inline(always)]
    pub(crate) fn try_hit(
        &self,
        parts: &[KeyPart<'_>],
        limits: &[Limit],
        demand: (Demand, Op),
    ) -> Option<(InlineDecision, u64)> {
        let inner = &*self.backend.inner;
        if inner.is_closed() {
            return None;
        }
        match (limits, &*self.states) {
            ([limit], [state]) => {
                let key = inner.hasher().key(parts);
                let decision = inner.store.hit_one(&key, limit, state, demand, || inner.now());
                Some((decision?, key.hash))
            }
            ([first, second], [one, two]) => {
                let key = inner.hasher().key(parts);
                let (limits, states) = ([first, second], [&**one, &**two]);
                let decision = inner.store.hit_two(&key, limits, states, demand, inner.now());
                Some((decision?, key.hash))
            }
            _ => None,
        }
    }

    /// As [`try_hit`](Self::try_hit), of more limits, which need memory of their own for the answers. `finish`
    /// completes the decision by the hash of the key.
    #[inline]
    pub(crate) fn try_several(
        &self,
        parts: &[KeyPart<'_>],
        limits: &[Limit],
        demand: (Demand, Op),
        finish: impl FnOnce(InlineDecision, u64) -> InlineDecision,
    ) -> Option<Decision> {
        let inner = &*self.backend.inner;
        if inner.is_closed() || limits.len() != self.states.len() {
            return None;
        }
        let key = inner.hasher().key(parts);
        let states = self.states.iter().map(|state| Some(&**state));
        let finish = |inline| finish(inline, key.hash);
        inner.store.hit_several(&key, limits, states, demand, inner.now(), finish)
    }

    /// As [`try_hit`](Self::try_hit), of one rate that the hit brings.
    pub(crate) fn try_brought(
        &self,
        parts: &[KeyPart<'_>],
        limit: &Limit,
        demand: (Demand, Op),
    ) -> Option<(InlineDecision, u64)> {
        let inner = &*self.backend.inner;
        let state = self.state_of(limit)?;
        if inner.is_closed() {
            return None;
        }
        let key = inner.hasher().key(parts);
        let decision = match limit.is_per_hit() {
            true => inner.store.hit_brought(&key, limit, state, demand, inner.now()),
            false => inner.store.hit_one(&key, limit, state, demand, || inner.now()),
        };
        Some((decision?, key.hash))
    }

    /// Gives back what a hit of the throttle's own limit took, of a key whose hash is right: `Some(false)` if it is
    /// not. `None`, with nothing done, if the slow path is needed.
    pub(crate) fn try_refund(
        &self,
        parts: &[KeyPart<'_>],
        limits: &[Limit],
        taken: (u32, Timestamp),
        is_right: impl FnOnce(u64) -> bool,
    ) -> Option<bool> {
        let inner = &*self.backend.inner;
        let ([limit], [state]) = (limits, &*self.states) else { return None };
        if inner.is_closed() {
            return None;
        }
        let key = inner.hasher().key(parts);
        if !is_right(key.hash) {
            return Some(false);
        }
        inner.store.refund_one(&key, limit, state, taken, inner.now())?;
        Some(true)
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
        let key = inner.hasher().key(parts);
        let ruling = inner.store.apply(&key, step, &states[..step.limits().len()], inner.now());
        inner.conclude(ruling)
    }

    /// Returns the hash of a key, by which a receipt is bound to it.
    pub(crate) fn hash_of(&self, parts: &[KeyPart<'_>]) -> u64 {
        self.backend.inner.hasher().key(parts).hash
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
