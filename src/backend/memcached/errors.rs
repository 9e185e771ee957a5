//! Maps failures to errors: above all, whether the command may have been carried out.

use std::io;

use super::NAME;
use super::connection::{CallFailure, Failed};
use super::reply::NoReply;
use crate::error::{BackendError, Effect, ErrorKind};
use crate::excerpt::Excerpt;

impl Failed {
    /// Returns whether another connection may do better.
    pub(super) fn is_of_the_connection(&self) -> bool {
        matches!(self.failure, CallFailure::Io(_))
    }

    /// `changes`: whether the command was more than a read.
    pub(super) fn into_backend_error(self, operation: &'static str, changes: bool) -> BackendError {
        let ambiguous = if self.sent && changes { Effect::Ambiguous } else { Effect::NotApplied };
        match self.failure {
            CallFailure::Unreachable(error) => unreachable(operation, error),
            CallFailure::TimedOut => {
                failed(operation, ErrorKind::Timeout).with_effect(ambiguous)
            }
            CallFailure::Io(error) => failed(operation, ErrorKind::Unavailable)
                .with_effect(ambiguous)
                .with_message(format!("the connection failed: {error}"))
                .with_cause(error),
            CallFailure::NoReply(NoReply::Garbled(what)) => {
                failed(operation, ErrorKind::Other)
                    .with_effect(ambiguous)
                    .with_message(format!("the server sent {what}"))
            }
            CallFailure::NoReply(NoReply::Refused(line)) => refused(operation, &line),
            CallFailure::OtherProtocol => failed(operation, ErrorKind::Misconfigured)
                .with_message(
                    "what listens there does not speak Memcached's text protocol: is it a port for HTTP or \
                     Redis?",
                ),
        }
    }
}

/// The server's own refusal leaves no doubt: nothing happened.
pub(super) fn refused(operation: &'static str, line: &str) -> BackendError {
    let (kind, advice) = match line {
        _ if line.starts_with("SERVER_ERROR out of memory") => (ErrorKind::Full, ""),
        _ if line.starts_with("SERVER_ERROR object too large") => (ErrorKind::OutOfRange, ""),
        _ if line.starts_with("SERVER_ERROR") => (ErrorKind::Unavailable, ""),
        _ if is_crowded(line) => (
            ErrorKind::Unavailable,
            "; start it with a larger -c, or build with a smaller pool_size",
        ),
        _ if line.contains("unauthenticated") || line.contains("authentication") => (
            ErrorKind::Misconfigured,
            "; it wants a password (-Y or -S), which this backend cannot give",
        ),
        _ => (ErrorKind::Other, ""),
    };
    let line = Excerpt(line.as_bytes());
    failed(operation, kind).with_message(format!("the server answered {line}{advice}"))
}

/// Returns whether the server has no more connections to give.
fn is_crowded(line: &str) -> bool {
    line.starts_with("ERROR Too many open connections")
}

/// Creates an error of this backend.
pub(super) fn failed(operation: &'static str, kind: ErrorKind) -> BackendError {
    BackendError::new(NAME, operation, kind)
}

pub(super) fn unreachable(operation: &'static str, error: io::Error) -> BackendError {
    failed(operation, ErrorKind::Unavailable)
        .with_message(format!("no connection: {error}"))
        .with_cause(error)
}

/// No connection became free in time; nothing was sent.
pub(super) fn overloaded(operation: &'static str) -> BackendError {
    failed(operation, ErrorKind::Overloaded)
        .with_message("no connection became free in time; use a larger pool_size")
}

pub(super) fn closed(operation: &'static str) -> BackendError {
    failed(operation, ErrorKind::Closed)
}

pub(super) fn contended(operation: &'static str) -> BackendError {
    failed(operation, ErrorKind::Contended)
}

/// Sockets and timers need a runtime, so it is a mistake of the program.
pub(super) fn no_runtime(operation: &'static str) -> BackendError {
    failed(operation, ErrorKind::Misconfigured)
        .with_message("there is no tokio runtime here; call it inside of one")
}

