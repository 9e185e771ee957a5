//! [`Receipt`]: the units that a hit took.

use super::BroughtLimits;
use crate::clock::Timestamp;
use crate::strategy::Limit;

/// Who took what a receipt is of, where there are two who may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taker {
    Primary,
    Fallback,
}

/// The units that a hit took, to be given back once.
///
/// It belongs to the throttle and the key of the hit. It holds the cost, the instant, and the rates if
/// the hit brought any: a bucket takes the cost back at any time, up to its capacity; a window takes it
/// back only while the same window lasts.
///
/// It cannot be cloned, and a cloned [`Decision`](crate::Decision) has none.
#[derive(Debug)]
#[must_use = "a receipt does nothing by itself; give it to Throttle::refund"]
pub struct Receipt {
    cost: u32,
    taken_at: Timestamp,
    /// Of the throttle and the key.
    fingerprint: u64,
    /// Taken at the fallback, where it is to be given back.
    taker: Taker,
    limits: Option<BroughtLimits>,
}

impl Receipt {
    pub(crate) const fn new(
        cost: u32,
        taken_at: Timestamp,
        fingerprint: u64,
        taker: Taker,
        limits: Option<BroughtLimits>,
    ) -> Self {
        Self { cost, taken_at, fingerprint, taker, limits }
    }

    /// Returns the cost that was taken, in units, less what was given back of it.
    #[must_use]
    pub const fn cost(&self) -> u32 {
        self.cost
    }

    /// Returns the instant at which it was taken, by the backend's clock.
    #[must_use]
    pub const fn taken_at(&self) -> Timestamp {
        self.taken_at
    }

    /// Takes units off what is left to be given back; `false` if there are fewer.
    pub(crate) fn spend(&mut self, units: u32) -> bool {
        let left = self.cost.checked_sub(units);
        self.cost = left.unwrap_or(self.cost);
        left.is_some()
    }

    /// Takes units off it as a receipt of their own; `None` if that would be none.
    pub(crate) fn part(&mut self, units: u32) -> Option<Self> {
        let is_some = units > 0 && self.spend(units);
        is_some.then(|| Self {
            cost: units,
            taken_at: self.taken_at,
            fingerprint: self.fingerprint,
            taker: self.taker,
            limits: self.limits.clone(),
        })
    }

    pub(crate) const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    pub(crate) const fn taker(&self) -> Taker {
        self.taker
    }

    /// The limits of the hit, if it brought its own.
    pub(crate) fn limits(&self) -> Option<&[Limit]> {
        self.limits.as_deref()
    }
}
