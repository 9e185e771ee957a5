//! [`Meter`]: strategies whose state of a key fits one number.
//!
//! Such a strategy answers small questions about its count. What a step is made of, in which
//! order, is written here once: a backend that keeps the count in a table slot and one that stores
//! words run the same code.

#![expect(
    clippy::inline_always,
    reason = "without it a hit over two limits takes 1.03x the time: docs/performance.md"
)]

use super::{Answer, CorruptState, Op, State, Verdict};
use crate::clock::Timestamp;

/// The units that a hit asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    cost: u32,
    leave: u32,
}

impl Demand {
    /// A demand of `cost` units.
    #[inline]
    pub(crate) const fn of(cost: u32) -> Self {
        Self { cost, leave: 0 }
    }

    /// A demand of `cost` units that passes only if `leave` more would.
    #[inline]
    pub(crate) const fn leaving(cost: u32, leave: u32) -> Self {
        Self { cost, leave }
    }

    /// The units that are taken.
    #[inline]
    pub(crate) fn cost(self) -> u64 {
        u64::from(self.cost)
    }

    #[inline]
    pub(crate) const fn cost_u32(self) -> u32 {
        self.cost
    }

    #[inline]
    pub(crate) const fn leave(self) -> u32 {
        self.leave
    }

    /// The units that must be there.
    #[inline]
    pub(crate) fn needed(self) -> u64 {
        u64::from(self.cost) + u64::from(self.leave)
    }
}

/// A strategy whose state fits one number, for one rate.
pub(crate) trait Meter {
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

    /// The count after `cost` is used at `now`, whatever is left; `None` if its form cannot hold that.
    fn charge(&self, count: Self::Count, now: Timestamp, cost: u32) -> Option<Self::Count>;

    /// Whole units that pass at `now` at once, with what a bucket lends.
    fn room(&self, count: Self::Count, now: Timestamp) -> u64;

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
    fn reset_at(&self, count: Self::Count, now: Timestamp) -> Timestamp;

    /// The count from its stored words, which are not empty.
    fn load(&self, words: &[u64]) -> Result<Self::Count, CorruptState>;

    /// Writes the count as stored words.
    fn store(&self, count: Self::Count, state: &mut State);
}

/// Whether a demand fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    Now,
    Later,
    Never,
}

/// What a step did to a count: enough to answer later, outside of a lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metered<C> {
    /// The count after the step, as of its instant.
    pub(crate) count: C,
    pub(crate) fit: Fit,
    /// Whether the count must be written.
    pub(crate) changed: bool,
}

/// A demand that was tried on a count, before it is known whether it is taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trial<C> {
    /// The count now.
    count: C,
    fit: Fit,
    /// The count after the demand is taken, if that changes it.
    after: Option<C>,
}

impl<C> Trial<C> {
    /// Returns what a hit or a peek makes of it.
    #[inline(always)]
    pub(crate) fn run(self, op: Op) -> Metered<C> {
        match self.after {
            Some(count) if op == Op::Take => Metered { count, fit: self.fit, changed: true },
            _ => Metered { count: self.count, fit: self.fit, changed: false },
        }
    }
}

/// Tries a demand on a count that was written at `last`.
#[inline(always)]
fn try_demand<P: Meter>(
    meter: &P,
    count: P::Count,
    last: Timestamp,
    now: Timestamp,
    demand: Demand,
) -> Trial<P::Count> {
    let count = meter.settle(count, last, now);
    let (fit, after) = if demand.cost_u32() == 0 {
        (Fit::Now, None)
    } else if demand.needed() > meter.capacity() {
        (Fit::Never, None)
    } else {
        let after = meter.admit(count, now, demand);
        (if after.is_some() { Fit::Now } else { Fit::Later }, after)
    };
    Trial { count, fit, after }
}

/// A hit, a peek or a refund on a count; a charge goes by [`charge`].
#[inline(always)]
pub(crate) fn run<P: Meter>(
    meter: &P,
    count: P::Count,
    last: Timestamp,
    now: Timestamp,
    demand: Demand,
    op: Op,
) -> Metered<P::Count> {
    let Op::Refund { taken_at } = op else {
        return try_demand(meter, count, last, now, demand).run(op);
    };
    let count = meter.settle(count, last, now);
    let refunded = match demand.cost_u32() {
        0 => None,
        cost => meter.refund(count, taken_at, now, cost),
    };
    Metered { count: refunded.unwrap_or(count), fit: Fit::Now, changed: refunded.is_some() }
}

