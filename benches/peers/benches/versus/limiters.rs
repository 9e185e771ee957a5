//! The limiters, each as its own documentation advises for use in one process.

use std::collections::HashMap;
use std::future::Future;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::pin::pin;
use std::slice;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use limitador::limit::Namespace;
use traffik::{Backend, HitOptions, InMemory, Rate, Throttle};
use trypema::local::LocalRateLimiterProvider;
use trypema::{
    BucketSize, RateLimit, RateLimitDecision, RateLimiterBuilder as _, WindowSize as TrypemaWindow,
};

use crate::keys::Shape;

/// Whether the checks that are timed pass. The limit is per hour in both cases.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// A limit that is never reached: 10^9.
    Allowed,
    /// A limit of 1, used up before.
    Denied,
}

impl Load {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
        }
    }

    pub(crate) fn limit(self) -> u32 {
        match self {
            Self::Allowed => 1_000_000_000,
            Self::Denied => 1,
        }
    }
}

/// Something that says whether a key may pass.
///
/// There is one place in the program that calls each limiter, as there is in most services: so the
/// compiler may put all of it there, and no dynamic call stands between.
pub(crate) trait Limiter: Sync {
    /// Asks once, reads the whole answer, and says whether the key passes.
    #[expect(clippy::ptr_arg, reason = "a map with `String` keys is asked by a `String`")]
    fn hit(&self, key: &String) -> bool
    where
        Self: Sized;

    /// Asks for each key; says how many passed.
    fn walk(&self, keys: &[String]) -> usize;

    /// Makes a key known; says whether its first hit passed.
    fn meet(&self, key: &String) -> bool {
        self.walk(slice::from_ref(key)) == 1
    }
}

macro_rules! walk {
    () => {
        #[inline(never)]
        fn walk(&self, keys: &[String]) -> usize {
            keys.iter().filter(|key| self.hit(key)).count()
        }
    };
}

impl dyn Limiter + '_ {
    /// Asks for one key, and says whether it passes.
    pub(crate) fn ask(&self, key: &String) -> bool {
        self.walk(slice::from_ref(key)) == 1
    }
}

/// Which limiter; also its column in the report.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Traffik,
    Governor,
    Trypema,
    Limitador,
}

impl Which {
    pub(crate) const ALL: [Self; 4] =
        [Self::Traffik, Self::Governor, Self::Trypema, Self::Limitador];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Traffik => "traffik",
            Self::Governor => "governor",
            Self::Trypema => "trypema",
            Self::Limitador => "limitador",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|which| which.name() == name)
    }

    /// A fresh one for keys of one part.
    pub(crate) fn build(self, load: Load, keys: usize) -> Box<dyn Limiter> {
        match self {
            Self::Traffik => Box::new(Traffik::one(load)),
            Self::Governor => Box::new(Governor::new(load)),
            Self::Trypema => Box::new(Trypema::new(load)),
            Self::Limitador => Box::new(Limitador::new(load, keys)),
        }
    }

    /// Checks in a sample are divided by this where a limiter is slow.
    pub(crate) fn slowness(self) -> usize {
        if self == Self::Limitador { 20 } else { 1 }
    }
}

/// Polls a future that never waits: no runtime stands between the limiter and the clock.
#[inline(always)]
pub(crate) fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("a hit in memory never waits"),
    }
}

#[inline(always)]
pub(crate) fn read(decision: Result<traffik::Decision, traffik::Error>) -> bool {
    let decision = decision.expect("memory does not fail");
    black_box((decision.remaining(), decision.outcome(), decision.reset_after()));
    decision.is_allowed()
}

fn memory() -> InMemory {
    InMemory::builder().max_keys(None).build().expect("valid settings")
}

/// Ours, by the public future, with one limit or two.
pub(crate) struct Traffik(Throttle);

impl Traffik {
    pub(crate) fn one(load: Load) -> Self {
        Self::with([Rate::per_hour(load.limit())])
    }

    pub(crate) fn two(load: Load) -> Self {
        Self::with([Rate::per_minute(load.limit()), Rate::per_hour(load.limit())])
    }

    /// ... with that many.
    pub(crate) fn many(load: Load, limits: u32) -> Self {
        let periods = (1..=limits).map(|hours| {
            let period = Duration::from_secs(3600 * u64::from(hours));
            Rate::new(load.limit().min(100_000_000), period).expect("a valid rate")
        });
        let throttle = Throttle::builder("versus").rates(periods).backend(memory()).build();
        Self(throttle.expect("valid rates"))
    }

    /// ... with one limit, by a backend that something is around.
    pub(crate) fn wrapped<B: Backend>(load: Load, wrap: impl FnOnce(InMemory) -> B) -> Self {
        Self::on(wrap(memory()), [Rate::per_hour(load.limit())])
    }

    fn with<const N: usize>(rates: [Rate; N]) -> Self {
        Self::on(memory(), rates)
    }

    fn on<const N: usize>(backend: impl Backend, rates: [Rate; N]) -> Self {
        let throttle = Throttle::builder("versus").rates(rates).backend(backend).build();
        Self(throttle.expect("valid rates"))
    }
}

impl Limiter for Traffik {
    walk!();

    #[inline(always)]
    fn hit(&self, key: &String) -> bool {
        read(ready(self.0.hit(key.as_str())))
    }
}

