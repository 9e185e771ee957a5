//! [`Batch`]: hits that share a question, with a place for the answer of each.
//!
//! One lock and two allocations for all of them, however many they are.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::backend::Result;
use crate::decision::Decision;
use crate::error::BackendError;

/// Hits that share a question.
#[derive(Debug, Default)]
pub(super) struct Batch(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    hits: Vec<Place>,
    /// How many of them still want their answer.
    wanted: usize,
    /// Wakes who asks, when nobody does.
    asker: Option<Waker>,
}

#[derive(Debug)]
enum Place {
    Waits(Option<Waker>),
    Answered(Result<Decision>),
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
        places.hits.push(Place::Waits(None));
        places.wanted += 1;
        Some(SharedHit { batch: Arc::clone(self), place, is_over: false })
    }

    /// Returns the places of those who want their answer.
    pub(super) fn wanted(&self) -> Vec<usize> {
        let places = self.0.lock();
        let hits = places.hits.iter().enumerate();
        hits.filter(|(_, hit)| matches!(hit, Place::Waits(_))).map(|(place, _)| place).collect()
    }

    /// Is ready when nobody wants an answer any more.
    pub(super) fn poll_unwanted(&self, cx: &Context<'_>) -> Poll<()> {
        let mut places = self.0.lock();
        if places.wanted == 0 {
            return Poll::Ready(());
        }
        match &mut places.asker {
            Some(asker) => asker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Answers the hits of these places.
    pub(super) fn answer(&self, answers: impl Iterator<Item = (usize, Result<Decision>)>) {
        let mut woken = Vec::new();
        let mut places = self.0.lock();
        woken.reserve(places.hits.len());
        for (place, answer) in answers {
            let hit = &mut places.hits[place];
            if let Place::Waits(waker) = hit {
                woken.extend(waker.take());
                *hit = Place::Answered(answer);
            }
        }
        drop(places);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Answers all that have no answer with an error.
    pub(super) fn fail(&self, error: &BackendError) {
        self.answer(self.wanted().into_iter().map(|place| (place, Err(error.shared()))));
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
        let hit = &mut places.hits[self.place];
        match hit {
            Place::Waits(Some(waker)) => waker.clone_from(cx.waker()),
            Place::Waits(none) => *none = Some(cx.waker().clone()),
            Place::Answered(_) => {
                let Place::Answered(answer) = std::mem::replace(hit, Place::Gone) else {
                    unreachable!("it was answered a line before");
                };
                places.wanted -= 1;
                drop(places);
                self.is_over = true;
                return Poll::Ready(answer);
            }
            Place::Gone => unreachable!("a future is not polled when it is over"),
        }
        Poll::Pending
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
