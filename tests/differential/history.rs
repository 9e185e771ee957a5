//! A history: throttles of one name, a few keys, and what happens to them on each backend.

use std::sync::Arc;
use std::time::Duration;

use traffik::{
    Backend, Clock, Decision, Denial, Error, FixedWindow, Gcra, HitOptions, LeakyBucket,
    ManualClock, Outcome, Rate, Receipt, SlidingWindowCounter, SlidingWindowLog, Throttle,
    ThrottleBuilder, Timestamp, TokenBucket, all,
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
    blocked: u64,
    together: u64,
}

impl Counts {
    pub(crate) fn assert_that_much_was_seen(&self) {
        for (what, count) in [
            ("allowed", self.allowed),
            ("denied", self.denied),
            ("never", self.never),
            ("refunds", self.refunds),
            ("steps back", self.back),
            ("blocked", self.blocked),
            ("all together", self.together),
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
        match self.random.below(40) {
            0 | 1 => self.reset(throttle, key).await,
            2..=5 if !self.taken.is_empty() => self.refund(counts).await,
            6 | 7 if !self.taken.is_empty() => self.settle().await,
            8 | 9 => self.usage(throttle, key, counts).await,
            10 => self.block(throttle, key).await,
            11 | 12 => self.unblock(throttle, key).await,
            13 | 14 => self.inspect(throttle, key).await,
            15 | 16 => self.hit_many(throttle, counts).await,
            17 | 18 => self.all(throttle, counts).await,
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
        counts.blocked += u64::from(is_blocked(&answers[0]));
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

    async fn settle(&mut self) {
        let Taken { throttle, key, receipts } =
            self.taken.swap_remove(self.random.index(self.taken.len()));
        let used = self.random.units(12);
        self.note(format!("settle {used} by throttle {throttle}, key {key}: {:?}", receipts[0]));
        let sisters = &self.throttles[throttle].throttles;
        for (throttle, receipt) in sisters.iter().zip(receipts) {
            throttle.settle(&self.keys[key], receipt, used).await.unwrap();
        }
    }

    /// A charge, as many as there are, or all that is left.
    async fn usage(&mut self, throttle: usize, key: usize, counts: &mut Counts) {
        let (verb, units) = (self.random.below(3), self.random.units(8));
        self.note(format!("throttle {throttle}, key {key}: usage {verb} of {units}"));
        let mut answers = Vec::new();
        for throttle in &self.throttles[throttle].throttles {
            let key = &self.keys[key];
            answers.push(match verb {
                0 => throttle.charge(key, units).await,
                1 => {
                    let taken = throttle.take_up_to(key, units).await;
                    taken.map(|taken| taken.decision().clone())
                }
                _ => match throttle.drain(key).await {
                    Ok(()) => throttle.peek(key).await,
                    Err(error) => Err(error),
                },
            });
        }
        counts.blocked += u64::from(is_blocked(&answers[0]));
        let _ = self.same(&answers);
    }

    async fn block(&mut self, throttle: usize, key: usize) {
        let time = Duration::from_micros(1 + self.random.below(30_000_000));
        self.note(format!("throttle {throttle}, key {key}: block for {time:?}"));
        for throttle in &self.throttles[throttle].throttles {
            throttle.block(&self.keys[key], time).await.unwrap();
        }
        if self.random.one_in(2) {
            self.wait = time;
        }
    }

    async fn unblock(&mut self, throttle: usize, key: usize) {
        self.note(format!("throttle {throttle}, key {key}: unblock"));
        let mut were = Vec::new();
        for throttle in &self.throttles[throttle].throttles {
            were.push(throttle.unblock(&self.keys[key]).await.unwrap());
        }
        assert!(were.iter().all(|was| *was == were[0]), "{were:?}: {}", self.context());
    }

    async fn inspect(&mut self, throttle: usize, key: usize) {
        self.note(format!("throttle {throttle}, key {key}: inspect"));
        let mut found = Vec::new();
        for throttle in &self.throttles[throttle].throttles {
            let inspection = throttle.inspect(&self.keys[key]).await.unwrap();
            let limit = |limit: &traffik::InspectedLimit| {
                (limit.is_brought, limit.limit.rate().to_string(), limit.answer, limit.changed)
            };
            // Those that hits brought are in any order.
            let mut limits: Vec<String> =
                inspection.limits().iter().map(limit).map(|it| format!("{it:?}")).collect();
            let mut others: Vec<String> =
                inspection.others().iter().map(|part| format!("{part:?}")).collect();
            limits.sort();
            others.sort();
            found.push((inspection.blocked_for(), limits, others));
        }
        for (name, other) in self.names.iter().zip(&found) {
            assert_eq!(&found[0], other, "{name}: {}", self.context());
        }
    }

    /// Several hits on both keys at once.
    async fn hit_many(&mut self, throttle: usize, counts: &mut Counts) {
        let options = self.options();
        let keys: Vec<String> =
            (0..self.random.index(5)).map(|_| self.random.pick(&self.keys)).collect();
        self.note(format!("throttle {throttle}, many {keys:?}: {options:?}"));
        let mut answers = Vec::new();
        for throttle in &self.throttles[throttle].throttles {
            answers.push(throttle.hit_many_with(&keys, options.clone()).await.into_iter());
        }
        for _ in &keys {
            let each: Vec<_> = answers.iter_mut().map(|answers| answers.next().unwrap()).collect();
            counts.blocked += u64::from(is_blocked(&each[0]));
            let _ = self.same(&each);
        }
    }

    /// Hits on two keys or throttles, all or nothing.
    async fn all(&mut self, throttle: usize, counts: &mut Counts) {
        let other = self.random.index(self.throttles.len());
        let keys = [self.random.pick(&self.keys), self.random.pick(&self.keys)];
        let options = [self.options(), self.options()];
        self.note(format!("all of throttles {throttle}, {other}, keys {keys:?}: {options:?}"));
        let mut answers: [Vec<Result<Decision, Error>>; 2] = Default::default();
        let mut is_whole = Vec::new();
        for backend in 0..BACKENDS {
            let of = |throttle: usize| &self.throttles[throttle].throttles[backend];
            let [first, second] = options.clone();
            let decided =
                all().hit_with(of(throttle), &keys[0], first).hit_with(of(other), &keys[1], second);
            match decided.await {
                Ok(decision) => {
                    is_whole.push(Some((decision.is_allowed(), decision.not_given_back().len())));
                    // On Memcached those after a denial are not asked, and what was taken is no peek.
                    if decision.is_allowed() {
                        for (entry, answers) in answers.iter_mut().enumerate() {
                            answers.push(Ok(decision.decision(entry).unwrap().clone()));
                        }
                    }
                }
                Err(error) => {
                    is_whole.push(None);
                    answers[0].push(Err(error));
                }
            }
        }
        assert!(
            is_whole.iter().all(|whole| *whole == is_whole[0]),
            "{is_whole:?}: {}",
            self.context()
        );
        if let Some((true, _)) = is_whole[0] {
            counts.together += 1;
            let _ = self.same(&answers[1]);
        }
        if matches!(is_whole[0], Some((false, _))) {
            // What was taken and given back in order has a writer, who may say another end of it.
            for key in 0..self.keys.len() {
                self.reset(throttle, key).await;
            }
        } else {
            let _ = self.same(&answers[0]);
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

fn is_blocked(answer: &Result<Decision, Error>) -> bool {
    answer.as_ref().is_ok_and(|decision| decision.denial() == Some(Denial::Blocked))
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
