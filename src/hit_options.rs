//! [`HitOptions`]: cost, units to leave, and rates of one hit.

use std::slice;

use crate::rate::Rate;
use crate::step::Step;
use crate::strategy::meter::Demand;

/// Options of one hit: its cost, units to leave, and rates of its own.
///
/// ```
/// use traffik::{HitOptions, Rate};
///
/// // Costs 50 units instead of one.
/// let bulk = HitOptions::new().cost(50);
/// // A customer whose plan has its own rate.
/// let premium = HitOptions::new().replace_rates([Rate::per_minute(1_000)]);
/// // The throttle's limits, and one more.
/// let export = HitOptions::new().add_rates([Rate::per_hour(5)]);
/// // Background work, which leaves 20 units to people.
/// let background = HitOptions::new().leave(20);
/// # let _ = (bulk, premium, export, background);
/// ```
///
/// # Rates of a hit
///
/// They are kept by the strategy of the throttle's first limit. A rate that equals one of the
/// throttle's own is that limit. Any other counts separately, by its period, limit and burst: it
/// neither lifts nor fills another, and what is used of it stays with the key when a later hit brings
/// another. One hit may have at most eight limits in all, and at most 32 different rates brought by
/// hits can count on one key at the same time; one more is an error, whatever the error policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct HitOptions {
    pub(crate) cost: Option<u32>,
    pub(crate) leave: u32,
    /// The throttle's own limits do not count.
    pub(crate) replaces: bool,
    rates: Rates,
}

/// Rates of a hit. Most hits that bring some bring one, which needs no memory of its own.
#[derive(Clone, Debug, Default)]
enum Rates {
    #[default]
    None,
    One(Rate),
    Many(Vec<Rate>),
}

impl Rates {
    fn as_slice(&self) -> &[Rate] {
        match self {
            Self::None => &[],
            Self::One(rate) => slice::from_ref(rate),
            Self::Many(rates) => rates,
        }
    }

    fn push(&mut self, rate: Rate) {
        match self {
            Self::None => *self = Self::One(rate),
            Self::One(first) => *self = Self::Many(vec![*first, rate]),
            Self::Many(rates) => rates.push(rate),
        }
    }
}

impl PartialEq for Rates {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Rates {}

impl HitOptions {
    /// Creates options that change nothing.
    pub const fn new() -> Self {
        Self { cost: None, leave: 0, replaces: false, rates: Rates::None }
    }

    /// The options under which another throttle would be asked the same.
    pub(crate) fn of(step: &Step<'_>) -> Self {
        let rates = step.limits().iter().map(|limit| *limit.rate());
        Self::new().cost(step.cost()).leave(step.units_to_leave()).replace_rates(rates)
    }

    /// Returns whether other limits hold than the throttle's own.
    pub(crate) const fn brings_rates(&self) -> bool {
        self.replaces || !matches!(self.rates, Rates::None)
    }

    /// The units that the hit asks for.
    #[inline]
    pub(crate) fn demand(&self, default: u32) -> Demand {
        Demand::leaving(self.cost.unwrap_or(default), self.leave)
    }

    pub(crate) fn rates(&self) -> &[Rate] {
        self.rates.as_slice()
    }

    pub(crate) fn cost_or_zero(&self) -> u32 {
        self.cost.unwrap_or_default()
    }

    /// Sets the units that the hit costs. A cost of 0 passes, is not counted, and reads the remaining
    /// units. Defaults to the throttle's default cost.
    pub const fn cost(mut self, units: u32) -> Self {
        self.cost = Some(units);
        self
    }

    /// Lets the hit pass only if `units` more would pass with it, which stay for others. What is taken
    /// is the cost; the wait is that of the cost and `units` together. A cost of 0 passes all the same. A
    /// cost and `units` that are together above the burst never pass. Defaults to 0.
    pub const fn leave(mut self, units: u32) -> Self {
        self.leave = units;
        self
    }

    /// Counts against these rates **instead of** the throttle's: none of its limits holds for this
    /// hit. Without any rate the hit is an error. May be repeated.
    pub fn replace_rates(mut self, rates: impl IntoIterator<Item = Rate>) -> Self {
        self.replaces = true;
        rates.into_iter().for_each(|rate| self.rates.push(rate));
        self
    }

    /// Counts against these rates **and** the throttle's: the hit must pass them all. May be repeated.
    pub fn add_rates(mut self, rates: impl IntoIterator<Item = Rate>) -> Self {
        rates.into_iter().for_each(|rate| self.rates.push(rate));
        self
    }
}
