//! The number of keys, bounded by `max_keys`.

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

    /// Returns whether a place is free.
    pub(super) fn has_room(&self) -> bool {
        self.used() < self.most
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
        assert!(!budget.has_room());
        budget.give_back(1);
        assert_eq!(budget.used(), 2);
        assert!(budget.has_room());
        assert!(Budget::new(None).take(1 << 40));
    }
}
