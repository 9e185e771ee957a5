//! Checks hits on several keys that count together or not at all, where the backend decides them in one step.

use std::sync::Arc;
use std::time::Duration;

use super::decisions::{Reference, mixes};
use super::{Harness, Random, Subject};
use crate::backend::Backend;
use crate::clock::Clock;
use crate::key::{Key, KeyPart};
use crate::rate::Rate;
use crate::step::Step;
use crate::strategy::{Limit, Op, TokenBucket};

pub(super) async fn run(harness: &dyn Harness) {
    all_are_taken_or_none(harness).await;
    many_at_once_admit_exactly_the_limits(harness).await;
}

/// Against the pure function: peeks, and then takes if all of them pass. A backend that cannot decide so for some
/// keys must have done nothing.
async fn all_are_taken_or_none(harness: &dyn Harness) {
    const KEYS: u64 = 12;
    let Subject { backend, clock, .. } = Subject::fresh(harness).await;
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mixes = mixes();
    let names: Vec<[u8; 8]> = (0..KEYS).map(u64::to_be_bytes).collect();
    let parts: Vec<_> = names.iter().map(|name| [KeyPart::bytes(name)]).collect();
    let mut references: Vec<Reference> = names.iter().map(|_| Reference::default()).collect();
    for round in 0..400 {
        clock.advance(Duration::from_millis(random.below(300)));
        let mut numbers: Vec<usize> = Vec::new();
        for _ in 0..=random.below(4) {
            let number = usize::try_from(random.below(KEYS)).unwrap_or(0);
            if !numbers.contains(&number) {
                numbers.push(number);
            }
        }
        let hits: Vec<_> = numbers
            .iter()
            .map(|number| {
                let cost = u32::try_from(random.below(3)).unwrap_or(0);
                let leave = u32::try_from(random.below(8) / 6).unwrap_or(0);
                let step = Step::new(&mixes[number % mixes.len()], cost, Op::Take).leave(leave);
                (Key::new("all", &parts[*number]), step)
            })
            .collect();
        let Some(decisions) = backend.apply_all(&hits).await else { continue };
        let decisions = decisions.expect("apply_all");
        assert_eq!(decisions.len(), hits.len(), "one for each");
        let mut decide = |op: Op| -> Vec<_> {
            let each = numbers.iter().zip(&hits).map(|(number, (_, hit))| {
                let step = Step::new(hit.limits(), hit.cost(), op).leave(hit.units_to_leave());
                references[*number].apply(&step, clock.now())
            });
            each.collect()
        };
        let peeked = decide(Op::Peek);
        let is_taken = peeked.iter().all(|decision| decision.is_allowed());
        let expected = if is_taken { decide(Op::Take) } else { peeked };
        for (place, (decision, expected)) in decisions.into_iter().zip(expected).enumerate() {
            let step = &hits[place].1;
            assert_eq!(decision, expected, "round {round}, {place} of {numbers:?}: {step:?}");
            let taken = decision.receipt().map_or(0, |receipt| receipt.cost());
            let cost = if is_taken { step.cost() } else { 0 };
            let counts = step.limits().iter().any(|limit| !limit.rate().is_unlimited());
            assert_eq!(taken, if counts { cost } else { 0 }, "round {round}, {place}: {step:?}");
        }
    }
}

async fn many_at_once_admit_exactly_the_limits(harness: &dyn Harness) {
    const TASKS: usize = 32;
    const NARROW: u32 = 40;
    const WIDE: u32 = 60;
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let limit =
        |limit| [Limit::new(Rate::per_hour(limit), TokenBucket::new()).expect("a valid limit")];
    let limits = Arc::new([limit(NARROW), limit(WIDE)]);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let (backend, limits) = (Arc::clone(&backend), Arc::clone(&limits));
        tasks.spawn(async move {
            let parts = [KeyPart::bytes(b"a")];
            let hit = |index: usize| {
                let name = if index == 0 { "narrow" } else { "wide" };
                (Key::new(name, &parts), Step::new(&limits[index], 1, Op::Take))
            };
            // In either order: nobody may wait for another.
            let hits = if task % 2 == 0 { [hit(0), hit(1)] } else { [hit(1), hit(0)] };
            let mut admitted = 0;
            for _ in 0..5 {
                if let Some(decisions) = backend.apply_all(&hits).await {
                    let decisions = decisions.expect("apply_all");
                    admitted += u32::from(decisions.iter().all(|one| one.is_allowed()));
                }
                tokio::task::yield_now().await;
            }
            admitted
        });
    }
    let admitted: u32 = tasks.join_all().await.into_iter().sum();
    let parts = [KeyPart::bytes(b"a")];
    let key = Key::new("wide", &parts);
    let peeked = backend.apply(&key, &Step::new(&limits[1], 1, Op::Peek)).await.expect("apply");
    assert_eq!(peeked.remaining(), WIDE - admitted, "none of the wide one is lost");
    assert!(admitted == NARROW || admitted == 0, "{admitted} of {NARROW}");
}
