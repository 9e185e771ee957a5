//! Random pauses, so that many who wait do not come back at the same moment.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A random duration from zero to `most`.
///
/// The numbers are a keyed hash of a counter, with a key that is random in each process: unpredictable
/// enough to spread load, and never meant for secrets.
pub(crate) fn up_to(most: Duration) -> Duration {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let random = KEY.hash_one(NEXT.fetch_add(1, Ordering::Relaxed));
    let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
    let scaled = (u128::from(random) * (u128::from(nanos) + 1)) >> 64;
    Duration::from_nanos(u64::try_from(scaled).unwrap_or(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_in_range_and_varies() {
        let most = Duration::from_millis(5);
        let drawn: Vec<Duration> = (0..1000).map(|_| up_to(most)).collect();
        assert!(drawn.iter().all(|pause| *pause <= most));
        assert!(drawn.iter().any(|pause| *pause < most / 4));
        assert!(drawn.iter().any(|pause| *pause > most / 4 * 3));
        assert_eq!(up_to(Duration::ZERO), Duration::ZERO);
        assert!(up_to(Duration::MAX) > Duration::from_secs(1));
    }
}
