//! [`Grace`]: the time for which an expired state stays.

use crate::clock::Timestamp;
use crate::step::KEPT_MICROS;

/// How long a state that has expired stays, for it may count again or be written again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grace {
    /// Microseconds since the last hit.
    pub(super) since_last: u64,
    /// Microseconds since it was over.
    since_over: u64,
}

impl Grace {
    /// At once: no more keys fit.
    pub(super) const NONE: Self = Self { since_last: 0, since_over: 0 };

    /// Under a clock that never steps back: taking a count out and in again costs more than letting it
    /// lie for ten seconds.
    pub(super) const MONOTONIC: Self = Self { since_last: 10_000_000, since_over: 0 };

    /// Under a clock that may step back: what was over may count again.
    pub(super) const STEPPING: Self = Self { since_last: 0, since_over: KEPT_MICROS };

    pub(super) fn is_spent(self, last: Timestamp, reset_at: Timestamp, now: Timestamp) -> bool {
        last.saturating_add_micros(self.since_last) <= now
            && reset_at.saturating_add_micros(self.since_over) <= now
    }
}
