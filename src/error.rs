//! Errors: [`BackendError`] of a backend, [`Error`] of a throttle, [`BuildError`] of a builder.

use std::{fmt, io};

use thiserror::Error;

use crate::decision::Decision;
use crate::key::KeyError;
use crate::rate::RateError;
use crate::strategy::{LimitError, Op};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A backend could not do what it was asked.
///
/// Says which backend, which operation, what kind of failure, and above all its [`effect`](Self::effect):
/// whether the operation may have happened all the same.
pub struct BackendError(Box<Details>);

struct Details {
    backend: &'static str,
    operation: &'static str,
    kind: ErrorKind,
    effect: Effect,
    message: Option<String>,
    cause: Option<Cause>,
}

/// The effect of a failed operation: whether it may have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Effect {
    /// It did not happen. Of decisions and changes of values only such are ever retried by themselves.
    NotApplied,
    /// It may have happened: a timeout, a connection lost after a byte was sent, or a state that could not be read
    /// and was replaced. A hit counts as used and not admitted.
    Ambiguous,
}

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The store cannot be reached, or refuses to work now.
    Unavailable,
    /// No answer within the deadline.
    Timeout,
    /// Too many calls are in flight, or too many callers wait for a lock.
    Overloaded,
    /// Every attempt lost to a concurrent writer.
    Contended,
    /// The stored value is not what was written.
    Corrupt,
    /// The store is full.
    Full,
    /// There is no such key.
    NotFound,
    /// The value is not a number.
    NotANumber,
    /// The number would leave its range.
    OutOfRange,
    /// The backend cannot do that.
    Unsupported,
    /// Hits brought more different rates to a key than it can count. A mistake of the program, so no
    /// policy applies.
    TooManyRates,
    /// The backend was closed. A mistake of the program, so no policy applies.
    Closed,
    /// The configuration or the credentials are wrong. No policy applies.
    Misconfigured,
    /// Anything else.
    Other,
}

impl ErrorKind {
    /// Returns `true` for a mistake of the program or its operator, which no error policy may hide.
    #[must_use]
    pub const fn bypasses_policy(self) -> bool {
        matches!(self, Self::Closed | Self::Misconfigured | Self::TooManyRates)
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Unavailable => "the store is unavailable",
            Self::Timeout => "no answer within the deadline",
            Self::Overloaded => "too many calls are in flight",
            Self::Contended => "every attempt lost to a concurrent writer",
            Self::Corrupt => "the stored value is corrupt",
            Self::Full => "the store is full",
            Self::NotFound => "there is no such key",
            Self::NotANumber => "the value is not a number",
            Self::OutOfRange => "the number would leave its range",
            Self::Unsupported => "not supported by this backend",
            Self::TooManyRates => {
                "hits brought more than 32 different rates to this key; use fewer, or limits of the throttle"
            }
            Self::Closed => {
                "the backend is closed: its lifespan has ended, or it was closed by hand"
            }
            Self::Misconfigured => "the backend is misconfigured",
            Self::Other => "the operation failed",
        }
    }
}

impl BackendError {
    /// Creates an error of `operation` on `backend`, whose effect is [`Effect::NotApplied`], or
    /// [`Effect::Ambiguous`] for a timeout.
    #[must_use]
    pub fn new(backend: &'static str, operation: &'static str, kind: ErrorKind) -> Self {
        let effect = match kind {
            ErrorKind::Timeout => Effect::Ambiguous,
            _ => Effect::NotApplied,
        };
        Self(Box::new(Details { backend, operation, kind, effect, message: None, cause: None }))
    }

    /// Sets whether the operation may have happened.
    #[must_use]
    pub fn with_effect(mut self, effect: Effect) -> Self {
        self.0.effect = effect;
        self
    }

    /// After some parts of an operation were done, the rest of which failed.
    pub(crate) fn after(self, done: usize) -> Self {
        if done > 0 { self.with_effect(Effect::Ambiguous) } else { self }
    }

    /// Adds what a reader needs to know: no secret, and foreign bytes escaped.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.0.message = Some(message.into());
        self
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn with_cause(mut self, cause: impl Into<Cause>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Returns the backend's name.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        self.0.backend
    }

