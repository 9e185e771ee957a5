//! [`ask`]: some of the questions of an `apply_many`, so that those that fail can be asked again or elsewhere.

use crate::backend::{Answers, Backend};
use crate::decision::Decision;
use crate::error::BackendError;
use crate::key::Key;
use crate::step::Step;

/// A key and what is asked about it.
pub(super) type Question<'a> = (Key<'a>, Step<'a>);

/// Questions that failed, by their places among all. They are told when this is dropped, on every way out, unless
/// they were taken to be asked once more.
pub(super) struct Failures<'a> {
    answers: &'a Answers,
    failed: Vec<(usize, BackendError)>,
}

impl<'a> Failures<'a> {
    pub(super) const fn of(answers: &'a Answers) -> Self {
        Self { answers, failed: Vec::new() }
    }

    pub(super) fn add(&mut self, place: usize, error: BackendError) {
        self.failed.push((place, error));
    }

    /// Returns the places of those of which that holds.
    pub(super) fn places(
        &self,
        holds: impl Fn(usize, &BackendError) -> bool,
    ) -> impl Iterator<Item = usize> {
        self.failed
            .iter()
            .filter(move |(place, error)| holds(*place, error))
            .map(|(place, _)| *place)
    }

    /// Takes those that it is right to ask once more, in the order of their places; the others stay.
    pub(super) fn take(
        &mut self,
        is_right: impl Fn(usize, &BackendError) -> bool,
    ) -> Vec<(usize, BackendError)> {
        let failed = std::mem::take(&mut self.failed);
        let (mut taken, others): (Vec<_>, Vec<_>) =
            failed.into_iter().partition(|(place, error)| is_right(*place, error));
        self.failed = others;
        taken.sort_unstable_by_key(|(place, _)| *place);
        taken
    }
}

impl Drop for Failures<'_> {
    fn drop(&mut self) {
        for (place, error) in self.failed.drain(..) {
            self.answers.put(place, Err(error));
        }
    }
}

/// What is being asked, and has perhaps been answered when the caller gives up.
struct AskedPart<'f, 'a> {
    places: &'f [usize],
    own: Option<Answers>,
    failures: &'f mut Failures<'a>,
    finish: &'f (dyn Fn(usize, Decision) -> Decision + Sync),
}

impl Drop for AskedPart<'_, '_> {
    fn drop(&mut self) {
        let answers = self.own.take().into_iter().flat_map(Answers::into_answers);
        for (&place, answer) in self.places.iter().zip(answers) {
            match answer {
                Some(Ok(decision)) => {
                    self.failures.answers.put(place, Ok((self.finish)(place, decision)));
                }
                Some(Err(error)) => self.failures.add(place, error),
                None => {}
            }
        }
    }
}

/// Asks a backend about the questions of these places. What is decided is told, finished, also if this is dropped; what
/// fails is added to the failures.
pub(super) async fn ask(
    backend: &dyn Backend,
    questions: &[Question<'_>],
    places: &[usize],
    failures: &mut Failures<'_>,
    finish: &(dyn Fn(usize, Decision) -> Decision + Sync),
) {
    let asked = AskedPart { places, own: Some(Answers::new(questions.len())), failures, finish };
    if let Some(own) = &asked.own {
        backend.apply_many(questions, own).await;
    }
    drop(asked);
}
