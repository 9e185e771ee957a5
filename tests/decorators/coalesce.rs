//! Hits that share questions: each gets its own exact decision, whatever becomes of the others.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::poll;
use test_support::servers::wait::{heals, now};
use test_support::servers::{RedisServer, wait_until};
use test_support::{Distant, Place, RuntimeClock, Scripted, Wire};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinHandle, JoinSet};
use traffik::conformance;
use traffik::decorator::Coalesce;
use traffik::key::KeyPart;
use traffik::step::Step;
use traffik::strategy::{Answer, CorruptState, Limit, Op, State, Verdict};
use traffik::{
    Backend, BackendError, Clock, Decision, Effect, Error, ErrorKind, FixedWindow, Gcra,
    HitOptions, InMemory, Key, ManualClock, OnError, Rate, Redis, SlidingWindowCounter,
    SlidingWindowLog, Strategy, Throttle, Timestamp, TokenBucket,
};

use super::support::{OnMemory, OnRedis};

const PATIENCE: Duration = Duration::from_secs(10);
/// The most questions about one key at a time: by hits that share them, and by one that came alone.
const MOST_AT_A_TIME: usize = 3;

struct World {
    coalesce: Coalesce,
    wire: Arc<Wire>,
}

impl World {
    fn new() -> Self {
        let distant = Distant::new(InMemory::builder().clock(ManualClock::new()).build().unwrap());
        let wire = distant.wire();
        Self { coalesce: Coalesce::new(distant), wire }
    }

    fn throttle(&self, rate: &str) -> Throttle {
        throttle(&self.coalesce, rate, TokenBucket::new())
    }
}

fn throttle(backend: &Coalesce, rate: &str, strategy: impl Strategy) -> Throttle {
    let throttle = Throttle::builder("t").limit(rate, strategy).backend(backend.clone());
    throttle.on_error(OnError::Raise).deadline(PATIENCE).build().unwrap()
}

fn hit(throttle: &Throttle) -> JoinHandle<Result<Decision, Error>> {
    let throttle = throttle.clone();
    tokio::spawn(async move { throttle.hit("a").await })
}

/// Makes hits one of which is alone, and the others gather while it is held up.
async fn gather(
    world: &World,
    throttle: &Throttle,
    hits: usize,
) -> Vec<JoinHandle<Result<Decision, Error>>> {
    world.wire.hold(Place::Request);
    let mut waiting = vec![hit(throttle)];
    world.wire.until_held(1).await;
    waiting.extend((1..hits).map(|_| hit(throttle)));
    world.wire.until_held(2).await;
    // All have come by now: what holds them is asked after them.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    waiting
}

#[tokio::test(start_paused = true)]
async fn hits_that_wait_share_a_question_and_each_has_its_own_answer() {
    let world = World::new();
    let throttle = world.throttle("8/h");
    let hits = gather(&world, &throttle, 12).await;
    assert_eq!(world.wire.questions(), 2);
    world.wire.release();
    let mut decisions = Vec::new();
    for hit in hits {
        decisions.push(hit.await.unwrap().unwrap());
    }
    let (allowed, denied): (Vec<_>, Vec<_>) = decisions.into_iter().partition(Decision::is_allowed);
    let mut remaining: Vec<u32> = allowed.iter().map(Decision::remaining).collect();
    remaining.sort_unstable();
    assert_eq!(remaining, (0..8).collect::<Vec<u32>>(), "as if one came after the other");
    assert_eq!(denied.len(), 4);
    for decision in allowed {
        throttle.refund("a", decision.receipt().unwrap()).await.unwrap();
    }
    assert_eq!(throttle.peek("a").await.unwrap().remaining(), 8, "each receipt gave back one");
    assert_eq!((world.coalesce.info().questions(), world.coalesce.info().hits()), (1, 11));
}

