//! How long the machine let nothing run, and what must not last longer than that and a second.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::wait::now;

const TICK: Duration = Duration::from_millis(5);
/// No lock stays held for longer by one who went away.
const MOST: Duration = Duration::from_secs(1);

/// What a thread has seen that does nothing but look at the clock.
struct Stalls {
    sum: Duration,
    last: Instant,
}

/// All stalls of this process since it was first asked, the one that lasts among them.
fn so_far() -> Duration {
    static STALLS: OnceLock<Mutex<Stalls>> = OnceLock::new();
    let lock =
        |stalls: &'static Mutex<Stalls>| stalls.lock().unwrap_or_else(PoisonError::into_inner);
    let watch = move || loop {
        sleep(TICK);
        let mut stalls = lock(STALLS.wait());
        let late = stalls.last.elapsed().saturating_sub(TICK);
        stalls.sum += late;
        stalls.last = now();
    };
    let stalls = STALLS.get_or_init(|| {
        std::thread::spawn(watch);
        Mutex::new(Stalls { sum: Duration::ZERO, last: now() })
    });
    let stalls = lock(stalls);
    stalls.sum + stalls.last.elapsed().saturating_sub(TICK)
}

/// Something that somebody held who has gone away.
#[derive(Debug)]
pub struct Abandoned {
    at: Instant,
    stalled: Duration,
}

impl Abandoned {
    /// From now on nobody wants it any more.
    pub fn now() -> Self {
        Self { stalled: so_far(), at: now() }
    }

    /// It is free now, which was to be within a second, and in what the machine stood still meanwhile.
    ///
    /// Only a long form says so, `TRAFFIK_SOAK=1`: a short one runs beside all other tests.
    ///
    /// # Panics
    ///
    /// In a long form, if it took longer.
    #[track_caller]
    pub fn is_free(&self, what: &str) {
        let (took, stalled) = (self.at.elapsed(), so_far().saturating_sub(self.stalled));
        let is_soak = std::env::var_os("TRAFFIK_SOAK").is_some();
        assert!(
            !is_soak || took <= MOST + stalled,
            "{what} was held for {took:?} by nobody, {stalled:?} of it a stall"
        );
    }
}
