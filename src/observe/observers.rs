//! [`Observers`]: who is told of events, whatever they do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::{Event, Observer};
use crate::on_error::LogLimiter;

/// Observers, told in the order in which they were added. One that panics spoils nothing.
///
/// Tell them outside of locks: what they do is not known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observers(Vec<Arc<Observed>>);

#[derive(Debug)]
struct Observed {
    log: LogLimiter,
    observer: Box<dyn Observer>,
}

impl Observers {
    pub(crate) const NONE: Self = Self(Vec::new());

    pub(crate) fn add(&mut self, observer: impl Observer) {
        let observed = Observed { log: LogLimiter::default(), observer: Box::new(observer) };
        self.0.push(Arc::new(observed));
    }

    pub(crate) fn extend(&mut self, others: &Self) {
        self.0.extend(others.0.iter().map(Arc::clone));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn tell(&self, event: &Event<'_>) {
        for observed in &self.0 {
            // What it broke is its own.
            let told = catch_unwind(AssertUnwindSafe(|| observed.observer.on_event(event)));
            if told.is_err()
                && let Some(suppressed) = observed.log.pass()
            {
                tracing::error!(
                    event = event.name(),
                    suppressed,
                    "an observer panicked; it is told of further events"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::{CircuitChanged, CircuitState};
    use super::*;

    #[derive(Debug)]
    struct Panicking;

    impl Observer for Panicking {
        fn on_event(&self, _event: &Event<'_>) {
            panic!("an observer that panics, on purpose");
        }
    }

    #[derive(Debug, Default)]
    struct Counting(AtomicU64);

    impl Observer for Counting {
        fn on_event(&self, _event: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn those_after_one_that_panics_are_told_each_time() {
        let counting = Arc::new(Counting::default());
        let mut observers = Observers::default();
        assert!(observers.is_empty());
        observers.add(Panicking);
        observers.add(Arc::clone(&counting));
        let event = CircuitChanged::new("redis", CircuitState::Closed, CircuitState::Open);
        for _ in 0..3 {
            observers.tell(&Event::CircuitChanged(event));
        }
        assert_eq!(counting.0.load(Ordering::Relaxed), 3);
    }
}