/// The runtime of a decision was shut down before the answer.
pub(super) fn runtime_is_gone(operation: &'static str) -> BackendError {
    failed(operation, ErrorKind::Unavailable)
        .with_effect(Effect::Ambiguous)
        .with_message("the runtime was shut down")
}

pub(super) fn too_large(operation: &'static str, length: usize, most: usize) -> BackendError {
    failed(operation, ErrorKind::OutOfRange)
        .with_message(format!("a value of {length} bytes is too large; the most is {most}"))
}

/// An answer that does not belong to its command.
pub(super) fn unexpected(operation: &'static str) -> BackendError {
    failed(operation, ErrorKind::Other)
        .with_effect(Effect::Ambiguous)
        .with_message("the server's answer does not fit the command")
}

/// Creates the error of an operation on `nodes` nodes, of which some failed.
pub(super) fn of_nodes(
    operation: &'static str,
    failures: &[(String, BackendError)],
    nodes: usize,
) -> BackendError {
    let worst = failures.iter().map(|(_, error)| error.kind());
    let kind = worst.max_by_key(|kind| *kind == ErrorKind::Misconfigured);
    let ambiguous = failures.iter().any(|(_, error)| error.effect() == Effect::Ambiguous);
    let named: Vec<String> =
        failures.iter().map(|(node, error)| format!("{node} ({})", error.reason())).collect();
    failed(operation, kind.unwrap_or(ErrorKind::Unavailable))
        .with_effect(if ambiguous { Effect::Ambiguous } else { Effect::NotApplied })
        .with_message(format!("{} of {nodes} nodes failed: {}", failures.len(), named.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_another_protocol_is_a_mistake() {
        let failed = Failed { failure: CallFailure::OtherProtocol, sent: true };
        let error = failed.into_backend_error("get", true);
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Misconfigured, Effect::NotApplied));
        assert!(error.to_string().contains("text protocol"), "{error}");
    }

    #[test]
    fn every_failure_says_its_effect() {
        let said = |text: &str| CallFailure::NoReply(NoReply::Refused(text.into()));
        let cut = || CallFailure::Io(io::ErrorKind::UnexpectedEof.into());
        let garbled = || CallFailure::NoReply(NoReply::Garbled("something else"));
        let table = [
            (said("SERVER_ERROR out of memory storing object"), ErrorKind::Full, false),
            (said("SERVER_ERROR object too large for cache"), ErrorKind::OutOfRange, false),
            (said("ERROR Too many open connections"), ErrorKind::Unavailable, false),
            (said("CLIENT_ERROR bad data chunk"), ErrorKind::Other, false),
            (said("CLIENT_ERROR unauthenticated"), ErrorKind::Misconfigured, false),
            (cut(), ErrorKind::Unavailable, true),
            (garbled(), ErrorKind::Other, true),
            (CallFailure::TimedOut, ErrorKind::Timeout, true),
        ];
        for (failure, kind, doubtful) in table {
            let text = format!("{failure:?}");
            let failed = Failed { failure, sent: true }.into_backend_error("get", true);
            let effect = if doubtful { Effect::Ambiguous } else { Effect::NotApplied };
            assert_eq!((failed.kind(), failed.effect()), (kind, effect), "{text}");
        }
        for (sent, changes) in [(false, true), (true, false)] {
            let failed = Failed { failure: cut(), sent }.into_backend_error("get", changes);
            assert_eq!(failed.effect(), Effect::NotApplied, "nothing was sent, or only a read");
        }
    }

    #[test]
    fn nodes_that_failed_are_named_and_the_worst_decides() {
        let wrong = refused("ready", "CLIENT_ERROR unauthenticated");
        let silent = failed("ready", ErrorKind::Timeout);
        let failed = [("a:1".to_owned(), silent), ("b:2".to_owned(), wrong)];
        let error = of_nodes("ready", &failed, 3);
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Misconfigured, Effect::Ambiguous));
        let text = error.to_string();
        assert!(text.contains("2 of 3 nodes failed: a:1 (no answer"), "{text}");
        assert!(text.contains("b:2 (the server answered"), "{text}");
    }
}
