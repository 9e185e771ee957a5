//! One of the processes: hits a few keys until it is told to stop, and writes down what became of it.

use std::collections::HashMap;
use std::io::BufRead;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use test_support::Dice;
use test_support::servers::wait::{self, holds_within};
use test_support::servers::{pause, sentinel, workers};
use tokio::sync::watch;
use tokio::task::JoinSet;
use traffik::decorator::{FailoverOptions, Resilience};
use traffik::{
    Backend, Clock, DecidedBy, Decision, Effect, Error, FixedWindow, InMemory, LifespanExt,
    LockOptions, Memcached, OnError, Rate, Redis, SlidingWindowCounter, SlidingWindowLog, Strategy,
    Throttle, Timestamp, TokenBucket, WallClock,
};

use crate::history::{
    FALLBACK_SHARE, Hit, Law, Lock, MILLI, Micros, Outcome, Participant, SECOND, Series, Variant,
    now,
};
use crate::monitor::Monitor;

pub(crate) const NAMESPACE: &str = "chaos";
/// The lock that all processes want.
pub(crate) const LOCK: &str = "job";
pub(crate) const LOCK_TTL: Duration = Duration::from_secs(1);
/// The keys of each throttle.
pub(crate) const KEYS: [&str; 2] = ["alice", "bob"];
const LIMIT: u32 = 40;
const PERIOD: Micros = 2 * SECOND;
const BURST: u32 = 20;
/// The throttle that denies nobody.
const WIDE: &str = "wide";

/// What each process is: of two without anything beside their stores errors are seen as they are.
pub(crate) const VARIANTS: [Variant; 4] =
    [Variant::Plain, Variant::Plain, Variant::Handler, Variant::Stack];

/// The throttles, by name.
fn strategies() -> [(&'static str, Arc<dyn Strategy>, Law); 5] {
    [
        (WIDE, Arc::new(FixedWindow::new()), Law::Aligned),
        ("fixed", Arc::new(FixedWindow::new()), Law::Aligned),
        ("counter", Arc::new(SlidingWindowCounter::new()), Law::Aligned),
        ("log", Arc::new(SlidingWindowLog::new()), Law::Sliding),
        ("bucket", Arc::new(TokenBucket::new()), Law::Bucket { burst: BURST }),
    ]
}

/// What all processes hit: each key of each throttle, in the order of the workers' numbers for them.
pub(crate) fn series() -> Vec<Series> {
    let of = |(name, _, law): (&str, _, Law)| {
        KEYS.map(|key| Series {
            name: format!("{name} {key}"),
            law,
            limit: limit_of(name),
            period: PERIOD,
            never_denies: name == WIDE,
        })
    };
    strategies().into_iter().flat_map(of).collect()
}

fn limit_of(throttle: &str) -> u32 {
    if throttle == WIDE { 1_000_000 } else { LIMIT }
}

/// The names of the throttles and keys, in that order.
pub(crate) fn names() -> Vec<(&'static str, &'static str)> {
    strategies().into_iter().flat_map(|(name, ..)| KEYS.map(|key| (name, key))).collect()
}

/// Which backend a worker uses, and how it is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Redis,
    Cluster,
    Sentinels,
    Memcached,
}

const KINDS: [(Kind, &str); 4] = [
    (Kind::Redis, "redis"),
    (Kind::Cluster, "cluster"),
    (Kind::Sentinels, "sentinels"),
    (Kind::Memcached, "memcached"),
];

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        KINDS[self as usize].1
    }

    fn named(name: &str) -> Self {
        KINDS.iter().find(|known| known.1 == name).unwrap().0
    }

    /// The ordinary builder with its defaults.
    pub(crate) fn backend(self, urls: &[String], clock: SteppedClock) -> Arc<dyn Backend> {
        let redis = Redis::builder().namespace(NAMESPACE);
        let redis = match self {
            Self::Redis => redis.url(&urls[0]),
            Self::Cluster => redis.cluster(urls),
            Self::Sentinels => redis.sentinels(urls, sentinel::SERVICE),
            Self::Memcached => {
                let all = Memcached::builder().namespace(NAMESPACE).clock(clock);
                return Arc::new(urls.iter().fold(all, |all, url| all.url(url)).build().unwrap());
            }
        };
        Arc::new(redis.build().unwrap())
    }
}