    /// Returns the operation that was asked of it.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// Returns what kind of failure it was.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns whether it may have happened all the same.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// Returns what went wrong, without where.
    #[cfg(feature = "memcached")]
    pub(crate) fn reason(&self) -> &str {
        self.0.message.as_deref().unwrap_or(self.0.kind.text())
    }

    /// The same failure for another who waited for the same answer; without its cause.
    pub(crate) fn shared(&self) -> Self {
        let Details { backend, operation, kind, effect, ref message, .. } = *self.0;
        Self(Box::new(Details {
            backend,
            operation,
            kind,
            effect,
            message: message.clone(),
            cause: None,
        }))
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details { backend, operation, kind, effect, message, .. } = &*self.0;
        write!(f, "{backend}: {operation}: ")?;
        match message {
            Some(message) => f.write_str(message)?,
            None => f.write_str(kind.text())?,
        }
        match effect {
            Effect::NotApplied => Ok(()),
            Effect::Ambiguous => f.write_str(" (it may have happened)"),
        }
    }
}

impl fmt::Debug for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details { backend, operation, kind, effect, message, cause } = &*self.0;
        f.debug_struct("BackendError")
            .field("backend", backend)
            .field("operation", operation)
            .field("kind", kind)
            .field("effect", effect)
            .field("message", message)
            .field("cause", cause)
            .finish()
    }
}

impl std::error::Error for BackendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as _)
    }
}

/// An error of a [`Throttle`](crate::Throttle), in place of a decision.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The backend failed, and the policy is to raise; or the program made a mistake.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The throttle was built without a backend, and none is current in this task.
    #[error(
        "throttle {throttle:?} has no backend, and none is current in this task: give it one with \
         ThrottleBuilder::backend, or run it inside ambient::with_backend; a spawned task does not \
         inherit the current backend"
    )]
    #[non_exhaustive]
    NoBackend {
        /// The throttle's name.
        throttle: String,
    },
    /// The key has too many parts.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The strategy cannot keep a rate that a hit brought.
    #[error("throttle {throttle:?}: {source}")]
    #[non_exhaustive]
    Limit {
        /// The throttle's name.
        throttle: String,
        /// Which rate, and what would be right.
        source: LimitError,
    },
    /// The options of a hit do not fit.
    #[error("throttle {throttle:?}: {problem}")]
    #[non_exhaustive]
    HitOptions {
        /// The throttle's name.
        throttle: String,
        /// What was given, and what would be right.
        problem: String,
    },
    /// Nothing is to be decided together.
    #[error("all() has no entry, so nothing limits it; add one with All::hit")]
    NoEntries,
    /// Too many hits are to be decided together.
    #[error(
        "all() has {entries} entries; the most is {most}. For hits that pass or not by themselves, use hit_many"
    )]
    #[non_exhaustive]
    TooManyEntries {
        /// How many there are.
        entries: usize,
        /// The most that there may be.
        most: usize,
    },
    /// A receipt was given to another throttle, with another key or to another store than its hit had.
    #[error(
        "the receipt belongs to another throttle, key or store; refund it where its hit was made"
    )]
    WrongReceipt,
    /// Less was taken than was to be given back.
    #[error("the receipt has {taken} units; give back at most that, not {asked}")]
    #[non_exhaustive]
    ReceiptUnits {
        /// The units that the receipt still has.
        taken: u32,
        /// The units that were to be given back.
        asked: u32,
    },
    /// The turn of a caller that waits did not come in time. Nothing was taken.
    #[error("throttle {throttle:?}: the turn did not come in time")]
    #[non_exhaustive]
    TimedOut {
        /// The throttle's name.
        throttle: String,
    },
    /// As many callers as may wait already do.
    #[error("throttle {throttle:?}: {waiters} callers wait already, as many as max_waiters lets")]
    #[non_exhaustive]
    TooManyWaiters {
        /// The throttle's name.
        throttle: String,
        /// How many wait.
        waiters: usize,
    },
    /// A user's own strategy does not do that operation.
    #[error(
        "throttle {throttle:?}: the strategy of limit {limit:?} does not do {op:?}; use a built-in \
         strategy, or let it do that and say so in Strategy::supports"
    )]
    #[non_exhaustive]
    Unsupported {
        /// The throttle's name.
        throttle: String,
        /// The limit's name.
        limit: String,
        /// The operation.
        op: Op,
    },
    /// The backend has to be awaited, and the call does not wait. Nothing was taken.
    #[error("throttle {throttle:?}: its backend has to be awaited; use acquire or hit")]
    #[non_exhaustive]
    MustAwait {
        /// The throttle's name.
        throttle: String,
    },
    /// No block would reach the key.
    #[error("throttle {throttle:?}: cannot block: {problem}")]
    #[non_exhaustive]
    CannotBlock {
        /// The throttle's name.
        throttle: String,
        /// Why, and what would be right.
        problem: &'static str,
    },
    /// The hit was denied, and the caller wanted that as an error.
    #[error("rate limit exceeded: {0}")]
    Denied(Box<Decision>),
}

