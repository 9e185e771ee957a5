//! [`Batch`]: hits that share a question, with a place for each.
//!
//! One lock for all of them, however many they are, and what they are told is moved to nobody but its hit.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::backend::{Answers, Result};
use crate::decision::Decision;
use crate::error::BackendError;

/// For how many hits there is room from the start.
const ROOM: usize = 32;

/// Hits that share a question.
#[derive(Debug, Default)]
pub(super) struct Batch(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    hits: Vec<Place>,
    /// How many of them still want their answer.
    wanted: usize,
    /// Those of the hits that are [`Place::Asked`].
    answers: Option<Answers>,
    /// Wakes who asks, when nobody does.
    asker: Option<Waker>,
}

#[derive(Debug)]
enum Place {
    /// Nobody has asked for it.
    Waits(Option<Waker>),
    /// By the question of that number.
    Asked(usize, Option<Waker>),
    /// Its hit has its answer, or wants none.
    Gone,
}

/// One of the hits, which waits for its answer.
#[derive(Debug)]
#[must_use = "a hit that is dropped wants no answer"]
pub(super) struct SharedHit {
    batch: Arc<Batch>,
    place: usize,
    is_over: bool,
}

impl Batch {
    /// Adds a hit, unless there are then more than `most`.
    pub(super) fn join(self: &Arc<Self>, most: usize) -> Option<SharedHit> {
        let mut places = self.0.lock();
        let place = places.hits.len();
        if place >= most {
            return None;
        }
        if place == 0 {
            places.hits.reserve(ROOM);
        }
        places.hits.push(Place::Waits(None));
        places.wanted += 1;
        Some(SharedHit { batch: Arc::clone(self), place, is_over: false })
    }

    /// Gives a question to each hit that waits, and returns how many these are.
    pub(super) fn ask(&self) -> usize {
        let mut questions = 0;
        for hit in &mut self.0.lock().hits {
            if let Place::Waits(waker) = hit {
                *hit = Place::Asked(questions, waker.take());
                questions += 1;
            }
        }
        questions
    }

    /// Is ready when nobody wants an answer any more.
    pub(super) fn poll_unwanted(&self, cx: &Context<'_>) -> Poll<()> {
        let mut places = self.0.lock();
        if places.wanted == 0 {
            return Poll::Ready(());
        }
        let old = renew(&mut places.asker, cx);
        drop(places);
        drop(old);
        Poll::Pending
    }

    /// Answers all questions.
    pub(super) fn answer(&self, answers: Answers) {
        let mut places = self.0.lock();
        let mut woken = Vec::with_capacity(places.hits.len());
        for hit in &mut places.hits {
            if let Place::Asked(_, waker) = hit {
                woken.extend(waker.take());
            }
        }
        places.answers = Some(answers);
        drop(places);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Answers all hits with an error.
    pub(super) fn fail(&self, error: &BackendError) {
        let answers = {
            let places = self.0.lock();
            if places.answers.is_some() {
                return;
            }
            Answers::new(places.hits.len())
        };
        self.ask();
        answers.fail(error);
        self.answer(answers);
    }
}

impl SharedHit {
    /// Returns whether it began its batch.
    pub(super) const fn is_first(&self) -> bool {
        self.place == 0
    }
}

impl Future for SharedHit {
    type Output = Result<Decision>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut places = self.batch.0.lock();
        let Places { hits, answers, wanted, .. } = &mut *places;
        let hit = &mut hits[self.place];
        let waker = match (hit, answers) {
            (hit @ Place::Asked(..), Some(answers)) => {
                let Place::Asked(question, _) = std::mem::replace(hit, Place::Gone) else {
                    unreachable!("it was asked a line before");
                };
                let answer = answers.take(question);
                *wanted -= 1;
                drop(places);
                self.is_over = true;
                return Poll::Ready(answer.expect("each question has an answer"));
            }
            (Place::Waits(waker) | Place::Asked(_, waker), _) => waker,
            (Place::Gone, _) => unreachable!("a future is not polled when it is over"),
        };
        let old = renew(waker, cx);
        drop(places);
        drop(old);
        Poll::Pending
    }
}

/// Puts the waker of a task in; returns one that it took the place of, which may own what locks the batch when it is
/// dropped.
fn renew(waker: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    match waker {
        Some(waker) if waker.will_wake(cx.waker()) => None,
        waker => waker.replace(cx.waker().clone()),
    }
}

impl Drop for SharedHit {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut places = self.batch.0.lock();
        places.wanted -= 1;
        let asker = if places.wanted == 0 { places.asker.take() } else { None };
        let gone = std::mem::replace(&mut places.hits[self.place], Place::Gone);
        drop(places);
        drop(gone);
        if let Some(asker) = asker {
            asker.wake();
        }
    }
}
