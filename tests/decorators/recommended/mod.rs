//! The recommended stack with a fallback, as a service would build it, around real servers to which something happens
//! under load: before the first hit, and in the middle.

mod clocks;
mod figures;
mod half_open;
mod load;
mod mistakes;
mod moves;
mod places;
mod refusals;

use std::sync::Arc;
use std::time::{Duration, Instant};

use test_support::servers::wait;
use traffik::decorator::Resilience;
use traffik::lifespan::{LifespanOptions, Start};
use traffik::{Backend, DecidedBy, FixedWindow, InMemory, LifespanExt, OnError, Throttle};

use load::{Load, Seen, TASKS, Target};
use places::{Cluster, End, Fault, Named, OneMemcached, OneRedis, Place};

/// Enough for whatever must happen at all.
const SOON: Duration = Duration::from_secs(30);
/// The default of a throttle.
const DEADLINE: Duration = Duration::from_millis(250);
/// How late a hit may end beyond what the machine kept the pauses of the load waiting.
const SLACK: Duration = Duration::from_millis(250);
/// Half a second is promised, and printed is what was measured. The rest is slack for a busy machine.
const BACK: Duration = Duration::from_secs(2);
/// Of the keys on which hits are denied.
const LIMIT: u32 = 20;
/// Keys on which all pass.
const WIDE: usize = 2;
/// How often each task is decided on each key before something else happens.
const OFTEN: usize = 5;

/// A throttle with a window that ends during no test.
fn throttle(name: &str, limit: u32, backend: &Arc<dyn Backend>) -> Throttle {
    let rate = format!("{limit}/366d");
    let builder = Throttle::builder(name).limit(rate.as_str(), FixedWindow::new());
    builder.backend(Arc::clone(backend)).on_error(OnError::Raise).build().unwrap()
}

/// The first keys of that name that are, or are not, where the faults happen.
fn keys(place: &dyn Place, throttle: &str, name: &str, is_hit: bool, count: usize) -> Vec<String> {
    let all = (0..100).map(|number| format!("{name}{number}"));
    all.filter(|key| place.is_hit(throttle, key) == is_hit).take(count).collect()
}

/// Goes through a fault twice: it is there before the first hit, and it comes in the middle.
async fn outlives(mut place: impl Place, fault: Fault) {
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (before, idle) = (alive(), place.connections());
    let targets = Targets::of(&place);
    place.begin(fault);
    let stack = Resilience::recommended().fallback(InMemory::new());
    let stack = stack.around(place.store()).unwrap();
    let options = LifespanOptions::new().start(Start::Degraded);
    let life = stack.lifespan_with(options).await.unwrap();

    let first = Targets::load(&targets, &stack, 0);
    let round = Round { fault, end: End::Lifted, losses: 0, denies: false };
    round.runs(&mut place, first, wait::now(), "from the first call").await;

    let second = Targets::load(&targets, &stack, 1);
    second.load.each_is_decided(DecidedBy::Backend, OFTEN, WIDE, wait::now()).await;
    let losses = place.losses(fault, End::TakenOver);
    let denies = fault == Fault::Unwilling && place.denies_unwillingly();
    let round = Round { fault, end: End::TakenOver, losses, denies };
    place.begin(fault);
    round.runs(&mut place, second, wait::now(), "in the middle").await;

    // Those that were replaced may take a moment.
    wait::eventually("no connection is there in vain", SOON, async || {
        place.connections() <= idle + place.most_connections()
    })
    .await;
    life.close().await.unwrap();
    wait::eventually("no connection is left", SOON, async || place.connections() <= idle).await;
    // What Memcached keeps of a runtime goes with it or with the backend.
    drop(stack);
    wait::eventually("no task is left", SOON, async || alive() <= before).await;
}

/// The keys that are hit.
struct Targets {
    wide: Vec<String>,
    /// One for each round.
    tight: Vec<String>,
    /// On another node.
    apart: Option<String>,
}

/// A load and what it hits.
struct Running {
    load: Load,
    has_others: bool,
}

impl Targets {
    fn of(place: &dyn Place) -> Self {
        Self {
            wide: keys(place, "wide", "wide", true, WIDE),
            tight: keys(place, "tight", "tight", true, 2),
            apart: keys(place, "wide", "apart", false, 1).pop(),
        }
    }

    fn load(&self, stack: &Arc<dyn Backend>, round: usize) -> Running {
        let wide = throttle("wide", 1_000_000, stack);
        let of_wide = |key: &String| Target { throttle: wide.clone(), key: key.clone() };
        let mut shared: Vec<Target> = self.wide.iter().map(of_wide).collect();
        let tight = throttle("tight", LIMIT, stack);
        shared.push(Target { throttle: tight, key: self.tight[round].clone() });
        let load = Load::start(&shared, self.apart.as_ref().map(of_wide));
        Running { load, has_others: self.apart.is_some() }
    }
}

