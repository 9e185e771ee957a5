//! [`FailoverOptions`].

use std::num::NonZeroU32;
use std::time::Duration;

use super::share::Share;
use crate::error::BuildError;

/// Options of a [`Failover`](super::Failover).
///
/// ```
/// use std::num::NonZeroU32;
///
/// use traffik::decorator::{Failover, FailoverOptions};
/// use traffik::InMemory;
///
/// # let redis = InMemory::new();
/// // Four processes share the limits; while the store is away each counts a quarter for itself.
/// let four = NonZeroU32::new(4).expect("above zero");
/// let options = FailoverOptions::new().share(NonZeroU32::MIN, four);
/// let backend = Failover::with_options(redis, InMemory::new(), options)?;
/// # drop(backend);
/// # Ok::<(), traffik::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct FailoverOptions {
    primary_timeout: Option<Duration>,
    share: Share,
}

const PRIMARY_TIMEOUT: Duration = Duration::from_millis(100);

impl FailoverOptions {
    /// Creates the default options.
    pub const fn new() -> Self {
        Self { primary_timeout: None, share: Share::ALL }
    }

    /// Sets the time that the primary has to decide, after which the fallback is asked. It must leave time for that
    /// within the deadline of a hit: with a longer one a silent primary leads to the fallback only if it gives up by
    /// itself before, as Redis does after its `command_timeout`. A connection may have to be made in it. Above zero.
    /// Defaults to 100 ms; for a failover that a throttle's builder adds to half the deadline, or two fifths where hits
    /// share questions, if that is shorter.
    pub const fn primary_timeout(mut self, time: Duration) -> Self {
        self.primary_timeout = Some(time);
        self
    }

    /// Sets the share of each limit and burst that the fallback grants: `part` of `whole`, for a service of so many
    /// processes whose fallbacks each count alone. Rounded up to whole units, so never 0; a limit of 0 stays 0, and
    /// an unlimited rate is not asked about. At most 1. Defaults to 1: each process grants all.
    ///
    /// A hit that costs more than the burst of the share, but not more than the whole, is denied by the fallback for
    /// a second: it may pass when the primary answers again. Of rates that hits bring, those count together at the
    /// fallback whose shares are equal; two of one hit never do.
    pub const fn share(mut self, part: NonZeroU32, whole: NonZeroU32) -> Self {
        self.share = Share { part, whole };
        self
    }

    /// For a primary that has no more than that time, if nothing else was said.
    pub(crate) fn of_at_most(mut self, time: Duration) -> Self {
        let shorter = PRIMARY_TIMEOUT.min(time).max(Duration::from_nanos(1));
        self.primary_timeout = self.primary_timeout.or(Some(shorter));
        self
    }

    pub(in crate::decorator) fn time(&self) -> Duration {
        self.primary_timeout.unwrap_or(PRIMARY_TIMEOUT)
    }

    pub(super) const fn fallback_share(&self) -> Share {
        self.share
    }

    pub(super) fn check(&self) -> Result<(), BuildError> {
        if self.time().is_zero() {
            let problem = "is zero, so the primary is never waited for; use some milliseconds";
            return Err(BuildError::setting("failover primary_timeout", problem));
        }
        let Share { part, whole } = self.share;
        if part > whole {
            let problem = format!("is {part} of {whole}; use at most the whole");
            return Err(BuildError::setting("failover share", problem));
        }
        Ok(())
    }
}

impl Default for FailoverOptions {
    fn default() -> Self {
        Self::new()
    }
}
