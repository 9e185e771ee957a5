//! Checks decisions: step by step against the pure function, and exact under concurrency.

use std::sync::Arc;
use std::time::Duration;

use super::{Harness, Random, Subject};
use crate::backend::Backend;
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::decision::{Decision, Outcome};
use crate::error::{Effect, ErrorKind};
use crate::key::{Key, KeyPart};
use crate::rate::Rate;
use crate::step::{Step, Write};
use crate::strategy::{
    Answer, CorruptState, FixedWindow, Gcra, LeakyBucket, Limit, Op, SlidingWindowCounter,
    SlidingWindowLog, State, Strategy, TokenBucket, Verdict,
};

const TIMELINES: u64 = 40;
const MOVES: u64 = 40;

pub(super) async fn run(harness: &dyn Harness) {
    for limits in mixes() {
        agrees_with_the_pure_function(harness, &limits).await;
    }
    peeks_and_denials_write_nothing(harness).await;
    rates_of_hits_count_for_themselves(harness).await;
    keys_count_for_themselves(harness).await;
    forget_forgets_one_key(harness).await;
    a_corrupt_state_starts_over(harness).await;
    admits_exactly_the_limit(harness).await;
}

/// The limits that the suite runs: each built-in strategy, a user's own, and several together.
pub(super) fn mixes() -> Vec<Vec<Limit>> {
    let limit = |rate: &str, strategy: Arc<dyn Strategy>| {
        let rate: Rate = rate.parse().expect("a valid rate");
        Limit::new(rate, strategy).expect("a valid limit")
    };
    let bucket = || Arc::new(TokenBucket::new());
    let brought = |rate: &str, own: &Limit| {
        Limit::new(rate.parse().expect("a valid rate"), Arc::clone(own.strategy()))
            .expect("a valid limit")
            .brought_beside(own)
    };
    let own = limit("5/s", bucket());
    vec![
        // The throttle's own limit, and rates that hits bring, of which one has the same period.
        vec![own.clone(), brought("6/s burst 7", &own), brought("20/min", &own)],
        vec![limit("5/s burst 8", bucket())],
        vec![limit("7/3s", Arc::new(TokenBucket::new().max_debt(4)))],
        vec![limit("3/min", Arc::new(LeakyBucket::new()))],
        vec![limit("1000000/h burst 2000000", Arc::new(Gcra::new()))],
        // Beyond what fits a packed count: 4e9 units of a month.
        vec![limit("4000000000/30d burst 4100000000", bucket())],
        // Just within a packed count, which a charge then leaves.
        vec![limit("290000/366d", bucket())],
        vec![limit("6/2500ms", Arc::new(FixedWindow::new()))],
        vec![limit("9/s", Arc::new(SlidingWindowCounter::new()))],
        vec![limit("5/s", Arc::new(SlidingWindowLog::new()))],
        vec![limit("4/s", Arc::new(EveryOther))],
        vec![limit("5/s", bucket()), limit("20/min", Arc::new(FixedWindow::new()))],
        vec![
            limit("6/s", Arc::new(SlidingWindowLog::new())),
            limit("9/3s", Arc::new(SlidingWindowCounter::new())),
            limit("0/min", Arc::new(FixedWindow::new())),
        ],
        vec![
            limit("6/s", Arc::new(SlidingWindowLog::new())),
            limit("9/3s", bucket()),
            limit("8/2s", Arc::new(EveryOther)),
        ],
    ]
}

/// A user's strategy: counts in windows from the first hit of each, for half of the limit.
#[derive(Debug)]
struct EveryOther;

