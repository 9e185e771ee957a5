//! [`Guarded`]: a store and its circuit; and [`Call`]: one call that was let through.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::circuit::{CallOutcome, Circuit, Refused, Ticket, Transition};
use super::options::Settings;
use super::telling::Telling;
use crate::backend::{Answers, Backend, Result};
use crate::clock::monotonic_now;
use crate::error::{BackendError, ErrorKind};
use crate::lock::LockError;
use crate::observe::Observers;
use crate::random;
use crate::timer::Deadline;

/// A store, asked as its circuit allows.
#[derive(Debug)]
pub(super) struct Guarded {
    pub(super) backend: Arc<dyn Backend>,
    circuit: Mutex<Circuit>,
    settings: Settings,
    refused: AtomicU64,
    telling: Telling,
}

/// A call that was let through. Dropped without an end, its caller gave up.
#[derive(Debug)]
pub(super) struct Call<'a> {
    of: &'a Guarded,
    ticket: Option<Ticket>,
    /// Whether it may take long without any fault of the store.
    is_patient: bool,
}

impl Guarded {
    pub(super) fn new(backend: Arc<dyn Backend>, settings: Settings) -> Self {
        let circuit = Circuit::new(settings, random::up_to, monotonic_now());
        Self {
            backend,
            circuit: Mutex::new(circuit),
            settings,
            refused: AtomicU64::new(0),
            telling: Telling::default(),
        }
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Forgets what it knows of a store that is closed.
    pub(super) fn reset(&self) {
        self.note(|circuit| circuit.reset(monotonic_now()), String::new);
    }

    pub(super) fn observe(&self, add: impl FnOnce(&mut Observers)) {
        self.telling.observe(add);
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&Circuit) -> T) -> T {
        read(&self.circuit.lock())
    }

    /// Lets a call through, or says why not.
    pub(super) fn enter(&self, operation: &'static str) -> Result<Call<'_>> {
        let mut circuit = self.circuit.lock();
        let now = monotonic_now();
        let lapsed = circuit.lapse(now);
        if let Some(lapsed) = lapsed {
            self.add(&mut circuit, lapsed, || self.silent_probe());
        }
        let admitted = circuit.admit(now);
        let is_probe = admitted.as_ref().is_ok_and(Ticket::is_probe);
        if is_probe {
            self.telling.add(Transition::Probing, String::new());
        }
        drop(circuit);
        // A call already: should who is told panic, the probe is over.
        let admitted = admitted.map(|ticket| self.call(ticket));
        if is_probe || lapsed.is_some() {
            self.telling.tell(self.backend.core());
        }
        match admitted {
            Ok(call) => Ok(call),
            Err(refusal) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(self.refusal(operation, refusal))
            }
        }
    }

    /// Lets a call through whatever the state.
    pub(super) fn pass(&self) -> Call<'_> {
        let ticket = self.circuit.lock().ticket(monotonic_now());
        self.call(ticket)
    }

    /// As [`pass`](Self::pass), of work that may take long without any fault of the store.
    pub(super) fn pass_patiently(&self) -> Call<'_> {
        let mut call = self.pass();
        call.is_patient = true;
        call
    }

    const fn call(&self, ticket: Ticket) -> Call<'_> {
        Call { of: self, ticket: Some(ticket), is_patient: false }
    }

    #[cold]
    fn silent_probe(&self) -> String {
        let (name, time) = (self.backend.core().name(), self.settings.probe_timeout);
        format!("{name}: a probe had no answer within {time:?}")
    }

    #[cold]
    fn refusal(
        &self,
        operation: &'static str,
        Refused { open_for, cause }: Refused,
    ) -> BackendError {
        let cause = cause.as_deref().unwrap_or("the store does not answer");
        let message = format!("not asked, the circuit is open for {open_for:?}: {cause}");
        let name = self.backend.core().name();
        BackendError::new(name, operation, ErrorKind::Unavailable).with_message(message)
    }

    /// Asks the store, if the circuit allows.
    pub(super) async fn ask<T, F: Future<Output = Result<T>>>(
        &self,
        operation: &'static str,
        question: impl FnOnce() -> F,
    ) -> Result<T> {
        let call = self.enter(operation)?;
        let result = call.bound(operation, question()).await;
        call.end_by(&result);
        result
    }

    /// Changes the circuit by what has become of a call, and tells of a change of its state.
    fn note(
        &self,
        change: impl FnOnce(&mut Circuit) -> Option<Transition>,
        cause: impl FnOnce() -> String,
    ) {
        let mut circuit = self.circuit.lock();
        let Some(change) = change(&mut circuit) else { return };
        self.add(&mut circuit, change, cause);
        drop(circuit);
        self.telling.tell(self.backend.core());
    }

    /// Adds a change of the circuit to those to be told, and keeps what caused it.
    fn add(&self, circuit: &mut Circuit, change: Transition, cause: impl FnOnce() -> String) {
        let cause = match change {
            Transition::Closed { .. }
            | Transition::Reset { .. }
            | Transition::Probing
            | Transition::ProbeVoid => String::new(),
            Transition::Opened { .. } | Transition::ProbeFailed { .. } => {
                let cause = cause();
                circuit.caused_by(cause.clone());
                cause
            }
        };
        self.telling.add(change, cause);
    }
}

