//! Checks decisions on many keys at once: each by itself.

use std::sync::Arc;

use super::decisions::{Reference, mixes};
use super::{Harness, Random, Subject};
use crate::backend::{Answers, Backend};
use crate::clock::Clock;
use crate::decision::Decision;
use crate::error::BackendError;
use crate::key::{Key, KeyPart};
use crate::rate::Rate;
use crate::step::Step;
use crate::strategy::{Limit, Op, TokenBucket};

async fn answers(
    backend: &dyn Backend,
    steps: &[(Key<'_>, Step<'_>)],
) -> Vec<Result<Decision, BackendError>> {
    let answers = Answers::new(steps.len());
    backend.apply_many(steps, &answers).await;
    answers.into_answers().map(|answer| answer.expect("each is answered")).collect()
}

pub(super) async fn run(harness: &dyn Harness) {
    each_is_decided_by_itself(harness).await;
    keys_of_any_bytes_and_any_number(harness).await;
    many_admit_exactly_the_limit(harness).await;
}

/// Steps of all kinds on all kinds of limits, in one call; a key may come several times.
async fn each_is_decided_by_itself(harness: &dyn Harness) {
    const KEYS: usize = 60;
    let Subject { backend, clock, .. } = Subject::fresh(harness).await;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mixes = mixes();
    let names: Vec<[u8; 8]> = (0..KEYS as u64).map(u64::to_be_bytes).collect();
    let parts: Vec<_> = names.iter().map(|name| [KeyPart::bytes(name)]).collect();
    let mut references: Vec<Reference> = names.iter().map(|_| Reference::default()).collect();
    for round in 0..30 {
        clock.advance(std::time::Duration::from_millis(random.below(700)));
        let mut steps = Vec::new();
        let mut numbers = Vec::new();
        for _ in 0..random.below(150) {
            let number = usize::try_from(random.below(KEYS as u64)).unwrap_or(0);
            let op = match random.below(5) {
                0 => Op::Peek,
                1 => Op::Charge,
                2 => Op::TakeUpTo,
                _ => Op::Take,
            };
            let cost = u32::try_from(random.below(4)).unwrap_or(0);
            steps.push((
                Key::new("many", &parts[number]),
                Step::new(&mixes[number % mixes.len()], cost, op),
            ));
            numbers.push(number);
        }
        let decisions = answers(&*backend, &steps).await;
        for (place, (number, decision)) in numbers.into_iter().zip(decisions).enumerate() {
            let step = &steps[place].1;
            let expected = references[number].apply(step, clock.now());
            let decision = decision.expect("apply_many");
            assert_eq!(decision, expected, "round {round}, step {place}, key {number}: {step:?}");
        }
    }
}

async fn keys_of_any_bytes_and_any_number(harness: &dyn Harness) {
    const KEYS: u64 = 1_000;
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let limits = [Limit::new(Rate::per_hour(2), TokenBucket::new()).expect("a valid limit")];
    let step = Step::new(&limits, 1, Op::Take);
    let mut names: Vec<Vec<u8>> = (0..KEYS).map(|key| key.to_be_bytes().to_vec()).collect();
    names.extend([b"".to_vec(), b"a\r\nset x 0 0 1\r\n".to_vec(), vec![b'k'; 4000]]);
    let parts: Vec<_> = names.iter().map(|name| [KeyPart::bytes(name)]).collect();
    let steps: Vec<_> = parts.iter().map(|parts| (Key::new("many", parts), step)).collect();
    for left in [1, 0] {
        for (name, decision) in names.iter().zip(answers(&*backend, &steps).await) {
            let decision = decision.expect("apply_many");
            assert!(decision.is_allowed() && decision.remaining() == left, "{name:?}: {decision}");
        }
    }
    for decision in answers(&*backend, &steps).await {
        assert!(decision.expect("apply_many").is_denied(), "used up");
    }
}

async fn many_admit_exactly_the_limit(harness: &dyn Harness) {
    const TASKS: usize = 16;
    const LIMIT: u32 = 200;
    let Subject { backend, namespace, clock } = Subject::fresh(harness).await;
    let peer = harness.peer(&namespace, clock).await;
    if let Some(peer) = &peer {
        peer.initialize().await.expect("initialize");
    }
    let limits: Arc<[Limit]> =
        [Limit::new(Rate::per_hour(LIMIT), TokenBucket::new()).expect("a valid limit")].into();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let backend: Arc<dyn Backend> = match &peer {
            Some(peer) if task % 2 == 1 => Arc::clone(peer),
            _ => Arc::clone(&backend),
        };
        let limits = Arc::clone(&limits);
        tasks.spawn(async move {
            let names = [[KeyPart::bytes(b"a")], [KeyPart::bytes(b"b")], [KeyPart::bytes(b"c")]];
            let step = Step::new(&limits, 1, Op::Take);
            let steps = [0, 1, 0, 2, 1, 0].map(|key: usize| (Key::new("t", &names[key]), step));
            let mut admitted = 0;
            for _ in 0..25 {
                for decision in answers(&*backend, &steps).await {
                    admitted += u32::from(decision.expect("apply_many").is_allowed());
                }
            }
            admitted
        });
    }
    let admitted: u32 = tasks.join_all().await.into_iter().sum();
    assert_eq!(admitted, 3 * LIMIT, "of three keys, asked together and over and over");
}
