//! The span of a call of a store, for tracing.

use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::Throttle;
use crate::decision::Decision;
use crate::error::BackendError;
use crate::timer::{self, Deadline};

impl Throttle {
    /// Asks the store, until the deadline and in a span of its own, in which a failure is recorded.
    pub(super) fn call<T>(
        &self,
        call: (&'static str, &'static str),
        deadline: Deadline,
        work: impl Future<Output = Result<T, BackendError>>,
    ) -> impl Future<Output = Result<T, BackendError>> {
        self.recorded(call, deadline, work, |_span, _answer| {})
    }

    /// As [`call`](Self::call), for a decision, which is recorded too.
    pub(super) fn call_to_decide(
        &self,
        call: (&'static str, &'static str),
        deadline: Deadline,
        work: impl Future<Output = Result<Decision, BackendError>>,
    ) -> impl Future<Output = Result<Decision, BackendError>> {
        self.recorded(call, deadline, work, |span, decision: &Decision| {
            span.record("decision", tracing::field::display(decision));
            span.record("decided_by", tracing::field::debug(decision.decided_by()));
        })
    }

    fn recorded<T>(
        &self,
        (backend, operation): (&'static str, &'static str),
        deadline: Deadline,
        work: impl Future<Output = Result<T, BackendError>>,
        record: impl FnOnce(&Span, &T),
    ) -> impl Future<Output = Result<T, BackendError>> {
        let span = self.call_span(backend, operation);
        let recorded = span.clone();
        let asked = async move {
            let answer = timer::told(deadline.run(work).await, backend, operation);
            match &answer {
                Ok(answer) => record(&recorded, answer),
                Err(error) => record_failure(&recorded, error),
            }
            answer
        };
        asked.instrument(span)
    }

    /// Returns the span of a call that failures are recorded in by who makes it.
    pub(super) fn call_span(&self, backend: &'static str, operation: &'static str) -> Span {
        tracing::debug_span!(
            "backend_call",
            throttle = self.name(),
            backend,
            operation,
            decision = Empty,
            decided_by = Empty,
            error = Empty,
            kind = Empty,
            effect = Empty,
        )
    }
}

/// Says in a span what went wrong. An error has no key.
pub(super) fn record_failure(span: &Span, error: &BackendError) {
    span.record("error", tracing::field::display(error));
    span.record("kind", tracing::field::debug(error.kind()));
    span.record("effect", tracing::field::debug(error.effect()));
}
