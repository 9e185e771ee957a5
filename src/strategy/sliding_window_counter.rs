//! The sliding window counter: two fixed windows, of which the older one fades.

use super::fixed_window::window_start;
use super::meter::{self, Demand, Meter};
use super::{Answer, CorruptState, LimitError, Op, State, Strategy, StrategyId};
use crate::clock::Timestamp;
use crate::rate::Rate;

/// Counts hits in two epoch-aligned windows and lets the older one fade.
///
/// A hit passes iff `floor(previous * (period - elapsed) / period) + current + cost <= limit`, where
/// `elapsed` is the time into the current window, in exact integers. That estimates the last period as
/// if the hits of the previous window had been spread evenly over it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlidingWindowCounter;

impl SlidingWindowCounter {
    /// Creates a sliding window counter.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Strategy for SlidingWindowCounter {
    fn evaluate(
        &self,
        rate: &Rate,
        state: &mut State,
        now: Timestamp,
        cost: u32,
        op: Op,
    ) -> Result<Answer, CorruptState> {
        meter::evaluate_words(&SlidingMeter::new(rate), state, now, Demand::of(cost), op)
    }

    fn id(&self) -> StrategyId {
        StrategyId::SLIDING_WINDOW_COUNTER
    }

    fn supports(&self, op: Op) -> bool {
        !matches!(op, Op::Reserve { .. })
    }

    fn check(&self, rate: &Rate) -> Result<(), LimitError> {
        LimitError::refuse_burst(rate)
    }
}

/// Hits in the window of the last one and in the window before that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TwoWindows {
    pub(crate) previous: u32,
    pub(crate) current: u32,
}

/// The arithmetic of the sliding window counter for one rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlidingMeter {
    limit: u32,
    period: u64,
}

impl SlidingMeter {
    pub(crate) fn new(rate: &Rate) -> Self {
        Self { limit: rate.limit(), period: rate.period_micros() }
    }

    /// Returns what the previous window still counts for.
    #[inline]
    fn faded(&self, previous: u32, now: Timestamp) -> u32 {
        let left = self.period - now.as_micros() % self.period;
        let weighted = match u64::from(previous).checked_mul(left) {
            Some(product) => product / self.period,
            None => {
                let exact = u128::from(previous) * u128::from(left) / u128::from(self.period);
                u64::try_from(exact).unwrap_or(u64::MAX)
            }
        };
        // `left` is at most the period, so this is at most `previous`.
        u32::try_from(weighted).unwrap_or(u32::MAX)
    }

    #[inline]
    fn used(&self, count: TwoWindows, now: Timestamp) -> u64 {
        u64::from(self.faded(count.previous, now)) + u64::from(count.current)
    }

    /// Time into a window after which `previous` counts for at most `room`.
    ///
    /// `floor(previous * (period - e) / period) <= room` iff
    /// `period - e < (room + 1) * period / previous`.
    fn fades_to(&self, previous: u32, room: u32) -> u64 {
        if previous <= room {
            return 0;
        }
        let exact = (u128::from(room) + 1) * u128::from(self.period);
        let most_left = exact.div_ceil(u128::from(previous)) - 1;
        // `room < previous`, so this is less than the period.
        self.period - u64::try_from(most_left).unwrap_or(self.period)
    }
}

impl Meter for SlidingMeter {
    type Count = TwoWindows;

    #[inline]
    fn pack(count: TwoWindows) -> u64 {
        u64::from(count.previous) << 32 | u64::from(count.current)
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are meant")]
    fn unpack(packed: u64) -> TwoWindows {
        TwoWindows { previous: (packed >> 32) as u32, current: packed as u32 }
    }

    #[inline]
    fn settle(&self, count: TwoWindows, last: Timestamp, now: Timestamp) -> TwoWindows {
        let (last, start) = (last.as_micros(), window_start(now, self.period));
        if last >= start {
            count
        } else if last + self.period >= start {
            TwoWindows { previous: count.current, current: 0 }
        } else {
            TwoWindows::default()
        }
    }

    #[inline]
    fn capacity(&self) -> u64 {
        self.limit.into()
    }

    #[inline]
    fn admit(&self, count: TwoWindows, now: Timestamp, demand: Demand) -> Option<TwoWindows> {
        let fits = self.used(count, now) + demand.needed() <= self.limit.into();
        fits.then(|| TwoWindows { current: count.current + demand.cost_u32(), ..count })
    }

    fn charge(&self, count: TwoWindows, _now: Timestamp, cost: u32) -> Option<TwoWindows> {
        Some(TwoWindows { current: count.current.saturating_add(cost), ..count })
    }

    fn room(&self, count: TwoWindows, now: Timestamp) -> u64 {
        self.remaining(count, now).into()
    }

    fn refund(
        &self,
        count: TwoWindows,
        taken_at: Timestamp,
        now: Timestamp,
        cost: u32,
    ) -> Option<TwoWindows> {
        let same_window = window_start(taken_at, self.period) == window_start(now, self.period);
        (same_window && count.current > 0)
            .then(|| TwoWindows { current: count.current.saturating_sub(cost), ..count })
    }

    fn retry_at(&self, count: TwoWindows, now: Timestamp, needed: u64) -> Timestamp {
        let start = window_start(now, self.period);
        let room = self.limit.saturating_sub(u32::try_from(needed).unwrap_or(u32::MAX));
        let at = if let Some(room) = room.checked_sub(count.current) {
            start + self.fades_to(count.previous, room)
        } else {
            // Not in this window: the current one must fade in the next.
            start + self.period + self.fades_to(count.current, room)
        };
        Timestamp::from_micros(at)
    }

    #[inline]
    fn remaining(&self, count: TwoWindows, now: Timestamp) -> u32 {
        let left = u64::from(self.limit).saturating_sub(self.used(count, now));
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    #[inline]
    fn reset_at(&self, count: TwoWindows, now: Timestamp) -> Timestamp {
        let start = window_start(now, self.period);
        let at = if count.current > 0 {
            start + self.period + self.fades_to(count.current, 0)
        } else {
            start + self.fades_to(count.previous, 0)
        };
        Timestamp::from_micros(at.max(now.as_micros()))
    }

    fn load(&self, words: &[u64]) -> Result<TwoWindows, CorruptState> {
        let [previous, current] = *words else {
            return Err(CorruptState("sliding window counter: expected two words"));
        };
        match (u32::try_from(previous), u32::try_from(current)) {
            (Ok(previous), Ok(current)) => Ok(TwoWindows { previous, current }),
            _ => Err(CorruptState("sliding window counter: count out of range")),
        }
    }

    fn store(&self, count: TwoWindows, state: &mut State) {
        state.set(&[u64::from(count.previous), u64::from(count.current)]);
    }
}
