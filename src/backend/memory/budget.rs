//! How many keys there may be.

use std::sync::atomic::Ordering;

use crate::sync::AtomicUsize;

/// Counts what is stored, up to a bound.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicUsize,
    most: usize,
}

impl Budget {
    /// `None` for no bound.
    pub(super) fn new(most: Option<usize>) -> Self {
        Self { used: AtomicUsize::new(0), most: most.unwrap_or(usize::MAX) }
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes `count` places, all or none.
    pub(super) fn take(&self, count: usize) -> bool {
        let before = self.used.fetch_add(count, Ordering::Relaxed);
        let fits = before.saturating_add(count) <= self.most;
        if !fits {
            self.give_back(count);
        }
        fits
    }

    pub(super) fn give_back(&self, count: usize) {
        if count > 0 {
            self.used.fetch_sub(count, Ordering::Relaxed);
        }
    }

    /// `taken` places were taken for what turned out to need `needed`.
    pub(super) fn settle(&self, taken: usize, needed: usize) {
        self.give_back(taken.saturating_sub(needed));
        if needed > taken {
            self.used.fetch_add(needed - taken, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(traffik_model)))]
mod tests {
    use super::*;

    #[test]
    fn takes_all_or_none() {
        let budget = Budget::new(Some(3));
        assert!(budget.take(2));
        assert!(!budget.take(2));
        assert!(budget.take(1));
        budget.settle(1, 0);
        assert_eq!(budget.used(), 2);
        budget.settle(0, 1);
        assert!(!budget.take(1));
        assert!(Budget::new(None).take(1 << 40));
    }
}
