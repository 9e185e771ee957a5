//! When the next attempt on a key is made, so that no process starves where many want the same key.

use std::time::Duration;

use crate::random;

/// A leader's pace.
#[derive(Debug)]
pub(super) struct Pace {
    /// Attempts that were lost since the last one that was won.
    lost: u32,
}

impl Pace {
    pub(super) const fn new() -> Self {
        Self { lost: 0 }
    }

    /// Somebody else was faster.
    pub(super) async fn lost(&mut self) {
        self.lost += 1;
    }

    /// The attempt was won.
    pub(super) async fn won(&mut self) {
        if std::mem::take(&mut self.lost) > 0 {
            tokio::time::sleep(random::up_to(Duration::from_millis(2))).await;
        }
    }
}