impl Strategy for EveryOther {
    fn evaluate(
        &self,
        rate: &Rate,
        state: &mut State,
        now: Timestamp,
        cost: u32,
        op: Op,
    ) -> Result<Answer, CorruptState> {
        let period = u64::try_from(rate.period().as_micros()).unwrap_or(u64::MAX);
        let capacity = u64::from(rate.limit() / 2);
        let (start, used) = match *state.words() {
            [start, used] if now.as_micros() < start + period => (start, used),
            [] | [_, _] => (now.as_micros(), 0),
            _ => return Err(CorruptState("every other: expected two words")),
        };
        let end = Timestamp::from_micros(start + period);
        let after = match op {
            Op::Refund { .. } => used.saturating_sub(u64::from(cost)),
            Op::Peek | Op::Take | Op::Charge => used + u64::from(cost),
            Op::TakeUpTo | Op::Reserve { .. } | Op::Drain => {
                unreachable!("a step makes them of others")
            }
        };
        let verdict = if op == Op::Charge {
            Verdict::Allowed
        } else if u64::from(cost) > capacity {
            Verdict::Never
        } else if after > capacity {
            Verdict::Denied { retry_at: end }
        } else {
            Verdict::Allowed
        };
        // Writes on a peek and a denial too, which the frame must undo. A window without a hit is none.
        let words = [start, after];
        state.set(if after > 0 { &words } else { &[] });
        let counts = verdict == Verdict::Allowed && op != Op::Peek;
        let used = if counts { after } else { used };
        let remaining = u32::try_from(capacity.saturating_sub(used)).unwrap_or(u32::MAX);
        Ok(Answer { verdict, remaining, reset_at: if used > 0 { end } else { now } })
    }

    fn supports(&self, op: Op) -> bool {
        !matches!(op, Op::Reserve { .. })
    }
}

/// What a store of bytes would hold, by the pure function alone.
#[derive(Default)]
pub(super) struct Reference {
    stored: Option<Vec<u8>>,
}

impl Reference {
    pub(super) fn apply(&mut self, step: &Step<'_>, now: Timestamp) -> Decision {
        let evaluation = step.evaluate(self.stored.as_deref(), now).expect("its own bytes");
        match evaluation.write {
            None => {}
            Some(Write::Put { value, .. }) => self.stored = Some(value),
            Some(Write::Delete) => self.stored = None,
        }
        evaluation.decision
    }
}

fn reserves(limit: &Limit) -> bool {
    limit.strategy().supports(Op::Reserve { within: Duration::ZERO })
}

async fn agrees_with_the_pure_function(harness: &dyn Harness, limits: &[Limit]) {
    let Subject { backend, clock, .. } = Subject::fresh(harness).await;
    let mut random = Random(0x1234_5678_9abc_def1);
    for timeline in 0..TIMELINES {
        let name = timeline.to_be_bytes();
        // Short and long keys, of one part and of two.
        let parts = [KeyPart::bytes(&name), KeyPart::bytes(&[b'x'; 40])];
        let parts = &parts[..1 + usize::from(timeline % 2 == 1)];
        let key = Key::new("conformance", parts);
        let mut reference = Reference::default();
        let mut wait = Duration::from_millis(100);
        let mut taken = None;
        for number in 0..MOVES {
            advance(&mut random, &clock, wait);
            let cost = match random.below(8) {
                0 => 0,
                1..=4 => 1,
                5 => limits[0].rate().effective_burst(),
                6 => limits[0].rate().effective_burst().saturating_add(1),
                _ => u32::try_from(random.below(6)).unwrap_or(1),
            };
            let op = match (random.below(10), taken.take()) {
                (0, Some(taken_at)) => Op::Refund { taken_at },
                (1, _) => Op::Peek,
                (2, _) => Op::Charge,
                (3, _) => Op::TakeUpTo,
                (4, _) if random.below(2) == 0 => Op::Drain,
                (5, _) if limits.iter().all(reserves) => {
                    Op::Reserve { within: Duration::from_millis(random.below(4_000)) }
                }
                _ => Op::Take,
            };
            let cost = match op {
                Op::Charge if random.below(8) == 0 => u32::MAX,
                _ => cost,
            };
            let leave =
                if random.below(4) == 0 { u32::try_from(random.below(4)).unwrap_or(0) } else { 0 };
            let step = Step::new(limits, cost, op).leave(leave);
            let expected = reference.apply(&step, clock.now());
            let decision = backend.apply(&key, &step).await.expect("apply");
            assert_eq!(
                decision,
                expected,
                "{limits:?}, timeline {timeline}, move {number}: {op:?} of {cost} at {:?}",
                clock.now()
            );
            // After a charge it may be thousands of years, and time ends in 2255.
            const YEAR: Duration = Duration::from_secs(366 * 86_400);
            wait = match decision.outcome() {
                Outcome::Denied { retry_after } => retry_after,
                Outcome::Allowed | Outcome::Never => decision.reset_after(),
            }
            .min(YEAR);
            taken = decision.receipt().map(|receipt| receipt.taken_at());
        }
    }
}

