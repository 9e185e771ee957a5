//! One key on several backends at once, beside the model that says what each of them should answer.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestCaseError, TestRunner};
use proptest::{prop_assert, prop_assert_eq};
use traffik::key::KeyPart;
use traffik::strategy::{Op, Step, Write};
use traffik::{
    Backend, Clock, Decision, HitOptions, InMemory, Key, Limit, ManualClock, Receipt, Source,
    Throttle, Timestamp,
};

use crate::model::{Answer, Model, Rule};
use crate::store::Bytes;

/// The key for which memory has a compact form.
pub(crate) const SHORT_KEY: &str = "alice";
/// The key for which it has not.
pub(crate) const LONG_KEY: &str = "a key of more than sixteen bytes";

pub(crate) type Tested = Result<(), TestCaseError>;

/// Runs a property, each time on the same cases: a red run is then about the change at hand. For other
/// cases or more of them, set `PROPTEST_RNG_SEED` or `PROPTEST_CASES`.
pub(crate) fn check<S>(cases: u32, inputs: S, property: impl Fn(S::Value) -> Tested)
where
    S: proptest::strategy::Strategy,
{
    let mut config = Config {
        failure_persistence: None,
        // The default generator takes most of a debug build's time.
        rng_algorithm: RngAlgorithm::XorShift,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(0x7261_6666);
    }
    if let Err(failure) = TestRunner::new(config).run(&inputs, property) {
        panic!("{failure}");
    }
}

/// The value of a future that needs no waiting: a hit in memory is over at the first poll.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a backend without I/O waited"),
    }
}

pub(crate) fn memory(clock: &ManualClock) -> InMemory {
    InMemory::builder().clock(clock.clone()).number_of_shards(1).build().unwrap()
}

/// A throttle of these limits, in this order.
pub(crate) fn throttle(name: &str, rules: &[Rule], backend: impl Backend) -> Throttle {
    shared_throttle(name, rules, Arc::new(backend))
}

fn shared_throttle(name: &str, rules: &[Rule], backend: Arc<dyn Backend>) -> Throttle {
    let builder = Throttle::builder(name).shared_backend(backend);
    rules.iter().fold(builder, |builder, rule| rule.add_to(builder)).build().unwrap()
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap()
}

/// A name that no throttle had before: the process remembers what limits a name ever had.
fn fresh_name() -> Arc<str> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("semantics:{}", NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

/// How a lane asks for limits that change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A throttle for each of them, all of the same name.
    Throttles,
    /// The first throttle, and hits with a rate of their own.
    Rates,
}

/// One way to count.
struct Lane {
    label: &'static str,
    /// Of its throttles.
    name: Arc<str>,
    way: Way,
    key: &'static str,
    backend: Arc<dyn Backend>,
    bytes: Option<Bytes>,
    /// Made when first used: that is when the process learns of their limits.
    throttles: Vec<Option<Throttle>>,
    receipts: Vec<Option<Receipt>>,
}

impl Lane {
    fn new(label: &'static str, key: &'static str, backend: &InMemory) -> Self {
        let backend = Arc::new(backend.clone());
        let (throttles, receipts) = (Vec::new(), Vec::new());
        Self {
            label,
            name: fresh_name(),
            way: Way::Throttles,
            key,
            backend,
            bytes: None,
            throttles,
            receipts,
        }
    }

    fn of_bytes(label: &'static str, bytes: Bytes) -> Self {
        let backend = Arc::new(bytes.clone());
        let (throttles, receipts) = (Vec::new(), Vec::new());
        let (way, key) = (Way::Throttles, LONG_KEY);
        Self {
            label,
            name: fresh_name(),
            way,
            key,
            backend,
            bytes: Some(bytes),
            throttles,
            receipts,
        }
    }

    fn by_rates(label: &'static str, backend: &InMemory) -> Self {
        Self { way: Way::Rates, ..Self::new(label, SHORT_KEY, backend) }
    }

    fn throttle(&mut self, variants: &[Vec<Rule>], variant: usize) -> &Throttle {
        self.throttles.resize(variants.len(), None);
        let (name, backend) = (&self.name, &self.backend);
        self.throttles[variant]
            .get_or_insert_with(|| shared_throttle(name, &variants[variant], Arc::clone(backend)))
    }