/// The wall clock, which is stepped.
#[derive(Clone, Debug, Default)]
pub(crate) struct SteppedClock(Arc<AtomicI64>);

impl Clock for SteppedClock {
    fn now(&self) -> Timestamp {
        let now = WallClock::new().now().as_micros();
        Timestamp::from_micros(now.saturating_add_signed(self.0.load(Ordering::SeqCst)))
    }
}

impl Variant {
    /// What is put around the store, once for all throttles.
    fn around(self, store: Arc<dyn Backend>) -> Arc<dyn Backend> {
        match self {
            Self::Plain | Self::Handler => store,
            Self::Stack => {
                let share = NonZeroU32::new(FALLBACK_SHARE).unwrap();
                let options = FailoverOptions::new().share(NonZeroU32::MIN, share);
                // By the clock of the oracle, or a window would begin a moment later than the oracle's and have a hit of
                // the one before.
                let memory = InMemory::builder().clock(WallClock::new()).build().unwrap();
                let stack = Resilience::recommended().fallback_with(memory, options);
                stack.around(store).unwrap()
            }
        }
    }

    fn throttle(
        self,
        backend: Arc<dyn Backend>,
        name: &str,
        strategy: Arc<dyn Strategy>,
    ) -> Throttle {
        let rate = Rate::new(limit_of(name), Duration::from_micros(PERIOD)).unwrap();
        let rate = if name == "bucket" { rate.burst(BURST) } else { rate };
        let on_error = match self {
            Self::Plain | Self::Stack => OnError::Raise,
            Self::Handler => OnError::handler(|_| handle()),
        };
        Throttle::builder(name)
            .limit(rate, strategy)
            .backend(backend)
            .on_error(on_error)
            .build()
            .unwrap()
    }
}

/// An error handler that mostly decides at once. One in eight takes a part of the time that it may, and one in eight
/// more than that.
async fn handle() -> Decision {
    let mut dice = Dice::new(now());
    let limit = u64::try_from(OnError::DEFAULT_HANDLER_TIME.as_millis()).unwrap();
    match dice.roll(8) {
        0 => pause::lasts(Duration::from_millis(dice.roll(limit))).await,
        1 => pause::lasts(Duration::from_millis(limit + dice.roll(limit))).await,
        _ => {}
    }
    match dice.roll(2) {
        0 => Decision::allow(),
        _ => Decision::deny(OnError::DEFAULT_RETRY_AFTER),
    }
}

#[test]
#[ignore = "run by the chaos test as a process of its own"]
fn worker() {
    if workers::number().is_none() {
        return;
    }
    let monitor = Monitor::start();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    let mut seen = runtime.block_on(hit_until_told());
    let left = || runtime.metrics().num_alive_tasks();
    holds_within(Duration::from_secs(2), || left() == 0);
    seen.tasks_left = left();
    seen.stalls = monitor.stop();
    let number = workers::number().unwrap().to_string();
    let out = std::path::Path::new(&workers::variable("OUT")).join(number);
    std::fs::write(out, seen.encode()).unwrap();
    workers::report("done");
}

/// Until the line `stop`, and then until the end of the input, at which the backend is closed.
async fn hit_until_told() -> Participant {
    let kind = Kind::named(&workers::variable("PLACE"));
    let urls: Vec<String> = workers::variable("URLS").split(',').map(str::to_owned).collect();
    let clock = SteppedClock::default();
    let variant = VARIANTS[workers::number().unwrap()];
    let backend = variant.around(kind.backend(&urls, clock.clone()));
    let life = backend.lifespan().await.unwrap();
    let (mut stop, mut end) = listen(clock);
    workers::say("HITTING");
    let throttle = |(name, strategy, _): (&'static str, _, _)| {
        (name, variant.throttle(Arc::clone(&backend), name, strategy))
    };
    let throttles: HashMap<&str, Throttle> = strategies().into_iter().map(throttle).collect();
    let mut hitting = JoinSet::new();
    let series = series();
    for (number, (name, key)) in names().into_iter().enumerate() {
        if variant.hits(&series[number]) {
            let throttle = &throttles[name];
            hitting.spawn(hit(throttle.clone(), key, number, stop.clone()));
        }
    }
    let locking = tokio::spawn(lock(backend, stop.clone()));
    let _ = stop.wait_for(|&stopped| stopped).await;
    let mut seen = Participant { variant, ..Participant::default() };
    for part in hitting.join_all().await {
        seen.hits.extend(part.hits);
        seen.errors.extend(part.errors);
    }
    seen.hits.sort_by_key(|hit| hit.start);
    seen.errors.sort();
    seen.errors.dedup();
    seen.locks = locking.await.unwrap();
    workers::say("STOPPED");
    let _ = end.wait_for(|&ended| ended).await;
    life.close().await.unwrap();
    seen
}

