//! Hits on several keys in one critical section, all or nothing.
//!
//! The shards of the keys are locked in the order of their numbers, and nobody else holds two at a time, so no
//! two such calls wait for each other.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use super::shard::NoRoom;
use super::state_ids::StateInfo;
use super::store::{Ruling, Store};
use super::stored_key::HashedKey;
use crate::clock::Timestamp;
use crate::decision::Decision;
use crate::step::{MAX_LIMITS, Step};
use crate::strategy::{Limit, Op};

/// A hit on one key among several.
pub(super) struct KeyedHit<'a> {
    key: HashedKey,
    limits: &'a [Limit],
    cost: u32,
    leave: u32,
    states: Vec<Arc<StateInfo>>,
}

impl<'a> KeyedHit<'a> {
    pub(super) fn new(store: &Store, throttle: &str, key: HashedKey, step: &Step<'a>) -> Self {
        let (limits, cost, leave) = (step.limits(), step.cost(), step.units_to_leave());
        let states = limits.iter().map(|limit| store.ids.of(throttle, limit)).collect();
        Self { key, limits, cost, leave, states }
    }
}

impl Store {
    /// Takes all hits if all pass, and else none. `None`, with nothing done, if one is more than a matter of
    /// its limits, or has no room.
    pub(super) fn apply_all(
        &self,
        hits: &[KeyedHit<'_>],
        asked_at: Timestamp,
    ) -> Option<Vec<Decision>> {
        let attempt = || self.try_all(hits, asked_at);
        let outcome = attempt().or_else(|NoRoom| self.make_room_and(asked_at, attempt));
        outcome.unwrap_or_default()
    }

    fn try_all(
        &self,
        hits: &[KeyedHit<'_>],
        asked_at: Timestamp,
    ) -> Result<Option<Vec<Decision>>, NoRoom> {
        let places: Vec<usize> = hits.iter().map(|hit| self.shard_of(hit.key.hash)).collect();
        let mut numbers = places.clone();
        numbers.sort_unstable();
        numbers.dedup();
        let mut shards: Vec<_> =
            numbers.iter().map(|number| self.shard_at(*number).lock()).collect();
        let mut apply = |index: usize, op| {
            let KeyedHit { key, limits, cost, leave, states } = &hits[index];
            let Ok(shard) = numbers.binary_search(&places[index]) else { return Ok(None) };
            let step = Step::of_apart(limits, *cost, op).leave(*leave);
            let mut infos = [None; MAX_LIMITS];
            for (info, state) in infos.iter_mut().zip(states) {
                *info = Some(&**state);
            }
            let infos = &infos[..states.len()];
            Ok(match self.apply_in(&mut shards[shard], key, &step, infos, asked_at)? {
                Ruling::Decided(decision) => Some(decision),
                _ => None,
            })
        };
        let mut decisions = Vec::with_capacity(hits.len());
        for index in 0..hits.len() {
            match apply(index, Op::Peek)? {
                Some(decision) => decisions.push(decision),
                None => return Ok(None),
            }
        }
        if decisions.iter().any(Decision::is_denied) {
            return Ok(Some(decisions));
        }
        decisions.clear();
        for index in 0..hits.len() {
            let outcome = match catch_unwind(AssertUnwindSafe(|| apply(index, Op::Take))) {
                Ok(Ok(Some(decision))) if decision.is_allowed() => {
                    decisions.push(decision);
                    continue;
                }
                other => other,
            };
            // No room for its key, or a strategy that says one thing and does another, or panics.
            for (taken, decision) in decisions.into_iter().enumerate() {
                if let Some(receipt) = decision.receipt() {
                    let refund = Op::Refund { taken_at: receipt.taken_at() };
                    // One that panics here too keeps its own alone.
                    let _ = catch_unwind(AssertUnwindSafe(|| apply(taken, refund).is_ok()));
                }
            }
            return match outcome {
                Ok(outcome) => outcome.map(|_| None),
                Err(panic) => resume_unwind(panic),
            };
        }
        Ok(Some(decisions))
    }
}
