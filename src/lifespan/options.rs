//! [`LifespanOptions`].

/// Options of a lifespan.
///
/// ```
/// use traffik::lifespan::{LifespanOptions, Start};
///
/// let options = LifespanOptions::new().start(Start::Degraded);
/// # drop(options);
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct LifespanOptions {
    pub(super) start: Start,
}

impl LifespanOptions {
    /// Creates the default options: the store is [required](Start::Required).
    pub const fn new() -> Self {
        Self { start: Start::Required }
    }

    /// Sets what happens if the store cannot be reached at the start. Defaults to
    /// [`Start::Required`].
    pub const fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }
}

/// The behaviour of a start when the store cannot be reached.
///
/// A mistake of configuration that the store reports, such as a wrong password, is an error in both
/// cases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// The lifespan fails to begin, after the time that the backend allows (5 s on Redis, a call's
    /// timeout on each Memcached node). Choose it where an orchestrator starts the process again, or
    /// where a service must not run unlimited.
    #[default]
    Required,
    /// The lifespan begins without the store, 500 ms after the backend is free to open: the end of its last
    /// lifespan is waited for. Until the store answers, a [`Failover`](crate::decorator::Failover), or else the
    /// [`OnError`](crate::OnError) policy decides each hit, and the backend goes on connecting in the
    /// background. Both the start without the store and its first answer are logged. Choose it where a
    /// service with an outage of its store must be able to start, as with
    /// [`OnError::Allow`](crate::OnError::Allow).
    ///
    /// A mistake of configuration that shows only after these 500 ms is logged as an error, and each
    /// hit is an `Err`, whatever the policy. [`Backend::ready`](crate::Backend::ready) tells whether
    /// the store answers.
    Degraded,
}
