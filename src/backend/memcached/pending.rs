//! [`PendingHit`]: a queued hit that waits for its decision.

use std::thread;

use tokio::sync::oneshot;

use crate::backend::Result;
use crate::decision::Decision;
use crate::error::BackendError;
use crate::step::Step;
use crate::strategy::{Limit, Op};

/// A hit that waits for its decision, and where the decision goes.
#[derive(Debug)]
pub(super) struct PendingHit {
    pub(super) name: String,
    limits: Vec<Limit>,
    cost: u32,
    leave: u32,
    op: Op,
    answer: oneshot::Sender<HitResult>,
}

/// The result of a hit. If its strategy panicked, its caller alone must know.
pub(super) type HitResult = thread::Result<Result<Decision>>;

impl PendingHit {
    pub(super) fn new(name: String, step: &Step<'_>) -> (Self, oneshot::Receiver<HitResult>) {
        let (answer, receiver) = oneshot::channel();
        let pending = Self {
            name,
            limits: step.limits().to_vec(),
            cost: step.cost(),
            leave: step.units_to_leave(),
            op: step.op(),
            answer,
        };
        (pending, receiver)
    }

    pub(super) fn step(&self) -> Step<'_> {
        Step::of_apart(&self.limits, self.cost, self.op).leave(self.leave)
    }

    /// Returns whether the answer is still wanted.
    pub(super) fn is_wanted(&self) -> bool {
        !self.answer.is_closed()
    }

    pub(super) fn fail(self, error: &BackendError) {
        self.answer(Ok(Err(error.shared())));
    }

    pub(super) fn answer(self, outcome: HitResult) {
        // It may be unwanted by now.
        let _ = self.answer.send(outcome);
    }
}
