//! One key on several backends at once, beside the model that says what each of them should answer.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestCaseError, TestRunner};
use proptest::{prop_assert, prop_assert_eq};
use traffik::step::Write;
use traffik::{
    Backend, Clock, DecidedBy, Decision, HitOptions, InMemory, ManualClock, Receipt, Throttle,
    Timestamp,
};

use crate::model::{Answer, Model, Rule};
use crate::store::Bytes;
use test_support::wait_of;

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
    let builder = Throttle::builder(name).backend(backend);
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
    /// The first throttle, and hits that bring the rates.
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

    fn throttle(&mut self, variants: &[Vec<Rule>], variant: usize) -> &Throttle {
        self.throttles.resize(variants.len(), None);
        let (name, backend) = (&self.name, &self.backend);
        self.throttles[variant]
            .get_or_insert_with(|| shared_throttle(name, &variants[variant], Arc::clone(backend)))
    }

    /// The throttle that is asked under a variant, and what a hit on it brings.
    fn asked(
        &mut self,
        variants: &[Vec<Rule>],
        variant: usize,
        (cost, leave): (u32, u32),
    ) -> (Throttle, HitOptions) {
        let options = HitOptions::new().cost(cost).leave(leave);
        match (self.way, variant) {
            (Way::Rates, 1..) => {
                let rates = variants[variant].iter().map(Rule::rate);
                (self.throttle(variants, 0).clone(), options.replace_rates(rates))
            }
            _ => (self.throttle(variants, variant).clone(), options),
        }
    }

    fn hit(&mut self, variants: &[Vec<Rule>], variant: usize, units: (u32, u32)) -> Decision {
        let (throttle, options) = self.asked(variants, variant, units);
        // A hit of the default cost has a fast path of its own in memory.
        let hit = match (self.way, variant, units) {
            (Way::Throttles, _, (1, 0)) | (Way::Rates, 0, (1, 0)) => {
                at_once(throttle.hit(self.key))
            }
            _ => at_once(throttle.hit_with(self.key, options)),
        };
        hit.unwrap()
    }

    fn peek(&mut self, variants: &[Vec<Rule>], variant: usize, units: (u32, u32)) -> Decision {
        let (throttle, options) = self.asked(variants, variant, units);
        at_once(throttle.peek_with(self.key, options)).unwrap()
    }

    fn refund(&mut self, variants: &[Vec<Rule>], variant: usize, hit: usize) {
        let receipt = self.receipts[hit].take().unwrap();
        let (key, way) = (self.key, self.way);
        let variant = if way == Way::Rates { 0 } else { variant };
        at_once(self.throttle(variants, variant).refund(key, receipt)).unwrap();
    }

    /// What a store of bytes was told to write fits what the caller was told.
    fn check_write(&self, expected: &Answer, ttl: u64) -> Tested {
        let Some(bytes) = &self.bytes else { return Ok(()) };
        let label = self.label;
        prop_assert!(!bytes.was_corrupt(), "{label}: could not read what it wrote");
        match bytes.last_write() {
            None => prop_assert_eq!(expected.taken, None, "{}: a hit was not written", label),
            Some(Write::Put { ttl: kept, .. }) => {
                prop_assert!(expected.taken.is_some(), "{label}: wrote without a hit");
                prop_assert_eq!(micros(kept), ttl, "{}: kept while it matters", label);
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
    /// When a hit that was denied may come again, its cost and what it leaves.
    pub(crate) retry: Option<(u64, (u32, u32))>,
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
        let mut lane = Lane::of_bytes("bytes that expire", Bytes::that_expire(&self.clock));
        lane.way = self.lanes[0].way;
        self.lanes.push(lane);
        self
    }

    /// The limits of one throttle, and then rates that hits bring, by the strategy of its first limit.
    pub(crate) fn of_rates(mut variants: Vec<Vec<Rule>>, start: u64) -> Self {
        let own = variants[0].clone();
        for rules in &mut variants[1..] {
            for rule in rules {
                let limits = |rule: &Rule| (rule.period, rule.limit, rule.shown_capacity());
                rule.kind = own[0].kind;
                rule.brought = !own.iter().any(|own| {
                    own.kind.shares_state_with(rule.kind) && limits(own) == limits(rule)
                });
            }
        }
        let mut world = Self::of_variants(variants, start);
        for lane in &mut world.lanes {
            lane.way = Way::Rates;
        }
        world
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

    pub(crate) fn go_back(&self, micros: u64) {
        self.go_to(self.now().saturating_sub(micros));
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.variants[self.variant]
    }

    pub(crate) fn change_limits(&mut self, variant: usize) {
        self.variant = variant % self.variants.len();
    }

    pub(crate) fn expected(&self, units: (u32, u32)) -> Answer {
        self.model.answer(self.rules(), self.now(), units)
    }

    pub(crate) fn hit(&mut self, cost: u32) -> Tested {
        self.hit_leaving(cost, 0)
    }

    pub(crate) fn hit_leaving(&mut self, cost: u32, leave: u32) -> Tested {
        let now = self.now();
        let units = (cost, leave);
        let expected = self.model.take(&self.variants[self.variant], now, units);
        let ttl = self.model.ttl(now);
        for lane in &mut self.lanes {
            let decision = lane.hit(&self.variants, self.variant, units);
            same(lane.label, &decision, &expected)?;
            lane.check_write(&expected, ttl)?;
            let receipt = decision.receipt();
            let taken = receipt.as_ref().map(|r| (r.cost(), r.taken_at().as_micros()));
            prop_assert_eq!(taken, expected.taken, "{}: receipt", lane.label);
            lane.receipts.push(receipt);
        }
        let variant = self.variant;
        self.taken.push(expected.taken.map(|(cost, at)| Taken { variant, cost, at }));
        self.note(&expected, units);
        Ok(())
    }

    pub(crate) fn peek(&mut self, cost: u32) -> Tested {
        self.peek_leaving(cost, 0)
    }

    pub(crate) fn peek_leaving(&mut self, cost: u32, leave: u32) -> Tested {
        let units = (cost, leave);
        let expected = self.expected(units);
        for lane in &mut self.lanes {
            let decision = lane.peek(&self.variants, self.variant, units);
            same(lane.label, &decision, &expected)?;
            lane.check_write(&expected, 0)?;
            prop_assert!(decision.receipt().is_none(), "{}: a peek takes nothing", lane.label);
        }
        self.note(&expected, units);
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

    fn note(&mut self, expected: &Answer, units: (u32, u32)) {
        let now = self.now();
        if let Some(wait) = expected.retry_after {
            self.retry = Some((now + wait, units));
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
        burst: decision.burst(),
        remaining: decision.remaining(),
        retry_after: wait_of(decision).map(micros),
        reset_after: micros(decision.reset_after()),
        // Compared by the receipt.
        taken: expected.taken,
    };
    prop_assert_eq!(&answer, expected, "{}", label);
    prop_assert_eq!(decision.is_allowed(), expected.denial.is_none(), "{}", label);
    prop_assert_eq!(decision.is_denied(), expected.denial.is_some(), "{}", label);
    prop_assert_eq!(decision.decided_by(), DecidedBy::Backend, "{}", label);
    Ok(())
}
