//! Lifespans: what begins, ends, nests, and what a dropped one does.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use test_support::{Failing, Gates, Mode};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use traffik::lifespan::{LifespanOptions, Start};
use traffik::{
    Backend, Error, ErrorKind, InMemory, Key, Lifespan, LifespanExt, ManualClock, Throttle, Values,
    ambient, lifespan,
};

fn throttle(backend: &InMemory) -> Throttle {
    Throttle::builder("life").rate("5/h").backend(backend.clone()).build().unwrap()
}

fn is_closed(error: &Error) -> bool {
    matches!(error, Error::Backend(error) if error.kind() == ErrorKind::Closed)
}

#[tokio::test]
async fn close_clears_and_closes() {
    let backend = InMemory::new();
    let throttle = throttle(&backend);
    let life = backend.lifespan().await.unwrap();
    assert!(throttle.hit("a").await.unwrap().is_allowed());
    life.close().await.unwrap();
    assert_eq!(backend.key_count(), 0);
    assert!(is_closed(&throttle.hit("a").await.unwrap_err()), "an error, not the policy");
    assert!(is_closed(&throttle.peek("a").await.unwrap_err()));
    // And opens again.
    let life = backend.lifespan().await.unwrap();
    assert_eq!(throttle.hit("a").await.unwrap().remaining(), 4, "cleared");
    life.close().await.unwrap();
}

#[tokio::test]
async fn a_persistent_backend_is_not_cleared() {
    let backend = InMemory::builder().persistent(true).build().unwrap();
    let throttle = throttle(&backend);
    let life = backend.lifespan().await.unwrap();
    let _ = throttle.hit("a").await.unwrap();
    life.close().await.unwrap();
    let life = backend.lifespan().await.unwrap();
    assert_eq!(throttle.hit("a").await.unwrap().remaining(), 3, "kept");
    life.close().await.unwrap();
}

#[tokio::test]
async fn nested_use_neither_clears_nor_closes() {
    let backend = InMemory::new();
    let throttle = throttle(&backend);
    let outer = backend.lifespan().await.unwrap();
    let inner = backend.lifespan().await.unwrap();
    let _ = throttle.hit("a").await.unwrap();
    inner.close().await.unwrap();
    assert_eq!(throttle.hit("a").await.unwrap().remaining(), 3);
    drop(backend.lifespan().await.unwrap());
    assert_eq!(throttle.hit("a").await.unwrap().remaining(), 2);
    outer.close().await.unwrap();
    assert!(is_closed(&throttle.hit("a").await.unwrap_err()));
}

