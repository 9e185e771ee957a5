//! Fixed windows, aligned to the Unix epoch.

use super::meter::{self, Demand, Meter};
use super::{Answer, CorruptState, LimitError, Op, State, Strategy, StrategyId};
use crate::clock::Timestamp;
use crate::rate::Rate;

/// Counts hits in windows `[k * period, (k + 1) * period)` from the Unix epoch.
///
/// The cheapest to reason about: a daily quota that resets at midnight UTC. Around a boundary up to
/// twice the limit can pass in one period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FixedWindow;

impl FixedWindow {
    /// Creates fixed windows.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Strategy for FixedWindow {
    fn evaluate(
        &self,
        rate: &Rate,
        state: &mut State,
        now: Timestamp,
        cost: u32,
        op: Op,
    ) -> Result<Answer, CorruptState> {
        meter::evaluate_words(&FixedMeter::new(rate), state, now, Demand::of(cost), op)
    }

    fn id(&self) -> StrategyId {
        StrategyId::FIXED_WINDOW
    }

    fn supports(&self, op: Op) -> bool {
        !matches!(op, Op::Reserve { .. })
    }

    fn check(&self, rate: &Rate) -> Result<(), LimitError> {
        LimitError::refuse_burst(rate)
    }
}

/// Returns when the window of an instant began, in microseconds since the epoch.
#[inline]
pub(super) fn window_start(at: Timestamp, period: u64) -> u64 {
    at.as_micros() - at.as_micros() % period
}

/// The arithmetic of fixed windows for one rate, over the hits in the window of the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FixedMeter {
    limit: u32,
    period: u64,
}

impl FixedMeter {
    pub(crate) fn new(rate: &Rate) -> Self {
        Self { limit: rate.limit(), period: rate.period_micros() }
    }

    #[inline]
    fn boundary(&self, now: Timestamp) -> Timestamp {
        Timestamp::from_micros(window_start(now, self.period) + self.period)
    }
}

impl Meter for FixedMeter {
    type Count = u32;

    #[inline]
    fn pack(count: u32) -> u64 {
        u64::from(count)
    }

    #[inline]
    fn unpack(packed: u64) -> u32 {
        u32::try_from(packed).unwrap_or(u32::MAX)
    }

    #[inline]
    fn settle(&self, count: u32, last: Timestamp, now: Timestamp) -> u32 {
        if last.as_micros() >= window_start(now, self.period) { count } else { 0 }
    }

    #[inline]
    fn capacity(&self) -> u64 {
        self.limit.into()
    }

    #[inline]
    fn admit(&self, count: u32, _now: Timestamp, demand: Demand) -> Option<u32> {
        let fits = u64::from(count) + demand.needed() <= self.limit.into();
        fits.then(|| count + demand.cost_u32())
    }

    fn charge(&self, count: u32, _now: Timestamp, cost: u32) -> Option<u32> {
        Some(count.saturating_add(cost))
    }

    fn room(&self, count: u32, now: Timestamp) -> u64 {
        self.remaining(count, now).into()
    }

    fn refund(&self, count: u32, taken_at: Timestamp, now: Timestamp, cost: u32) -> Option<u32> {
        let same_window = window_start(taken_at, self.period) == window_start(now, self.period);
        (same_window && count > 0).then(|| count.saturating_sub(cost))
    }

    #[inline]
    fn retry_at(&self, _count: u32, now: Timestamp, _needed: u64) -> Timestamp {
        self.boundary(now)
    }

    #[inline]
    fn remaining(&self, count: u32, _now: Timestamp) -> u32 {
        self.limit.saturating_sub(count)
    }

    #[inline]
    fn reset_at(&self, count: u32, now: Timestamp) -> Timestamp {
        if count == 0 { now } else { self.boundary(now) }
    }

    fn load(&self, words: &[u64]) -> Result<u32, CorruptState> {
        match *words {
            [count] => {
                u32::try_from(count).map_err(|_| CorruptState("fixed window: count out of range"))
            }
            _ => Err(CorruptState("fixed window: expected one word")),
        }
    }

    fn store(&self, count: u32, state: &mut State) {
        state.set(&[u64::from(count)]);
    }
}
