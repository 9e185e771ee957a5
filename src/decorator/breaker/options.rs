//! [`CircuitBreakerOptions`].

use std::num::NonZeroU32;
use std::time::Duration;

use crate::error::BuildError;

/// Options of a [`CircuitBreaker`](super::CircuitBreaker). The defaults suit a store that a hit reaches in some
/// milliseconds.
///
/// ```
/// use std::num::NonZeroU32;
/// use std::time::Duration;
///
/// use traffik::decorator::{CircuitBreaker, CircuitBreakerOptions};
/// use traffik::InMemory;
///
/// let patient = CircuitBreakerOptions::new()
///     .failures_in_a_row(NonZeroU32::new(20).expect("above zero"))
///     .longest_open(Duration::from_secs(1));
/// let backend = CircuitBreaker::with_options(InMemory::new(), patient)?;
/// # drop(backend);
/// # Ok::<(), traffik::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct CircuitBreakerOptions {
    settings: Settings,
    silent_after: Option<Duration>,
}

/// The options, as the circuit reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) failures_in_a_row: NonZeroU32,
    pub(super) min_calls: NonZeroU32,
    pub(super) window: Duration,
    pub(super) silent_after: Duration,
    pub(super) first_open: Duration,
    pub(super) longest_open: Duration,
    pub(super) probe_timeout: Duration,
}

const SILENT_AFTER: Duration = Duration::from_millis(50);

impl CircuitBreakerOptions {
    /// Creates the default options.
    pub const fn new() -> Self {
        let (Some(failures_in_a_row), Some(min_calls)) = (NonZeroU32::new(5), NonZeroU32::new(20))
        else {
            unreachable!()
        };
        let settings = Settings {
            failures_in_a_row,
            min_calls,
            window: Duration::from_secs(10),
            silent_after: SILENT_AFTER,
            first_open: Duration::from_millis(100),
            longest_open: Duration::from_millis(250),
            probe_timeout: Duration::from_millis(100),
        };
        Self { settings, silent_after: None }
    }

    /// Sets how many failures in a row open the circuit. A failure counts in the row only if no other call was
    /// answered while it was under way; and the row opens the circuit once nothing was answered for 50 ms, or if
    /// most calls of the [window](Self::window) failed. Defaults to 5.
    pub const fn failures_in_a_row(mut self, failures: NonZeroU32) -> Self {
        self.settings.failures_in_a_row = failures;
        self
    }

    /// Sets the time over which shares are counted: the circuit opens also if more than half of its calls failed,
    /// and these are [`min_calls`](Self::min_calls) or more. At least 10 ms. Defaults to 10 s.
    pub const fn window(mut self, window: Duration) -> Self {
        self.settings.window = window;
        self
    }

    /// Sets how many calls the [window](Self::window) must have for its share to open the circuit. Defaults to 20.
    pub const fn min_calls(mut self, calls: NonZeroU32) -> Self {
        self.settings.min_calls = calls;
        self
    }

    /// Sets the time after which a call whose caller gave up counts as a failure, for the store was silent; one
    /// that is given up sooner counts as nothing. It must be shorter than the deadlines of the callers, or a silent
    /// store never opens the circuit. Above zero. Defaults to 50 ms; for a breaker that a throttle's builder adds to half
    /// of what the throttle, or a failover, waits, if that is shorter.
    pub const fn silent_after(mut self, time: Duration) -> Self {
        self.silent_after = Some(time);
        self
    }

    /// Sets how long the circuit stays open at first; it doubles with each probe that fails. Up to a quarter less,
    /// at random, so that the probes of several processes come apart. Above zero. Defaults to 100 ms.
    pub const fn first_open(mut self, time: Duration) -> Self {
        self.settings.first_open = time;
        self
    }

    /// Sets how long the circuit stays open at most before it tries the store again. With the
    /// [time of a probe](Self::probe_timeout) it bounds the time until a store that is well again is used: 350 ms by
    /// default, if there are hits. At least that of [`first_open`](Self::first_open). Defaults to 250 ms.
    pub const fn longest_open(mut self, time: Duration) -> Self {
        self.settings.longest_open = time;
        self
    }

    /// Sets the time limit of a probe, which then has failed, so that one that hangs cannot hold the circuit. Above
    /// zero. Defaults to 100 ms.
    pub const fn probe_timeout(mut self, time: Duration) -> Self {
        self.settings.probe_timeout = time;
        self
    }

    /// For callers that give up after that time, if nothing else was said.
    pub(crate) fn for_callers_of(mut self, deadline: Duration) -> Self {
        let shorter = SILENT_AFTER.min(deadline / 2).max(Duration::from_nanos(1));
        self.silent_after = self.silent_after.or(Some(shorter));
        self
    }

    pub(super) fn settings(self) -> Settings {
        let silent_after = self.silent_after.unwrap_or(SILENT_AFTER);
        Settings { silent_after, ..self.settings }
    }

    pub(super) fn check(self) -> Result<Settings, BuildError> {
        let settings = self.settings();
        let above_zero = [
            ("circuit breaker silent_after", settings.silent_after),
            ("circuit breaker first_open", settings.first_open),
            ("circuit breaker probe_timeout", settings.probe_timeout),
        ];
        for (setting, time) in above_zero {
            if time.is_zero() {
                return Err(BuildError::setting(setting, "is zero; use some milliseconds"));
            }
        }
        if settings.window < Duration::from_millis(10) {
            let problem = format!("is {:?}; use at least 10ms", settings.window);
            return Err(BuildError::setting("circuit breaker window", problem));
        }
        if settings.longest_open < settings.first_open {
            let (longest, first) = (settings.longest_open, settings.first_open);
            let problem = format!("is {longest:?}, and first_open {first:?}; use at least that");
            return Err(BuildError::setting("circuit breaker longest_open", problem));
        }
        Ok(settings)
    }
}

impl Default for CircuitBreakerOptions {
    fn default() -> Self {
        Self::new()
    }
}