/// Ours, asked in another way than by a hit.
macro_rules! ways {
    ($($(#[$doc:meta])* $name:ident |$throttle:ident, $key:ident| $ask:expr;)+) => {$(
        $(#[$doc])*
        pub(crate) struct $name(pub(crate) Traffik);

        impl Limiter for $name {
            walk!();

            #[inline(always)]
            fn hit(&self, key: &String) -> bool {
                let ($throttle, $key) = (&self.0.0, key.as_str());
                $ask
            }

            // A peek makes nothing known.
            fn meet(&self, key: &String) -> bool {
                self.0.meet(key) && self.walk(slice::from_ref(key)) == 1
            }
        }
    )+};
}

ways! {
    Peek |throttle, key| read(ready(throttle.peek(key)));
    HitWithCost |throttle, key| read(ready(throttle.hit_with(key, HitOptions::new().cost(2))));
    /// As a customer's plan.
    HitWithRate |throttle, key| {
        let plan = HitOptions::new().replace_rates([Rate::per_hour(500_000_000)]);
        read(ready(throttle.hit_with(key, plan)))
    };
    HitAndRefund |throttle, key| {
        let decision = ready(throttle.hit(key)).expect("memory does not fail");
        let is_allowed = decision.is_allowed();
        let receipt = decision.receipt().expect("it passed");
        ready(throttle.refund(key, receipt)).expect("memory does not fail");
        is_allowed
    };
}

/// Ours, with keys of two parts.
pub(crate) struct TraffikParts(pub(crate) Traffik, pub(crate) Shape);

impl Limiter for TraffikParts {
    walk!();

    #[inline(always)]
    fn hit(&self, key: &String) -> bool {
        read(ready(self.0.0.hit(self.1.parts(key))))
    }
}

/// Its default: a `DashMap` with `String` keys, the `QuantaClock`, no middleware. Its answer is the
/// verdict; there is nothing more to read of one that passes.
pub(crate) struct Governor(DefaultKeyedRateLimiter<String>);

impl Governor {
    pub(crate) fn new(load: Load) -> Self {
        Self(RateLimiter::keyed(quota(load)))
    }
}

pub(crate) fn quota(load: Load) -> Quota {
    Quota::per_hour(NonZeroU32::new(load.limit()).expect("above zero"))
}

impl Limiter for Governor {
    walk!();

    #[inline(always)]
    fn hit(&self, key: &String) -> bool {
        self.0.check_key(key).is_ok()
    }
}

/// The same where the parts of a key must be joined for each check.
pub(crate) struct GovernorJoining(DefaultKeyedRateLimiter<Joined>, Shape);

/// A type of its own, so that the other one still has one caller.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Joined(String);

impl GovernorJoining {
    pub(crate) fn new(load: Load, shape: Shape) -> Self {
        Self(RateLimiter::keyed(quota(load)), shape)
    }
}

impl Limiter for GovernorJoining {
    walk!();

    #[inline(always)]
    fn hit(&self, key: &String) -> bool {
        let (tenant, user) = self.1.parts(key);
        self.0.check_key(&Joined(format!("{tenant}:{user}"))).is_ok()
    }
}

/// The local provider's absolute strategy, with the bucket size of its guide and no cleanup thread.
pub(crate) struct Trypema {
    provider: Arc<LocalRateLimiterProvider>,
    rate: RateLimit,
}

impl Trypema {
    fn new(load: Load) -> Self {
        let provider = LocalRateLimiterProvider::builder()
            .window_size(TrypemaWindow::hours_or_panic(1))
            .bucket_size(BucketSize::milliseconds_or_panic(10))
            .disable_cleanup()
            .build();
        Self {
            provider: provider.expect("valid settings"),
            rate: RateLimit::per_hour_or_panic(f64::from(load.limit())),
        }
    }
}

impl Limiter for Trypema {
    walk!();

    #[inline(always)]
    fn hit(&self, key: &String) -> bool {
        let decision = black_box(self.provider.absolute().inc(key, &self.rate, 1));
        matches!(decision, RateLimitDecision::Allowed)
    }
}

/// The in-memory storage, with one limit that is counted for each value of a variable. A check makes
/// the context with the key, as each request must.
pub(crate) struct Limitador {
    limiter: limitador::RateLimiter,
    namespace: Namespace,
}

impl Limitador {
    fn new(load: Load, keys: usize) -> Self {
        // The capacity of its cache, in counters: enough, so that none is evicted.
        let limiter = limitador::RateLimiter::new((keys + keys / 4 + 1000) as u64);
        let variable = "key".try_into().expect("a valid expression");
        limiter.add_limit(limitador::limit::Limit::new(
            "versus",
            u64::from(load.limit()),
            3600,
            [],
            [variable],
        ));
        Self { limiter, namespace: "versus".into() }
    }
}

impl Limiter for Limitador {
    walk!();

    #[inline(always)]
    fn hit(&self, key: &String) -> bool {
        let context = HashMap::from([("key".to_owned(), key.clone())]).into();
        let answer = self.limiter.check_rate_limited_and_update(&self.namespace, &context, 1);
        let answer = answer.expect("memory does not fail");
        let counter = answer.counters.first().expect("one limit applies");
        black_box((counter.remaining(), counter.expires_in()));
        !answer.limited
    }
}