struct Round {
    fault: Fault,
    end: End,
    losses: u32,
    /// Whether the store goes on denying.
    denies: bool,
}

impl Round {
    /// From the begin of the fault until the store decides again.
    async fn runs(self, place: &mut dyn Place, running: Running, begun: Instant, when: &str) {
        let Running { load, has_others } = running;
        load.each_is_decided(DecidedBy::Fallback, OFTEN, WIDE, begun).await;
        if !self.denies {
            load.fallback_admits(WIDE, LIMIT as usize).await;
        }
        let down = (begun, wait::now());
        place.end(self.fault, self.end);
        let returned = wait::now();
        let back = load.each_is_decided(DecidedBy::Backend, 1, WIDE, returned).await;
        load.each_is_decided(DecidedBy::Backend, OFTEN, WIDE, back).await;
        let seen = load.stop().await;

        let what = format!("{:?} {when}", self.fault);
        let (longest, stall) = ends_in_time(&what, &seen);
        decided_by_the_fallback(
            &what,
            &seen,
            down,
            has_others && self.fault != Fault::Killed && self.fault != Fault::Refused,
        );
        let up: Vec<&Seen> =
            seen.iter().filter(|seen| seen.start >= back && seen.target < WIDE).collect();
        let by_store = up.iter().filter(|seen| seen.is_by(DecidedBy::Backend)).count();
        assert!(by_store * 2 > up.len(), "{what}: back, but for {by_store} of {}", up.len());
        let admitted = |by| {
            let tight = seen.iter().filter(|seen| seen.target == WIDE);
            u32::try_from(tight.filter(|seen| seen.is_admitted_by(by)).count()).unwrap()
        };
        let (of_store, of_fallback) = (admitted(DecidedBy::Backend), admitted(DecidedBy::Fallback));
        let all_of_it = self.denies || of_fallback == LIMIT;
        assert!(all_of_it && of_fallback <= LIMIT, "{what}: the fallback granted {of_fallback}");
        let most = LIMIT * (1 + self.losses);
        assert!(of_store <= most, "{what}: {of_store} admitted by the store, at most {most}");
        println!(
            "{what}: {} hits, the longest {longest:?} (stall {stall:?}), back after {:?}, by the store then {by_store} \
             of {}, admitted of {LIMIT} by the store {of_store} and the fallback {of_fallback}",
            seen.len(),
            back - returned,
            up.len()
        );
        assert!(back - returned < BACK, "{what}: back after {:?}", back - returned);
    }
}

/// No error comes through, and each hit ends by its deadline. Returns the longest, and the longest stall.
fn ends_in_time(what: &str, seen: &[Seen]) -> (Duration, Duration) {
    let stall = seen.iter().map(|seen| seen.stall).max().unwrap();
    let mut longest = Duration::ZERO;
    for hit in seen {
        assert!(hit.outcome.is_ok(), "{what}: {hit:?}");
        let took = hit.end - hit.start;
        assert!(took <= DEADLINE + SLACK + stall, "{what}: stall {stall:?}, {hit:?}");
        longest = longest.max(took);
    }
    (longest, stall)
}

/// What begins and ends during a fault is decided by the fallback, and no task has all of it. On other nodes than the
/// one that is silent the store decides.
fn decided_by_the_fallback(
    what: &str,
    seen: &[Seen],
    down: (Instant, Instant),
    others_go_on: bool,
) {
    let during: Vec<&Seen> = seen.iter().filter(|seen| seen.is_within(down)).collect();
    for hit in during.iter().filter(|seen| seen.target < WIDE) {
        assert!(hit.is_admitted_by(DecidedBy::Fallback), "{what}: {hit:?}");
    }
    for hit in during.iter().filter(|seen| seen.target == WIDE) {
        assert!(!hit.is_admitted_by(DecidedBy::Backend), "{what}: {hit:?}");
    }
    let of_task = |task| during.iter().filter(|seen| seen.task == task).count();
    let counts: Vec<usize> = (0..TASKS).map(of_task).collect();
    let mean = counts.iter().sum::<usize>() / TASKS;
    assert!(counts.iter().all(|&count| count * 4 >= mean), "{what}: hits of tasks {counts:?}");
    let apart: Vec<&&Seen> = during.iter().filter(|seen| seen.target > WIDE).collect();
    let by_store = apart.iter().filter(|seen| seen.is_by(DecidedBy::Backend)).count();
    if !apart.is_empty() {
        println!("{what}: of {} hits on another node the store decided {by_store}", apart.len());
    }
    if others_go_on {
        assert!(by_store * 2 > apart.len(), "{what}: {by_store} of {}", apart.len());
    }
}