/// Moves the clock: a little, to the end of a wait or just around it, or back.
fn advance(random: &mut Random, clock: &ManualClock, wait: Duration) {
    let micro = Duration::from_micros(1);
    match random.below(8) {
        0 | 1 => {}
        2 => clock.advance(Duration::from_micros(random.below(3_000_000))),
        3 => clock.advance(wait),
        4 => clock.advance(wait.saturating_sub(micro)),
        5 => clock.advance(wait + micro),
        6 => clock.advance(Duration::from_millis(random.below(500))),
        _ => {
            let back = random.below(2_000_000);
            let now = clock.now().as_micros().saturating_sub(back);
            clock.set(Timestamp::from_micros(now));
        }
    }
}

async fn peeks_and_denials_write_nothing(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let limits = [Limit::new(Rate::per_hour(2), TokenBucket::new()).expect("a valid limit")];
    let parts = [KeyPart::bytes(b"a")];
    let key = Key::new("t", &parts);
    let apply =
        async |cost, op| backend.apply(&key, &Step::new(&limits, cost, op)).await.expect("apply");
    assert_eq!(apply(1, Op::Peek).await.remaining(), 2, "a peek takes nothing");
    assert!(apply(3, Op::Take).await.is_denied(), "more than ever fits");
    assert!(apply(0, Op::Take).await.is_allowed(), "a cost of 0 passes");
    assert_eq!(backend.get(&key).await.expect("get"), None, "no key was made");
    assert_eq!(apply(1, Op::Take).await.remaining(), 1);
    assert!(apply(2, Op::Take).await.is_denied());
    assert_eq!(apply(1, Op::Peek).await.remaining(), 1, "a denial takes nothing");
}

async fn rates_of_hits_count_for_themselves(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let own = Limit::new(Rate::per_hour(100), TokenBucket::new()).expect("a valid limit");
    let parts = [KeyPart::bytes(b"a")];
    let key = Key::new("t", &parts);
    let hit = async |limit: u32| {
        let limit = Limit::new(Rate::per_hour(limit), TokenBucket::new()).expect("a valid limit");
        let limits = [limit.brought_beside(&own)];
        backend.apply(&key, &Step::new(&limits, 1, Op::Take)).await
    };
    for limit in 1..=32 {
        assert_eq!(hit(limit).await.expect("apply").remaining(), limit - 1, "{limit} an hour");
    }
    let kind = hit(33).await.map_err(|error| error.kind()).err();
    assert_eq!(kind, Some(ErrorKind::TooManyRates), "the 33rd rate is an error");
    assert!(hit(1).await.expect("apply").is_denied(), "and no counter was dropped for it");
    backend.forget(&key).await.expect("forget");
    assert_eq!(hit(1).await.expect("apply").remaining(), 0, "a key is forgotten with them");
}

