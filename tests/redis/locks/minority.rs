//! Redlock while a minority of its masters is dead: killed, or silent, which takes connections and never
//! answers. What is left serves as if all were there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use traffik::backend::redis::LockType;
use traffik::{LockError, LockOptions, Locks, Redis};

use super::common::{LONG, at_once, block_on, builder, ends, is_held, millis, take, ttl, until};
use test_support::resident_kib;
use test_support::servers::{RedisServer, Workers, pause, wait, workers};

/// A second is what is promised; the rest is for a machine that does other things too.
const SOON_FREE: Duration = Duration::from_secs(3);
/// Longer than anybody asks again who gives up.
const FORGOTTEN: Duration = Duration::from_secs(3);
/// So many of each waiter that a queue is full by then, if one fills.
const TRIES: u64 = 20;
/// The same of a task that tries as fast as it can.
const MANY: u64 = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    None,
    Killed,
    Silent,
}

impl Death {
    fn strike(self, master: &mut RedisServer) {
        match self {
            Self::None => {}
            Self::Killed => master.kill(),
            Self::Silent => master.pause(),
        }
    }
}

fn masters(count: usize) -> Vec<RedisServer> {
    (0..count).map(|_| RedisServer::start()).collect()
}

fn on(urls: &[String]) -> Redis {
    builder().url(&urls[0]).lock_type(LockType::Redlock(urls.to_vec())).build().unwrap()
}

fn urls(masters: &[RedisServer]) -> Vec<String> {
    masters.iter().map(RedisServer::url).collect()
}

fn scripts(master: &RedisServer) -> u64 {
    master.calls("evalsha") + master.calls("eval")
}

fn name(number: usize) -> String {
    format!("held-{number}")
}

/// Holds so many locks for as long as it lives.
async fn holding(backend: &Redis, count: usize) -> Vec<traffik::LockGuard> {
    let mut guards = Vec::new();
    for number in 0..count {
        guards.push(take(backend, &name(number), ttl(LONG)).await);
    }
    guards
}

/// Waits for each of them, in a task each; says how long after the signal it was had.
fn waiting(backend: &Redis, count: usize) -> JoinSet<Result<Instant, LockError>> {
    let mut tasks = JoinSet::new();
    for number in 0..count {
        let backend = backend.clone();
        tasks.spawn(async move {
            let guard = backend.lock(&name(number), ttl(LONG)).await?;
            let at = wait::now();
            guard.release().await?;
            Ok(at)
        });
    }
    tasks
}

