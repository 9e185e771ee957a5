//! Token bucket, leaky bucket and GCRA: one core under three names.
//!
//! Token bucket, leaky bucket as a meter, and the generic cell rate algorithm (ITU-T I.371, ATM Forum
//! TM 4.0) admit exactly the same hits; they differ in what they call the number that they keep. Here
//! it is what was used, in units of 1/period: one unit of cost is `period`, and each microsecond
//! gives back `limit`. So fractions are kept exactly, and a changed limit acts at once.
//!
//! The three share one stored form and one identifier: changing one name for another resets nothing.

use std::fmt;

use super::meter::{self, Demand, Meter};
use super::{Answer, CorruptState, LimitError, Op, State, Strategy, StrategyId};
use crate::clock::Timestamp;
use crate::rate::Rate;

/// The longest time in which a bucket may fill: 100 years of 365.25 days, in microseconds.
const MAX_FILL_MICROS: u128 = 36_525 * 86_400 * 1_000_000;

/// What is used is less than this, in units: a burst and a debt of `u32::MAX` each fit, and charges are held
/// below it.
const MOST_UNITS: u64 = 1 << 33;

/// A bucket of tokens that refills all the time. The default strategy.
///
/// A key starts with a full bucket: `burst` tokens pass at once. Then `limit` tokens come back in each
/// period, continuously and exactly. With [`max_debt`](Self::max_debt) a hit may overdraw the bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenBucket {
    max_debt: u32,
}

impl TokenBucket {
    /// Creates a token bucket without debt.
    #[must_use]
    pub const fn new() -> Self {
        Self { max_debt: 0 }
    }

    /// Lets hits overdraw the bucket by up to `units`. The debt must be refilled before anything remains.
    /// Defaults to 0.
    #[must_use]
    pub const fn max_debt(mut self, units: u32) -> Self {
        self.max_debt = units;
        self
    }

    pub(crate) const fn debt(&self) -> u32 {
        self.max_debt
    }
}

/// A leaky bucket as a meter: each hit pours in its cost, what is in it drains at the rate, and a hit
/// that would overflow it is denied. Nothing waits in a queue.
///
/// Admits exactly what [`TokenBucket`] admits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeakyBucket;

