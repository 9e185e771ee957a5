//! The frame around strategies whose state of a key fits one number.
//!
//! Such a strategy answers four small questions about its count. What a step is made of, in which
//! order, is written here once: a backend that keeps the count in a table slot and one that stores
//! words run the same code.

use super::{Answer, Corrupt, Op, State, Verdict};
use crate::clock::Timestamp;

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

    /// Whether `cost` passes at `now`; `cost` is at least 1.
    fn admit(&self, count: Self::Count, now: Timestamp, cost: u32) -> Admission<Self::Count>;

    /// The count after `cost` is given back, or `None` if nothing can be.
    fn refund(
        &self,
        count: Self::Count,
        taken_at: Timestamp,
        now: Timestamp,
        cost: u32,
    ) -> Option<Self::Count>;

    /// The first instant at which `cost` passes; asked only after [`Admission::Later`].
    fn retry_at(&self, count: Self::Count, now: Timestamp, cost: u32) -> Timestamp;

    /// Whole units that pass at `now`.
    fn remaining(&self, count: Self::Count, now: Timestamp) -> u32;

    /// From when on it answers like a fresh key.
    fn fresh_at(&self, count: Self::Count, now: Timestamp) -> Timestamp;

    /// The count from its stored words, which are not empty.
    fn load(&self, words: &[u64]) -> Result<Self::Count, Corrupt>;

    /// Writes the count as stored words.
    fn store(&self, count: Self::Count, state: &mut State);
}

/// Whether a cost passes, and what is used then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission<C> {
    Pass(C),
    Later,
    Never,
}

/// What a step did to a count: enough to answer later, outside of a lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settled<C> {
    /// The count after the step, as of its instant.
    pub(crate) count: C,
    pub(crate) passed: Passed,
    /// Whether the count must be written.
    pub(crate) changed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    Yes,
    Later,
    Never,
}

/// One step on a count.
#[inline(always)]
pub(crate) fn run<P: Packed>(
    meter: &P,
    count: P::Count,
    last: Timestamp,
    now: Timestamp,
    cost: u32,
    op: Op,
) -> Settled<P::Count> {
    let count = meter.settle(count, last, now);
    if cost == 0 {
        return Settled { count, passed: Passed::Yes, changed: false };
    }
    if let Op::Refund { taken_at } = op {
        let refunded = meter.refund(count, taken_at, now, cost);
        return Settled {
            count: refunded.unwrap_or(count),
            passed: Passed::Yes,
            changed: refunded.is_some(),
        };
    }
    match meter.admit(count, now, cost) {
        Admission::Pass(after) if op == Op::Take => {
            Settled { count: after, passed: Passed::Yes, changed: true }
        }
        Admission::Pass(_) => Settled { count, passed: Passed::Yes, changed: false },
        Admission::Later => Settled { count, passed: Passed::Later, changed: false },
        Admission::Never => Settled { count, passed: Passed::Never, changed: false },
    }
}

/// The answer after a step.
#[inline(always)]
pub(crate) fn answer<P: Packed>(
    meter: &P,
    settled: Settled<P::Count>,
    now: Timestamp,
    cost: u32,
) -> Answer {
    let Settled { count, passed, .. } = settled;
    Answer {
        verdict: match passed {
            Passed::Yes => Verdict::Allowed,
            Passed::Later => Verdict::Denied { retry_at: meter.retry_at(count, now, cost) },
            Passed::Never => Verdict::Never,
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
    cost: u32,
    op: Op,
) -> Settled<u64> {
    let Settled { count, passed, changed } = run(meter, P::unpack(count), last, at, cost, op);
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
    cost: u32,
    op: Op,
) -> Result<Answer, Corrupt> {
    let count = match state.words() {
        [] => P::Count::default(),
        words => meter.load(words)?,
    };
    let settled = run(meter, count, state.last(), now, cost, op);
    if settled.changed {
        meter.store(settled.count, state);
    }
    Ok(answer(meter, settled, now, cost))
}