async fn keys_count_for_themselves(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let limits = [Limit::new(Rate::per_hour(1), TokenBucket::new()).expect("a valid limit")];
    let step = Step::new(&limits, 1, Op::Take);
    let part = KeyPart::bytes;
    let keys: [&[KeyPart<'_>]; 7] = [
        &[part(b"")],
        &[part(b"a:b"), part(b"c")],
        &[part(b"a"), part(b"b:c")],
        &[part(b"b:c"), part(b"a")],
        &[part(b"a\r\nset x 0 0 1\r\n")],
        &[part(b"a"), part(b"")],
        &[part(&[b'k'; 4000])],
    ];
    for throttle in ["t", "t2"] {
        for key in keys {
            let decision = backend.apply(&Key::new(throttle, key), &step).await.expect("apply");
            assert!(decision.is_allowed(), "each key counts separately: {throttle} {key:?}");
        }
    }
    for key in keys {
        let decision = backend.apply(&Key::new("t", key), &step).await.expect("apply");
        assert!(decision.is_denied(), "the same key again: {key:?}");
    }
}

async fn forget_forgets_one_key(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let limits = [Limit::new(Rate::per_hour(1), TokenBucket::new()).expect("a valid limit")];
    let step = Step::new(&limits, 1, Op::Take);
    let (a, b) = ([KeyPart::bytes(b"a")], [KeyPart::bytes(b"b")]);
    let (a, b, other) = (Key::new("t", &a), Key::new("t", &b), Key::new("t2", &a));
    for key in [&a, &b, &other] {
        assert!(backend.apply(key, &step).await.expect("apply").is_allowed());
    }
    backend.forget(&a).await.expect("forget");
    backend.forget(&a).await.expect("forget again");
    assert!(backend.apply(&a, &step).await.expect("apply").is_allowed(), "forgotten");
    assert!(backend.apply(&b, &step).await.expect("apply").is_denied(), "another key");
    assert!(backend.apply(&other, &step).await.expect("apply").is_denied(), "another throttle");
}

/// Only where decisions are stored as values, which another could write to.
async fn a_corrupt_state_starts_over(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let limits = [Limit::new(Rate::per_hour(2), TokenBucket::new()).expect("a valid limit")];
    let step = Step::new(&limits, 1, Op::Take);
    let parts = [KeyPart::bytes(b"a")];
    let key = Key::new("t", &parts);
    assert!(backend.apply(&key, &step).await.expect("apply").is_allowed());
    if backend.get(&key).await.expect("get").is_none() {
        return;
    }
    backend.set(&key, b"\x01\xff garbage", None).await.expect("set");
    let peek = Step::new(&limits, 1, Op::Peek);
    for (step, effect) in [(&peek, Effect::NotApplied), (&step, Effect::Ambiguous)] {
        let error = backend.apply(&key, step).await.expect_err("the error policy decides");
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Corrupt, effect));
    }
    let next = backend.apply(&key, &step).await.expect("apply");
    assert!(next.is_allowed() && next.remaining() == 0, "a fresh state that holds the hit");
    let corrupt = backend.core().stat(crate::backend::Stat::Corrupt);
    assert_eq!(corrupt, 2, "it was counted");
}

async fn admits_exactly_the_limit(harness: &dyn Harness) {
    const TASKS: u64 = 32;
    const EACH: u64 = 25;
    let rate = Rate::per_hour(300);
    let strategies: [Arc<dyn Strategy>; 5] = [
        Arc::new(TokenBucket::new()),
        Arc::new(FixedWindow::new()),
        Arc::new(SlidingWindowCounter::new()),
        Arc::new(SlidingWindowLog::new()),
        Arc::new(Gcra::new()),
    ];
    for strategy in strategies {
        let Subject { backend, namespace, clock } = Subject::fresh(harness).await;
        let peer = harness.peer(&namespace, clock).await;
        if let Some(peer) = &peer {
            peer.initialize().await.expect("initialize");
        }
        let limits: Arc<[Limit]> =
            [Limit::new(rate, Arc::clone(&strategy)).expect("a valid limit")].into();
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..TASKS {
            let backend: Arc<dyn Backend> = match &peer {
                Some(peer) if task % 2 == 1 => Arc::clone(peer),
                _ => Arc::clone(&backend),
            };
            let limits = Arc::clone(&limits);
            tasks.spawn(async move {
                let parts = [KeyPart::bytes(b"hot")];
                let key = Key::new("t", &parts);
                let mut admitted = 0;
                for _ in 0..EACH {
                    let step = Step::new(&limits, 1, Op::Take);
                    let decision = backend.apply(&key, &step).await.expect("apply");
                    admitted += u64::from(decision.is_allowed());
                }
                admitted
            });
        }
        let admitted: u64 = tasks.join_all().await.into_iter().sum();
        assert_eq!(admitted, u64::from(rate.limit()), "{strategy:?} under concurrency");
    }
}
