//! [`OnDrop`]: runs a cleanup on every way out, also when a future is dropped.

/// Calls a closure when it is dropped, unless it was defused.
#[derive(Debug)]
pub(crate) struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> OnDrop<F> {
    pub(crate) const fn new(call: F) -> Self {
        Self(Some(call))
    }

    /// Drops the closure without calling it.
    pub(crate) fn defuse(mut self) {
        self.0 = None;
    }
}

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn calls_once_unless_it_is_defused() {
        let calls = Cell::new(0);
        let count = || calls.set(calls.get() + 1);
        OnDrop::new(count).defuse();
        assert_eq!(calls.get(), 0);
        drop(OnDrop::new(count));
        assert_eq!(calls.get(), 1);
    }
}
