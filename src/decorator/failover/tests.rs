//! Steps about what was taken, among others of one question: only receipts can say who took it.

use super::*;
use crate::backend::InMemory;
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