/// The store counted each hit that it decided, once, and of others at most so many of a key: those that it did and whose
/// answer came too late.
async fn is_counted_once(of_store: &Throttle, targets: &Targets, seen: &[Seen], unanswered: usize) {
    for (target, key) in targets.wide.iter().enumerate() {
        let of_key = seen.iter().filter(|seen| seen.target == target);
        let by_store = of_key.filter(|seen| seen.is_by(DecidedBy::Backend)).count();
        let peeked = wait::heals("a peek", SOON, || of_store.peek(key)).await;
        let used = (1_000_000 - peeked.remaining()) as usize;
        let most = by_store + unanswered;
        assert!((by_store..=most).contains(&used), "{key}: {used} of {by_store}, at most {most}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_the_stack_outlives_a_redis_that_is_killed() {
    outlives(OneRedis::start(), Fault::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_the_stack_outlives_a_master_of_a_cluster_that_is_killed() {
    outlives(Cluster::start(), Fault::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_the_stack_outlives_a_master_of_sentinels_that_is_killed() {
    outlives(Named::start(), Fault::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_the_stack_outlives_a_memcached_that_is_killed() {
    outlives(OneMemcached::start(), Fault::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_the_stack_outlives_a_redis_that_goes_silent() {
    outlives(OneRedis::start(), Fault::Silent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_the_stack_outlives_a_master_of_a_cluster_that_goes_silent() {
    outlives(Cluster::start(), Fault::Silent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_the_stack_outlives_a_master_of_sentinels_that_goes_silent() {
    outlives(Named::start(), Fault::Silent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_the_stack_outlives_a_memcached_that_goes_silent() {
    outlives(OneMemcached::start(), Fault::Silent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_the_stack_outlives_a_redis_that_gives_no_replies() {
    outlives(OneRedis::start(), Fault::Mute).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_the_stack_outlives_a_master_of_a_cluster_that_gives_no_replies() {
    outlives(Cluster::start(), Fault::Mute).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_the_stack_outlives_a_master_of_sentinels_that_gives_no_replies() {
    outlives(Named::start(), Fault::Mute).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_the_stack_outlives_a_memcached_that_gives_no_replies() {
    outlives(OneMemcached::start(), Fault::Mute).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_the_stack_outlives_a_redis_that_cuts_and_refuses() {
    outlives(OneRedis::start(), Fault::Refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_the_stack_outlives_a_master_of_a_cluster_that_cuts_and_refuses() {
    outlives(Cluster::start(), Fault::Refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_the_stack_outlives_a_master_of_sentinels_that_cuts_and_refuses() {
    outlives(Named::start(), Fault::Refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_the_stack_outlives_a_memcached_that_cuts_and_refuses() {
    outlives(OneMemcached::start(), Fault::Refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f06_the_stack_outlives_a_redis_that_is_too_slow() {
    outlives(OneRedis::start(), Fault::TooSlow).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f06_the_stack_outlives_a_master_of_a_cluster_that_is_too_slow() {
    outlives(Cluster::start(), Fault::TooSlow).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f06_the_stack_outlives_a_master_of_sentinels_that_is_too_slow() {
    outlives(Named::start(), Fault::TooSlow).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f06_the_stack_outlives_a_memcached_that_is_too_slow() {
    outlives(OneMemcached::start(), Fault::TooSlow).await;
}

/// The server counts for one throttle as if nothing were.
async fn does_not_see_its_scripts_flushed(place: impl Place) {
    let targets = Targets::of(&place);
    let stack = Resilience::recommended().fallback(InMemory::new());
    let stack = stack.around(place.store()).unwrap();
    let life = stack.lifespan().await.unwrap();
    let Running { load, .. } = targets.load(&stack, 0);
    let mut flushed = wait::now();
    for _ in 0..5 {
        load.each_is_decided(DecidedBy::Backend, OFTEN, WIDE, flushed).await;
        place.tell("SCRIPT FLUSH");
        flushed = wait::now();
    }
    load.each_is_decided(DecidedBy::Backend, OFTEN, WIDE, flushed).await;
    let seen = load.stop().await;
    let (longest, stall) = ends_in_time("flushed", &seen);
    let by_store = seen.iter().filter(|seen| seen.is_by(DecidedBy::Backend)).count();
    let of_store = |seen: &&Seen| seen.target == WIDE && seen.is_admitted_by(DecidedBy::Backend);
    let admitted = seen.iter().filter(of_store).count();
    println!(
        "flushed: {} hits, {by_store} by the store, the longest {longest:?} (stall {stall:?}), admitted of {LIMIT} \
         {admitted}",
        seen.len()
    );
    // The machine may keep one waiting for longer than the store has.
    assert!(by_store * 100 >= seen.len() * 95, "{by_store} of {}", seen.len());
    assert!(admitted <= LIMIT as usize, "{admitted}");
    life.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f03_the_stack_does_not_see_that_scripts_are_flushed() {
    does_not_see_its_scripts_flushed(OneRedis::start()).await;
    does_not_see_its_scripts_flushed(Cluster::start()).await;
    does_not_see_its_scripts_flushed(Named::start()).await;
}
