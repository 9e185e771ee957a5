//! [`Asker`]: asks for the hits that have gathered, one question after the other, until there are none.
//!
//! It is nobody's future: no caller that goes away takes the others' answers with it, and none that is not polled makes
//! them wait. It works for one runtime, for another one may stand still.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use super::Inner;
use super::batch::Batch;
use super::lanes::HitCopy;
use crate::backend::Answers;
use crate::background;
use crate::error::{BackendError, Effect, ErrorKind};
use crate::key::Key;

/// What all askers have done.
#[derive(Debug, Default)]
pub(super) struct Progress {
    questions: AtomicU64,
    hits: AtomicU64,
}

impl Progress {
    fn add(&self, hits: usize) {
        self.questions.fetch_add(1, Ordering::Relaxed);
        self.hits.fetch_add(hits as u64, Ordering::Relaxed);
    }

    /// Returns the questions, and for how many hits they were.
    pub(super) fn read(&self) -> (u64, u64) {
        (self.questions.load(Ordering::Relaxed), self.hits.load(Ordering::Relaxed))
    }
}

/// One that asks about a key. Dropped before it is done, with its runtime or by a panic, it lets nobody wait.
pub(super) struct Asker {
    inner: Arc<Inner>,
    hash: u64,
    hit: Arc<HitCopy>,
    /// Those for whom it asks.
    asking: Option<Arc<Batch>>,
    is_done: bool,
}

impl Asker {
    pub(super) fn new(inner: &Arc<Inner>, hash: u64, hit: Arc<HitCopy>) -> Self {
        Self { inner: Arc::clone(inner), hash, hit, asking: None, is_done: false }
    }

    async fn work(mut self) {
        loop {
            // Those who were just answered come again, and others are on their way: they are asked for together.
            tokio::task::yield_now().await;
            let Some(batch) = self.inner.lanes.next(self.hash) else { break };
            ask(&self.inner, &self.hit, self.asking.insert(batch)).await;
            self.asking = None;
        }
        self.is_done = true;
    }
}

/// Starts it on the caller's runtime.
pub(super) fn start(asker: Asker) {
    background::start_detached(asker.work());
}

/// Asks for a batch, unless nobody wants an answer any more.
async fn ask(inner: &Inner, hit: &HitCopy, batch: &Batch) {
    let questions = batch.ask();
    if questions == 0 {
        return;
    }
    inner.progress.add(questions);
    let (parts, step) = (hit.parts(), hit.step());
    let steps = vec![(Key::new(hit.throttle(), &parts), step); questions];
    let answers = Answers::new(questions);
    {
        let mut asking = inner.backend.apply_many(&steps, &answers);
        poll_fn(|cx| match asking.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => batch.poll_unwanted(cx),
        })
        .await;
    }
    answers.fail_the_rest(inner.backend.core().name(), "apply");
    batch.answer(answers);
}

fn failed(inner: &Inner, kind: ErrorKind) -> BackendError {
    BackendError::new(inner.backend.core().name(), "apply", kind)
}

impl Drop for Asker {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let message = match std::thread::panicking() {
            true => "what was asked together with other hits panicked",
            false => "the runtime in which the hit was made is shut down",
        };
        let error = || failed(&self.inner, ErrorKind::Unavailable).with_message(message);
        if let Some(batch) = &self.asking {
            batch.fail(&error().with_effect(Effect::Ambiguous));
        }
        if let Some(batch) = self.inner.lanes.leave(self.hash) {
            batch.fail(&error());
        }
    }
}
