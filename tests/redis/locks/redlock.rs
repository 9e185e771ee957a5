//! Locks on a majority of independent masters.

use tokio::task::{JoinHandle, yield_now};
use traffik::backend::redis::LockType;
use traffik::{LockError, LockGuard, LockOptions, Locks, Redis};

use super::common::{LONG, at_once, builder, ends, is_held, lock_key, millis, take, ttl, until};
use test_support::servers::{Direction, Proxy, RedisServer};

fn masters() -> Vec<RedisServer> {
    (0..3).map(|_| RedisServer::start()).collect()
}

fn urls(masters: &[RedisServer]) -> Vec<String> {
    masters.iter().map(RedisServer::url).collect()
}

fn on(masters: &[RedisServer]) -> Redis {
    let urls = urls(masters);
    builder().url(&urls[0]).lock_type(LockType::Redlock(urls)).build().unwrap()
}

fn held_on(masters: &[RedisServer], name: &str) -> usize {
    masters.iter().filter(|master| master.is_running() && is_held(master, name)).count()
}

/// Takes it with a token, which needs a majority to answer twice in time.
async fn token(backend: &Redis, name: &str) -> u64 {
    let mut token = None;
    until("a token", async || {
        let guard = take(backend, name, ttl(LONG)).await;
        token = guard.fencing_token();
        // One that stalls, or is slow, may leave it open whether it was a majority.
        let _ = guard.release().await;
        token.is_some()
    })
    .await;
    token.unwrap()
}

