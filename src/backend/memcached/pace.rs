//! Backoff between attempts on a key that several processes write.
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

/// The longest rest for each attempt that was lost, where an attempt takes less than that: another process
/// needs the time of an attempt to get its turn.
const REST: Duration = Duration::from_millis(2);
/// More losses than that make no rest longer.
const MOST_LOST: u32 = 16;
/// Well within the deadline of the hits that come meanwhile.
const LONGEST_REST: Duration = Duration::from_millis(50);

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

    /// The attempt was won in that time, and its hits are answered: the others' turn.
    pub(super) async fn won(&mut self, took: Duration) {
        let lost = std::mem::take(&mut self.lost).min(MOST_LOST);
        self.contention = lost.max(self.contention * 3 / 4);
        if self.contention > 0 {
            sleep(random::up_to(self.longest_rest(took))).await;
        }
    }

    fn longest_rest(&self, took: Duration) -> Duration {
        (took.max(REST) * self.contention).min(LONGEST_REST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::monotonic_now;

    async fn rest(pace: &mut Pace, took: Duration) -> Duration {
        let start = monotonic_now();
        pace.won(took).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_alone_never_rests_and_who_lost_rests_less_and_less() {
        for took in [Duration::ZERO, Duration::from_millis(5), Duration::from_secs(5)] {
            let mut pace = Pace::default();
            assert_eq!(rest(&mut pace, took).await, Duration::ZERO);
            (0..100).for_each(|_| pace.lost());
            let mut rests = 0;
            while rest(&mut pace, took).await > Duration::ZERO || pace.contention > 0 {
                assert!(pace.longest_rest(took) <= LONGEST_REST);
                rests += 1;
            }
            assert!((5..15).contains(&rests), "{rests}");
            assert_eq!(rest(&mut pace, took).await, Duration::ZERO);
        }
    }
}
