//! Locks on a majority of independent masters.

use traffik::backend::redis::LockType;
use traffik::{LockOptions, Locks, Redis};

use super::common::{LONG, builder, ends, is_held, millis, take, ttl, until};
use test_support::servers::RedisServer;

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
