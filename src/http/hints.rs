//! [`Once`]: what is said once in the log.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether something was said.
#[derive(Debug, Default)]
pub(super) struct Once(AtomicBool);

impl Once {
    #[cfg(feature = "axum")]
    pub(super) const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Returns `true` the first time.
    pub(super) fn is_first(&self) -> bool {
        !self.was() && !self.0.swap(true, Ordering::Relaxed)
    }

    /// Returns `true` if it was said. Costs a load.
    #[inline]
    pub(super) fn was(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
