//! The fast path of a backend: asked for through the trait, so every form of a backend has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use test_support::ValuesOnly;
use traffik::backend::{BackendCore, Prepared, Result};
use traffik::step::Step;
use traffik::strategy::Limit;
use traffik::{
    Backend, Decision, FixedWindow, HasCore, HitOptions, InMemory, Key, LimitAnswer, Locks,
    ManualClock, Rate, SlidingWindowCounter, Throttle, TokenBucket, Ttl, Values,
};

/// Forwards to another backend, and counts the steps that it sees.
#[derive(Debug)]
struct Seeing {
    inner: Arc<dyn Backend>,
    /// It hands on the fast path of the other, which it then does not see.
    is_transparent: bool,
    seen: Arc<AtomicU32>,
}

impl HasCore for Seeing {
    fn core(&self) -> &BackendCore {
        self.inner.core()
    }
}

#[async_trait]
impl Values for Seeing {
    async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        self.inner.get(key).await
    }

    async fn compare_and_set(
        &self,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        ttl: Ttl,
    ) -> Result<bool> {
        self.inner.compare_and_set(key, expected, new, ttl).await
    }
}

impl Locks for Seeing {}

#[async_trait]
impl Backend for Seeing {
    async fn clear(&self) -> Result<()> {
        self.inner.clear().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }

    fn prepare(&self, throttle: &str, limits: &[Limit]) -> Option<Prepared> {
        self.inner.prepare(throttle, limits).filter(|_| self.is_transparent)
    }

    async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        self.inner.apply(key, step).await
    }
}

/// A wrapper around a backend in memory, and the steps that it sees.
fn seeing(is_transparent: bool) -> (Seeing, Arc<AtomicU32>) {
    let seen = Arc::new(AtomicU32::new(0));
    let inner = Arc::new(InMemory::new());
    (Seeing { inner, is_transparent, seen: Arc::clone(&seen) }, seen)
}

async fn admits_five(backend: impl Backend, form: &str) {
    let throttle = Throttle::builder("t").rate("5/day").backend(backend).build().unwrap();
    for hit in 0..7 {
        let decision = throttle.hit("a").await.unwrap();
        assert_eq!(decision.is_allowed(), hit < 5, "hit {hit} on {form}");
    }
    let receipt = throttle.hit("b").await.unwrap().receipt().expect("a receipt");
    throttle.refund("b", receipt).await.unwrap();
    assert_eq!(throttle.peek("b").await.unwrap().remaining(), 5, "{form}");
}

#[tokio::test]
async fn c12_each_form_of_a_backend_has_the_fast_path() {
    let erased: Arc<dyn Backend> = Arc::new(InMemory::new());
    let boxed: Box<dyn Backend> = Box::new(InMemory::new());
    let twice = Arc::new(Arc::new(InMemory::new()));
    for (form, backend) in [
        ("Arc<InMemory>", Arc::new(InMemory::new()) as Arc<dyn Backend>),
        ("Arc<dyn Backend>", erased),
        ("Box<dyn Backend>", Arc::new(boxed)),
        ("Arc<Arc<InMemory>>", twice),
    ] {
        assert!(backend.prepare("t", &[]).is_some(), "{form}");
        admits_five(backend, form).await;
    }
    admits_five(InMemory::new(), "InMemory").await;

    let (transparent, seen) = seeing(true);
    admits_five(Arc::new(transparent), "a transparent wrapper").await;
    assert_eq!(seen.load(Ordering::SeqCst), 0, "it need not see a hit");
}

#[tokio::test]
async fn a_wrapper_that_has_to_see_the_hits_sees_each() {
    let (opaque, seen) = seeing(false);
    admits_five(opaque, "a wrapper that hands on nothing").await;
    assert_eq!(seen.load(Ordering::SeqCst), 7 + 3);
}

/// A small generator, so that a failure is found again.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        u32::try_from(high).unwrap_or_default() % end
    }

    fn one_of<T: Copy, const N: usize>(&mut self, all: [T; N]) -> T {
        all[self.below(u32::try_from(N).unwrap()) as usize]
    }
}

/// Keys around what is stored as it is, what is digested, and what is digested before.
fn key_of(random: &mut Random, keys: u8) -> Vec<u8> {
    let number = u8::try_from(random.below(keys.into())).unwrap();
    let lengths = [1, 4, 8, 15, 16, 17, 40, 128, 4096, 5000];
    let length = lengths[usize::from(number) % lengths.len()];
    let mut key = vec![b'k'; length];
    key[length / 2] = number;
    key
}