#[test]
fn too_few_masters_are_refused() {
    let url = |port: usize| format!("redis://127.0.0.1:{port}");
    let build = |urls: Vec<String>| {
        let built = builder().url(url(1)).lock_type(LockType::Redlock(urls)).build();
        built.map(drop).map_err(|error| error.to_string())
    };
    for count in [0, 1, 2, 4, 6] {
        let error = build((1..=count).map(url).collect()).unwrap_err();
        assert!(error.contains("odd number, at least 3"), "{count}: {error}");
    }
    let twice = build(vec![url(1), url(2), url(1)]).unwrap_err();
    assert!(twice.contains("twice"), "{twice}");
    // The same server, also by another database: not independent.
    let databases = build(vec![url(1), url(2), url(1) + "/1"]).unwrap_err();
    assert!(databases.contains("twice"), "{databases}");
    let secret = build(vec!["redis://:secret@[".to_owned(), url(2), url(3)]).unwrap_err();
    assert!(!secret.contains("secret"), "{secret}");
    build((1..=3).map(url).collect()).unwrap();
    build((1..=5).map(url).collect()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_may_be_down_or_stalled() {
    let mut masters = masters();
    let backend = on(&masters);
    let first = token(&backend, "a").await;
    masters[1].kill();
    let second = ends("with one down", token(&backend, "a")).await;
    assert!(second > first);
    masters[1].restart();
    masters[2].pause();
    let third = ends("with one stalled", token(&backend, "a")).await;
    assert!(third > second);
    masters[2].resume();
    let fourth = ends("with all again", token(&backend, "a")).await;
    assert!(fourth > third);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_there_is_no_lock_and_nothing_is_left() {
    let mut masters = masters();
    let backend = on(&masters);
    token(&backend, "a").await;
    masters[0].kill();
    masters[1].kill();
    for options in [ttl(LONG).blocking(false), ttl(LONG).blocking_timeout(Some(millis(300)))] {
        for _ in 0..5 {
            let taken = ends("the try", backend.lock("a", options)).await;
            assert!(taken.is_err(), "{taken:?}");
        }
    }
    until("nothing is held on the third", async || held_on(&masters, "a") == 0).await;
    masters[0].restart();
    ends("with a majority again", token(&backend, "a")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_rise_over_minorities_that_come_back_empty() {
    let mut masters = masters();
    let (first, second) = (on(&masters), on(&masters));
    let mut last = 0;
    for round in 0..9 {
        masters[round % 3].kill();
        for backend in [&first, &second] {
            let next = ends("a token", token(backend, "a")).await;
            assert!(next > last, "{next} after {last}");
            last = next;
        }
        masters[round % 3].restart();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_majority_keeps_others_out_and_lets_go_everywhere() {
    let masters = masters();
    let (first, second) = (on(&masters), on(&masters));
    for options in [ttl(LONG), LockOptions::new()] {
        let guard = take(&first, "a", options).await;
        assert!(second.lock("a", ttl(LONG).blocking(false)).await.is_err());
        assert!(guard.is_valid());
        // One that is slow may not have said yes.
        until("it is extended", async || guard.extend(LONG).await.is_ok_and(|ours| ours)).await;
        assert!(guard.is_valid());
        assert!(held_on(&masters, "a") >= 2);
        drop(guard);
        until("it is let go of on all", async || held_on(&masters, "a") == 0).await;
    }
    // What one server cannot check is refused.
    let guard = take(&first, "a", ttl(LONG)).await;
    assert!(first.set_fenced(&guard, "value", Some(b"1"), None).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_a_majority_lost_is_lost() {
    let mut masters = masters();
    let (first, second) = (on(&masters), on(&masters));
    let guard = take(&first, "a", ttl(LONG)).await;
    let fence = guard.fencing_token();
    masters[0].restart();
    masters[1].restart();
    let next = ends("another holder", take(&second, "a", ttl(LONG))).await;
    assert!(next.fencing_token().is_none_or(|next| fence.is_none_or(|fence| next > fence)));
    until("known to be lost", async || guard.extend(LONG).await.is_ok_and(|ours| !ours)).await;
    assert!(!guard.is_valid());
    assert!(next.is_valid());
}

/// Drives a task while the runtime's time stands still: it goes on by itself only where nobody has anything to do.
async fn driven<T>(task: JoinHandle<T>) -> T {
    driven_until(|| task.is_finished()).await;
    task.await.unwrap()
}

async fn driven_until(condition: impl Fn() -> bool) {
    while !condition() {
        yield_now().await;
    }
}

fn tried(backend: &Redis) -> JoinHandle<Result<LockGuard, LockError>> {
    let backend = backend.clone();
    tokio::spawn(async move { backend.lock("a", at_once()).await })
}

#[tokio::test(start_paused = true)]
async fn f36_a_majority_that_agrees_on_a_token_too_late_gives_no_lock() {
    let masters = masters();
    let proxies: Vec<_> = masters.iter().map(|master| Proxy::start(master.port())).collect();
    let url = |proxy: &Proxy| format!("redis://127.0.0.1:{}", proxy.port());
    let urls: Vec<String> = proxies.iter().map(url).collect();
    let backend = builder().url(&urls[0]).lock_type(LockType::Redlock(urls)).build().unwrap();
    // Until all are connected, and know the scripts.
    loop {
        let guard = driven(tried(&backend)).await.unwrap();
        let held = held_on(&masters, "a");
        assert!(driven(tokio::spawn(async move { guard.release().await })).await.unwrap());
        driven_until(|| held_on(&masters, "a") == 0).await;
        if held == 3 {
            break;
        }
    }
    for is_late in [false, true] {
        let all = |does: fn(&Proxy)| proxies.iter().for_each(does);
        all(|proxy| proxy.hold(Direction::Reply));
        let trying = tried(&backend);
        driven_until(|| held_on(&masters, "a") == 3).await;
        // The replies get through, and not the token on which to agree: the task is not driven meanwhile.
        all(|proxy| proxy.hold(Direction::Request));
        all(|proxy| proxy.pass(Direction::Reply));
        let asked = |proxy: &Proxy| proxy.holds(Direction::Request, &lock_key("a"));
        driven_until(|| proxies.iter().filter(|proxy| asked(proxy)).count() >= 2).await;
        if is_late {
            tokio::time::advance(LONG).await;
        }
        all(Proxy::forward);
        let taken = driven(trying).await;
        if is_late {
            assert!(matches!(taken, Err(LockError::Held)), "{taken:?}");
        } else {
            let guard = taken.unwrap();
            assert!(guard.is_valid() && guard.fencing_token().is_some());
            assert!(driven(tokio::spawn(async move { guard.release().await })).await.unwrap());
        }
        driven_until(|| held_on(&masters, "a") == 0).await;
    }
}
