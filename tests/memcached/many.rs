//! Hits on many keys at once: few commands, and others that come between lose nothing.

use std::time::Duration;

use tokio::task::JoinSet;
use traffik::{Effect, Error, FixedWindow, Memcached, OnError, Throttle, TokenBucket};

use crate::world::{PATIENCE, backend, builder, url};
use test_support::servers::MemcachedServer;

fn throttle(backend: Memcached, rate: &str) -> Throttle {
    let throttle = Throttle::builder("many").rate(rate).backend(backend).deadline(PATIENCE);
    throttle.on_error(OnError::Raise).build().unwrap()
}

async fn hit_all(throttle: &Throttle, keys: impl Iterator<Item = u32>) -> (usize, usize) {
    let decisions = throttle.hit_many(keys).await;
    let all = decisions.len();
    (decisions.into_iter().filter(|one| one.as_ref().unwrap().is_allowed()).count(), all)
}

#[tokio::test]
async fn each_passes_as_often_as_its_limit_says() {
    let server = MemcachedServer::start();
    for track_keys in [false, true] {
        let backend = builder(&server).namespace(format!("t{track_keys}")).track_keys(track_keys);
        let throttle = throttle(backend.build().unwrap(), "2/30d");
        for _ in 0..2 {
            assert_eq!(hit_all(&throttle, 0..300).await, (300, 300), "tracked: {track_keys}");
        }
        let before = [server.stat("cmd_get"), server.stat("cmd_set")];
        assert_eq!(hit_all(&throttle, 0..300).await, (0, 300));
        let (gets, sets) = (server.stat("cmd_get") - before[0], server.stat("cmd_set") - before[1]);
        assert_eq!(sets, 0, "a denial writes nothing");
        // Counted by key; with the generation, one key more for each command.
        assert_eq!(gets, if track_keys { 300 + 5 } else { 300 });
        // Each twice in one call.
        let twice = (1_000..1_100).chain(1_000..1_100).chain(1_000..1_100);
        assert_eq!(hit_all(&throttle, twice).await, (200, 300));
    }
}

/// Tasks of two processes on the same keys, one at a time and many at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_write_meanwhile_is_counted() {
    const KEYS: u32 = 40;
    const LIMIT: usize = 100;
    let server = MemcachedServer::start();
    let processes = [backend(&server), backend(&server)];
    let throttles = processes.map(|backend| throttle(backend, "100/30d"));
    let mut tasks = JoinSet::new();
    for task in 0..12 {
        let throttle = throttles[task % 2].clone();
        tasks.spawn(async move {
            let mut passed = 0;
            for round in 0..20 {
                if task % 3 == 0 {
                    for key in 0..KEYS {
                        passed += usize::from(throttle.hit(key).await.unwrap().is_allowed());
                    }
                } else {
                    passed += hit_all(&throttle, (0..KEYS).map(|key| (key + round) % KEYS)).await.0;
                }
            }
            passed
        });
    }
    let passed: usize = tasks.join_all().await.into_iter().sum();
    assert_eq!(passed, KEYS as usize * LIMIT, "240 hits of each key, 100 pass");
}

#[tokio::test]
async fn f04_a_node_that_stands_still_fails_its_own_keys_alone() {
    let servers = [(); 3].map(|()| MemcachedServer::start());
    let builder = Memcached::builder().namespace("test");
    let builder = servers.iter().fold(builder, |builder, server| builder.url(url(server)));
    let throttle = Throttle::builder("many").rate("9/h").backend(builder.build().unwrap());
    let throttle = throttle.on_error(OnError::Raise).build().unwrap();
    assert_eq!(hit_all(&throttle, 0..120).await, (120, 120));
    servers[1].pause();
    for _ in 0..2 {
        let decisions = throttle.hit_many(0..120u32).await;
        let served = decisions.iter().filter(|one| one.is_ok()).count();
        assert!((50..115).contains(&served), "{served} of 120");
        for error in decisions.into_iter().filter_map(Result::err) {
            assert!(error.to_string().contains("memcached: apply"), "{error}");
        }
    }
    servers[1].resume();
}

/// The deadline of the throttle is over before that of a command: what the other nodes said counts.
#[tokio::test]
async fn f04_a_node_that_stands_still_longer_than_the_deadline_fails_its_own_keys_alone() {
    let servers = [(); 3].map(|()| MemcachedServer::start());
    let builder = Memcached::builder().namespace("test").command_timeout(PATIENCE);
    let builder = servers.iter().fold(builder, |builder, server| builder.url(url(server)));
    let throttle = Throttle::builder("many").rate("9/h").backend(builder.build().unwrap());
    let throttle = throttle.deadline(Duration::from_secs(1)).on_error(OnError::Raise);
    let throttle = throttle.build().unwrap();
    assert_eq!(hit_all(&throttle, 0..120).await, (120, 120));
    servers[1].pause();
    let decisions = throttle.hit_many(0..120u32).await;
    let served = decisions.iter().filter(|one| one.is_ok()).count();
    assert!((50..115).contains(&served), "{served} of 120");
    servers[1].resume();
}

#[tokio::test]
async fn a_server_without_memory_refuses_the_items_that_do_not_fit() {
    let server = MemcachedServer::with(&["-m", "8", "-M"]);
    let throttle = Throttle::builder("many").limit("5/30d", FixedWindow::new());
    let throttle = throttle.backend(backend(&server)).on_error(OnError::Raise).deadline(PATIENCE);
    let throttle = throttle.build().unwrap();
    let name = |key: u32| (key, "x".repeat(200));
    let (mut passed, mut refused) = (0, 0);
    for batch in 0..600 {
        for decision in throttle.hit_many((batch * 100..batch * 100 + 100).map(name)).await {
            match decision {
                Ok(decision) => passed += u32::from(decision.is_allowed()),
                Err(Error::Backend(error)) => {
                    assert_eq!(error.effect(), Effect::NotApplied, "{error}");
                    assert!(error.to_string().contains("out of memory"), "{error}");
                    refused += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(passed > 100 && refused > 100, "{passed} passed, {refused} refused");
    // Those that are there go on, beside others that do not fit.
    let decisions = throttle.hit_many([name(0), name(999_999), name(1)]).await;
    assert!(decisions[1].is_err(), "{decisions:?}");
}

/// A call that is dropped leaves no reply behind on its connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_callers_that_go_away_take_no_reply_of_others() {
    let server = MemcachedServer::start();
    let throttle = Throttle::builder("many").limit("1000000/30d", TokenBucket::new());
    let throttle = throttle.backend(builder(&server).pool_size(4).build().unwrap());
    let throttle = throttle.deadline(PATIENCE).on_error(OnError::Raise).build().unwrap();
    let mut tasks = JoinSet::new();
    for task in 0..40u64 {
        let throttle = throttle.clone();
        tasks.spawn(async move {
            for round in 0..10u64 {
                let patience = Duration::from_micros((task * 10 + round) * 7919 % 3_000);
                let hits = throttle.hit_many((0..70u64).map(|key| (task, key)));
                if let Ok(decisions) = tokio::time::timeout(patience, hits).await {
                    for decision in decisions {
                        assert!(decision.unwrap().is_allowed());
                    }
                }
            }
        });
    }
    tasks.join_all().await;
    for decision in throttle.hit_many((0..70u64).map(|key| (3u64, key))).await {
        let left = decision.unwrap().remaining();
        assert!((1_000_000 - 11..1_000_000).contains(&left), "{left} left");
    }
}