/// A reload: the new lifespan begins while the old one ends, whoever comes first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lifespan_that_begins_while_another_ends_is_never_born_closed() {
    let backend = InMemory::new();
    let throttle = throttle(&backend);
    let mut life = backend.lifespan().await.unwrap();
    for round in 0..5_000 {
        let next = tokio::spawn({
            let backend = backend.clone();
            async move { backend.lifespan().await.unwrap() }
        });
        life.close().await.unwrap();
        life = next.await.unwrap();
        let decision = throttle.hit("a").await;
        assert!(decision.is_ok(), "round {round}: {decision:?}");
    }
    life.close().await.unwrap();
    assert!(is_closed(&throttle.hit("a").await.unwrap_err()), "none is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_begins_the_new_before_it_ends_the_old_serves_every_hit() {
    let backend = InMemory::new();
    let hits = Arc::new(AtomicUsize::new(0));
    let mut life = backend.lifespan().await.unwrap();
    let load = tokio::spawn({
        let (throttle, hits) = (throttle(&backend), Arc::clone(&hits));
        async move {
            loop {
                let key = hits.fetch_add(1, Ordering::SeqCst) % 100;
                let _ = throttle.hit(key).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    // Until both have been at it for a while; a hit on a closed backend ends the load.
    let mut rounds = 0;
    while (rounds < 2_000 || hits.load(Ordering::SeqCst) < 2_000) && !load.is_finished() {
        let next = backend.lifespan().await.unwrap();
        life.close().await.unwrap();
        life = next;
        rounds += 1;
        tokio::task::yield_now().await;
    }
    load.abort();
    assert!(load.await.is_err_and(|error| error.is_cancelled()), "no hit met a closed backend");
    life.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "measures paused time")]
async fn a_degraded_one_gives_the_store_half_a_second_and_then_asks_in_the_background() {
    let (backend, gates) = gated();
    gates.shut("initialize");
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let start = tokio::time::Instant::now();
    let options = LifespanOptions::new().start(Start::Degraded);
    let began_after = lifespan::scoped_with(Arc::clone(&backend), options, async || {
        let began_after = start.elapsed();
        assert_eq!(tasks(), 2, "the cleanup, and one that goes on connecting");
        // The memory behind it answers at once.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(tasks(), 1, "the store answered");
        began_after
    });
    assert_eq!(began_after.await.unwrap(), Duration::from_millis(500));
    assert_eq!((gates.asked("initialize"), gates.asked("close")), (1, 1));
    // A healthy one begins at once, and leaves nothing to do.
    gates.open_all();
    let start = tokio::time::Instant::now();
    let life = backend.lifespan_with(options).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    tokio::task::yield_now().await;
    assert_eq!(tasks(), 1, "the cleanup");
    life.close().await.unwrap();
}

/// A backend that stops where it is told to.
fn gated() -> (Arc<dyn Backend>, Arc<Gates>) {
    let gates = Arc::new(Gates::default());
    (Arc::new(Failing::new(Mode::Hang).with_gates(Arc::clone(&gates))), gates)
}

fn spawn_begin(backend: &Arc<dyn Backend>) -> tokio::task::JoinHandle<Lifespan> {
    let backend = Arc::clone(backend);
    tokio::spawn(async move { backend.lifespan().await.unwrap() })
}

async fn until(mut holds: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it never holds");
}

#[tokio::test]
async fn one_that_begins_while_the_last_is_cleared_keeps_the_backend_open() {
    let (backend, gates) = gated();
    let old = backend.lifespan().await.unwrap();
    gates.shut("clear");
    let closing = tokio::spawn(old.close());
    until(|| gates.asked("clear") == 1).await;
    let beginning = spawn_begin(&backend);
    tokio::task::yield_now().await;
    assert!(!beginning.is_finished(), "it waits, or what it counts would be cleared");
    gates.open_all();
    closing.await.unwrap().unwrap();
    let new = beginning.await.unwrap();
    assert_eq!((gates.asked("initialize"), gates.asked("close")), (2, 0));
    assert!(backend.get(&Key::value("a")).await.is_ok());
    new.close().await.unwrap();
    assert_eq!(gates.asked("close"), 1);
}

#[tokio::test]
async fn one_that_begins_while_the_last_is_closed_opens_the_backend_again() {
    let (backend, gates) = gated();
    let old = backend.lifespan().await.unwrap();
    gates.shut("close");
    let closing = tokio::spawn(old.close());
    until(|| gates.asked("close") == 1).await;
    let beginning = spawn_begin(&backend);
    gates.open_all();
    closing.await.unwrap().unwrap();
    let _new = beginning.await.unwrap();
    assert!(backend.get(&Key::value("a")).await.is_ok(), "not born closed");
}

#[tokio::test]
async fn two_that_begin_together_do_not_wait_for_each_other() {
    let (backend, gates) = gated();
    gates.shut("initialize");
    let (first, second) = (spawn_begin(&backend), spawn_begin(&backend));
    until(|| gates.asked("initialize") == 2).await;
    gates.open_all();
    first.await.unwrap().close().await.unwrap();
    assert_eq!((gates.asked("clear"), gates.asked("close")), (0, 0), "the other goes on");
    second.await.unwrap().close().await.unwrap();
    assert_eq!((gates.asked("clear"), gates.asked("close")), (1, 1));
}

#[tokio::test]
async fn one_that_is_cancelled_while_it_begins_leaves_nothing_behind() {
    let (backend, gates) = gated();
    let old = backend.lifespan().await.unwrap();
    gates.shut("initialize");
    let beginning = spawn_begin(&backend);
    until(|| gates.asked("initialize") == 2).await;
    beginning.abort();
    assert!(beginning.await.is_err());
    gates.open_all();
    assert_eq!(gates.asked("stop"), 0, "the old one goes on");
    old.close().await.unwrap();
    assert_eq!(gates.asked("close"), 1, "the old one was the last");
}

#[tokio::test]
async fn a_close_that_is_cancelled_abandons_the_backend_unless_another_began() {
    for another in [false, true] {
        let (backend, gates) = gated();
        let old = backend.lifespan().await.unwrap();
        gates.shut("clear");
        let closing = tokio::spawn(old.close());
        until(|| gates.asked("clear") == 1).await;
        let beginning = another.then(|| spawn_begin(&backend));
        tokio::task::yield_now().await;
        closing.abort();
        assert!(closing.await.is_err());
        assert_eq!(gates.asked("stop"), usize::from(!another));
        gates.open_all();
        if let Some(beginning) = beginning {
            beginning.await.unwrap().close().await.unwrap();
            assert_eq!(gates.asked("close"), 1);
        }
    }
}

#[tokio::test]
async fn every_form_of_a_backend_has_one() {
    let backend = InMemory::new();
    let shared: Arc<InMemory> = Arc::new(backend.clone());
    let object: Arc<dyn Backend> = Arc::new(backend.clone());
    let lives = [
        backend.lifespan().await.unwrap(),
        shared.lifespan().await.unwrap(),
        object.lifespan().await.unwrap(),
    ];
    for life in lives {
        assert!(throttle(&backend).hit("a").await.is_ok(), "open while one is left");
        life.close().await.unwrap();
    }
    assert!(is_closed(&throttle(&backend).hit("a").await.unwrap_err()));
}

#[tokio::test]
async fn a_scope_closes_on_every_way_out() {
    let backend = InMemory::new();
    let throttle = throttle(&backend);

    let returned =
        lifespan::scoped(backend.clone(), async || throttle.hit("a").await.unwrap().remaining());
    assert_eq!(returned.await.unwrap(), 4);
    assert!(is_closed(&throttle.hit("a").await.unwrap_err()), "after a return");

    let failed: Result<(), &str> =
        lifespan::scoped(backend.clone(), async || Err("an error of the work")).await.unwrap();
    assert_eq!(failed, Err("an error of the work"));
    assert!(is_closed(&throttle.hit("a").await.unwrap_err()), "after an error");

    let task = {
        let backend = backend.clone();
        tokio::spawn(async move {
            lifespan::scoped(backend, async || panic!("part of the test")).await.unwrap();
        })
    };
    assert!(task.await.unwrap_err().is_panic(), "the panic goes on");
    assert!(is_closed(&throttle.hit("a").await.unwrap_err()), "after a panic");
}

#[tokio::test]
async fn a_cancelled_scope_ends_its_lifespan() {
    let backend = InMemory::new();
    let scope = lifespan::scoped(backend.clone(), async || std::future::pending::<()>().await);
    assert!(tokio::time::timeout(Duration::from_millis(5), scope).await.is_err());
    // The next lifespan is the only one again: so its end closes.
    backend.lifespan().await.unwrap().close().await.unwrap();
    assert!(is_closed(&throttle(&backend).hit("a").await.unwrap_err()));
}

#[test]
fn f29_dropped_in_and_out_of_a_runtime_twice_and_under_load() {
    for _ in 0..2 {
        let backend = InMemory::new();
        let throttle = throttle(&backend);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let outside = runtime.block_on(async {
            drop(backend.lifespan().await.unwrap());
            let mut load = tokio::task::JoinSet::new();
            for _ in 0..8 {
                let throttle = throttle.clone();
                load.spawn(async move {
                    for _ in 0..500 {
                        assert!(throttle.hit("a").await.is_ok());
                        tokio::task::yield_now().await;
                    }
                });
            }
            drop(backend.lifespan().await.unwrap());
            load.join_all().await;
            backend.lifespan().await.unwrap()
        });
        drop(runtime);
        drop(outside);
        assert!(backend.key_count() > 0, "nothing is cleared by a drop");
        // Also by a panic in a plain thread.
        let life = ready(backend.lifespan()).unwrap();
        let unwound = std::panic::catch_unwind(AssertUnwindSafe(move || {
            let _life = life;
            panic!("part of the test");
        }));
        assert!(unwound.is_err());
    }
}

/// In memory all futures are ready at their first poll.
fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("not ready at the first poll"),
    }
}

#[test]
fn a_drop_says_so_once_and_a_close_says_nothing() {
    let warnings = Warnings::start();
    let backend = InMemory::new();
    let life = ready(backend.lifespan()).unwrap();
    ready(life.close()).unwrap();
    assert_eq!(warnings.seen(), 0);
    drop(ready(backend.lifespan()).unwrap());
    assert_eq!(warnings.seen(), 1);
}

#[test]
fn a_lifespan_that_will_clear_what_others_count_warns() {
    let warnings = Warnings::start();
    for (persistent, expected) in [(true, 0), (false, 1)] {
        let backend = Arc::new(Failing::new(Mode::Hang).shared(persistent));
        let outer = ready(backend.lifespan()).unwrap();
        let nested = ready(backend.lifespan()).unwrap();
        assert_eq!(warnings.seen(), expected, "once, by the outer one");
        ready(nested.close()).unwrap();
        ready(outer.close()).unwrap();
    }
}

#[test]
fn f28_background_tasks_end_with_their_runtime_or_backend() {
    for round in 0..1000 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let builder = InMemory::builder().clock(ManualClock::new());
        let backend = builder.cleanup_frequency(Some(Duration::from_micros(1))).build().unwrap();
        let life = runtime.block_on(async {
            let life = backend.lifespan().await.unwrap();
            tokio::task::yield_now().await;
            life
        });
        match round % 3 {
            0 => drop((runtime, life, backend)),
            1 => drop((life, backend, runtime)),
            _ => {
                runtime.block_on(async {
                    life.close().await.unwrap();
                    // The aborted task is taken down when the runtime comes to it.
                    tokio::task::yield_now().await;
                });
                drop(backend);
                assert_eq!(runtime.metrics().num_alive_tasks(), 0, "the task was stopped");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_cleanup_task_removes_what_expired_and_ends_with_the_backend() {
    let clock = ManualClock::new();
    let backend = InMemory::builder().clock(clock.clone()).build().unwrap();
    let life = backend.lifespan().await.unwrap();
    let throttle = throttle(&backend);
    for key in 0..5_000u32 {
        let _ = throttle.hit(key).await.unwrap();
    }
    backend.set(&Key::value("v"), b"1", Some(Duration::from_secs(1))).await.unwrap();
    assert_eq!(backend.key_count(), 5_001);
    // This clock could step back, so what is over is kept for an hour.
    clock.advance(Duration::from_secs(2 * 3600));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(backend.key_count(), 0, "swept in the background");
    let metrics = tokio::runtime::Handle::current().metrics();
    assert_eq!(metrics.num_alive_tasks(), 1);
    drop((throttle, backend));
    life.close().await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(metrics.num_alive_tasks(), 0);
}

#[tokio::test]
async fn the_current_backend_serves_throttles_built_without_one() {
    let tenant = Throttle::builder("tenant").rate("1/h").build().unwrap();
    let error = tenant.hit("a").await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::NoBackend { .. }));
    assert!(text.contains("with_backend") && text.contains("spawned task"), "{text}");

    for _ in 0..2 {
        // Each scope has a backend of its own, so the only unit is there again.
        let decision = ambient::with_backend(InMemory::new(), tenant.hit("a")).await;
        assert!(decision.unwrap().is_allowed());
    }
    let spawned = ambient::with_backend(InMemory::new(), async {
        let tenant = tenant.clone();
        tokio::spawn(async move { tenant.hit("a").await.map(drop) }).await.unwrap()
    });
    assert!(matches!(spawned.await, Err(Error::NoBackend { .. })), "not inherited");
    assert!(ambient::current_backend().is_none());
}

/// Counts the warnings of this thread, from now on.
struct Warnings;

thread_local! {
    static SEEN: Cell<usize> = const { Cell::new(0) };
}

impl Warnings {
    /// One subscriber for the whole process, since the interest in a message is kept for all threads.
    fn start() -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| tracing::subscriber::set_global_default(Self).unwrap());
        SEEN.set(0);
        Self
    }

    fn seen(&self) -> usize {
        SEEN.get()
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {
        SEEN.set(SEEN.get() + 1);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