impl LeakyBucket {
    /// Creates a leaky bucket.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

/// The generic cell rate algorithm: a hit passes unless it comes too early for its theoretical
/// arrival time.
///
/// Admits exactly what [`TokenBucket`] admits: the theoretical arrival time is the instant at which
/// the bucket would be full again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gcra;

impl Gcra {
    /// Creates the generic cell rate algorithm.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

macro_rules! bucket_strategy {
    ($name:ty, $debt:expr) => {
        impl Strategy for $name {
            fn evaluate(
                &self,
                rate: &Rate,
                state: &mut State,
                now: Timestamp,
                cost: u32,
                op: Op,
            ) -> Result<Answer, CorruptState> {
                let debt: fn(&Self) -> u32 = $debt;
                // Stored words may come from a larger burst than this rate's, so always the wide one.
                meter::evaluate_words(
                    &Bucket::wide(rate, debt(self)),
                    state,
                    now,
                    Demand::of(cost),
                    op,
                )
            }

            fn id(&self) -> StrategyId {
                StrategyId::BUCKET
            }

            fn supports(&self, _op: Op) -> bool {
                true
            }

            fn check(&self, rate: &Rate) -> Result<(), LimitError> {
                let debt: fn(&Self) -> u32 = $debt;
                check(rate, debt(self))
            }
        }
    };
}

bucket_strategy!(TokenBucket, Self::debt);
bucket_strategy!(LeakyBucket, |_| 0);
bucket_strategy!(Gcra, |_| 0);

fn check(rate: &Rate, debt: u32) -> Result<(), LimitError> {
    let capacity = u128::from(rate.effective_burst()) + u128::from(debt);
    let fill = capacity * u128::from(rate.period_micros());
    if rate.limit() > 0 && fill > MAX_FILL_MICROS * u128::from(rate.limit()) {
        return Err(LimitError::new(
            rate,
            "it would take more than 100 years to fill; use a smaller burst or debt, or a higher rate",
        ));
    }
    Ok(())
}

/// The arithmetic of a bucket for one rate, over what is used, in units of 1/period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket<U> {
    /// What comes back in each microsecond.
    limit: u64,
    period: u64,
    /// Units of cost that can be used at most: the burst and the debt.
    capacity: u64,
    /// The burst and the capacity in units of 1/period.
    burst_used: U,
    full: U,
}

impl Bucket<u64> {
    /// The bucket, if all its numbers stay below 2^63.
    pub(crate) fn new(rate: &Rate, debt: u32) -> Option<Self> {
        let wide = Bucket::wide(rate, debt);
        if wide.full >= 1 << 63 {
            return None;
        }
        let narrow = |used| u64::try_from(used).ok();
        Some(Bucket {
            limit: wide.limit,
            period: wide.period,
            capacity: wide.capacity,
            burst_used: narrow(wide.burst_used)?,
            full: narrow(wide.full)?,
        })
    }
}

impl Bucket<u64> {
    /// The same bucket, for words: they may come from a rate with a larger burst.
    pub(super) fn widened(&self) -> Bucket<u128> {
        Bucket {
            limit: self.limit,
            period: self.period,
            capacity: self.capacity,
            burst_used: self.burst_used.into(),
            full: self.full.into(),
        }
    }
}

impl Bucket<u128> {
    pub(crate) fn wide(rate: &Rate, debt: u32) -> Self {
        let period = rate.period_micros();
        let burst = u64::from(rate.effective_burst());
        let capacity = burst + u64::from(debt);
        Bucket {
            limit: u64::from(rate.limit()),
            period,
            capacity,
            burst_used: u128::from(burst) * u128::from(period),
            full: u128::from(capacity) * u128::from(period),
        }
    }
}

impl<U: Units> Bucket<U> {
    /// Returns the units that can be used at most.
    pub(super) fn most(&self) -> u64 {
        self.capacity
    }

    /// `units` in units of 1/period; they are at most the capacity, so it fits.
    #[inline]
    fn fee(&self, units: u64) -> U {
        U::product(units, self.period)
    }
}

impl<U: Units> Meter for Bucket<U> {
    type Count = U;

    #[inline]
    fn pack(used: U) -> u64 {
        used.div_floor(1)
    }

    #[inline]
    fn unpack(packed: u64) -> U {
        U::product(packed, 1)
    }

    #[inline]
    fn settle(&self, used: U, last: Timestamp, now: Timestamp) -> U {
        let elapsed = now.as_micros().saturating_sub(last.as_micros());
        used.saturating_sub(U::saturating_product(elapsed, self.limit))
    }

    #[inline]
    fn capacity(&self) -> u64 {
        self.capacity
    }

    #[inline]
    fn admit(&self, used: U, _now: Timestamp, demand: Demand) -> Option<U> {
        let fits = used <= self.full.saturating_sub(self.fee(demand.needed()));
        fits.then(|| used.plus(self.fee(demand.cost())))
    }

    fn charge(&self, used: U, _now: Timestamp, cost: u32) -> Option<U> {
        used.held_sum(cost, self.period)
    }

    fn room(&self, used: U, _now: Timestamp) -> u64 {
        self.full.saturating_sub(used).div_floor(self.period)
    }

    fn refund(&self, used: U, _taken_at: Timestamp, _now: Timestamp, cost: u32) -> Option<U> {
        let fee = U::saturating_product(u64::from(cost), self.period);
        (used != U::default()).then(|| used.saturating_sub(fee))
    }

    #[inline]
    fn retry_at(&self, used: U, now: Timestamp, needed: u64) -> Timestamp {
        let excess = used.saturating_sub(self.full.saturating_sub(self.fee(needed)));
        now.saturating_add_micros(excess.div_ceil(self.limit))
    }

