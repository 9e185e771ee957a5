//! The server is slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use traffik::{
    DecidedBy, Decision, Effect, ErrorKind, FixedWindow, Key, OnError, Throttle, Values,
};

use super::common::{
    Dice, PATIENT, PLENTY, SOON, admits, builder, ends, error, heals, soak, throttle, until, used,
};
use test_support::servers::{Proxy, RedisServer, pause};

const TASKS: u32 = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f06_a_late_reply_never_reaches_another_request() {
    let (answers, misses) = if soak() { (100_000, 10_000) } else { (3_000, 300) };
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    // So short that what it gives up says nothing about the connection, which so stays the same.
    let short = Duration::from_millis(40);
    let backend = builder(url).command_timeout(short).connect_timeout(PATIENT).build().unwrap();
    let [answered, missed] = [(); 2].map(|()| Arc::new(AtomicU32::new(0)));
    let done = Arc::new(AtomicBool::new(false));
    for task in 0..TASKS {
        let (own, value) = (format!("own {task}"), format!("value {task}"));
        let own = Key::value(&own);
        heals("a value", || backend.set(&own, value.as_bytes(), None)).await;
    }
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (backend, done) = (backend.clone(), Arc::clone(&done));
        let (answered, missed) = (Arc::clone(&answered), Arc::clone(&missed));
        tasks.spawn(async move {
            let (own, value) = (format!("own {task}"), format!("value {task}"));
            let mut dice = Dice::new(u64::from(task));
            while !done.load(Ordering::SeqCst) {
                match ends(backend.get(&Key::value(&own))).await {
                    Ok(got) => {
                        assert_eq!(got.as_deref(), Some(value.as_bytes()), "of task {task}");
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(_) => {
                        missed.fetch_add(1, Ordering::SeqCst);
                    }
                }
                pause::pace(Duration::from_micros(dice.roll(2_000))).await;
            }
        });
    }
    let start = test_support::servers::wait::now();
    let few = |count: &AtomicU32, most| count.load(Ordering::SeqCst) < most;
    while few(&answered, answers) || few(&missed, misses) {
        assert!(start.elapsed() < SOON * 20, "{answered:?} answered, {missed:?} missed");
        for delay in [60, 20, 0] {
            proxy.delay(Duration::ZERO, Duration::from_millis(delay));
            pause::lasts(Duration::from_millis(80)).await;
        }
    }
    done.store(true, Ordering::SeqCst);
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f06_what_waits_is_bounded() {
    const MOST: u32 = 10;
    const MORE: u32 = 40;
    let server = RedisServer::start();
    let backend =
        builder(server.url()).command_timeout(SOON).max_in_flight(MOST as usize).build().unwrap();
    let throttle = Throttle::builder("faults")
        .limit(format!("{PLENTY}/day").as_str(), FixedWindow::new())
        .backend(backend.clone())
        .on_error(OnError::Raise)
        .deadline(SOON)
        .build()
        .unwrap();
    admits(&throttle, "other").await;
    let mut control = server.connect().unwrap();
    // A PING is answered all the same, so the connection is not given up.
    assert_eq!(control.cmd("CLIENT PAUSE 3600000 WRITE").unwrap().text(), "OK");
    let mut hits = JoinSet::new();
    for _ in 0..MOST + MORE {
        let throttle = throttle.clone();
        hits.spawn(async move { throttle.hit("key").await });
    }
    for _ in 0..MORE {
        let refused = error(ends(hits.join_next()).await.unwrap().unwrap());
        assert_eq!(refused.kind(), ErrorKind::Overloaded, "{refused}");
        assert_eq!(refused.effect(), Effect::NotApplied, "{refused}");
    }
    assert_eq!(control.cmd("CLIENT UNPAUSE").unwrap().text(), "OK");
    for hit in ends(hits.join_all()).await {
        assert!(hit.unwrap().is_allowed());
    }
    assert_eq!(used(&throttle, "key", PLENTY).await, MOST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f06_while_the_server_pauses_the_policy_decides() {
    const HITS: u32 = 20;
    let server = RedisServer::start();
    let backend = builder(server.url()).command_timeout(Duration::from_millis(50)).build().unwrap();
    let raising = throttle(&backend, PLENTY);
    let allowing = Throttle::builder("allowing")
        .rate("5/day")
        .backend(backend.clone())
        .on_error(OnError::handler(|failure| async move {
            assert_eq!(failure.error().backend(), "redis");
            Decision::allow()
        }))
        .build()
        .unwrap();
    admits(&raising, "key").await;
    let mut control = server.connect().unwrap();
    assert_eq!(control.cmd("CLIENT PAUSE 3600000 WRITE").unwrap().text(), "OK");
    let mut ambiguous = 0;
    for _ in 0..HITS {
        let error = error(ends(raising.hit("key")).await);
        ambiguous += u32::from(error.effect() == Effect::Ambiguous);
        let decision = ends(allowing.hit("key")).await.unwrap();
        assert!(decision.is_allowed() && decision.decided_by() == DecidedBy::Policy);
    }
    assert!(ambiguous > 0);
    assert_eq!(control.cmd("CLIENT UNPAUSE").unwrap().text(), "OK");
    admits(&raising, "other").await;
    // What was sent before it was given up runs late, each at most once.
    let late = used(&raising, "key", PLENTY).await;
    assert!(late <= 1 + ambiguous, "{late} used, {ambiguous} ambiguous");
    let clients = || server.cmd("CLIENT LIST TYPE normal").text().trim().lines().count();
    until("connections that were given up are closed", || clients() <= 3).await;
}
