//! Checks blocks, and what an inspection says.

use std::time::Duration;

use super::decisions::mixes;
use super::{Harness, Random, Subject};
use crate::backend::Backend;
use crate::clock::{Clock, Timestamp};
use crate::decision::Decision;
use crate::key::{Key, KeyPart};
use crate::rate::Rate;
use crate::step::{BlockChange, Step, Write};
use crate::strategy::{FixedWindow, Limit, Op, TokenBucket};

pub(super) async fn run(harness: &dyn Harness) {
    for limits in mixes() {
        blocks_agree_with_the_pure_function(harness, &limits).await;
    }
    a_block_concerns_one_key_and_ends_with_it(harness).await;
    an_inspection_says_what_is_stored(harness).await;
}

/// Blocks and all kinds of steps, in any order.
async fn blocks_agree_with_the_pure_function(harness: &dyn Harness, limits: &[Limit]) {
    let Subject { backend, clock, .. } = Subject::fresh(harness).await;
    let mut random = Random(0x0123_4567_89ab_cdef);
    for timeline in 0..12u64 {
        let name = timeline.to_be_bytes();
        let parts = [KeyPart::bytes(&name), KeyPart::bytes(&[b'x'; 40])];
        let key = Key::new("blocks", &parts[..1 + usize::from(timeline % 2 == 1)]);
        let mut stored: Option<Vec<u8>> = None;
        let store = |write: Option<Write>| match write {
            None => None,
            Some(Write::Put { value, .. }) => Some(Some(value)),
            Some(Write::Delete) => Some(None),
        };
        for number in 0..30 {
            clock.advance(Duration::from_millis(random.below(1_500)));
            let now = clock.now();
            if random.below(3) == 0 {
                let time = Duration::from_millis(random.below(3_000));
                let change = match random.below(3) {
                    0 => BlockChange::Replace(time),
                    1 => BlockChange::Lengthen(time),
                    _ => BlockChange::Remove,
                };
                let (was, write) = change.evaluate(stored.as_deref(), now).expect("there is room");
                stored = store(write).unwrap_or(stored);
                let said = backend.change_block(&key, change).await.expect("change_block");
                assert_eq!(said, was, "{limits:?}, {timeline}, {number}: {change:?}");
                continue;
            }
            let op = match random.below(6) {
                0 => Op::Peek,
                1 => Op::Charge,
                2 => Op::TakeUpTo,
                3 => Op::Refund { taken_at: now },
                _ => Op::Take,
            };
            let cost = u32::try_from(random.below(3)).unwrap_or(0);
            let step = Step::new(limits, cost, op);
            let expected = step.evaluate(stored.as_deref(), now).expect("its own bytes");
            stored = store(expected.write).unwrap_or(stored);
            let decision = backend.apply(&key, &step).await.expect("apply");
            let expected: Decision = expected.decision;
            assert_eq!(decision, expected, "{limits:?}, {timeline}, {number}: {op:?} of {cost}");
        }
    }
}

async fn a_block_concerns_one_key_and_ends_with_it(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let limits = [Limit::new(Rate::per_hour(5), TokenBucket::new()).expect("a valid limit")];
    let step = Step::new(&limits, 1, Op::Take);
    let (a, b) = ([KeyPart::bytes(b"a")], [KeyPart::bytes(b"b")]);
    let (a, b, other) = (Key::new("t", &a), Key::new("t", &b), Key::new("t2", &a));
    let hour = BlockChange::Replace(Duration::from_secs(3600));
    assert!(!backend.change_block(&a, hour).await.expect("change_block"));
    assert!(backend.change_block(&a, hour).await.expect("change_block"), "it was blocked");
    let hit = async |key| backend.apply(key, &step).await.expect("apply").is_allowed();
    assert!(!hit(&a).await && hit(&b).await && hit(&other).await);
    let remove = BlockChange::Remove;
    assert!(backend.change_block(&a, remove).await.expect("change_block"));
    assert!(!backend.change_block(&a, remove).await.expect("change_block"), "it was not any more");
    assert!(hit(&a).await);
    backend.change_block(&a, hour).await.expect("change_block");
    backend.forget(&a).await.expect("forget");
    assert!(hit(&a).await, "forgotten with its key");
    if harness.clears() {
        backend.change_block(&a, hour).await.expect("change_block");
        backend.clear().await.expect("clear");
        assert!(hit(&a).await, "cleared");
    }
}

async fn an_inspection_says_what_is_stored(harness: &dyn Harness) {
    let Subject { backend, clock, .. } = Subject::fresh(harness).await;
    let limits = [
        Limit::new(Rate::per_hour(5), TokenBucket::new()).expect("a valid limit"),
        Limit::new(Rate::per_minute(9), FixedWindow::new()).expect("a valid limit"),
    ];
    let brought = Limit::new(Rate::per_day(3).burst(4), TokenBucket::new()).expect("a valid limit");
    let brought = [brought.brought_beside(&limits[0])];
    let parts = [KeyPart::bytes(b"a")];
    let key = Key::new("t", &parts);
    let nothing = backend.inspect(&key).await.expect("inspect");
    assert!(nothing.parts().is_empty() && nothing.blocked_until().is_none());
    let took_at = clock.now();
    for limits in [&limits[..], &brought] {
        let taken = backend.apply(&key, &Step::new(limits, 1, Op::Take)).await.expect("apply");
        assert!(taken.is_allowed());
    }
    clock.advance(Duration::from_secs(3));
    let hour = Duration::from_secs(3600);
    backend.change_block(&key, BlockChange::Replace(hour)).await.expect("change_block");
    let found = backend.inspect(&key).await.expect("inspect");
    assert_eq!(found.read_at(), clock.now());
    assert_eq!(found.blocked_until(), Some(clock.now().saturating_add(hour)));
    let mut parts: Vec<_> = found
        .parts()
        .iter()
        .map(|part| {
            let rate = part.rate.map(|rate| (rate.limit(), rate.effective_burst()));
            (part.period, part.strategy.name(), rate, part.changed_at)
        })
        .collect();
    parts.sort();
    let secs = Duration::from_secs;
    let expected: [(_, _, _, Timestamp); 3] = [
        (secs(60), Some("fixed window"), None, took_at),
        (hour, Some("bucket"), None, took_at),
        (secs(86_400), Some("bucket"), Some((3, 4)), took_at),
    ];
    assert_eq!(parts, expected);
}
