//! [`Rate`]: a limit of units in a period.

mod grammar;
#[cfg(feature = "serde")]
mod serde;

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use crate::excerpt::Excerpt;

const MILLI: u64 = 1_000;
const SECOND: u64 = 1_000 * MILLI;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;

/// A rate: a limit, the period in which so much may pass and, for bucket strategies, a burst.
///
/// The limit is 0 to `u32::MAX` units, the period 1 ms to 366 days in whole milliseconds. A limit
/// of 0 is valid and denies everything that costs something. [`Rate::UNLIMITED`] lets everything pass
/// without asking the backend.
///
/// A rate is written and read as text:
///
/// ```
/// use std::time::Duration;
/// use traffik::Rate;
///
/// let rate: Rate = "100/min burst 150".parse()?;
/// assert_eq!(rate, Rate::per_minute(100).burst(150));
/// assert_eq!(rate.to_string(), "100/min burst 150");
///
/// assert_eq!("10/30 seconds".parse::<Rate>()?, Rate::new(10, Duration::from_secs(30))?);
/// assert_eq!("2 per second".parse::<Rate>()?, Rate::per_second(2));
/// assert_eq!("0/min".parse::<Rate>()?, Rate::per_minute(0));
/// assert_eq!("unlimited".parse::<Rate>()?, Rate::UNLIMITED);
/// # Ok::<(), traffik::RateError>(())
/// ```
///
/// The grammar is `LIMIT/PERIOD` or `LIMIT per PERIOD`, then perhaps `burst N`; or `unlimited`.
/// PERIOD is a unit, with a whole number before it or not. Units are `ms` `millisecond(s)`, `s` `sec`
/// `second(s)`, `m` `min` `minute(s)`, `h` `hr` `hour(s)`, `d` `day(s)` and `w` `week(s)`. Case does not
/// matter, and spaces may stand around each word or not: `3perminute` is a rate too. Numbers are ASCII
/// digits: no sign, no underscore, no fraction.
///
/// The limit and the burst of a rate of bytes may have a unit: `B`, `kB` (or `KB`), `MB` and `GB` of 1000, 1000^2 and
/// 1000^3 bytes, `KiB`, `MiB` and `GiB` of 1024, 1024^2 and 1024^3. Here case matters: `10MB/s burst 1MiB`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    limit: u32,
    burst: Option<u32>,
    /// In microseconds; 0 for the unlimited rate only.
    period: u64,
}

impl Rate {
    /// Lets everything pass, without asking the backend.
    pub const UNLIMITED: Self = Self { limit: u32::MAX, burst: None, period: 0 };
    /// The shortest period: one millisecond.
    pub const MIN_PERIOD: Duration = Duration::from_micros(MILLI);
    /// The longest period: 366 days.
    pub const MAX_PERIOD: Duration = Duration::from_micros(366 * DAY);

    /// Allows `limit` units in each `period`.
    ///
    /// # Errors
    ///
    /// When the period is not a whole number of milliseconds from 1 ms to 366 days.
    pub fn new(limit: u32, period: Duration) -> Result<Self, RateError> {
        if period < Self::MIN_PERIOD || period > Self::MAX_PERIOD {
            return Err(RateError::PeriodRange { period });
        }
        if !period.subsec_nanos().is_multiple_of(1_000_000) {
            return Err(RateError::PeriodFraction { period });
        }
        let micros = period.as_secs() * SECOND + u64::from(period.subsec_micros());
        Ok(Self::from_micros(limit, micros))
    }

    /// Allows `limit` units in each second.
    #[must_use]
    pub const fn per_second(limit: u32) -> Self {
        Self::from_micros(limit, SECOND)
    }

    /// Allows `limit` units in each minute.
    #[must_use]
    pub const fn per_minute(limit: u32) -> Self {
        Self::from_micros(limit, MINUTE)
    }

    /// Allows `limit` units in each hour.
    #[must_use]
    pub const fn per_hour(limit: u32) -> Self {
        Self::from_micros(limit, HOUR)
    }

    /// Allows `limit` units in each day of 24 hours.
    #[must_use]
    pub const fn per_day(limit: u32) -> Self {
        Self::from_micros(limit, DAY)
    }

    /// Allows `limit` units in each week of 7 days.
    #[must_use]
    pub const fn per_week(limit: u32) -> Self {
        Self::from_micros(limit, WEEK)
    }

    pub(crate) const fn from_micros(limit: u32, period: u64) -> Self {
        Self { limit, burst: None, period }
    }

    /// Lets up to `burst` units pass at once after a pause, for bucket strategies.
    ///
    /// Defaults to the limit. Whether the burst fits is checked where the rate meets its strategy: a
    /// burst on a window strategy, of 0, on a limit of 0 or on [`Rate::UNLIMITED`], or one that takes
    /// more than 100 years to fill, is an error of the throttle's `build`.
    #[must_use]
    pub const fn burst(mut self, burst: u32) -> Self {
        self.burst = Some(burst);
        self
    }

    /// Returns the units in a period; `u32::MAX` for [`Rate::UNLIMITED`].
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Returns the period; zero for [`Rate::UNLIMITED`].
    #[must_use]
    pub const fn period(&self) -> Duration {
        Duration::from_micros(self.period)
    }

    /// Returns the burst, if one was set.
    #[must_use]
    pub const fn explicit_burst(&self) -> Option<u32> {
        self.burst
    }

    /// Returns the units that may pass at once after a pause: the burst if set, else the limit.
    #[must_use]
    pub const fn effective_burst(&self) -> u32 {
        match self.burst {
            Some(burst) => burst,
            None => self.limit,
        }
    }

    /// Returns `true` if everything passes.
    #[must_use]
    pub const fn is_unlimited(&self) -> bool {
        self.period == 0
    }

    pub(crate) const fn period_micros(&self) -> u64 {
        self.period
    }

    /// Returns the period as its text form, such as `min` or `30s`; not for an unlimited rate.
    pub(crate) fn period_text(&self) -> String {
        let (unit, name) = grammar::largest_unit(self.period);
        match self.period / unit {
            1 => name.to_owned(),
            count => format!("{count}{name}"),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unlimited() {
            f.write_str("unlimited")?;
        } else {
            write!(f, "{}/{}", self.limit, self.period_text())?;
        }
        match self.burst {
            Some(burst) => write!(f, " burst {burst}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rate({self})")
    }
}

/// Why a rate was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RateError {
    /// The period is outside of the range.
    #[error("period {period:?} is out of range; use 1 ms to 366 days")]
    #[non_exhaustive]
    PeriodRange {
        /// What was given.
        period: Duration,
    },
    /// The period has a fraction of a millisecond.
    #[error("period {period:?} is not a whole number of milliseconds")]
    #[non_exhaustive]
    PeriodFraction {
        /// What was given.
        period: Duration,
    },
    /// The text is not a rate.
    #[error("invalid rate {}: at byte {at}: {problem}", Excerpt(text.as_bytes()))]
    #[non_exhaustive]
    Syntax {
        /// The text that was read.
        text: String,
        /// Where it went wrong, in bytes from its start.
        at: usize,
        /// What is wrong there, and what would be right.
        problem: String,
    },
}
