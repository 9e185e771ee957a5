//! [`DenyCacheOptions`].

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::BuildError;

/// Options of a [`DenyCache`](super::DenyCache).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct DenyCacheOptions {
    pub(super) max_age: Duration,
    pub(super) max_keys: usize,
}

const AGES: RangeInclusive<Duration> = Duration::from_micros(1)..=Duration::from_secs(3600);
const KEYS: RangeInclusive<usize> = 1..=1 << 26;

impl DenyCacheOptions {
    /// Creates the default options.
    pub const fn new() -> Self {
        Self { max_age: Duration::from_secs(1), max_keys: 65_536 }
    }

    /// Sets for how long a denial is remembered at most: so late is seen what another process gives back. 1 us to an
    /// hour. Defaults to 1 s.
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// Sets how many denials are remembered at most, rounded up to a multiple of 8: of each key one for each cost, leave
    /// and set of limits. One takes some 200 bytes, in addition to some 5 bytes for each that there might be. 1 to
    /// 67,108,864. Defaults to 65,536.
    pub const fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    pub(super) fn check(&self) -> Result<(), BuildError> {
        if !AGES.contains(&self.max_age) {
            let problem = format!("of a deny cache is {:?}; use 1 us to an hour", self.max_age);
            return Err(BuildError::setting("max_age", problem));
        }
        if !KEYS.contains(&self.max_keys) {
            let problem = format!("of a deny cache is {}; use 1 to {}", self.max_keys, KEYS.end());
            return Err(BuildError::setting("max_keys", problem));
        }
        Ok(())
    }
}

impl Default for DenyCacheOptions {
    fn default() -> Self {
        Self::new()
    }
}
