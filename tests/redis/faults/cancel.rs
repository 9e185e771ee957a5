//! Callers go away.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::task::JoinSet;
use traffik::{Backend, Key, LockOptions, Locks, Redis, Throttle, Values};

use super::common::{Dice, PLENTY, SOON, ends, patient, soak, throttle, until, used};
use test_support::servers::{Abandoned, Proxy, RedisServer, pause};

/// Only letting go frees it in the time of a test.
const HELD_FOR: Duration = Duration::from_secs(3600);
const HELD: LockOptions = LockOptions::new().ttl(Some(HELD_FOR));
const TASKS: u64 = 16;
/// Locks that the tasks contend for.
const LOCKS: u64 = 4;

/// Polls a future that often at most, and drops it then.
async fn poll_times<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut polls = 0;
    poll_fn(move |context| {
        if polls == times {
            return Poll::Ready(None);
        }
        polls += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polls == times => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Nobody holds it any more, by itself.
async fn becomes_free(backend: &Redis, name: &str) {
    let abandoned = Abandoned::now();
    let options = HELD.blocking_timeout(Some(SOON));
    let guard = backend.lock(name, options).await.expect("a lock whose taker went away is free");
    abandoned.is_free(name);
    assert!(ends(guard.release()).await.unwrap());
}

/// Nothing but the backend's one connection is left, and none once it is gone.
async fn leaks_nothing(server: &RedisServer, backend: Redis) {
    // With the connection that asks.
    let clients = || server.cmd("CLIENT LIST TYPE normal").text().trim().lines().count();
    until("one connection is left", || clients() == 2).await;
    drop(backend);
    until("no connection is left", || clients() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_dropped_at_each_poll() {
    let server = RedisServer::start();
    let backend = patient(server.url());
    let throttle = throttle(&backend, PLENTY);
    let (own, count, value) = (Key::value("own"), Key::value("count"), b"value");
    backend.set(&own, value, None).await.unwrap();
    let reads_its_own = || async {
        assert_eq!(backend.get(&own).await.unwrap().as_deref(), Some(&value[..]));
    };
    let mut admitted = 0;
    for round in 0..50 {
        let mut completed = 0;
        for times in 0..=6 {
            if let Some(hit) = ends(poll_times(throttle.hit("key"), times)).await {
                assert!(hit.unwrap().is_allowed());
                admitted += 1;
                completed += 1;
            }
            reads_its_own().await;
            let _ = ends(poll_times(backend.increment(&count, 1), times)).await;
            reads_its_own().await;
            let name = format!("lock {round} {times}");
            if let Some(guard) = ends(poll_times(backend.lock(&name, HELD), times)).await {
                drop(guard.unwrap());
            }
            becomes_free(&backend, &name).await;
        }
        assert!(completed > 0, "so many polls are enough");
    }
    let used = used(&throttle, "key", PLENTY).await;
    assert!(admitted <= used && used <= 50 * 7, "{admitted} admitted, {used} used");
    drop(throttle);
    leaks_nothing(&server, backend).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_dropped_before_the_first_connection_is_made() {
    let server = RedisServer::start();
    for times in 0..8 {
        let backend = patient(server.url());
        let name = format!("lock {times}");
        drop(ends(poll_times(backend.lock(&name, HELD), times)).await);
        let _ = ends(poll_times(throttle(&backend, PLENTY).hit("key"), times)).await;
        becomes_free(&backend, &name).await;
        leaks_nothing(&server, backend).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_a_lock_whose_answer_was_lost_is_let_go_of() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let backend = patient(format!("redis://127.0.0.1:{}", proxy.port()));
    becomes_free(&backend, "one to load the scripts").await;
    for round in 0..10 {
        let name = format!("lock {round}");
        let before = server.calls("evalsha");
        proxy.delay(Duration::ZERO, HELD_FOR);
        let task = tokio::spawn({
            let (backend, name) = (backend.clone(), name.clone());
            async move { backend.lock(&name, HELD).await }
        });
        until("the server has given it", || server.calls("evalsha") == before + 1).await;
        proxy.cut();
        proxy.forward();
        assert!(ends(task).await.unwrap().is_err(), "nobody knows whether it was taken");
        becomes_free(&backend, &name).await;
    }
}

/// Does something for a random time, or to its end; a reply to another would be seen.
async fn cancel_one(backend: &Redis, throttle: &Throttle, task: u64, dice: &mut Dice) {
    let patience = Duration::from_micros(dice.roll(600));
    let polls = usize::try_from(dice.roll(4)).unwrap();
    let by_polls = dice.roll(2) == 0;
    let lock = format!("lock {}", dice.roll(LOCKS));
    let own = format!("own {task}");
    let what = dice.roll(3);
    let work = async {
        match what {
            0 => {
                let got = backend.get(&Key::value(&own)).await.unwrap();
                assert_eq!(got.as_deref(), Some(own.as_bytes()), "of task {task}");
            }
            1 => {
                let decision = throttle.hit(&*own).await.unwrap();
                assert!(decision.is_allowed());
            }
            _ => {
                let guard = backend.lock(&lock, HELD).await.unwrap();
                assert!(guard.fencing_token().is_some());
                if task.is_multiple_of(2) {
                    assert!(guard.release().await.unwrap(), "nobody else lets go of it");
                }
            }
        }
    };
    if by_polls {
        poll_times(work, polls).await;
    } else {
        // It may well be over: that is the point.
        let _ = tokio::time::timeout(patience, work).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_dropped_at_random() {
    let each = if soak() { 100_000 } else { 4_000 } / TASKS;
    let server = RedisServer::start();
    let backend = patient(server.url());
    let throttle = throttle(&backend, PLENTY);
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (backend, throttle) = (backend.clone(), throttle.clone());
        tasks.spawn(async move {
            let own = format!("own {task}");
            backend.set(&Key::value(&own), own.as_bytes(), None).await.unwrap();
            let mut dice = Dice::new(task);
            for _ in 0..each {
                cancel_one(&backend, &throttle, task, &mut dice).await;
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    for number in 0..LOCKS {
        becomes_free(&backend, &format!("lock {number}")).await;
    }
    drop(throttle);
    leaks_nothing(&server, backend).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_aborted_tasks_leave_nothing() {
    let server = RedisServer::start();
    let backend = patient(server.url());
    backend.ready().await.unwrap();
    let mut dice = Dice::new(1);
    for round in 0..if soak() { 5_000 } else { 200 } {
        let name = format!("lock {}", round % 3);
        let task = tokio::spawn({
            let (backend, name) = (backend.clone(), name.clone());
            async move {
                let _guard = backend.lock(&name, HELD).await.unwrap();
                std::future::pending::<()>().await;
            }
        });
        pause::pace(Duration::from_micros(dice.roll(1_500))).await;
        task.abort();
        let ended = ends(task).await;
        assert!(ended.unwrap_err().is_cancelled());
        becomes_free(&backend, &name).await;
    }
    leaks_nothing(&server, backend).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_callers_that_go_away_at_once_do_not_hide_a_silent_connection() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let backend = patient(format!("redis://127.0.0.1:{}", proxy.port()));
    let throttle = throttle(&backend, PLENTY);
    assert!(throttle.hit("key").await.unwrap().is_allowed());
    let before = proxy.accepted();
    proxy.strand();
    let mut left = 0;
    while proxy.accepted() == before {
        // Nobody ever waits for a timeout.
        let hit = tokio::time::timeout(Duration::from_millis(1), throttle.hit("key"));
        left += u32::from(hit.await.is_err());
        // One a second would be found by the probes of an idle connection.
        assert!(left < 2_000, "after {left} callers it is not replaced");
    }
    assert!(left > 0);
    assert!(ends(throttle.hit("key")).await.unwrap().is_allowed());
}