    fn hit(&mut self, variants: &[Vec<Rule>], variant: usize, cost: u32) -> Decision {
        let key = self.key;
        let options = HitOptions::new().cost(cost);
        let hit = match (self.way, variant) {
            (Way::Rates, 1..) => {
                let options = options.rate(variants[variant][0].rate());
                at_once(self.throttle(variants, 0).hit_with(key, options))
            }
            // A hit of the default cost has a shortcut of its own in memory.
            _ if cost == 1 => at_once(self.throttle(variants, variant).hit(key)),
            _ => at_once(self.throttle(variants, variant).hit_with(key, options)),
        };
        hit.unwrap()
    }

    /// A peek of any cost; a throttle peeks for its default cost only.
    fn peek(&mut self, variants: &[Vec<Rule>], variant: usize, cost: u32) -> Decision {
        let key = self.key;
        if cost == 1 && self.way == Way::Throttles {
            return at_once(self.throttle(variants, variant).peek(key)).unwrap();
        }
        let limits: Vec<Limit> = variants[variant].iter().map(|rule| rule.to_limit()).collect();
        let parts = [KeyPart::bytes(key.as_bytes())];
        let step = Step::new(&limits, cost, Op::Peek);
        self.backend.try_apply(&Key::new(&self.name, &parts), &step).unwrap().unwrap()
    }

    fn refund(&mut self, variants: &[Vec<Rule>], variant: usize, hit: usize) {
        let receipt = self.receipts[hit].take().unwrap();
        let (key, way) = (self.key, self.way);
        let variant = if way == Way::Rates { 0 } else { variant };
        at_once(self.throttle(variants, variant).refund(key, receipt)).unwrap();
    }

    /// What a store of bytes was told to write fits what the caller was told.
    fn check_write(&self, expected: &Answer, keep_for: u64) -> Tested {
        let Some(bytes) = &self.bytes else { return Ok(()) };
        let label = self.label;
        prop_assert!(!bytes.was_corrupt(), "{label}: could not read what it wrote");
        match bytes.last_write() {
            None => prop_assert_eq!(expected.taken, None, "{}: a hit was not written", label),
            Some(Write::Put { keep_for: kept, .. }) => {
                prop_assert!(expected.taken.is_some(), "{label}: wrote without a hit");
                prop_assert_eq!(micros(kept), keep_for, "{}: kept while it matters", label);
            }
            Some(other) => prop_assert!(false, "{label}: {other:?} after a hit"),
        }
        Ok(())
    }
}

/// What one hit took, by which of the variants.
#[derive(Clone, Copy)]
struct Taken {
    variant: usize,
    cost: u32,
    at: u64,
}

/// One key, counted in each way at the same time.
pub(crate) struct World {
    pub(crate) clock: ManualClock,
    /// The limits, as they may change while the key lives.
    variants: Vec<Vec<Rule>>,
    variant: usize,
    model: Model,
    lanes: Vec<Lane>,
    /// What each receipt is for, in the model.
    taken: Vec<Option<Taken>>,
    /// When a hit that was denied may come again, and its cost.
    pub(crate) retry: Option<(u64, u32)>,
    /// When all is as fresh.
    pub(crate) reset: Option<u64>,
}

impl World {
    /// Limits that stay as they are.
    pub(crate) fn new(rules: &[Rule], start: u64) -> Self {
        Self::of_variants(vec![rules.to_vec()], start)
    }

    /// Limits that change; the first come first.
    pub(crate) fn of_variants(variants: Vec<Vec<Rule>>, start: u64) -> Self {
        let clock = ManualClock::at(Timestamp::from_micros(start));
        let lanes = vec![
            Lane::new("memory, short key", SHORT_KEY, &memory(&clock)),
            Lane::new("memory, long key", LONG_KEY, &memory(&clock)),
            Lane::of_bytes("bytes", Bytes::that_keep(&clock)),
        ];
        Self {
            clock,
            variants,
            variant: 0,
            model: Model::default(),
            lanes,
            taken: Vec::new(),
            retry: None,
            reset: None,
        }
    }

    /// Also on a store whose values expire. That is right only on a clock that does not go back, with
    /// limits that stay: a store's own clock goes on, and it knows only the limits of the last hit.
    pub(crate) fn with_expiry(mut self) -> Self {
        self.lanes.push(Lane::of_bytes("bytes that expire", Bytes::that_expire(&self.clock)));
        self
    }

