//! Random numbers: jitter for pauses, and unique names for owners.
//!
//! The numbers are a keyed hash of a counter, with keys that the system makes at random in each process:
//! no two processes have the same, and none can be guessed from others.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A random duration from zero to `most`.
pub(crate) fn up_to(most: Duration) -> Duration {
    let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
    let scaled = (u128::from(next()) * (u128::from(nanos) + 1)) >> 64;
    Duration::from_nanos(u64::try_from(scaled).unwrap_or(nanos))
}

/// Returns 128 random bits as 32 hexadecimal digits, to name the owner of a lock, or a file.
pub(crate) fn id() -> String {
    format!("{:016x}{:016x}", next(), next())
}

/// Returns a hasher that is seeded at random once in a process, so that nobody outside can choose keys that
/// collide.
pub(crate) fn hasher() -> &'static ahash::RandomState {
    static HASHER: LazyLock<ahash::RandomState> = LazyLock::new(ahash::RandomState::new);
    &HASHER
}

/// Returns 128 bits that nobody outside can guess, to key a hash: a keyed hash, whose keys the system makes at random.
pub(crate) fn secret() -> [u64; 2] {
    let key = RandomState::new();
    [key.hash_one(0), key.hash_one(1)]
}

fn next() -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static NEXT: AtomicU64 = AtomicU64::new(0);
    KEY.hash_one(NEXT.fetch_add(1, Ordering::Relaxed))
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

    #[test]
    fn ids_are_long_and_all_different() {
        let ids: std::collections::HashSet<String> = (0..1000).map(|_| id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 32));
    }
}
