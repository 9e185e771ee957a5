//! A master that sentinels name, and another.

use std::time::Duration;

use traffik::{Backend, ErrorKind, LockOptions, Redis};

use super::world::{CAPACITY, LONG, NAMESPACE, eventually, heals, patient, throttle};
use test_support::servers::sentinel::SERVICE;
use test_support::servers::wait::now;
use test_support::servers::{RedisServer, Sentinels, pause};

fn lock_options() -> LockOptions {
    LockOptions::new().ttl(Some(Duration::from_secs(60)))
}

/// Takes the lock and lets go of it; its token.
async fn token(backend: &impl Backend) -> u64 {
    let mut token = None;
    eventually("the lock is taken", async || {
        let Ok(guard) = backend.lock("job", lock_options().blocking(false)).await else {
            return false;
        };
        token = guard.fencing_token();
        let _ = guard.release().await;
        true
    })
    .await;
    token.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_after_the_master_is_killed_the_other_is_found() {
    let mut sentinels = Sentinels::start();
    let urls = sentinels.sentinel_urls();
    let backend = patient().sentinels(urls, SERVICE).build().unwrap();
    backend.initialize().await.unwrap();
    let throttle = throttle(&backend);
    assert_eq!(throttle.hit("a").await.unwrap().remaining(), CAPACITY - 1);
    let mut tokens = vec![token(&backend).await];
    let old = sentinels.kill_master();

    let decision = heals(&throttle).await;
    assert!(decision.is_allowed());
    tokens.push(token(&backend).await);
    sentinels.wait_for_failover(old);
    let new = sentinels.master();
    assert!(new.calls("eval") > 0, "a script that it did not know, unseen by the caller");
    tokens.push(token(&backend).await);
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");

    // The old one comes back as a replica; nothing changes for us.
    sentinels.servers()[old].restart();
    let _ = heals(&throttle).await;
    assert!(throttle.hit("a").await.unwrap().is_allowed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_after_the_master_is_demoted_the_other_is_found() {
    let mut sentinels = Sentinels::start();
    let backend = patient().sentinels(sentinels.sentinel_urls(), SERVICE).build().unwrap();
    let throttle = throttle(&backend);
    let _ = throttle.hit("a").await.unwrap();
    let before = token(&backend).await;
    let old = sentinels.master().port();
    sentinels.sentinels()[0].cmd(&format!("SENTINEL FAILOVER {SERVICE}"));
    let old = usize::from(sentinels.servers()[0].port() != old);
    sentinels.wait_for_failover(old);
    let _ = heals(&throttle).await;
    assert!(token(&backend).await > before);
    eventually("the hits go to the new master", async || {
        let new = sentinels.master();
        let calls = new.calls("evalsha");
        let _ = throttle.hit("a").await;
        new.calls("evalsha") > calls
    })
    .await;
}

/// What sentinels do when the network between them and the master is cut, and not between it and us.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_a_master_that_answers_and_is_not_named_any_more_is_left() {
    let mut sentinels = Sentinels::start();
    let other = RedisServer::start();
    let backend = patient().sentinels(sentinels.sentinel_urls(), SERVICE).build().unwrap();
    let throttle = throttle(&backend);
    let _ = throttle.hit("a").await.unwrap();
    for sentinel in sentinels.sentinels() {
        sentinel.cmd(&format!("SENTINEL REMOVE {SERVICE}"));
        sentinel.cmd(&format!("SENTINEL MONITOR {SERVICE} 127.0.0.1 {} 2", other.port()));
    }
    // Each hit is answered all the while, first by the old one.
    eventually("the hits go to the one that is named", async || {
        let _ = throttle.hit("a").await.unwrap();
        other.calls("evalsha") > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_without_sentinels_the_known_master_is_kept() {
    let mut sentinels = Sentinels::start();
    let backend = patient().sentinels(sentinels.sentinel_urls(), SERVICE).build().unwrap();
    let throttle = throttle(&backend);
    let _ = throttle.hit("a").await.unwrap();
    for sentinel in sentinels.sentinels() {
        sentinel.kill();
    }
    for _ in 0..30 {
        assert!(throttle.hit("a").await.unwrap().is_allowed());
        // Longer than it takes to look whether the master has moved.
        pause::pace(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_a_silent_master_and_a_silent_first_sentinel_are_left_with_the_failover() {
    let mut sentinels = Sentinels::start();
    let urls = sentinels.sentinel_urls();
    let backend = Redis::builder().namespace(NAMESPACE).sentinels(urls, SERVICE).build().unwrap();
    backend.initialize().await.unwrap();
    let throttle = throttle(&backend);
    let _ = throttle.hit("a").await.unwrap();
    let old = sentinels.master().port();
    let place = usize::from(sentinels.servers()[0].port() != old);
    sentinels.sentinels()[0].pause();
    sentinels.servers()[place].pause();

    let load = tokio::spawn({
        let throttle = throttle.clone();
        async move { heals(&throttle).await }
    });
    let promoted = tokio::task::block_in_place(|| {
        sentinels.wait_for_failover(place);
        now()
    });
    let _ = load.await.unwrap();
    let took = now().saturating_duration_since(promoted);
    println!("healed {took:?} after the promotion");
    assert!(took < Duration::from_secs(3), "{took:?} after the promotion");
    assert!(sentinels.servers()[1 - place].calls("evalsha") > 0, "by the new master");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_a_silent_sentinel_does_not_keep_a_backend_from_starting() {
    let mut sentinels = Sentinels::start();
    for silent in 0..3 {
        sentinels.sentinels()[silent].pause();
        let urls = sentinels.sentinel_urls();
        // Only calls are more patient than by default, for a machine that is busy.
        let builder = Redis::builder().namespace(NAMESPACE).sentinels(urls, SERVICE);
        let backend = builder.command_timeout(LONG).build().unwrap();
        let start = now();
        backend.initialize().await.unwrap();
        let took = start.elapsed();
        println!("sentinel {silent} is silent: initialized in {took:?}");
        assert!(took < Duration::from_secs(2), "sentinel {silent}: {took:?}");
        let throttle = throttle(&backend);
        let _ = heals(&throttle).await;
        // Longer than it takes to look whether the master has moved.
        for _ in 0..30 {
            let _ = throttle.hit("a").await.unwrap();
            pause::pace(Duration::from_millis(50)).await;
        }
        sentinels.sentinels()[silent].resume();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_a_service_that_no_sentinel_knows_is_a_mistake() {
    let sentinels = Sentinels::start();
    let backend = patient().sentinels(sentinels.sentinel_urls(), "another").build().unwrap();
    let error = backend.initialize().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(error.to_string().contains("\"another\""), "{error}");
}
