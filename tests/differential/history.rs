//! A history: throttles of one name, a few keys, and what happens to them on each backend.

use std::sync::Arc;
use std::time::Duration;

use traffik::{
    Backend, Clock, Decision, Error, FixedWindow, Gcra, HitOptions, LeakyBucket, ManualClock,
    Outcome, Rate, Receipt, SlidingWindowCounter, SlidingWindowLog, Throttle, ThrottleBuilder,
    Timestamp, TokenBucket,
};

use crate::random::Random;

const BACKENDS: usize = 3;
/// How far the clock steps back from the latest that it said: less than an hour.
const MOST_BACK: u64 = 3_599_000_000;

/// What the histories came to, so that it can be seen that they were not all alike.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    allowed: u64,
    denied: u64,
    never: u64,
    refunds: u64,
    refused: u64,
    back: u64,
}

impl Counts {
    pub(crate) fn assert_that_much_was_seen(&self) {
        for (what, count) in [
            ("allowed", self.allowed),
            ("denied", self.denied),
            ("never", self.never),
            ("refunds", self.refunds),
            ("steps back", self.back),
        ] {
            assert!(count > 100, "{what}: {count}");
        }
    }
}

/// A throttle on each backend.
struct Sisters {
    throttles: [Throttle; BACKENDS],
    limits: String,
}

/// A receipt of each backend, for the same hit.
struct Taken {
    throttle: usize,
    key: usize,
    receipts: [Receipt; BACKENDS],
}