#[tokio::test(start_paused = true)]
async fn only_equal_hits_share() {
    let world = World::new();
    let throttle = world.throttle("100/h");
    let hits = gather(&world, &throttle, 5).await;
    let before = world.wire.questions();
    let others = [
        HitOptions::new().cost(2),
        HitOptions::new().leave(1),
        HitOptions::new().replace_rates([traffik::Rate::per_hour(99)]),
        HitOptions::new().cost(0),
    ];
    let mut alone: Vec<JoinHandle<_>> = others
        .map(|options| {
            let throttle = throttle.clone();
            tokio::spawn(async move { throttle.hit_with("a", options).await })
        })
        .into();
    let other = throttle.clone();
    alone.push(tokio::spawn(async move { other.hit("b").await }));
    let other = throttle.clone();
    alone.push(tokio::spawn(async move { other.peek("a").await }));
    let window = self::throttle(&world.coalesce, "100/h", FixedWindow::new());
    alone.push(hit(&window));
    world.wire.until_held(2 + alone.len()).await;
    assert_eq!(world.wire.questions() - before, alone.len() as u64, "each by itself");
    world.wire.release();
    for hit in hits.into_iter().chain(alone) {
        assert!(hit.await.unwrap().unwrap().is_allowed());
    }
    // Of another throttle with the same limits, and of one whose limits were made anew.
    let same = world.throttle("100/h");
    let hits = gather(&world, &same, 5).await;
    let before = world.wire.questions();
    let more: Vec<_> = (0..5).map(|_| hit(&throttle)).collect();
    world.wire.release();
    for hit in hits.into_iter().chain(more) {
        assert!(hit.await.unwrap().unwrap().is_allowed());
    }
    assert!(world.wire.questions() - before <= 2, "they gathered together");
}

/// Lets pass one hit after the other.
#[derive(Debug)]
struct Own;

impl Strategy for Own {
    fn evaluate(
        &self,
        rate: &Rate,
        state: &mut State,
        now: Timestamp,
        cost: u32,
        op: Op,
    ) -> Result<Answer, CorruptState> {
        let taken = if op == Op::Take { cost } else { 0 };
        let used = state.words().first().copied().unwrap_or_default() + u64::from(taken);
        state.set(&[used]);
        let remaining = rate.limit() - u32::try_from(used).unwrap();
        let reset_at = Timestamp::from_micros(now.as_micros() + 3_600_000_000);
        Ok(Answer { verdict: Verdict::Allowed, remaining, reset_at })
    }
}

/// As the task of another executor is, which has several hits and is owned by its wakers alone.
struct Owner(std::sync::Mutex<Option<Hitting>>);

type Hitting = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

impl std::task::Wake for Owner {
    fn wake(self: Arc<Self>) {}
}