impl CallOutcome {
    /// Returns what an error says of the store.
    pub(super) fn of(error: Option<&BackendError>) -> Self {
        match error.map(BackendError::kind) {
            None
            | Some(
                ErrorKind::Contended
                | ErrorKind::Corrupt
                | ErrorKind::Full
                | ErrorKind::NotFound
                | ErrorKind::NotANumber
                | ErrorKind::OutOfRange,
            ) => Self::Answered,
            Some(ErrorKind::Unavailable | ErrorKind::Timeout) => Self::Failed,
            // Of ourselves, or of the program: too many calls at once, a closed backend, a wrong password. If too
            // many are under way because the store is silent, these say so by their own ends.
            Some(_) => Self::Nothing,
        }
    }

    pub(super) fn of_result<T>(result: &Result<T>) -> (Self, Option<&BackendError>) {
        let error = result.as_ref().err();
        (Self::of(error), error)
    }

    pub(super) fn of_lock<T>(result: &Result<T, LockError>) -> (Self, Option<&BackendError>) {
        match result {
            Ok(_) | Err(LockError::Held) => (Self::Answered, None),
            Err(LockError::Backend(error)) => (Self::of(Some(error)), Some(error)),
            Err(LockError::TimedOut { .. } | LockError::Invalid { .. }) => (Self::Nothing, None),
        }
    }

    /// Of several questions that were asked together: the store failed if none of those that it answered got
    /// through.
    fn of_many(answers: &Answers) -> (Self, Option<&BackendError>) {
        let mut failure = None;
        for answer in answers.iter().flatten() {
            let error = answer.as_ref().err();
            match Self::of(error) {
                Self::Answered => return (Self::Answered, None),
                Self::Failed => failure = failure.or(error),
                Self::Nothing => {}
            }
        }
        (if failure.is_some() { Self::Failed } else { Self::Nothing }, failure)
    }
}

impl Call<'_> {
    /// Waits for the answer; of a probe no longer than that may take.
    pub(super) async fn bound<T>(
        &self,
        operation: &'static str,
        question: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        if !self.ticket.is_some_and(|ticket| ticket.is_probe()) {
            return question.await;
        }
        let name = self.of.backend.core().name();
        Deadline::after(self.of.settings.probe_timeout).bound(name, operation, question).await
    }

    pub(super) fn end_by<T>(self, result: &Result<T>) {
        let (outcome, error) = CallOutcome::of_result(result);
        self.end(outcome, error);
    }

    pub(super) fn end(mut self, outcome: CallOutcome, error: Option<&BackendError>) {
        let Some(ticket) = self.ticket.take() else { return };
        let ended = |circuit: &mut Circuit| circuit.ended(ticket, outcome, monotonic_now());
        self.of.note(ended, || error.map_or_else(String::new, ToString::to_string));
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let now = monotonic_now();
        let is_patient = self.is_patient;
        let dropped = |circuit: &mut Circuit| match is_patient {
            true => circuit.ended(ticket, CallOutcome::Nothing, now),
            false => circuit.dropped(ticket, now),
        };
        let name = self.of.backend.core().name();
        let waited = now.saturating_duration_since(ticket.began());
        let silence = || format!("{name}: no answer for {waited:?}, when the caller gave up");
        self.of.note(dropped, silence);
    }
}

/// A call about several questions, of which some may be answered when its caller gives up.
pub(super) struct ManyCall<'a> {
    call: Option<Call<'a>>,
    answers: &'a Answers,
}

impl<'a> ManyCall<'a> {
    pub(super) const fn new(call: Call<'a>, answers: &'a Answers) -> Self {
        Self { call: Some(call), answers }
    }

    /// Waits for the answers; of a probe no longer than that may take.
    pub(super) async fn bound(mut self, questions: impl Future<Output = ()>) {
        const OPERATION: &str = "apply_many";
        let Some(call) = &self.call else { return };
        let answered = async {
            questions.await;
            Ok(())
        };
        let late = call.bound(OPERATION, answered).await.err();
        let Some(call) = self.call.take() else { return };
        match (CallOutcome::of_many(self.answers), &late) {
            ((CallOutcome::Answered, _), _) | (_, None) => {
                let (outcome, error) = CallOutcome::of_many(self.answers);
                call.end(outcome, error);
            }
            (_, Some(late)) => call.end(CallOutcome::of(Some(late)), Some(late)),
        }
        if let Some(late) = late {
            self.answers.fail(&late);
        }
    }
}

impl Drop for ManyCall<'_> {
    fn drop(&mut self) {
        let Some(call) = self.call.take() else { return };
        if let (CallOutcome::Answered, error) = CallOutcome::of_many(self.answers) {
            call.end(CallOutcome::Answered, error);
        }
    }
}
