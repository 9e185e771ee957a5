//! The `exptime` of an item: whole seconds, in two forms.
//!
//! A server counts in ticks of a second, so an item may go up to a second early; one second more makes up
//! for it. On a busy machine the tick itself comes late, and items go early by as much: that was seen to
//! free a lock while its holder still had it. So there is another second. A number of up to 30 days is
//! relative, a larger one a date. Zero is no expiry. What was seen: a relative number above 30 days is
//! stored and at once gone; a date beyond 2^31 is refused.

use std::time::Duration;

use crate::clock::{Clock, Timestamp, WallClock};

/// A date long past: an item that is written with it is gone at once. With `cas` that is an atomic
/// delete.
pub(super) const LONG_PAST: u32 = LONGEST_RELATIVE + 1;
/// Asked for, not come about.
pub(super) const NEVER: u32 = 0;
/// 30 days.
const LONGEST_RELATIVE: u32 = 60 * 60 * 24 * 30;
/// For the tick, and for one that comes late.
const MARGIN: u64 = 2;
/// The last date that a server takes, in 2038.
const LAST_DATE: u64 = i32::MAX as u64;

/// The expiry of an item that is needed for `ttl` from now.
pub(super) fn of(ttl: Duration) -> u32 {
    // The server's wall clock is meant, whatever clock the limits go by.
    at(ttl, WallClock::new().now())
}

fn at(ttl: Duration, wall: Timestamp) -> u32 {
    let partial = u64::from(ttl.subsec_nanos() > 0);
    let seconds = ttl.as_secs().saturating_add(partial).saturating_add(MARGIN);
    if let Some(relative) = u32::try_from(seconds).ok().filter(|it| *it <= LONGEST_RELATIVE) {
        return relative;
    }
    let now = wall.as_micros() / 1_000_000;
    let date = now.saturating_add(seconds).min(LAST_DATE);
    // Near the last date 30 days are longer.
    match u32::try_from(date) {
        Ok(date) if u64::from(date) > now + u64::from(LONGEST_RELATIVE) => date,
        _ => LONGEST_RELATIVE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000;

    fn of(ttl: Duration) -> u32 {
        at(ttl, Timestamp::from_micros(NOW * 1_000_000))
    }

    #[test]
    fn f19_boundary_table() {
        let day = 24 * 60 * 60;
        let now = u32::try_from(NOW).unwrap();
        for (ttl, expected) in [
            (Duration::ZERO, 2),
            (Duration::from_nanos(1), 3),
            (Duration::from_millis(500), 3),
            (Duration::from_secs(1), 3),
            (Duration::from_millis(1001), 4),
            (Duration::from_secs(30 * day - 3), 2_591_999),
            (Duration::from_secs(30 * day - 2), 2_592_000),
            (Duration::from_secs(30 * day - 1), now + 2_592_001),
            (Duration::from_secs(60 * day), now + 5_184_002),
            (Duration::from_secs(366 * day), now + 31_622_402),
            (Duration::from_secs(100 * 366 * day), i32::MAX as u32),
            (Duration::MAX, i32::MAX as u32),
        ] {
            assert_eq!(of(ttl), expected, "{ttl:?}");
        }
        let late = Timestamp::from_micros(LAST_DATE * 1_000_000);
        assert_eq!(at(Duration::from_secs(60 * day), late), LONGEST_RELATIVE, "after 2038");
    }

    proptest! {
        #[test]
        fn f19_never_zero_never_past_never_beyond_the_last_date(
            seconds: u64,
            nanos in 0u32..1_000_000_000,
            wall in 0..=Timestamp::MAX.as_micros(),
        ) {
            let ttl = Duration::new(seconds, nanos);
            let exptime = at(ttl, Timestamp::from_micros(wall));
            prop_assert!(exptime != NEVER && exptime != LONG_PAST);
            prop_assert!(u64::from(exptime) <= LAST_DATE);
            if exptime <= LONGEST_RELATIVE {
                let most = Duration::from_secs(u64::from(exptime));
                prop_assert!(most > ttl || exptime == LONGEST_RELATIVE);
            } else {
                prop_assert!(u64::from(exptime) > wall / 1_000_000 + u64::from(LONGEST_RELATIVE));
            }
        }
    }
}
