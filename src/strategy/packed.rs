//! The frame around strategies whose state of a key fits one number.
//!
//! Such a strategy answers four small questions about its count. What a step is made of, in which
//! order, is written here once: a backend that keeps the count in a table slot and one that stores
//! words run the same code.

use super::{Answer, Corrupt, Op, State, Verdict};
use crate::clock::Timestamp;

/// The units that a hit asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    cost: u32,
    leave: u32,
}

impl Demand {
    /// A demand of `cost` units.
    #[inline(always)]
    pub(crate) const fn of(cost: u32) -> Self {
        Self { cost, leave: 0 }
    }

    /// A demand of `cost` units that passes only if `leave` more would.
    #[inline(always)]
    pub(crate) const fn leaving(cost: u32, leave: u32) -> Self {
        Self { cost, leave }
    }

    /// The units that are taken.
    #[inline(always)]
    pub(crate) fn cost(self) -> u64 {
        u64::from(self.cost)
    }

    #[inline(always)]
    pub(crate) const fn cost_u32(self) -> u32 {
        self.cost
    }

    #[inline(always)]
    pub(crate) const fn leave(self) -> u32 {
        self.leave
    }

    /// The units that must be there.
    #[inline(always)]
    pub(crate) fn needed(self) -> u64 {
        u64::from(self.cost) + u64::from(self.leave)
    }
}

/// A strategy whose state fits one number, for one rate.
pub(crate) trait Packed {
    /// What was used; the default is a key that was never seen.
    type Count: Copy + Default + PartialEq;

    /// The count as one number, where it is kept in memory.
    fn pack(count: Self::Count) -> u64;

    /// The count that was packed.
    fn unpack(packed: u64) -> Self::Count;

    /// The count at `now`, of a count that was written at `last`.
    fn settle(&self, count: Self::Count, last: Timestamp, now: Timestamp) -> Self::Count;

    /// Returns the most units that can ever pass at once.
    fn capacity(&self) -> u64;

    /// Returns the count after the demand passes at `now`, or `None` if it does not. Its cost is at least
    /// 1, and it needs at most the capacity.
    fn admit(&self, count: Self::Count, now: Timestamp, demand: Demand) -> Option<Self::Count>;

    /// The count after `cost` is given back, or `None` if nothing can be.
    fn refund(
        &self,
        count: Self::Count,
        taken_at: Timestamp,
        now: Timestamp,
        cost: u32,
    ) -> Option<Self::Count>;

    /// The first instant at which `needed` units pass; asked only if they do not now, but can.
    fn retry_at(&self, count: Self::Count, now: Timestamp, needed: u64) -> Timestamp;

    /// Whole units that pass at `now`.
    fn remaining(&self, count: Self::Count, now: Timestamp) -> u32;

    /// From when on it answers like a fresh key.
    fn fresh_at(&self, count: Self::Count, now: Timestamp) -> Timestamp;

    /// The count from its stored words, which are not empty.
    fn load(&self, words: &[u64]) -> Result<Self::Count, Corrupt>;

    /// Writes the count as stored words.
    fn store(&self, count: Self::Count, state: &mut State);
}

/// Whether a demand passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Pass,
    Later,
    Never,
}

/// What a step did to a count: enough to answer later, outside of a lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settled<C> {
    /// The count after the step, as of its instant.
    pub(crate) count: C,
    pub(crate) passed: Admission,
    /// Whether the count must be written.
    pub(crate) changed: bool,
}

/// One step on a count.
#[inline(always)]
pub(crate) fn run<P: Packed>(
    meter: &P,
    count: P::Count,
    last: Timestamp,
    now: Timestamp,
    demand: Demand,
    op: Op,
) -> Settled<P::Count> {
    let count = meter.settle(count, last, now);
    let unchanged = |passed| Settled { count, passed, changed: false };
    if demand.cost_u32() == 0 {
        return unchanged(Admission::Pass);
    }
    if let Op::Refund { taken_at } = op {
        let refunded = meter.refund(count, taken_at, now, demand.cost_u32());
        return Settled {
            count: refunded.unwrap_or(count),
            passed: Admission::Pass,
            changed: refunded.is_some(),
        };
    }
    if demand.needed() > meter.capacity() {
        return unchanged(Admission::Never);
    }
    match meter.admit(count, now, demand) {
        Some(after) if op == Op::Take => {
            Settled { count: after, passed: Admission::Pass, changed: true }
        }
        Some(_) => unchanged(Admission::Pass),
        None => unchanged(Admission::Later),
    }
}

/// The answer after a step.
#[inline(always)]
pub(crate) fn answer<P: Packed>(
    meter: &P,
    settled: Settled<P::Count>,
    now: Timestamp,
    demand: Demand,
) -> Answer {
    let Settled { count, passed, .. } = settled;
    Answer {
        verdict: match passed {
            Admission::Pass => Verdict::Allowed,
            Admission::Later => {
                Verdict::Denied { retry_at: meter.retry_at(count, now, demand.needed()) }
            }
            Admission::Never => Verdict::Never,
        },
        remaining: meter.remaining(count, now),
        fresh_at: meter.fresh_at(count, now),
    }
}

/// One step on a count that is packed.
#[inline(always)]
pub(crate) fn run_packed<P: Packed>(
    meter: &P,
    count: u64,
    last: Timestamp,
    at: Timestamp,
    demand: Demand,
    op: Op,
) -> Settled<u64> {
    let Settled { count, passed, changed } = run(meter, P::unpack(count), last, at, demand, op);
    Settled { count: P::pack(count), passed, changed }
}

impl Settled<u64> {
    #[inline(always)]
    pub(crate) fn unpack<P: Packed>(self, _meter: &P) -> Settled<P::Count> {
        Settled { count: P::unpack(self.count), passed: self.passed, changed: self.changed }
    }
}

/// One step on stored words.
pub(crate) fn step<P: Packed>(
    meter: &P,
    state: &mut State,
    now: Timestamp,
    demand: Demand,
    op: Op,
) -> Result<Answer, Corrupt> {
    let count = match state.words() {
        [] => P::Count::default(),
        words => meter.load(words)?,
    };
    let settled = run(meter, count, state.last(), now, demand, op);
    if settled.changed {
        meter.store(settled.count, state);
    }
    Ok(answer(meter, settled, now, demand))
}