/// A throttle with so many limits, of all kinds that have packed counts; `more` makes its rates others.
fn throttle_of(limits: u32, more: u32, backend: Arc<dyn Backend>) -> Throttle {
    let mut builder = Throttle::builder("ways").backend(backend);
    for limit in 1..=limits {
        let period = Duration::from_secs(u64::from(limit) * 7);
        let rate = Rate::new(3 + more + limit * 4, period).unwrap();
        builder = match limit % 3 {
            0 => builder.limit(rate, FixedWindow::new()),
            1 => builder.limit(rate, TokenBucket::new()),
            _ => builder.limit(rate, SlidingWindowCounter::new()),
        };
    }
    builder.build().unwrap()
}

/// What can be told of an answer, but for what an error says.
fn said(
    throttle: &Throttle,
    answer: &Result<Decision, traffik::Error>,
) -> Option<(String, Vec<LimitAnswer>, Option<String>)> {
    let decision = answer.as_ref().ok()?;
    let denied_by = throttle.denied_by(decision).map(|limit| limit.name().into_owned());
    Some((format!("{decision:?}"), decision.answers().collect(), denied_by))
}

/// The ways of its own that a hit in memory has, against the pure function on stored bytes.
#[tokio::test]
async fn c12_all_ways_of_a_hit_are_those_of_the_pure_function() {
    for seed in 1..=if std::env::var_os("TRAFFIK_SOAK").is_some() { 400 } else { 20u64 } {
        let mut random = Random(seed * 0x9e37_79b9);
        let limits = 1 + random.below(8);
        let clock = ManualClock::new();
        let memory = InMemory::builder().clock(clock.clone()).build().unwrap();
        let stored = ValuesOnly::new(&clock);
        // Two throttles of one name, whose rates differ in some histories.
        let more = random.below(2);
        let of = |more| {
            let memory: Arc<dyn Backend> = Arc::new(memory.clone());
            [memory, Arc::new(stored.clone())].map(|backend| throttle_of(limits, more, backend))
        };
        let sisters = [of(0), of(more)];
        let mut receipts = Vec::new();
        for _step in 0..400 {
            let both = &sisters[usize::from(random.below(5) == 0)];
            let (name, other) = (key_of(&mut random, 12), key_of(&mut random, 3));
            let parts = random.below(3);
            let options = match random.below(4) {
                0 => HitOptions::new().cost(random.below(4)).leave(random.below(3)),
                1 => HitOptions::new().replace_rates([Rate::per_second(1 + random.below(3))]),
                2 => HitOptions::new()
                    .add_rates((0..random.below(2)).map(|more| Rate::per_minute(2 + more))),
                _ => HitOptions::new(),
            };
            let (way, units) = (random.below(12), random.below(5));
            let (mut answers, mut taken_units) = (Vec::new(), Vec::new());
            for (throttle, is_memory) in both.iter().zip([true, false]) {
                answers.push(match (way, parts) {
                    (0, 0) => throttle.peek(&name).await,
                    (0, _) => throttle.peek_with((&other, &name), options.clone()).await,
                    (1 | 2, 0) => throttle.hit_with(&name, options.clone()).await,
                    (1 | 2, _) => throttle.hit_with((&other, &name), options.clone()).await,
                    (3, 0) => throttle.charge(&name, units).await,
                    (4, 0) => {
                        let taken = match is_memory {
                            true => throttle.try_acquire(&name, units),
                            false => throttle.reserve(&name, units).await,
                        };
                        match taken {
                            Ok(permit) => {
                                permit.commit();
                                throttle.peek(&name).await
                            }
                            Err(traffik::Error::Denied(denied)) => Ok(*denied),
                            Err(error) => Err(error),
                        }
                    }
                    (6, 0) => {
                        let taken = throttle.take_up_to(&name, units * 3).await.unwrap();
                        taken_units.push(taken.units());
                        Ok(taken.decision().clone())
                    }
                    (7, 0) => {
                        let reserved = throttle.reserve(&name, 2).await;
                        match reserved {
                            Ok(permit) => {
                                permit.settle(units).await.unwrap();
                                throttle.peek(&name).await
                            }
                            Err(traffik::Error::Denied(denied)) => Ok(*denied),
                            Err(error) => Err(error),
                        }
                    }
                    (8, 0) => match throttle.acquire(&name).timeout(Duration::ZERO).await {
                        Ok(permit) => {
                            permit.commit();
                            throttle.peek(&name).await
                        }
                        Err(traffik::Error::Denied(denied)) => Ok(*denied),
                        Err(error) => Err(error),
                    },
                    (5, 0) if units == 0 => {
                        throttle.block(&name, Duration::from_millis(1_500)).await.unwrap();
                        throttle.peek(&name).await
                    }
                    (_, 0) => throttle.hit(&name).await,
                    (_, 1) => throttle.hit((&other, &name)).await,
                    _ => throttle.hit((&other, &name, 7u32)).await,
                });
            }
            let all: Vec<_> = both.iter().zip(&answers).map(|(one, it)| said(one, it)).collect();
            assert_eq!(all[0], all[1], "seed {seed}, {limits} limits, way {way}");
            assert_eq!(taken_units.first(), taken_units.last(), "seed {seed}");
            let taken: Vec<_> = answers.into_iter().map(|it| it.ok()?.receipt()).collect();
            if let [Some(one), Some(two)] = &taken[..] {
                assert_eq!((one.cost(), one.taken_at()), (two.cost(), two.taken_at()));
                if parts == 0 && way != 3 {
                    receipts.push((name, both, taken));
                }
            }
            if random.below(4) == 0
                && let Some((name, both, taken)) = receipts.pop()
            {
                let wrong = random.below(9) == 0;
                let name = if wrong { b"another".to_vec() } else { name };
                for (throttle, receipt) in both.iter().zip(taken) {
                    let given = throttle.refund(&name, receipt.unwrap()).await;
                    assert_eq!(given.is_err(), wrong, "seed {seed}");
                }
            }
            clock.advance(Duration::from_millis(random.one_of([0, 0, 1, 130, 900, 4_000])));
        }
    }
}

