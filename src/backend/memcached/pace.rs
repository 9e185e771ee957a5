//! How fast one process goes on with a key that others want, too.
//!
//! Each write makes the attempts of all others fail, so who is fast could keep those who are slow from ever
//! writing. The one that lost tries again at once: the older its hits are, the less they can wait. The one
//! that won leaves the key to the others for a random while, and the longer the more often it lost
//! before, which tells how many they are. Its hits are answered by then, and those that come meanwhile
//! are decided together. It goes on so for some time: a win without a loss may only mean that the others
//! are resting.

use std::time::Duration;

use tokio::time::sleep;

use crate::random;

/// The longest rest, for each attempt that was lost: enough for several attempts of another process.
const REST: Duration = Duration::from_millis(2);
/// More losses than that make no rest longer.
const MOST: u32 = 16;

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Attempts that were lost since the last one that was won.
    lost: u32,
    /// How contended the key is: as many losses, and less with each win that needed fewer.
    contention: u32,
}

impl Pace {
    /// Somebody else was faster.
    pub(super) fn lost(&mut self) {
        self.lost += 1;
    }

    /// The attempt was won, and its hits are answered: the others' turn.
    pub(super) async fn won(&mut self) {
        let lost = std::mem::take(&mut self.lost).min(MOST);
        self.contention = lost.max(self.contention * 3 / 4);
        if self.contention > 0 {
            sleep(random::up_to(REST * self.contention)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::monotonic_now;

    async fn rest(pace: &mut Pace) -> Duration {
        let start = monotonic_now();
        pace.won().await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_alone_never_rests_and_who_lost_rests_less_and_less() {
        let mut pace = Pace::default();
        assert_eq!(rest(&mut pace).await, Duration::ZERO);
        (0..100).for_each(|_| pace.lost());
        let mut longest = REST * MOST;
        while longest > Duration::ZERO {
            let rest = rest(&mut pace).await;
            // A timer rings on the next millisecond.
            assert!(rest <= longest + Duration::from_millis(1), "{rest:?} of {longest:?}");
            longest = REST * (pace.contention * 3 / 4);
        }
        assert_eq!(rest(&mut pace).await, Duration::ZERO);
    }
}
