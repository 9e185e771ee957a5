//! Waiting for one's turn: in order, in time, and with nothing lost by those who go away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use test_support::plain::without_timer;
use test_support::{Failing, Mode, RuntimeClock};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use traffik::backend::{BackendCore, Result};
use traffik::step::Step;
use traffik::strategy::{Answer, CorruptState, Op, State};
use traffik::{
    Backend, Decision, Denial, Error, ErrorKind, FixedWindow, HasCore, InMemory, Key, Locks,
    Outcome, Penalty, PermitDrop, Rate, Strategy, Throttle, Timestamp, TokenBucket, Ttl, Values,
};

pub(crate) fn throttle(rate: &str) -> Throttle {
    let backend = RuntimeClock::memory();
    Throttle::builder("acquire").rate(rate).backend(backend).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_hundred_leave_in_order_each_at_its_instant() {
    let throttle = throttle("10/s burst 1");
    let (start, left) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
    let mut tasks = JoinSet::new();
    for number in 0..100u64 {
        let (throttle, left) = (throttle.clone(), Arc::clone(&left));
        tasks.spawn(async move {
            let permit = throttle.acquire("a").await.unwrap();
            assert_eq!(permit.units(), 1);
            left.lock().push((number, start.elapsed().as_millis()));
        });
        tokio::task::yield_now().await;
    }
    // Those who do not wait see what is reserved as used.
    let Outcome::Denied { retry_after } = throttle.hit("a").await.unwrap().outcome() else {
        panic!("all is reserved");
    };
    assert_eq!(retry_after.as_millis(), 10_000);
    tasks.join_all().await;
    let left = left.lock();
    for (number, (who, millis)) in (0..).zip(&*left) {
        assert_eq!(*who, number, "{left:?}");
        let ideal = u128::from(number) * 100;
        assert!((ideal..=ideal + 2).contains(millis), "{who} left after {millis} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_comes_too_late_is_refused_at_once_and_takes_nothing() {
    let throttle = throttle("10/s burst 1");
    let start = Instant::now();
    throttle.acquire("a").await.unwrap().commit();
    let late = throttle.acquire("a").timeout(Duration::from_millis(99)).await;
    assert!(matches!(late, Err(Error::Denied(_))), "{late:?}");
    assert_eq!(start.elapsed(), Duration::ZERO);
    let permit = throttle.acquire("a").timeout(Duration::from_millis(100)).await.unwrap();
    permit.commit();
    assert!(start.elapsed() >= Duration::from_millis(100), "{:?}", start.elapsed());
    let never = throttle.acquire("a").cost(2).await.unwrap_err();
    let Error::Denied(decision) = never else { panic!("{never}") };
    assert_eq!(decision.outcome(), Outcome::Never);
    let deadline = Instant::now() + Duration::from_millis(500);
    throttle.acquire("a").deadline(deadline).await.unwrap().commit();
}

#[tokio::test(start_paused = true)]
async fn more_than_may_wait_are_refused_at_once() {
    let throttle = throttle("10/s burst 1");
    throttle.acquire("a").await.unwrap().commit();
    let waiting = {
        let throttle = throttle.clone();
        tokio::spawn(async move { throttle.acquire("a").max_waiters(1).await.map(drop) })
    };
    tokio::task::yield_now().await;
    let refused = throttle.acquire("a").max_waiters(1).await.unwrap_err();
    assert!(matches!(refused, Error::TooManyWaiters { waiters: 1, .. }), "{refused}");
    throttle.acquire("b").max_waiters(1).await.unwrap().commit();
    waiting.await.unwrap().unwrap();
    throttle.acquire("a").max_waiters(1).await.unwrap().commit();
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_lets_those_behind_move_up() {
    let throttle = throttle("10/s burst 1");
    let start = Instant::now();
    throttle.acquire("a").await.unwrap().commit();
    let mut tasks = Vec::new();
    for _ in 0..6 {
        let throttle = throttle.clone();
        tasks.push(tokio::spawn(async move {
            throttle.acquire("a").await.unwrap().commit();
            start.elapsed().as_millis()
        }));
        tokio::task::yield_now().await;
    }
    sleep(Duration::from_millis(150)).await;
    // The second and the fourth; the first has left.
    tasks.remove(3).abort();
    tasks.remove(1).abort();
    let mut left = Vec::new();
    for task in tasks {
        left.push(task.await.unwrap());
    }
    let ideal = [100, 200, 300, 400];
    assert!(
        left.iter().zip(ideal).all(|(left, ideal)| (ideal..ideal + 4).contains(left)),
        "{left:?}"
    );
    assert_eq!(throttle.peek("a").await.unwrap().remaining(), 0);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(throttle.peek("a").await.unwrap().remaining(), 1, "the last instant was given back");
}

#[tokio::test(start_paused = true)]
async fn cancellations_lose_nothing_and_wedge_nobody() {
    let throttle = throttle("1000/s burst 10");
    let mut random = 7u64;
    let mut next = move |end: u64| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % end
    };
    let (start, mut tasks) = (Instant::now(), JoinSet::new());
    for _ in 0..if std::env::var_os("TRAFFIK_SOAK").is_some() { 100_000 } else { 5_000 } {
        let throttle = throttle.clone();
        let (cost, patience) =
            (1 + u32::try_from(next(3)).unwrap(), Duration::from_micros(next(40_000)));
        tasks.spawn(async move {
            let permit = timeout(patience, throttle.acquire("a").cost(cost)).await;
            match permit {
                Ok(permit) => {
                    permit.unwrap().commit();
                    u64::from(cost)
                }
                Err(_) => 0,
            }
        });
        if next(4) == 0 {
            sleep(Duration::from_micros(next(2_000))).await;
        }
    }
    let used: u64 = tasks.join_all().await.into_iter().sum();
    let elapsed = start.elapsed();
    let most = 10 + u64::try_from(elapsed.as_millis()).unwrap() + 1;
    assert!(used <= most, "{used} of {most} in {elapsed:?}");
    assert!(used * 10 >= most * 8, "{used} of {most}: those behind did not move up");
    sleep(Duration::from_millis(20)).await;
    assert_eq!(throttle.peek("a").await.unwrap().remaining(), 10, "nothing stays reserved");
}

#[tokio::test(start_paused = true)]
async fn of_those_who_wait_for_a_window_one_asks_and_all_leave_in_order() {
    let backend = RuntimeClock::memory();
    let throttle = Throttle::builder("w").limit("5/s", FixedWindow::new()).backend(backend);
    let throttle = throttle.build().unwrap();
    let (start, left) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
    let mut tasks = JoinSet::new();
    for number in 0..23u64 {
        let (throttle, left) = (throttle.clone(), Arc::clone(&left));
        tasks.spawn(async move {
            throttle.acquire("a").await.unwrap().commit();
            left.lock().push((number, start.elapsed().as_millis() / 1000));
        });
        tokio::task::yield_now().await;
    }
    let late = throttle.acquire("a").timeout(Duration::from_millis(500)).await;
    assert!(matches!(late, Err(Error::TimedOut { .. })), "{late:?}");
    tasks.join_all().await;
    let expected: Vec<_> = (0..23).map(|number| (number, u128::from(number / 5))).collect();
    assert_eq!(*left.lock(), expected, "five in each window");
}

#[tokio::test]
async fn what_a_bucket_lends_is_there_at_once() {
    let lends = Throttle::builder("l").limit("5/s", TokenBucket::new().max_debt(3));
    let lends = lends.backend(InMemory::new()).build().unwrap();
    lends.acquire("a").cost(8).await.unwrap().commit();
}

#[tokio::test(start_paused = true)]
async fn the_backend_that_is_current_is_asked() {
    let throttle = Throttle::builder("current").rate("10/s burst 1").build().unwrap();
    let backend = RuntimeClock::memory();
    let start = Instant::now();
    traffik::ambient::with_backend(backend, async {
        for _ in 0..3 {
            throttle.acquire("a").await.unwrap().commit();
        }
    })
    .await;
    assert_eq!(start.elapsed().as_millis() / 10, 20);
}

/// Counts the hits that it decides, and panics if it is told to.
#[derive(Debug, Default)]
struct Counted {
    hits: Arc<AtomicU32>,
    panics: bool,
}

impl Strategy for Counted {
    fn evaluate(
        &self,
        rate: &Rate,
        state: &mut State,
        now: Timestamp,
        cost: u32,
        op: Op,
    ) -> Result<Answer, CorruptState> {
        assert!(!self.panics, "part of the test");
        if op == Op::Peek {
            self.hits.fetch_add(1, Ordering::SeqCst);
        }
        FixedWindow::new().evaluate(rate, state, now, cost, op)
    }
}

/// As a backend on a server: without the fast path, and its first answer may never come.
#[derive(Debug, Default)]
pub(crate) struct Remote {
    pub(crate) inner: InMemory,
    pub(crate) hangs_once: AtomicBool,
}

impl HasCore for Remote {
    fn core(&self) -> &BackendCore {
        self.inner.core()
    }
}

#[async_trait]
impl Values for Remote {
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

impl Locks for Remote {}

#[async_trait]
impl Backend for Remote {
    async fn clear(&self) -> Result<()> {
        self.inner.clear().await
    }
    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
    async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        if self.hangs_once.swap(false, Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        // A server answers when another task runs, and not at the first poll.
        tokio::spawn(async {}).await.unwrap();
        self.inner.apply(key, step).await
    }
}

#[test]
fn without_a_runtime_it_is_a_clear_error_and_takes_nothing() {
    for strategy in
        [Arc::new(TokenBucket::new()) as Arc<dyn Strategy>, Arc::new(FixedWindow::new())]
    {
        let builder = Throttle::builder("plain").limit("5/h", strategy);
        let throttle = builder.backend(InMemory::new()).build().unwrap();
        for outcome in without_timer(async || throttle.acquire("a").await.map(drop)) {
            let Err(Error::Backend(error)) = outcome else { panic!("{outcome:?}") };
            assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
        }
        let [left, _] = without_timer(async || throttle.peek("a").await.unwrap().remaining());
        assert_eq!(left, 5);
    }
}

#[tokio::test(start_paused = true)]
async fn those_whose_time_is_over_in_the_queue_ask_nothing() {
    let hits = Arc::new(AtomicU32::new(0));
    let strategy = Counted { hits: Arc::clone(&hits), panics: false };
    let throttle = Throttle::builder("w").limit("1/min", strategy).backend(InMemory::new());
    let throttle = throttle.build().unwrap();
    throttle.acquire("a").await.unwrap().commit();
    let first = {
        let throttle = throttle.clone();
        tokio::spawn(async move { throttle.acquire("a").await.map(drop) })
    };
    tokio::task::yield_now().await;
    let before = hits.load(Ordering::SeqCst);
    let mut tasks = JoinSet::new();
    for _ in 0..50 {
        let throttle = throttle.clone();
        tasks.spawn(async move {
            throttle.acquire("a").timeout(Duration::from_millis(500)).await.map(drop)
        });
    }
    for late in tasks.join_all().await {
        assert!(matches!(late, Err(Error::TimedOut { .. })), "{late:?}");
    }
    assert_eq!(hits.load(Ordering::SeqCst), before);
    first.abort();
}

#[tokio::test]
async fn a_strategy_that_panics_is_an_error_of_its_caller_and_no_hang() {
    let throttle =
        Throttle::builder("p").limit("5/min", Counted { panics: true, ..Counted::default() });
    let throttle = throttle.backend(Remote::default()).build().unwrap();
    let waited = timeout(Duration::from_secs(10), throttle.acquire("a")).await.unwrap();
    assert!(matches!(waited, Err(Error::Backend(_))), "{waited:?}");
}

/// The question of one who went away stands on a runtime that nobody runs.
#[test]
fn a_runtime_that_stands_idle_keeps_no_turn_from_others() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let backend = Remote { hangs_once: AtomicBool::new(true), ..Remote::default() };
    let throttle = Throttle::builder("idle").rate("5/h").backend(backend).build().unwrap();
    let idle = runtime();
    let acquire = async |patience: Duration| timeout(patience, throttle.acquire("a")).await;
    let gone = idle.block_on(acquire(Duration::from_millis(20)));
    assert!(gone.is_err(), "{gone:?}");
    let permit = runtime().block_on(acquire(Duration::from_secs(10)));
    permit.expect("it is not held up").unwrap().commit();
    drop(idle);
}

#[test]
fn without_a_runtime_and_without_waiting_it_takes_or_is_denied() {
    let throttle = Throttle::builder("try").rate("5/h").backend(InMemory::new()).build().unwrap();
    throttle.try_acquire("a", 3).unwrap().commit();
    drop(throttle.try_acquire("a", 1).unwrap().on_drop(PermitDrop::Refund));
    let Err(Error::Denied(denied)) = throttle.try_acquire("a", 3) else { panic!("two are left") };
    assert_eq!(denied.remaining(), 2);
    throttle.try_acquire("a", 2).unwrap().commit();
    let Err(Error::Denied(never)) = throttle.try_acquire("a", 6) else { panic!("above the burst") };
    assert_eq!(never.outcome(), Outcome::Never);

    let penalty = Penalty::block_for(Duration::from_secs(60)).after(1);
    let strict = Throttle::builder("strict").rate("1/h").penalty(penalty);
    let strict = strict.backend(InMemory::new()).build().unwrap();
    strict.try_acquire("a", 1).unwrap().commit();
    let Err(Error::Denied(denied)) = strict.try_acquire("a", 1) else { panic!("used up") };
    assert_eq!(denied.denial(), Some(Denial::Blocked), "a penalty needs no runtime either");
}

#[test]
fn a_backend_that_has_to_be_awaited_is_not_tried() {
    let calls = Arc::new(AtomicU32::new(0));
    let remote = Failing::new(Mode::Hang).counting(Arc::clone(&calls));
    let throttle = Throttle::builder("try").rate("5/h").backend(remote).build().unwrap();
    let error = throttle.try_acquire("a", 1).unwrap_err();
    assert!(matches!(error, Error::MustAwait { .. }), "{error}");
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    let homeless = Throttle::builder("homeless").rate("5/h").build().unwrap();
    let error = homeless.try_acquire("a", 1).unwrap_err();
    assert!(matches!(error, Error::NoBackend { .. }), "{error}");
}

#[tokio::test]
async fn a_backend_in_memory_that_is_current_is_tried_and_waited_for() {
    let throttle = Throttle::builder("try").rate("2/h").build().unwrap();
    let taken = async {
        throttle.try_acquire("a", 1)?.commit();
        throttle.acquire("a").await?.commit();
        throttle.try_acquire("a", 1)
    };
    let last = traffik::ambient::with_backend(InMemory::new(), taken).await;
    assert!(matches!(last, Err(Error::Denied(_))), "{last:?}");
}