#[tokio::test(start_paused = true)]
async fn a_waker_that_owns_another_hit_may_be_dropped() {
    use std::task::{Context, Waker};
    let world = World::new();
    world.wire.hold(Place::Request);
    let hit = || -> Hitting {
        let coalesce = world.coalesce.clone();
        Box::pin(async move {
            let limits = [Limit::new(Rate::per_hour(9), TokenBucket::new()).unwrap()];
            let (parts, step) = ([KeyPart::bytes(b"a")], Step::new(&limits, 1, Op::Take));
            let _ = coalesce.apply(&Key::new("t", &parts), &step).await;
        })
    };
    let (mut first, mut second, mut third) = (hit(), hit(), hit());
    let mut nobody = Context::from_waker(Waker::noop());
    assert!(first.as_mut().poll(&mut nobody).is_pending());
    let owner = Arc::new(Owner(std::sync::Mutex::new(None)));
    let waker = Waker::from(Arc::clone(&owner));
    assert!(second.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(waker);
    assert!(third.as_mut().poll(&mut nobody).is_pending());
    *owner.0.lock().unwrap() = Some(third);
    drop(owner);
    // By now its last owner is the place of the second hit, which another waker takes.
    assert!(second.as_mut().poll(&mut nobody).is_pending());
}

#[tokio::test(start_paused = true)]
async fn what_would_be_asked_one_after_the_other_is_passed_on() {
    // A store that does not decide equal hits at once, and a strategy that it cannot do that for.
    let scripted = Coalesce::new(Scripted::new());
    let world = World::new();
    let throttles =
        [throttle(&scripted, "100/h", TokenBucket::new()), throttle(&world.coalesce, "100/h", Own)];
    for (throttle, coalesce) in throttles.iter().zip([&scripted, &world.coalesce]) {
        let hits: Vec<_> = (0..20).map(|_| hit(throttle)).collect();
        for hit in hits {
            assert!(hit.await.unwrap().unwrap().is_allowed());
        }
        assert_eq!(throttle.peek("a").await.unwrap().remaining(), 80);
        assert_eq!((coalesce.info().hits(), coalesce.info().questions()), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_the_limit_is_admitted() {
    const TASKS: usize = 64;
    const LIMIT: u32 = 1_000;
    let world = World::new();
    let throttles = [
        throttle(&world.coalesce, "1000/h", TokenBucket::new()),
        throttle(&world.coalesce, "1000/d", Gcra::new()),
        throttle(&world.coalesce, "1000/d", FixedWindow::new()),
        throttle(&world.coalesce, "1000/d", SlidingWindowCounter::new()),
        throttle(&world.coalesce, "1000/d", SlidingWindowLog::new()),
    ];
    for throttle in throttles {
        assert_eq!(admitted(&throttle, TASKS, 40, 1).await, LIMIT, "{:?}", throttle.limits());
        throttle.reset("a").await.unwrap();
        assert_eq!(admitted(&throttle, TASKS, 20, 3).await, LIMIT / 3);
    }
    let info = world.coalesce.info();
    assert!(info.hits() > 2 * info.questions(), "{info:?}");
}

/// Hits from many tasks. Returns how many pass.
async fn admitted(throttle: &Throttle, tasks: usize, each: usize, cost: u32) -> u32 {
    let mut set = JoinSet::new();
    for _ in 0..tasks {
        let throttle = throttle.clone();
        set.spawn(async move {
            let mut admitted = 0;
            for _ in 0..each {
                let options = HitOptions::new().cost(cost);
                admitted += u32::from(throttle.hit_with("a", options).await.unwrap().is_allowed());
            }
            admitted
        });
    }
    set.join_all().await.into_iter().sum()
}

/// On one thread, where those that are woken run in their order.
#[tokio::test]
async fn each_of_many_is_served_alike() {
    const TASKS: usize = 64;
    const EACH: u64 = 200;
    let world = World::new();
    let throttle = world.throttle("1000000/h");
    let answered = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (throttle, answered) = (throttle.clone(), Arc::clone(&answered));
        tasks.spawn(async move {
            let mut most = 0;
            for _ in 0..EACH {
                let before = answered.load(Ordering::SeqCst);
                assert!(throttle.hit("a").await.unwrap().is_allowed());
                most = most.max(answered.fetch_add(1, Ordering::SeqCst) - before);
            }
            most
        });
    }
    // The questions under way when it came, its own, and some until its turn to run: each has one hit of a task.
    for most in tasks.join_all().await {
        assert!(
            most <= 8 * TASKS,
            "{most} hits of others were answered before one that came first"
        );
    }
    let left = throttle.peek("a").await.unwrap().remaining();
    assert_eq!(u64::from(1_000_000 - left), TASKS as u64 * EACH, "each was counted once");
}

#[tokio::test(start_paused = true)]
async fn no_more_questions_than_that_are_under_way() {
    let world = World::new();
    let throttle = world.throttle("1000/h");
    let mut hits = gather(&world, &throttle, 20).await;
    for _ in 0..5 {
        hits.extend((0..20).map(|_| hit(&throttle)));
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(world.wire.held(), MOST_AT_A_TIME);
    world.wire.release();
    for hit in hits {
        assert!(hit.await.unwrap().unwrap().is_allowed());
    }
    assert!(world.wire.questions() <= 6);
}

#[tokio::test(start_paused = true)]
async fn f22_a_hit_that_is_dropped_at_any_poll_takes_nobody_along() {
    for place in [Place::Request, Place::Reply] {
        for polls in 0..5 {
            let world = World::new();
            let throttle = world.throttle("100/h");
            world.wire.hold(place);
            let alone = hit(&throttle);
            world.wire.until_held(1).await;
            let before = hit(&throttle);
            {
                let mut dropped = pin!(throttle.hit("a"));
                for _ in 0..polls {
                    assert!(poll!(dropped.as_mut()).is_pending());
                    tokio::task::yield_now().await;
                }
                if polls == 1 {
                    // The one that was alone goes away too.
                    alone.abort();
                }
            }
            let after = hit(&throttle);
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            world.wire.release();
            for hit in [before, after] {
                assert!(hit.await.unwrap().unwrap().is_allowed(), "{place:?}, {polls} polls");
            }
            let taken = 100 - throttle.peek("a").await.unwrap().remaining();
            assert!((2..=4).contains(&taken), "{taken} counted");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn f22_a_hit_that_is_dropped_before_its_question_is_not_counted() {
    let world = World::new();
    let throttle = world.throttle("100/h");
    let hits = gather(&world, &throttle, 3).await;
    // Those of the next question.
    let second = hit(&throttle);
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    let mut third: Vec<_> = (0..10).map(|_| hit(&throttle)).collect();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.wire.held(), MOST_AT_A_TIME);
    for dropped in third.drain(..9) {
        dropped.abort();
    }
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    world.wire.release();
    for hit in hits.into_iter().chain([second]).chain(third) {
        assert!(hit.await.unwrap().unwrap().is_allowed());
    }
    assert_eq!(throttle.peek("a").await.unwrap().remaining(), 95, "five of fourteen were sent");
}

#[tokio::test(start_paused = true)]
async fn f21_so_many_wait_for_one_question_and_no_more() {
    const MOST: u32 = 65_536;
    const ALL: u32 = 1_000_000;
    let world = World::new();
    let limits = [Limit::new(Rate::per_hour(ALL), FixedWindow::new()).unwrap()];
    let parts = [KeyPart::bytes(b"a")];
    let (key, step) = (Key::new("t", &parts), Step::new(&limits, 1, Op::Take));
    world.wire.hold(Place::Request);
    let mut waiting = Vec::new();
    // One by itself, and each question that may be under way beside it.
    for number in 0..MOST_AT_A_TIME {
        waiting.push(world.coalesce.apply(&key, &step));
        assert!(poll!(waiting[number].as_mut()).is_pending());
        world.wire.until_held(number).await;
    }
    for _ in 0..MOST {
        let mut hit = world.coalesce.apply(&key, &step);
        assert!(poll!(hit.as_mut()).is_pending());
        waiting.push(hit);
    }
    for _ in 0..3 {
        let poll = poll!(world.coalesce.apply(&key, &step));
        let std::task::Poll::Ready(Err(refused)) = poll else { panic!("{poll:?}") };
        assert_eq!(refused.kind(), ErrorKind::Overloaded);
        assert_eq!(refused.effect(), Effect::NotApplied);
    }
    world.wire.release();
    let served = u32::try_from(waiting.len()).unwrap();
    let decisions = futures_util::future::join_all(waiting).await;
    assert!(decisions.into_iter().all(|decision| decision.unwrap().is_allowed()));
    let peek = world.coalesce.apply(&key, &Step::new(&limits, 1, Op::Peek)).await.unwrap();
    assert_eq!(ALL - peek.remaining(), served, "who was refused is not counted");
    assert!(world.coalesce.apply(&key, &step).await.unwrap().is_allowed(), "and others come");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_that_of_all_who_share_it_and_of_nobody_else() {
    let world = World::new();
    let throttle = world.throttle("100/h");
    for effect in [Effect::NotApplied, Effect::Ambiguous] {
        let hits = gather(&world, &throttle, 6).await;
        world.wire.fail(ErrorKind::Unavailable, effect);
        world.wire.release();
        for hit in hits {
            let Err(Error::Backend(error)) = hit.await.unwrap() else { panic!("it failed") };
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, effect));
        }
        world.wire.heal();
        assert!(throttle.hit("a").await.unwrap().is_allowed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_an_error_of_those_who_share_it_and_strands_nobody() {
    let world = World::new();
    let throttle = world.throttle("100/h");
    let mut hits = gather(&world, &throttle, 6).await;
    world.wire.panic();
    world.wire.release();
    assert!(hits.remove(0).await.unwrap_err().is_panic(), "the one that asked by itself");
    for hit in hits {
        let Err(Error::Backend(error)) = hit.await.unwrap() else { panic!("it failed") };
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Ambiguous));
        assert!(error.to_string().contains("panicked"), "{error}");
    }
    world.wire.heal();
    let hits = gather(&world, &throttle, 6).await;
    world.wire.release();
    for hit in hits {
        assert!(hit.await.unwrap().unwrap().is_allowed());
    }
}

#[tokio::test(start_paused = true)]
async fn f04_each_hit_of_a_silent_store_ends_at_its_own_deadline() {
    let world = World::new();
    let of = |millis| {
        let throttle = Throttle::builder("t").rate("100/h").backend(world.coalesce.clone());
        let throttle = throttle.deadline(Duration::from_millis(millis)).on_error(OnError::Raise);
        throttle.build().unwrap()
    };
    world.wire.hold(Place::Request);
    let clock = Arc::new(RuntimeClock::new());
    let start = clock.now();
    let mut hits = JoinSet::new();
    for number in 0..30 {
        let millis = 100 + 10 * number;
        let (throttle, clock) = (of(millis), Arc::clone(&clock));
        hits.spawn(async move {
            let outcome = throttle.hit("a").await;
            let waited = clock.now().saturating_duration_since(start).as_millis();
            assert!((u128::from(millis)..=u128::from(millis) + 1).contains(&waited), "{waited} ms");
            outcome
        });
    }
    for outcome in hits.join_all().await {
        let Err(Error::Backend(error)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(error.kind(), ErrorKind::Timeout);
    }
    // Nobody waits any more, so nothing is asked any more: neither by tasks of its own.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.wire.held(), 0);
    world.wire.release();
    assert_eq!(of(100).hit("a").await.unwrap().remaining(), 99, "none of them was counted");
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Hits as a throttle does, but without a deadline, whose timer would belong to the runtime.
async fn hit_without_deadline(
    coalesce: Coalesce,
    throttle: Throttle,
) -> Result<Decision, BackendError> {
    let parts = [KeyPart::bytes(b"a")];
    let step = Step::new(throttle.limits(), 1, Op::Take);
    coalesce.apply(&Key::new("t", &parts), &step).await
}

#[test]
fn f28_one_runtime_waits_for_no_other_and_survives_its_end() {
    let world = World::new();
    let throttle = world.throttle("1000/h");
    let (first, second) = (runtime(), runtime());
    let moved = first.block_on(async {
        drop(gather(&world, &throttle, 8).await);
        // Begun here, to go on elsewhere.
        let mut moved = Vec::new();
        for _ in 0..3 {
            let mut hit = Box::pin(hit_without_deadline(world.coalesce.clone(), throttle.clone()));
            assert!(poll!(hit.as_mut()).is_pending());
            moved.push(hit);
        }
        world.wire.until_held(3).await;
        moved
    });
    second.block_on(async {
        let own = hit(&throttle);
        world.wire.until_held(4).await;
        let moved: Vec<_> = moved.into_iter().map(|hit| tokio::spawn(hit)).collect();
        first.shutdown_background();
        for hit in moved {
            // Its question went with the runtime that asked it.
            let error = hit.await.unwrap().unwrap_err();
            assert!(error.to_string().contains("runtime"), "{error}");
        }
        world.wire.until_only(1).await;
        world.wire.release();
        assert!(own.await.unwrap().unwrap().is_allowed());
        let hits = gather(&world, &throttle, 8).await;
        world.wire.release();
        for hit in hits {
            assert!(hit.await.unwrap().unwrap().is_allowed());
        }
    });
}

#[test]
fn without_a_runtime_a_hit_is_passed_on() {
    let world = World::new();
    let throttle = world.throttle("9/h");
    let hit = hit_without_deadline(world.coalesce.clone(), throttle);
    assert_eq!(test_support::plain::block_on(hit).unwrap().remaining(), 8);
}

fn around(backend: Arc<dyn Backend>) -> Arc<dyn Backend> {
    Arc::new(Coalesce::new(backend))
}

#[tokio::test(start_paused = true)]
async fn the_suite_in_memory() {
    conformance::run(&OnMemory(around)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_on_threads() {
    conformance::run(&OnMemory(around)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_on_redis() {
    conformance::run(&OnRedis(RedisServer::start(), around)).await;
}

fn on(server: &RedisServer) -> Coalesce {
    Coalesce::new(Redis::builder().url(server.url()).command_timeout(PATIENCE).build().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_redis_exactly_the_limit_is_admitted_by_few_scripts() {
    let server = RedisServer::start();
    let coalesce = on(&server);
    let throttles = [
        throttle(&coalesce, "1000/366d", TokenBucket::new()),
        throttle(&coalesce, "1000/366d", FixedWindow::new()),
        throttle(&coalesce, "1000/366d", SlidingWindowCounter::new()),
        throttle(&coalesce, "1000/366d", SlidingWindowLog::new()),
    ];
    for throttle in throttles {
        let before = server.calls("evalsha") + server.calls("eval");
        assert_eq!(admitted(&throttle, 64, 40, 1).await, 1_000, "{:?}", throttle.limits());
        let scripts = server.calls("evalsha") + server.calls("eval") - before;
        assert!(scripts < 64 * 40 / 4, "{scripts} scripts for {} hits", 64 * 40);
        throttle.reset("a").await.unwrap();
    }
    let both = Throttle::builder("both").rate("1000/366d").rate("700/300d").backend(coalesce);
    let both = both.deadline(PATIENCE).build().unwrap();
    assert_eq!(admitted(&both, 64, 20, 1).await, 700);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_a_killed_server_fails_the_hits_and_the_next_one_serves_them() {
    let mut server = RedisServer::start();
    let coalesce = Coalesce::new(
        Redis::builder().url(server.url()).command_timeout(Duration::from_secs(1)).build().unwrap(),
    );
    let throttle = throttle(&coalesce, "1000000/366d", TokenBucket::new());
    let passed = Arc::new(AtomicU32::new(0));
    let mut load = JoinSet::new();
    for _ in 0..16 {
        let (throttle, passed) = (throttle.clone(), Arc::clone(&passed));
        load.spawn(async move {
            while throttle.hit("a").await.is_ok() {
                passed.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        });
    }
    wait_until("the load runs", PATIENCE, || passed.load(Ordering::SeqCst) > 1_000);
    server.kill();
    load.join_all().await;
    server.restart();
    let _ = heals("a hit on the new server", PATIENCE, || throttle.hit("a")).await;
    let hits: Vec<_> = (0..50).map(|_| hit(&throttle)).collect();
    let mut remaining = BTreeSet::new();
    for hit in hits {
        remaining.insert(hit.await.unwrap().unwrap().remaining());
    }
    assert_eq!(remaining.len(), 50, "each by itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_a_silent_server_holds_nobody_beyond_the_deadline() {
    let server = RedisServer::start();
    let coalesce = Coalesce::new(Redis::builder().url(server.url()).build().unwrap());
    let throttle = Throttle::builder("t").rate("1000/h").backend(coalesce);
    let throttle = throttle.on_error(OnError::Raise).build().unwrap();
    assert!(throttle.hit("a").await.unwrap().is_allowed());
    server.pause();
    let start = now();
    let hits: Vec<_> = (0..64).map(|_| hit(&throttle)).collect();
    for hit in hits {
        let Err(Error::Backend(error)) = hit.await.unwrap() else { panic!("it is silent") };
        assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable), "{error}");
    }
    // A quarter of a second together, and sixteen of them one after the other.
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    server.resume();
    let _ = heals("a hit", PATIENCE, || throttle.hit("a")).await;
}