    #[inline]
    fn remaining(&self, used: U, _now: Timestamp) -> u32 {
        let whole = self.burst_used.saturating_sub(used).div_floor(self.period);
        u32::try_from(whole).unwrap_or(u32::MAX)
    }

    #[inline]
    fn reset_at(&self, used: U, now: Timestamp) -> Timestamp {
        now.saturating_add_micros(used.div_ceil(self.limit))
    }

    fn load(&self, words: &[u64]) -> Result<U, CorruptState> {
        match *words {
            [whole, part] if whole < MOST_UNITS && part < self.period => {
                Ok(U::product(whole, self.period).plus(U::product(part, 1)))
            }
            [_, _] => Err(CorruptState("bucket: used or fraction out of range")),
            _ => Err(CorruptState("bucket: expected two words")),
        }
    }

    fn store(&self, used: U, state: &mut State) {
        let whole = used.div_floor(self.period);
        let part = used.saturating_sub(U::product(whole, self.period)).div_floor(1);
        state.set(&[whole, part]);
    }
}

/// Unsigned arithmetic that a bucket needs, in 64 bits where they suffice and in 128 elsewhere.
pub(crate) trait Units: Copy + Default + PartialEq + PartialOrd + fmt::Debug {
    /// `a * b`, held at the largest number.
    fn saturating_product(a: u64, b: u64) -> Self;
    /// `a * b`; the caller knows that it fits.
    fn product(a: u64, b: u64) -> Self;
    fn plus(self, other: Self) -> Self;
    /// `self + units * period`, held below [`MOST_UNITS`]; `None` if it does not fit.
    fn held_sum(self, units: u32, period: u64) -> Option<Self>;
    fn saturating_sub(self, other: Self) -> Self;
    /// Held at `u64::MAX`.
    fn div_floor(self, by: u64) -> u64;
    /// Rounded up, and held at `u64::MAX`.
    fn div_ceil(self, by: u64) -> u64;
}

impl Units for u64 {
    #[inline]
    fn saturating_product(a: u64, b: u64) -> Self {
        a.saturating_mul(b)
    }

    #[inline]
    fn product(a: u64, b: u64) -> Self {
        a.saturating_mul(b)
    }

    #[inline]
    fn plus(self, other: Self) -> Self {
        self.saturating_add(other)
    }

    fn held_sum(self, units: u32, period: u64) -> Option<Self> {
        u128::from(self).held_sum(units, period).and_then(|sum| Self::try_from(sum).ok())
    }

    #[inline]
    fn saturating_sub(self, other: Self) -> Self {
        self.saturating_sub(other)
    }

    #[inline]
    fn div_floor(self, by: u64) -> u64 {
        self / by
    }

    #[inline]
    fn div_ceil(self, by: u64) -> u64 {
        u64::div_ceil(self, by)
    }
}

impl Units for u128 {
    fn saturating_product(a: u64, b: u64) -> Self {
        Self::from(a) * Self::from(b)
    }

    fn product(a: u64, b: u64) -> Self {
        Self::from(a) * Self::from(b)
    }

    fn plus(self, other: Self) -> Self {
        self.saturating_add(other)
    }

    fn held_sum(self, units: u32, period: u64) -> Option<Self> {
        let most = Self::from(MOST_UNITS) * Self::from(period) - 1;
        Some((self + Self::from(units) * Self::from(period)).min(most))
    }

    fn saturating_sub(self, other: Self) -> Self {
        self.saturating_sub(other)
    }

    fn div_floor(self, by: u64) -> u64 {
        u64::try_from(self / Self::from(by)).unwrap_or(u64::MAX)
    }

    fn div_ceil(self, by: u64) -> u64 {
        u64::try_from(u128::div_ceil(self, Self::from(by))).unwrap_or(u64::MAX)
    }
}