/// Does what the lines of the input say; whether to stop, and whether the input has ended.
fn listen(clock: SteppedClock) -> (watch::Receiver<bool>, watch::Receiver<bool>) {
    let (stop, stopped) = watch::channel(false);
    let (end, ended) = watch::channel(false);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            match line.split_once(' ') {
                Some(("clock", millis)) => {
                    clock.0.store(millis.parse::<i64>().unwrap() * 1000, Ordering::SeqCst);
                }
                _ => drop(stop.send(line == "stop")),
            }
        }
        let _ = stop.send(true);
        let _ = end.send(true);
    });
    (stopped, ended)
}

async fn hit(
    throttle: Throttle,
    key: &str,
    series: usize,
    stop: watch::Receiver<bool>,
) -> Participant {
    let mut seen = Participant::default();
    let mut dice = Dice::new(now() + u64::try_from(series).unwrap());
    while !*stop.borrow() {
        let (start, began) = (now(), wait::now());
        let outcome = throttle.hit(key).await;
        let took = Micros::try_from(began.elapsed().as_micros()).unwrap();
        let outcome = match outcome {
            Ok(decision) => match (decision.decided_by(), decision.is_allowed()) {
                (DecidedBy::Backend, true) => Outcome::Admitted,
                (DecidedBy::Backend, false) => Outcome::Denied,
                (DecidedBy::Fallback, true) => Outcome::AdmittedByFallback,
                (DecidedBy::Fallback, false) => Outcome::DeniedByFallback,
                (DecidedBy::Policy, true) => Outcome::AdmittedByHandler,
                (DecidedBy::Policy, false) => Outcome::DeniedByHandler,
                _ => Outcome::Wrong,
            },
            Err(error) => {
                let text = error.to_string();
                if seen.errors.len() < 100 && !seen.errors.contains(&text) {
                    seen.errors.push(text);
                }
                outcome_of(&error)
            }
        };
        seen.hits.push(Hit { series, start, end: start + took, outcome });
        // More than the limit lets pass, and no more than many processes on a small machine can bear.
        pause::pace(Duration::from_millis(30 + dice.roll(60))).await;
    }
    seen
}

fn outcome_of(error: &Error) -> Outcome {
    match error {
        Error::Backend(error) if error.kind().bypasses_policy() => Outcome::Wrong,
        Error::Backend(error) if error.effect() == Effect::NotApplied => Outcome::NotApplied,
        Error::Backend(_) => Outcome::Ambiguous,
        _ => Outcome::Wrong,
    }
}

/// Takes the lock again and again; now and then lets go of it without a word.
async fn lock(backend: Arc<dyn Backend>, stop: watch::Receiver<bool>) -> Vec<Lock> {
    let mut taken = Vec::new();
    let mut dice = Dice::new(now());
    let patience = Duration::from_micros(250 * MILLI);
    let options = LockOptions::new().ttl(Some(LOCK_TTL)).blocking_timeout(Some(patience));
    while !*stop.borrow() {
        let start = now();
        let guard = backend.lock(LOCK, options).await;
        let end = now();
        if let Ok(guard) = guard {
            taken.push(Lock { start, end, token: guard.fencing_token() });
            pause::pace(Duration::from_millis(dice.roll(20))).await;
            if dice.roll(2) == 0 {
                // An error is a fault's, and the release then goes on in the background.
                let _ = guard.release().await;
            }
        }
        pause::pace(Duration::from_millis(100 + dice.roll(200))).await;
    }
    taken
}