/// Why a throttle or a backend could not be built.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A rate could not be read.
    #[error("throttle {throttle:?}: {source}")]
    #[non_exhaustive]
    Rate {
        /// The throttle's name.
        throttle: String,
        /// What is wrong with the rate.
        source: RateError,
    },
    /// A strategy cannot keep its rate.
    #[error("throttle {throttle:?}: {source}")]
    #[non_exhaustive]
    Limit {
        /// The throttle's name.
        throttle: String,
        /// Which rate, and what would be right.
        source: LimitError,
    },
    /// A throttle without a rate.
    #[error("throttle {throttle:?} has no rate; give it one with rate(\"100/min\")")]
    #[non_exhaustive]
    NoRate {
        /// The throttle's name.
        throttle: String,
    },
    /// Two limits would share their state.
    #[error(
        "throttle {throttle:?}: limits {first} and {second} have the same strategy and period, so they \
         would share their state; write one with another period (20/s as 40/2s), or drop the weaker"
    )]
    #[non_exhaustive]
    SameState {
        /// The throttle's name.
        throttle: String,
        /// Index of one limit.
        first: usize,
        /// Index of the other.
        second: usize,
    },
    /// Two limits have the same name.
    #[error("throttle {throttle:?}: two limits are named {name:?}; name each differently")]
    #[non_exhaustive]
    SameName {
        /// The throttle's name.
        throttle: String,
        /// The limits' name.
        name: String,
    },
    /// A snapshot could not be restored.
    #[error("snapshot {from}: {source}{}", .source.advice())]
    #[non_exhaustive]
    Restore {
        /// Where it was to come from.
        from: String,
        /// What is wrong with it.
        source: RestoreError,
    },
    /// A setting is out of its range.
    #[error("{setting} {problem}")]
    #[non_exhaustive]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// What was given and what would be right.
        problem: String,
    },
}

impl BuildError {
    pub(crate) fn setting(setting: &'static str, problem: impl Into<String>) -> Self {
        Self::Setting { setting, problem: problem.into() }
    }

    pub(crate) fn restore(from: String, source: RestoreError) -> Self {
        Self::Restore { from, source }
    }
}

/// Why a snapshot could not be restored. Nothing of it is used then.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// It could not be read.
    #[error("{message}")]
    #[non_exhaustive]
    Io {
        /// The kind of the failure, such as [`io::ErrorKind::NotFound`].
        kind: io::ErrorKind,
        /// What the system says.
        message: String,
    },
    /// It is damaged, or no snapshot at all.
    #[error("damaged at byte {at}: {problem}")]
    #[non_exhaustive]
    Damaged {
        /// The place: bytes from its beginning.
        at: u64,
        /// What is there, and what would be right.
        problem: String,
    },
    /// A later release wrote it.
    #[error(
        "it has version {found}, and this release of traffik reads up to version {newest}; use the release that wrote it, \
         or a later one"
    )]
    #[non_exhaustive]
    Version {
        /// The version that it has.
        found: u32,
        /// The newest version that can be read.
        newest: u32,
    },
}

impl RestoreError {
    pub(crate) const fn damaged(at: u64, problem: String) -> Self {
        Self::Damaged { at, problem }
    }

    /// Returns what to do with the snapshot, where it does not say so itself.
    const fn advice(&self) -> &'static str {
        match self {
            Self::Damaged { .. } => {
                "; nothing of it is used, move it away to begin with empty counts"
            }
            Self::Io { .. } | Self::Version { .. } => "",
        }
    }

    pub(crate) fn io(error: &io::Error) -> Self {
        Self::Io { kind: error.kind(), message: error.to_string() }
    }
}
