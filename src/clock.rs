//! Clocks and timestamps.
//!
//! A backend owns its [`Clock`]; every timestamp in a limiter's state comes from it. Nothing else in
//! the crate asks for the time. Sleeping is tokio's matter, so tests can pause it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// An instant, in whole microseconds since the Unix epoch.
///
/// The range is 0 to 2^53 - 1 (the year 2255), so that a script on a server whose only number is a
/// double computes with the same exact values. Values beyond are held at the end of the range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The Unix epoch.
    pub const ZERO: Self = Self(0);
    /// The last instant that can be written.
    pub const MAX: Self = Self((1 << 53) - 1);

    /// Creates the instant `micros` microseconds after the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        if micros > Self::MAX.0 { Self::MAX } else { Self(micros) }
    }

    /// Returns the microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Returns how long after `earlier` this instant is; zero if it is not after it.
    #[must_use]
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// Returns the instant `duration` later, rounded up to the microsecond.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        self.saturating_add_micros(micros_ceil(duration))
    }

    #[inline]
    pub(crate) const fn saturating_add_micros(self, micros: u64) -> Self {
        Self::from_micros(self.0.saturating_add(micros))
    }
}

/// A duration in microseconds, rounded up, and held at `u64::MAX`.
pub(crate) fn micros_ceil(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// Tells the time to a backend.
///
/// An implementation should be cheap: an in-memory hit asks once. It need not be monotonic. When it
/// steps back, a limiter goes on from the latest instant that it has seen for that key: nothing extra
/// is granted and nothing is taken away.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The present instant.
    fn now(&self) -> Timestamp;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }
}

/// A monotonic clock, which is set by the wall clock when it is created.
///
/// It reads the processor's time stamp counter where that is reliable, which takes a few nanoseconds
/// and no system call. It never goes back and does not follow later changes of the wall clock, so it
/// suits state that lives in one process. Nor is it corrected as the wall clock is: 3 to 31 parts in a million were seen,
/// up to some seconds in a day, by which windows that begin with the hour or the day then begin sooner or later. The first
/// one in a process may take up to 200 ms, in which the counter is measured against the system's monotonic clock.
#[derive(Clone, Debug)]
pub struct SystemClock {
    counter: quanta::Clock,
    start: u64,
    start_nanos: u64,
}

impl SystemClock {
    /// Creates a clock that agrees with the wall clock now.
    #[must_use]
    pub fn new() -> Self {
        let counter = quanta::Clock::new();
        let start = counter.raw();
        Self { counter, start, start_nanos: wall_nanos() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> Timestamp {
        let elapsed = self.counter.delta_as_nanos(self.start, self.counter.raw());
        Timestamp::from_micros(self.start_nanos.saturating_add(elapsed) / 1000)
    }
}

/// The system's wall clock, read at each call.
///
/// For state that several processes share through a store without a clock. Processes must
/// then agree on the time.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct WallClock;

impl WallClock {
    /// Creates the wall clock.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(wall_nanos() / 1000)
    }
}

/// A clock that moves only when told, for tests.
///
/// Clones share the same time.
///
/// ```
/// use std::time::Duration;
/// use traffik::{Clock, ManualClock};
///
/// let clock = ManualClock::new();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now().saturating_duration_since(before), Duration::from_secs(60));
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock {
    micros: Arc<AtomicU64>,
}

impl ManualClock {
    /// Starts at 2024-01-01 00:00:00 UTC, a boundary of windows of a second, a minute, an hour and a day.
    #[must_use]
    pub fn new() -> Self {
        Self::at(Timestamp::from_micros(1_704_067_200_000_000))
    }

    /// Starts at the given instant.
    #[must_use]
    pub fn at(start: Timestamp) -> Self {
        Self { micros: Arc::new(AtomicU64::new(start.as_micros())) }
    }

    /// Moves to the given instant, forward or back.
    pub fn set(&self, now: Timestamp) {
        self.micros.store(now.as_micros(), Ordering::SeqCst);
    }

    /// Moves forward by `duration`, rounded up to the microsecond.
    pub fn advance(&self, duration: Duration) {
        let later = |now| Some(Timestamp::from_micros(now).saturating_add(duration).as_micros());
        let _ = self.micros.fetch_update(Ordering::SeqCst, Ordering::SeqCst, later);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.micros.load(Ordering::SeqCst))
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
fn wall_nanos() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// The runtime's monotonic time, for deadlines and sleeps; stands still while tokio's time is paused.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the runtime's clock")]
pub(crate) fn monotonic_now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_up_to_the_microsecond() {
        let start = Timestamp::from_micros(10);
        assert_eq!(start.saturating_add(Duration::from_nanos(1)).as_micros(), 11);
        assert_eq!(start.saturating_add(Duration::from_nanos(1000)).as_micros(), 11);
        assert_eq!(start.saturating_add(Duration::MAX), Timestamp::MAX);
    }

    #[test]
    fn system_clock_agrees_with_the_wall_clock_and_never_goes_back() {
        let (system, wall) = (SystemClock::new(), WallClock::new());
        let apart = system.now().saturating_duration_since(wall.now())
            + wall.now().saturating_duration_since(system.now());
        assert!(apart < Duration::from_secs(1), "{apart:?} apart");
        let mut last = system.now();
        for _ in 0..100_000 {
            let now = system.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn clones_of_a_manual_clock_share_the_time() {
        let clock = ManualClock::new();
        let twin = clock.clone();
        twin.advance(Duration::from_millis(5));
        assert_eq!(clock.now(), twin.now());
        twin.set(Timestamp::ZERO);
        assert_eq!(clock.now(), Timestamp::ZERO);
    }
}
