//! [`Asked`]: those of several questions that the store must be asked.

use std::collections::HashSet;

use super::table::OpenQuestion;
use super::{Bearing, Inner};
use crate::backend::Answers;
use crate::key::Key;
use crate::step::Step;

/// Questions to the store. When this is dropped, what has been answered is remembered and passed on.
pub(super) struct Asked<'a> {
    cache: &'a Inner,
    all: &'a Answers,
    steps: Vec<(Key<'a>, Step<'a>)>,
    /// Of each its place among all, and the question if its answer may be remembered.
    places: Vec<(usize, Option<OpenQuestion>)>,
    own: Answers,
}

impl<'a> Asked<'a> {
    /// Answers what is remembered; the others are to be asked.
    pub(super) fn new(
        cache: &'a Inner,
        steps: &'a [(Key<'a>, Step<'a>)],
        answers: &'a Answers,
    ) -> Self {
        let mut asked = Vec::with_capacity(steps.len());
        let mut places = Vec::with_capacity(steps.len());
        // Keys that may pass after what is asked before.
        let mut changed = HashSet::new();
        for (place, (key, step)) in steps.iter().enumerate() {
            let digest = cache.digests.of_key(key);
            let question = match Bearing::of(step.op()) {
                Bearing::Asks if !changed.contains(&digest) => match cache.recall(digest, step) {
                    Ok(denied) => {
                        cache.answered(1);
                        answers.put(place, Ok(denied));
                        continue;
                    }
                    Err(question) => Some(question),
                },
                Bearing::Changes => {
                    changed.insert(digest);
                    None
                }
                Bearing::Asks | Bearing::Takes => None,
            };
            asked.push((*key, *step));
            places.push((place, question));
        }
        let own = Answers::new(asked.len());
        Self { cache, all: answers, steps: asked, places, own }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub(super) fn steps(&self) -> &[(Key<'a>, Step<'a>)] {
        &self.steps
    }

    pub(super) const fn answers(&self) -> &Answers {
        &self.own
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let own = std::mem::replace(&mut self.own, Answers::new(0));
        let asked = self.steps.iter().zip(&self.places).zip(own.into_answers());
        for (((key, step), (place, question)), answer) in asked {
            let Some(answer) = answer else { continue };
            if let (Ok(decision), true) = (&answer, Bearing::of(step.op()) != Bearing::Changes) {
                let key = self.cache.digests.of_key(key);
                self.cache.note(key, question.as_ref(), step, decision);
            }
            self.all.put(*place, answer);
        }
        // After what was denied before them.
        for (key, step) in &self.steps {
            if Bearing::of(step.op()) == Bearing::Changes {
                self.cache.table.forget(self.cache.digests.of_key(key));
            }
        }
    }
}
