//! What a failure says: above all, whether the command may have been carried out.

use std::io;

use super::NAME;
use super::connection::said;
use crate::error::{BackendError, Effect, ErrorKind};
use crate::text::Excerpt;

/// An exchange that failed.
pub(super) struct Failed {
    pub(super) error: io::Error,
    /// Whether the server may have carried out the command.
    pub(super) ambiguous: bool,
}

impl Failed {
    pub(super) fn into_backend_error(self, operation: &'static str) -> BackendError {
        let Self { error, ambiguous } = self;
        let said = said(&error).unwrap_or_default();
        // The server's own refusal leaves no doubt.
        let (kind, refused) = match said.as_str() {
            text if text.starts_with("SERVER_ERROR out of memory") => (ErrorKind::Full, true),
            text if text.starts_with("SERVER_ERROR object too large") => {
                (ErrorKind::OutOfRange, true)
            }
            text if text.starts_with("SERVER_ERROR") => (ErrorKind::Unavailable, true),
            text if text.starts_with("ERROR Too many") => (ErrorKind::Unavailable, true),
            text if text.starts_with("ERROR") || text.starts_with("CLIENT_ERROR") => {
                (ErrorKind::Other, true)
            }
            _ if error.kind() == io::ErrorKind::InvalidData => (ErrorKind::Other, false),
            _ => (ErrorKind::Unavailable, false),
        };
        let effect = if ambiguous && !refused { Effect::Ambiguous } else { Effect::NotApplied };
        let failed = BackendError::new(NAME, operation, kind).with_effect(effect);
        if said.is_empty() {
            return failed
                .with_message(format!("the connection failed: {error}"))
                .with_cause(error);
        }
        let said = Excerpt(said.trim_end().as_bytes()).to_string();
        failed.with_message(format!("the server answered {said}")).with_cause(error)
    }
}

pub(super) fn unreachable(operation: &'static str, error: io::Error) -> BackendError {
    BackendError::new(NAME, operation, ErrorKind::Unavailable)
        .with_message(format!("no connection: {error}"))
        .with_cause(error)
}

/// No connection became free in time; nothing was sent.
pub(super) fn overloaded(operation: &'static str) -> BackendError {
    BackendError::new(NAME, operation, ErrorKind::Overloaded)
        .with_message("no connection became free in time; use a larger pool_size")
}

pub(super) fn timed_out(operation: &'static str, ambiguous: bool) -> BackendError {
    let effect = if ambiguous { Effect::Ambiguous } else { Effect::NotApplied };
    BackendError::new(NAME, operation, ErrorKind::Timeout).with_effect(effect)
}

pub(super) fn closed(operation: &'static str) -> BackendError {
    BackendError::new(NAME, operation, ErrorKind::Closed)
}

pub(super) fn contended(operation: &'static str) -> BackendError {
    BackendError::new(NAME, operation, ErrorKind::Contended)
}

/// An answer that does not belong to its command.
pub(super) fn unexpected(operation: &'static str) -> BackendError {
    BackendError::new(NAME, operation, ErrorKind::Other)
        .with_effect(Effect::Ambiguous)
        .with_message("the server's answer does not fit the command")
}

/// The same error for another who waited for the same answer.
pub(super) fn same(error: &BackendError) -> BackendError {
    BackendError::new(NAME, error.operation(), error.kind())
        .with_effect(error.effect())
        .with_message(format!("shared with others on the same key: {:?}", error.kind()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_says_its_effect() {
        let said = |text: &str| io::Error::other(text);
        let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let table = [
            (
                said("SERVER_ERROR out of memory storing object\r\n"),
                true,
                ErrorKind::Full,
                Effect::NotApplied,
            ),
            (
                said("SERVER_ERROR object too large for cache\r\n"),
                true,
                ErrorKind::OutOfRange,
                Effect::NotApplied,
            ),
            (
                said("ERROR Too many open connections\r\n"),
                true,
                ErrorKind::Unavailable,
                Effect::NotApplied,
            ),
            (said("CLIENT_ERROR bad data chunk\r\n"), true, ErrorKind::Other, Effect::NotApplied),
            (cut(), true, ErrorKind::Unavailable, Effect::Ambiguous),
            (cut(), false, ErrorKind::Unavailable, Effect::NotApplied),
            (io::ErrorKind::InvalidData.into(), true, ErrorKind::Other, Effect::Ambiguous),
        ];
        for (error, ambiguous, kind, effect) in table {
            let text = format!("{error}");
            let failed = Failed { error, ambiguous }.into_backend_error("get");
            assert_eq!((failed.kind(), failed.effect()), (kind, effect), "{text}");
        }
    }
}