/// More lists of rates than a thread remembers.
#[tokio::test]
async fn rates_that_hits_bring_are_those_that_they_said() {
    let throttle = Throttle::builder("plans").rate("1/h").backend(InMemory::new()).build().unwrap();
    for round in 1..=3 {
        for limit in 10..60 {
            let plan = HitOptions::new().replace_rates([Rate::per_hour(limit)]);
            let decision = throttle.hit_with("customer", plan.clone()).await;
            // At most 32 count on one key.
            if limit < 42 {
                assert_eq!(decision.unwrap().remaining(), limit - round);
            } else {
                assert!(decision.is_err());
            }
            let decision = throttle.hit_with(("own", limit), plan).await.unwrap();
            assert_eq!((decision.burst(), decision.remaining()), (limit, limit - round));
        }
    }
}

/// What is over makes room among the rates that count, and comes back only if there is room for it.
#[tokio::test]
async fn a_rate_that_is_over_does_not_count_beside_32_others() {
    let clock = ManualClock::new();
    let backend = InMemory::builder().clock(clock.clone()).build().unwrap();
    let throttle = Throttle::builder("plans").rate("1/day").backend(backend).build().unwrap();
    let bring = async |rate: Rate| {
        throttle.hit_with("key", HitOptions::new().replace_rates([rate])).await.map(drop)
    };
    bring(Rate::per_second(1)).await.unwrap();
    for limit in 1..=31 {
        bring(Rate::per_hour(limit)).await.unwrap();
    }
    assert!(bring(Rate::per_hour(32)).await.is_err(), "32 count");
    clock.advance(Duration::from_secs(2));
    bring(Rate::per_hour(32)).await.unwrap();
    assert!(bring(Rate::per_second(1)).await.is_err(), "32 others count");
}

#[tokio::test]
async fn a_refund_that_empties_a_state_forgets_it() {
    let backend = InMemory::new();
    let throttle = Throttle::builder("t").rate("5/h").backend(backend.clone()).build().unwrap();
    for key in ["short", "a key that is longer than sixteen bytes"] {
        let receipt = throttle.hit(key).await.unwrap().receipt().unwrap();
        assert_eq!(backend.key_count(), 1);
        throttle.refund(key, receipt).await.unwrap();
        assert_eq!(backend.key_count(), 0, "{key}");
    }
}