/// A charge of `cost` to a count; `None` if its form cannot hold that.
fn charge<P: Meter>(
    meter: &P,
    count: P::Count,
    last: Timestamp,
    now: Timestamp,
    cost: u32,
) -> Option<Metered<P::Count>> {
    let count = meter.settle(count, last, now);
    let after = match cost {
        0 => count,
        cost => meter.charge(count, now, cost)?,
    };
    Some(Metered { count: after, fit: Fit::Now, changed: cost > 0 })
}

/// As [`charge`], to a count that is packed.
pub(crate) fn charge_packed<P: Meter>(
    meter: &P,
    count: u64,
    last: Timestamp,
    now: Timestamp,
    cost: u32,
) -> Option<Metered<u64>> {
    let Metered { count, fit, changed } = charge(meter, P::unpack(count), last, now, cost)?;
    Some(Metered { count: P::pack(count), fit, changed })
}

/// Returns the whole units that pass at `now` at once, of a count that is packed.
pub(crate) fn room_packed<P: Meter>(meter: &P, count: u64, last: Timestamp, now: Timestamp) -> u64 {
    meter.room(meter.settle(P::unpack(count), last, now), now)
}

/// As [`room_packed`], of stored words.
pub(crate) fn room_of_words<P: Meter>(
    meter: &P,
    state: &State,
    now: Timestamp,
) -> Result<u64, CorruptState> {
    let count = of_words(meter, state)?;
    Ok(meter.room(meter.settle(count, state.last(), now), now))
}

/// The count from stored words; of none, that of a key that was never seen.
pub(super) fn of_words<P: Meter>(meter: &P, state: &State) -> Result<P::Count, CorruptState> {
    match state.words() {
        [] => Ok(P::Count::default()),
        words => meter.load(words),
    }
}

/// The answer after a step.
#[inline(always)]
pub(crate) fn answer<P: Meter>(
    meter: &P,
    metered: Metered<P::Count>,
    now: Timestamp,
    demand: Demand,
) -> Answer {
    let Metered { count, fit, .. } = metered;
    Answer {
        verdict: match fit {
            Fit::Now => Verdict::Allowed,
            Fit::Later => Verdict::Denied { retry_at: meter.retry_at(count, now, demand.needed()) },
            Fit::Never => Verdict::Never,
        },
        remaining: meter.remaining(count, now),
        reset_at: meter.reset_at(count, now),
    }
}

/// As [`try_demand`], on a count that is packed.
#[inline(always)]
pub(crate) fn try_packed<P: Meter>(
    meter: &P,
    count: u64,
    last: Timestamp,
    at: Timestamp,
    demand: Demand,
) -> Trial<u64> {
    let Trial { count, fit, after } = try_demand(meter, P::unpack(count), last, at, demand);
    Trial { count: P::pack(count), fit, after: after.map(P::pack) }
}

/// One step on a count that is packed.
#[inline(always)]
pub(crate) fn run_packed<P: Meter>(
    meter: &P,
    count: u64,
    last: Timestamp,
    at: Timestamp,
    demand: Demand,
    op: Op,
) -> Metered<u64> {
    let Metered { count, fit, changed } = run(meter, P::unpack(count), last, at, demand, op);
    Metered { count: P::pack(count), fit, changed }
}

impl Metered<u64> {
    #[inline(always)]
    pub(crate) fn unpack<P: Meter>(self, _meter: &P) -> Metered<P::Count> {
        Metered { count: P::unpack(self.count), fit: self.fit, changed: self.changed }
    }
}

/// One step on stored words.
pub(crate) fn evaluate_words<P: Meter>(
    meter: &P,
    state: &mut State,
    now: Timestamp,
    demand: Demand,
    op: Op,
) -> Result<Answer, CorruptState> {
    let count = of_words(meter, state)?;
    let metered = match op {
        Op::Charge => charge(meter, count, state.last(), now, demand.cost_u32())
            .ok_or(CorruptState("a count beyond all bounds"))?,
        op => run(meter, count, state.last(), now, demand, op),
    };
    if metered.changed {
        meter.store(metered.count, state);
    }
    Ok(answer(meter, metered, now, demand))
}
