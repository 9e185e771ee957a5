//! [`Answers`]: what a backend says to questions that it is asked together.

use std::sync::OnceLock;

use super::Result;
use crate::decision::Decision;
use crate::error::{BackendError, Effect, ErrorKind};

/// The answers to questions that a backend is asked together, each put in as soon as it is known.
///
/// So an answer that came is not lost when others take too long: whoever asks may stop waiting, and keeps what
/// there is. [`Backend::apply_many`](super::Backend::apply_many) has an example.
#[derive(Debug)]
pub struct Answers(Box<[OnceLock<Result<Decision>>]>);

impl Answers {
    /// Makes room for the answers to so many questions.
    #[must_use]
    pub fn new(questions: usize) -> Self {
        Self((0..questions).map(|_| OnceLock::new()).collect())
    }

    /// Puts in the answer to the question of that place. The first one counts, and one to no question is
    /// ignored.
    pub fn put(&self, question: usize, answer: Result<Decision>) {
        if let Some(slot) = self.0.get(question) {
            let _ = slot.set(answer);
        }
    }

    /// Returns whether that question has an answer.
    pub(crate) fn has(&self, question: usize) -> bool {
        self.0.get(question).is_some_and(|slot| slot.get().is_some())
    }

    /// Puts in an error for each question that has no answer yet.
    pub(crate) fn fail(&self, error: &BackendError) {
        for slot in &self.0 {
            let _ = slot.get_or_init(|| Err(error.shared()));
        }
    }

    /// Looks at the answer to each question, as far as there are any.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<&Result<Decision>>> {
        self.0.iter().map(OnceLock::get)
    }

    /// Puts in that it is not known what became of it for each question that the backend left without an answer.
    pub(crate) fn fail_the_rest(&self, backend: &'static str, operation: &'static str) {
        if self.0.iter().any(|slot| slot.get().is_none()) {
            let error = BackendError::new(backend, operation, ErrorKind::Other);
            let error = error.with_effect(Effect::Ambiguous);
            self.fail(&error.with_message("a question was not answered"));
        }
    }

    /// Takes the answer to that question out.
    pub(crate) fn take(&mut self, question: usize) -> Option<Result<Decision>> {
        self.0.get_mut(question).and_then(OnceLock::take)
    }

    /// Returns the answer to each question, in their order; `None` for one that has none so far.
    pub fn into_answers(self) -> impl ExactSizeIterator<Item = Option<Result<Decision>>> {
        self.0.into_iter().map(OnceLock::into_inner)
    }
}
