//! [`HitOptions`]: what one hit does differently.

use crate::rate::Rate;

/// What one hit does differently from the others of its throttle.
///
/// ```
/// use traffik::{HitOptions, Rate};
///
/// let bulk = HitOptions::new().cost(50);
/// let premium = HitOptions::new().rate(Rate::per_minute(1_000));
/// # let _ = (bulk, premium);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct HitOptions {
    pub(super) cost: Option<u32>,
    pub(super) rate: Option<Rate>,
}

impl HitOptions {
    /// Nothing different.
    pub const fn new() -> Self {
        Self { cost: None, rate: None }
    }

    /// Units that the hit costs. Defaults to the throttle's default cost. A cost of 0 passes, is not
    /// counted, and reads the remaining units.
    pub const fn cost(mut self, units: u32) -> Self {
        self.cost = Some(units);
        self
    }

    /// Counts against this rate instead of the throttle's, with the strategy of its first limit.
    /// Defaults to the throttle's own.
    ///
    /// Rates of the same period share what was counted: so a caller who moves from one plan to another
    /// keeps the used units. A rate of another period counts for itself.
    pub const fn rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }
}
