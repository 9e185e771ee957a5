//! Steps about what was taken, among others of one question: only receipts can say who took it.

use super::*;
use crate::backend::{BackendCore, InMemory, Locks, Ttl, Values};
use crate::clock::ManualClock;
use crate::decision::Taker;
use crate::key::KeyPart;
use crate::rate::Rate;
use crate::strategy::FixedWindow;

#[tokio::test(start_paused = true)]
async fn of_many_what_the_fallback_took_is_given_back_there() {
    let clock = ManualClock::new();
    let memory = || InMemory::builder().clock(clock.clone()).build().unwrap();
    let (primary, fallback) = (memory(), memory());
    let failover = Failover::new(primary.clone(), fallback.clone());
    let limits = [Limit::new(Rate::per_day(5), FixedWindow::new()).unwrap()];
    let [a, b] = [b"a", b"b"].map(|key| [KeyPart::bytes(key)]);
    let [a, b] = [&a, &b].map(|parts| Key::new("t", parts));
    let step = |op| Step::new(&limits, 1, op);
    let taken_at = failover.core().clock().now();
    let refund = step(Op::Refund { taken_at });
    let left = async |backend: &InMemory, key: &Key<'_>| {
        backend.apply(key, &step(Op::Peek)).await.unwrap().remaining()
    };
    for backend in [&primary, &fallback] {
        for key in [&a, &b] {
            assert!(backend.apply(key, &step(Op::Take)).await.unwrap().is_allowed());
        }
    }
    let steps = [
        (a, refund.taken_by(Some(Taker::Fallback))),
        (b, refund.taken_by(Some(Taker::Primary))),
        (b, step(Op::Charge).taken_by(Some(Taker::Fallback))),
        (a, step(Op::Take)),
    ];
    let answers = Answers::new(steps.len());
    failover.apply_many(&steps, &answers).await;
    assert!(answers.into_answers().all(|answer| answer.unwrap().unwrap().is_allowed()));
    assert_eq!([left(&primary, &a).await, left(&primary, &b).await], [3, 5]);
    assert_eq!([left(&fallback, &a).await, left(&fallback, &b).await], [5, 3]);
}

#[tokio::test(start_paused = true)]
async fn of_many_the_steps_of_a_key_keep_their_order_at_the_fallback() {
    let clock = ManualClock::new();
    let fallback = InMemory::builder().clock(clock.clone()).build().unwrap();
    let core = BackendCore::new("away", "tests", Arc::new(clock)).unwrap();
    let failover = Failover::new(Away(core), fallback.clone());
    let limits = [Limit::new(Rate::per_day(1), FixedWindow::new()).unwrap()];
    let parts = [KeyPart::bytes(b"a")];
    let key = Key::new("t", &parts);
    let take = Step::new(&limits, 1, Op::Take);
    assert!(fallback.apply(&key, &take).await.unwrap().is_allowed());
    let taken_at = failover.core().clock().now();
    let refund = Step::new(&limits, 1, Op::Refund { taken_at });
    let steps = [(key, refund.taken_by(Some(Taker::Fallback))), (key, take)];
    let answers = Answers::new(steps.len());
    failover.apply_many(&steps, &answers).await;
    let allowed: Vec<bool> =
        answers.into_answers().map(|answer| answer.unwrap().unwrap().is_allowed()).collect();
    assert_eq!(allowed, [true, true], "what was given back first is free for the hit after it");
}

/// A store that cannot be reached.
#[derive(Debug)]
struct Away(BackendCore);

impl Away {
    fn refusal(operation: &'static str) -> BackendError {
        BackendError::new("away", operation, ErrorKind::Unavailable)
    }
}

impl HasCore for Away {
    fn core(&self) -> &BackendCore {
        &self.0
    }
}

#[async_trait]
impl Values for Away {
    async fn get(&self, _key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        Err(Self::refusal("get"))
    }

    async fn compare_and_set(
        &self,
        _key: &Key<'_>,
        _expected: Option<&[u8]>,
        _new: Option<&[u8]>,
        _ttl: Ttl,
    ) -> Result<bool> {
        Err(Self::refusal("compare_and_set"))
    }
}

impl Locks for Away {}

#[async_trait]
impl Backend for Away {
    async fn clear(&self) -> Result<()> {
        Err(Self::refusal("clear"))
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