/// How long a guard that is dropped keeps its lock on masters that live.
async fn free_after_drop(backend: &Redis, live: &[RedisServer]) -> Duration {
    let guard = take(backend, "dropped", ttl(LONG)).await;
    let start = wait::now();
    drop(guard);
    until("it is let go of", async || live.iter().all(|master| !is_held(master, "dropped"))).await;
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_a_waiter_asks_the_live_masters_no_more_often_when_one_is_dead() {
    for death in [Death::None, Death::Killed, Death::Silent] {
        let mut masters = masters(3);
        let urls = urls(&masters);
        let (holder, waiter) = (on(&urls), on(&urls));
        let _guards = holding(&holder, 1).await;
        death.strike(&mut masters[2]);
        let tasks = waiting(&waiter, 1);
        let (start, before) = (wait::now(), [scripts(&masters[0]), scripts(&masters[1])]);
        let asked = || [scripts(&masters[0]) - before[0], scripts(&masters[1]) - before[1]];
        until("it asks", async || asked().iter().all(|asked| *asked >= TRIES)).await;
        let seconds = start.elapsed().as_secs_f64();
        for asked in asked() {
            #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
            let rate = asked as f64 / seconds;
            println!("{death:?}: {rate:.1} scripts a second");
            // One try in 130 ms on average, and its release where it was granted.
            assert!((2.0..30.0).contains(&rate), "{death:?}: {rate} scripts a second");
        }
        drop(tasks);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_beside_waiters_a_dropped_guard_is_free_soon_and_each_waiter_is_served() {
    for (count, dead, waiters) in [(3, 1, 5), (3, 1, 10), (5, 2, 10)] {
        for death in [Death::Killed, Death::Silent] {
            let mut masters = masters(count);
            let urls = urls(&masters);
            let (holder, waiter) = (on(&urls), on(&urls));
            let guards = holding(&holder, waiters).await;
            for master in &mut masters[count - dead..] {
                death.strike(master);
            }
            let live = &masters[..count - dead];
            let before = scripts(&live[0]);
            let mut tasks = waiting(&waiter, waiters);
            let enough = before + TRIES * waiters as u64;
            until("all of them ask", async || scripts(&live[0]) >= enough).await;
            let took = free_after_drop(&waiter, live).await;
            println!("{death:?}, {waiters} waiters: free after {took:?}");
            assert!(took < SOON_FREE, "{death:?}, {waiters} waiters: free after {took:?}");
            let start = wait::now();
            drop(guards);
            let mut longest = Duration::ZERO;
            while let Some(taken) = ends("a waiter", tasks.join_next()).await {
                let at = taken.unwrap().expect("no waiter fails");
                longest = longest.max(at - start);
            }
            println!("{death:?}: the last of {waiters} waiters was served after {longest:?}");
            assert!(longest < SOON_FREE, "{death:?}: served after {longest:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_beside_a_tasks_try_locks_a_dropped_guard_is_free_soon() {
    for death in [Death::Killed, Death::Silent] {
        let mut masters = masters(3);
        let urls = urls(&masters);
        let (holder, other) = (on(&urls), on(&urls));
        let _guards = holding(&holder, 1).await;
        death.strike(&mut masters[2]);
        let (is_over, tries) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let trying = tokio::spawn({
            let (backend, is_over, tries) =
                (other.clone(), Arc::clone(&is_over), Arc::clone(&tries));
            async move {
                let (mut refused, mut failed) = (0, 0);
                while !is_over.load(Ordering::Relaxed) {
                    match backend.lock(&name(0), at_once()).await {
                        Ok(_) => panic!("it is held by another"),
                        Err(LockError::Held) => refused += 1,
                        Err(_) => failed += 1,
                    }
                    tries.fetch_add(1, Ordering::Relaxed);
                }
                (refused, failed)
            }
        });
        until("many tries", async || tries.load(Ordering::Relaxed) >= MANY).await;
        let took = free_after_drop(&other, &masters[..2]).await;
        is_over.store(true, Ordering::Relaxed);
        let (refused, failed) = ends("the tries", trying).await.unwrap();
        println!("{death:?}: free after {took:?}; {refused} refused, {failed} failed");
        assert!(took < SOON_FREE, "{death:?}: free after {took:?}");
        // One that the machine held up for 50 ms is no answer.
        assert!(failed * 20 <= refused, "{death:?}: {refused} refused, {failed} failed");
    }
}

/// As many tasks try as fast as they can, and take little memory by it.
#[test]
#[ignore = "run by another test as a process of its own"]
fn crowd() {
    if workers::number().is_none() {
        return;
    }
    let urls: Vec<String> = workers::variable("URLS").split(' ').map(str::to_owned).collect();
    block_on(async {
        let backend = on(&urls);
        let options = LockOptions::new().ttl(Some(LONG)).blocking(false);
        let _ = backend.lock(&name(0), options).await;
        let before = resident_kib();
        let mut tasks = JoinSet::new();
        for _ in 0..50 {
            let backend = backend.clone();
            tasks.spawn(async move {
                for _ in 0..MANY {
                    let _ = backend.lock(&name(0), options).await;
                }
            });
        }
        tasks.join_all().await;
        let grew = resident_kib().saturating_sub(before);
        assert!(grew < 16 * 1024, "it took {grew} KiB");
        workers::say("SMALL");
        std::future::pending::<()>().await;
    });
}

#[test]
fn f04_fifty_tasks_take_little_memory_while_a_master_is_dead() {
    for death in [Death::Killed, Death::Silent] {
        let mut masters = masters(3);
        let urls = urls(&masters);
        // Held until its TTL.
        block_on(async { std::mem::forget(take(&on(&urls), &name(0), ttl(LONG)).await) });
        death.strike(&mut masters[2]);
        let mut worker = Workers::spawn(1, "locks::minority::crowd", &[("URLS", &urls.join(" "))]);
        worker.wait_for_line(0, "SMALL");
    }
}

/// What a silent master was asked before it was known to be silent, it does when it goes on: it is let go
/// of then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_a_master_that_goes_on_keeps_no_lock_of_a_try_from_before() {
    let masters = masters(3);
    let urls = urls(&masters);
    let (holder, other) = (on(&urls), on(&urls));
    let guard = take(&holder, "a", ttl(LONG)).await;
    drop(take(&other, "b", ttl(LONG)).await);
    masters[2].pause();
    for name in ["a", "b", "c"] {
        for _ in 0..3 {
            drop(other.lock(name, at_once()).await);
        }
    }
    // Of the two that answer, one may be slow.
    let _ = guard.release().await;
    pause::lasts(FORGOTTEN).await;
    masters[2].resume();
    until("nothing is held", async || {
        masters.iter().all(|master| ["a", "b", "c"].iter().all(|name| !is_held(master, name)))
    })
    .await;
    // And stays so: what was under way has come.
    pause::stays(millis(500)).await;
    for name in ["a", "b", "c"] {
        assert!(masters.iter().all(|master| !is_held(master, name)), "{name} is held again");
    }
}