pub(crate) struct History {
    seed: u64,
    random: Random,
    clock: ManualClock,
    latest: u64,
    names: [&'static str; BACKENDS],
    throttles: Vec<Sisters>,
    keys: Vec<String>,
    taken: Vec<Taken>,
    /// What some hit was told to wait.
    wait: Duration,
    log: Vec<String>,
}

impl History {
    pub(crate) fn new(
        seed: u64,
        mut random: Random,
        clock: ManualClock,
        backends: [(&'static str, Arc<dyn Backend>); BACKENDS],
        patience: Duration,
    ) -> Self {
        let names = [backends[0].0, backends[1].0, backends[2].0];
        let mut throttles = Vec::new();
        for _ in 0..=random.index(3) {
            let limits = random_limits(&mut random);
            let build = |(_, backend): &(_, Arc<dyn Backend>)| {
                let builder = Throttle::builder(format!("history {seed}"));
                let builder = builder.backend(Arc::clone(backend)).deadline(patience);
                limits.iter().fold(builder, |builder, limit| limit.add_to(builder)).build()
            };
            if let [Ok(one), Ok(two), Ok(three)] = backends.each_ref().map(build) {
                let throttles_of_it = [one, two, three];
                throttles
                    .push(Sisters { throttles: throttles_of_it, limits: format!("{limits:?}") });
            }
        }
        let keys = vec![format!("k{seed}"), format!("a key with more than sixteen bytes {seed}")];
        // Each begins in 2024: a clock that only went on would come to the last instant there is.
        clock.set(ManualClock::new().now());
        let latest = clock.now().as_micros();
        Self {
            seed,
            random,
            clock,
            latest,
            names,
            throttles,
            keys,
            taken: Vec::new(),
            wait: Duration::from_secs(1),
            log: Vec::new(),
        }
    }

    pub(crate) async fn step(&mut self, counts: &mut Counts) {
        self.move_clock(counts);
        if self.throttles.is_empty() {
            return;
        }
        let throttle = self.random.index(self.throttles.len());
        let key = self.random.index(self.keys.len());
        match self.random.below(20) {
            0 => self.reset(throttle, key).await,
            1..=3 if !self.taken.is_empty() => self.refund(counts).await,
            _ => self.hit(throttle, key, counts).await,
        }
    }

    fn move_clock(&mut self, counts: &mut Counts) {
        let now = self.clock.now().as_micros();
        let wait = u64::try_from(self.wait.as_micros()).unwrap();
        let next = match self.random.below(16) {
            0..=4 => now,
            5 | 6 => now + self.random.below(100_000),
            7 => now + self.random.below(3_000_000),
            8 => now + self.random.below(100_000_000),
            9 => now - now % 1_000_000 + 1_000_000 - self.random.below(2),
            10 | 11 => now + wait,
            12 => (now + wait).saturating_sub(1),
            13 => now + self.random.below(200_000_000_000),
            14 => now - self.random.below(5_000_000),
            _ => now - self.random.below(MOST_BACK),
        };
        // Back only within the hour that every store keeps.
        let next = next.max(self.latest.saturating_sub(MOST_BACK));
        counts.back += u64::from(next < now);
        self.latest = self.latest.max(next);
        self.clock.set(Timestamp::from_micros(next));
    }

    fn options(&mut self) -> HitOptions {
        let random = &mut self.random;
        let mut options = HitOptions::new();
        if random.one_in(2) {
            let cost = random.units(5);
            options = options.cost(if random.one_in(8) { cost * 100 } else { cost });
        }
        if random.one_in(4) {
            options = options.leave(random.units(4));
        }
        if random.one_in(5) {
            let count = 1 + random.index(3);
            let rates: Vec<Rate> = (0..count).map(|_| random_rate(random, false)).collect();
            options = match random.one_in(2) {
                true => options.replace_rates(rates),
                false => options.add_rates(rates),
            };
        }
        options
    }

    async fn hit(&mut self, throttle: usize, key: usize, counts: &mut Counts) {
        let (options, peeks) = (self.options(), self.random.one_in(6));
        self.note(format!("throttle {throttle}, key {key}, peeks {peeks}: {options:?}"));
        let name = self.keys[key].clone();
        let mut answers = Vec::new();
        for throttle in &self.throttles[throttle].throttles {
            answers.push(match peeks {
                true => throttle.peek_with(&name, options.clone()).await,
                false => throttle.hit_with(&name, options.clone()).await,
            });
        }
        let mut receipts = Vec::new();
        let first = self.same(&answers);
        match first {
            Ok(Outcome::Allowed) => counts.allowed += 1,
            Ok(Outcome::Denied { retry_after }) => {
                counts.denied += 1;
                self.wait = retry_after;
            }
            Ok(Outcome::Never) => counts.never += 1,
            Err(()) => counts.refused += 1,
        }
        for decision in answers.into_iter().flatten() {
            if self.random.one_in(3) && decision.is_allowed() {
                self.wait = decision.reset_after().min(Duration::from_secs(200_000));
            }
            receipts.extend(decision.receipt());
        }
        let figures = |receipt: &Receipt| (receipt.cost(), receipt.taken_at());
        let all: Vec<_> = receipts.iter().map(figures).collect();
        assert!(all.windows(2).all(|two| two[0] == two[1]), "{all:?}: {}", self.context());
        if let Ok(receipts) = <[Receipt; BACKENDS]>::try_from(receipts) {
            self.taken.push(Taken { throttle, key, receipts });
        }
    }

    /// That all answers are the same, and what the first is.
    fn same(&self, answers: &[Result<Decision, Error>]) -> Result<Outcome, ()> {
        for (name, answer) in self.names.iter().zip(answers) {
            match (&answers[0], answer) {
                (Ok(one), Ok(other)) => {
                    assert_eq!(one, other, "{name}: {}", self.context());
                }
                (Err(one), Err(other)) => {
                    assert_eq!(kind(one), kind(other), "{name}: {}", self.context());
                }
                (one, other) => panic!("{one:?}, {name}: {other:?}: {}", self.context()),
            }
        }
        answers[0].as_ref().map(Decision::outcome).map_err(|_| ())
    }

    async fn refund(&mut self, counts: &mut Counts) {
        let Taken { throttle, key, receipts } =
            self.taken.swap_remove(self.random.index(self.taken.len()));
        self.note(format!("refund by throttle {throttle}, key {key}: {:?}", receipts[0]));
        counts.refunds += 1;
        let sisters = &self.throttles[throttle].throttles;
        for (throttle, receipt) in sisters.iter().zip(receipts) {
            throttle.refund(&self.keys[key], receipt).await.unwrap();
        }
    }

    async fn reset(&mut self, throttle: usize, key: usize) {
        self.note(format!("reset by throttle {throttle}, key {key}"));
        for throttle in &self.throttles[throttle].throttles {
            throttle.reset(&self.keys[key]).await.unwrap();
        }
    }

    fn note(&mut self, what: String) {
        let now = self.clock.now().as_micros();
        self.log.push(format!("{now}: {what}"));
    }

    fn context(&self) -> String {
        let throttles: Vec<_> = self.throttles.iter().map(|sisters| &sisters.limits).collect();
        format!("history {}: {throttles:#?}\n{}", self.seed, self.log.join("\n"))
    }
}

/// What an error says, without who says it.
fn kind(error: &Error) -> String {
    match error {
        Error::Backend(error) => format!("{:?}", error.kind()),
        other => other.to_string(),
    }
}

/// A limit of a throttle.
#[derive(Clone, Debug)]
struct Wanted {
    kind: u64,
    debt: u32,
    rate: Rate,
}

impl Wanted {
    fn add_to(&self, builder: ThrottleBuilder) -> ThrottleBuilder {
        match self.kind {
            0 => builder.limit(self.rate, TokenBucket::new().max_debt(self.debt)),
            1 => builder.limit(self.rate, LeakyBucket::new()),
            2 => builder.limit(self.rate, Gcra::new()),
            3 => builder.limit(self.rate, FixedWindow::new()),
            4 => builder.limit(self.rate, SlidingWindowCounter::new()),
            _ => builder.limit(self.rate, SlidingWindowLog::new()),
        }
    }
}

fn random_limits(random: &mut Random) -> Vec<Wanted> {
    let mut limits = Vec::new();
    for _ in 0..=random.index(3) {
        let kind = random.below(6);
        let debt = if random.one_in(2) { 0 } else { random.units(5) };
        limits.push(Wanted { kind, debt, rate: random_rate(random, kind < 3) });
    }
    limits
}

fn random_rate(random: &mut Random, bursts: bool) -> Rate {
    let limit = match random.below(20) {
        0 => 0,
        1 => 1_000,
        _ => 1 + random.units(12),
    };
    let millis = random.pick(&[100, 1_000, 1_000, 2_500, 60_000, 60_000, 3_600_000, 86_400_000]);
    let rate = Rate::new(limit, Duration::from_millis(millis)).unwrap();
    if limit > 0 && bursts && random.one_in(3) { rate.burst(1 + random.units(20)) } else { rate }
}