    /// Also by hits with a rate of their own, for variants of one limit and one strategy.
    pub(crate) fn with_rates(mut self) -> Self {
        self.lanes.push(Lane::by_rates("memory, hits with a rate", &memory(&self.clock)));
        self
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.now().as_micros()
    }

    pub(crate) fn go_to(&self, micros: u64) {
        self.clock.set(Timestamp::from_micros(micros));
    }

    /// Never back: for moves that mean to wait. Nor to where a wait of a century would leave the range
    /// of timestamps.
    pub(crate) fn wait_until(&self, micros: u64) {
        const CENTURY: u64 = 36_525 * 86_400_000_000;
        if (self.now()..Timestamp::MAX.as_micros() - CENTURY).contains(&micros) {
            self.go_to(micros);
        }
    }

    /// Back, unless that asks for what may be forgotten: memory lets go of limits that are over when it
    /// makes room for another of the same key.
    pub(crate) fn go_back(&self, micros: u64) {
        let now = self.now();
        if self.rules().len() == 1 || !self.model.may_be_forgotten(self.rules(), now) {
            self.go_to(now.saturating_sub(micros));
        }
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.variants[self.variant]
    }

    pub(crate) fn change_limits(&mut self, variant: usize) {
        self.variant = variant % self.variants.len();
    }

    pub(crate) fn expected(&self, cost: u32) -> Answer {
        self.model.answer(self.rules(), self.now(), cost)
    }

    pub(crate) fn hit(&mut self, cost: u32) -> Tested {
        let now = self.now();
        let expected = self.model.take(&self.variants[self.variant], now, cost);
        let keep_for = self.model.keep_for(now);
        for lane in &mut self.lanes {
            let decision = lane.hit(&self.variants, self.variant, cost);
            same(lane.label, &decision, &expected)?;
            lane.check_write(&expected, keep_for)?;
            let receipt = decision.receipt();
            let taken = receipt.as_ref().map(|r| (r.cost(), r.taken_at().as_micros()));
            prop_assert_eq!(taken, expected.taken, "{}: receipt", lane.label);
            lane.receipts.push(receipt);
        }
        let variant = self.variant;
        self.taken.push(expected.taken.map(|(cost, at)| Taken { variant, cost, at }));
        self.note(&expected, cost);
        Ok(())
    }

    pub(crate) fn peek(&mut self, cost: u32) -> Tested {
        let expected = self.expected(cost);
        for lane in &mut self.lanes {
            let decision = lane.peek(&self.variants, self.variant, cost);
            same(lane.label, &decision, &expected)?;
            lane.check_write(&expected, 0)?;
            prop_assert!(decision.receipt().is_none(), "{}: a peek takes nothing", lane.label);
        }
        self.note(&expected, cost);
        Ok(())
    }

    /// Gives back the hit of that number, if it took anything and was not given back yet.
    pub(crate) fn refund(&mut self, hit: usize) -> Tested {
        let now = self.now();
        let Some(taken) = self.taken.get_mut(hit).and_then(Option::take) else { return Ok(()) };
        let rules = &self.variants[taken.variant];
        self.model.refund(rules, now, (taken.cost, taken.at));
        for lane in &mut self.lanes {
            lane.refund(&self.variants, taken.variant, hit);
        }
        self.peek(1)
    }

    pub(crate) fn hits(&self) -> usize {
        self.taken.len()
    }

    fn note(&mut self, expected: &Answer, cost: u32) {
        let now = self.now();
        if let Some(wait) = expected.retry_after {
            self.retry = Some((now + wait, cost));
        }
        self.reset = Some(now + expected.reset_after);
    }
}

/// Compares a decision with what was expected.
pub(crate) fn same(label: &str, decision: &Decision, expected: &Answer) -> Tested {
    let answer = Answer {
        denial: decision.denial(),
        denied_by: decision.denied_by(),
        limit: decision.limit(),
        remaining: decision.remaining(),
        retry_after: decision.retry_after().map(micros),
        reset_after: micros(decision.reset_after()),
        // Compared by the receipt.
        taken: expected.taken,
    };
    prop_assert_eq!(&answer, expected, "{}", label);
    prop_assert_eq!(decision.is_allowed(), expected.denial.is_none(), "{}", label);
    prop_assert_eq!(decision.is_denied(), expected.denial.is_some(), "{}", label);
    prop_assert_eq!(decision.source(), Source::Backend, "{}", label);
    Ok(())
}
