//! Hits on many keys at once: few commands, whatever happens to scripts, slots and servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use test_support::servers::{RedisCluster, RedisServer, wait};
use traffik::strategy::Strategy;
use traffik::{
    Denial, Effect, Error, ErrorKind, FixedWindow, OnError, Redis, SlidingWindowLog, Throttle,
    TokenBucket,
};

const PATIENCE: Duration = Duration::from_secs(10);

fn throttle(backend: Redis, strategy: impl Strategy) -> Throttle {
    let throttle = Throttle::builder("many").limit("2/h", strategy).backend(backend);
    throttle.deadline(PATIENCE).on_error(OnError::Raise).build().unwrap()
}

fn on(server: &RedisServer) -> Redis {
    Redis::builder().url(server.url()).command_timeout(PATIENCE).build().unwrap()
}

/// Each key passes twice and no more; asked for again and again, and each twice at once.
async fn each_passes_twice(throttle: &Throttle, kind: &str, keys: u32, between: impl Fn(u32)) {
    let names = || (0..keys).map(|key| (kind.to_owned(), key));
    between(0);
    for (number, decision) in
        throttle.hit_many(names().chain(names())).await.into_iter().enumerate()
    {
        let decision = decision.unwrap();
        let left = u32::from(number < keys as usize);
        assert!(decision.is_allowed() && decision.remaining() == left, "{number}: {decision}");
    }
    for round in 1..4 {
        between(round);
        for decision in throttle.hit_many(names()).await {
            assert!(decision.unwrap().is_denied());
        }
    }
}

#[tokio::test]
async fn a_hundred_hits_take_four_scripts() {
    let server = RedisServer::start();
    let throttle = throttle(on(&server), TokenBucket::new());
    // Its own source and that of the script for several, once.
    let _ = throttle.hit_many(0..33u32).await;
    let before = server.calls("evalsha");
    for decision in throttle.hit_many(0..100u32).await {
        assert!(decision.unwrap().is_allowed());
    }
    assert_eq!(server.calls("evalsha") - before, 4);
    assert!(server.calls("eval") <= 2, "the source goes once");
}

/// Of scripts that are sent together, one that the server does not know is sent once more, after the others.
#[tokio::test]
async fn f03_hits_on_a_key_keep_their_order_though_a_script_is_unknown() {
    let server = RedisServer::start();
    let throttle = throttle(on(&server), TokenBucket::new());
    // That for equal hits is known, and that for several keys is not.
    let _ = throttle.hit_many(["x", "x"]).await;
    for (round, other) in ["b", "c"].into_iter().enumerate() {
        let key = round.to_string();
        let keys = [&key[..], other, &key, &key];
        let left = throttle.hit_many(keys).await.into_iter().map(|decision| {
            let decision = decision.unwrap();
            (decision.is_allowed(), decision.remaining())
        });
        let left: Vec<_> = left.collect();
        assert_eq!(left, [(true, 1), (true, 1), (true, 0), (false, 0)], "round {round}");
    }
}

#[tokio::test]
async fn f03_scripts_that_the_server_forgets_change_nothing() {
    let server = RedisServer::start();
    let backend = on(&server);
    let forget = |_| assert_eq!(server.cmd("SCRIPT FLUSH").text(), "OK");
    each_passes_twice(&throttle(backend.clone(), TokenBucket::new()), "b", 300, forget).await;
    each_passes_twice(&throttle(backend.clone(), FixedWindow::new()), "f", 300, forget).await;
    each_passes_twice(&throttle(backend, SlidingWindowLog::new()), "l", 300, forget).await;
}

#[tokio::test]
async fn on_a_cluster_each_server_is_asked_for_its_own() {
    let mut cluster = RedisCluster::start(3, 0);
    let backend = Redis::builder().cluster(cluster.urls()).command_timeout(PATIENCE);
    let throttle = throttle(backend.build().unwrap(), TokenBucket::new());
    each_passes_twice(&throttle, "all", 300, |_| {}).await;
    // What a node says in the midst of a move is followed, key by key.
    let slot = cluster.slot_of("traffik|t|many|moved|%00%00%00%00");
    let to = (cluster.master_of_slot(slot) + 1) % 3;
    each_passes_twice(&throttle, "moved", 300, |round| {
        if round == 1 {
            cluster.migrate(slot, to);
        }
    })
    .await;
    // A node that is gone fails its own keys alone.
    cluster.node(0).kill();
    let short = Redis::builder().cluster(cluster.urls()[1..].to_vec());
    let short = self::throttle(
        short.command_timeout(Duration::from_secs(1)).build().unwrap(),
        FixedWindow::new(),
    );
    let decisions = short.hit_many((0..300u32).map(|key| ("gone", key))).await;
    let served = decisions.iter().filter(|one| one.is_ok()).count();
    assert!((100..300).contains(&served), "{served} of 300 keys are on the other two");
}

/// An error in the midst concerns the keys that it happened to: what is used up is denied without a write.
#[tokio::test]
async fn f08_a_server_without_memory_refuses_the_keys_that_must_be_written() {
    let server = RedisServer::start();
    let throttle = throttle(on(&server), TokenBucket::new());
    for _ in 0..2 {
        let _ = throttle.hit_many(0..10u32).await;
    }
    let _ = throttle.hit_many(0..100u32).await;
    assert_eq!(server.cmd("CONFIG SET maxmemory 1").text(), "OK");
    for (key, decision) in throttle.hit_many(0..200u32).await.into_iter().enumerate() {
        if key < 10 {
            assert_eq!(decision.unwrap().denial(), Some(Denial::Limited), "{key}");
            continue;
        }
        let Err(Error::Backend(error)) = decision else { panic!("{key}: {decision:?}") };
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(error.effect(), Effect::NotApplied, "{error}");
        assert!(error.to_string().contains("OOM"), "{error}");
    }
    assert_eq!(server.cmd("CONFIG SET maxmemory 0").text(), "OK");
    for decision in throttle.hit_many(10..100u32).await {
        assert_eq!(decision.unwrap().remaining(), 0, "the second hit of each");
    }
}

/// The deadline of the throttle is over before that of a command: what the other nodes said counts.
#[tokio::test]
async fn f04_a_silent_node_of_a_cluster_fails_its_own_keys_alone() {
    let mut cluster = RedisCluster::start(3, 0);
    let backend = Redis::builder().cluster(cluster.urls()).command_timeout(PATIENCE);
    let throttle = Throttle::builder("many").rate("9/h").backend(backend.build().unwrap());
    let throttle = throttle.deadline(Duration::from_secs(1)).on_error(OnError::Raise);
    let throttle = throttle.build().unwrap();
    let hit = async || {
        let decisions = throttle.hit_many(0..90u32).await;
        decisions.iter().filter(|one| one.is_ok()).count()
    };
    assert_eq!(hit().await, 90);
    cluster.node(0).pause();
    let served = hit().await;
    assert!((40..85).contains(&served), "{served} of 90");
    cluster.node(0).resume();
}

/// An operator blocks a key while all hit it, and asks once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_hit_all_the_time_is_blocked_by_one_script() {
    let server = RedisServer::start();
    let throttle = Throttle::builder("hot").limit("1000000000/30d", FixedWindow::new());
    let throttle = throttle.backend(on(&server));
    let throttle = throttle.deadline(PATIENCE).on_error(OnError::Raise).build().unwrap();
    let (stop, mut tasks) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for _ in 0..64 {
        let (throttle, stop) = (throttle.clone(), Arc::clone(&stop));
        tasks.spawn(async move {
            let (mut passed, mut blocked) = (0u32, 0u32);
            while !stop.load(Ordering::Relaxed) {
                match throttle.hit("mallory").await.unwrap().denial() {
                    None => passed += 1,
                    Some(denial) => {
                        assert_eq!(denial, Denial::Blocked);
                        blocked += 1;
                    }
                }
            }
            (passed, blocked)
        });
    }
    for _ in 0..20 {
        throttle.block("mallory", PATIENCE).await.unwrap();
        assert_eq!(throttle.peek("mallory").await.unwrap().denial(), Some(Denial::Blocked));
        assert!(throttle.unblock("mallory").await.unwrap());
        assert!(throttle.peek("mallory").await.unwrap().is_allowed());
    }
    stop.store(true, Ordering::Relaxed);
    let (mut passed, mut blocked) = (0, 0);
    for counts in tasks.join_all().await {
        (passed, blocked) = (passed + counts.0, blocked + counts.1);
    }
    assert!(passed > 0 && blocked > 0, "{passed} passed, {blocked} blocked");
    let used = throttle.inspect("mallory").await.unwrap().limits()[0].answer.remaining();
    assert_eq!(
        1_000_000_000 - used,
        passed,
        "no hit was lost, and none was counted that was denied"
    );
    let before = server.calls("evalsha");
    throttle.block("mallory", PATIENCE).await.unwrap();
    assert_eq!(server.calls("evalsha") - before, 1);
}

#[tokio::test]
async fn f04_a_silent_server_ends_all_in_the_time_of_one() {
    let server = RedisServer::start();
    let backend = Redis::builder().url(server.url()).build().unwrap();
    let throttle = Throttle::builder("many").rate("2/h").backend(backend).on_error(OnError::Raise);
    let throttle = throttle.build().unwrap();
    for decision in throttle.hit_many(0..100u32).await {
        assert!(decision.unwrap().is_allowed());
    }
    server.pause();
    let start = wait::now();
    let decisions = throttle.hit_many(0..10_000u32).await;
    let took = start.elapsed();
    // A quarter of a second together, and many of them one after the other.
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(decisions.len(), 10_000);
    assert!(decisions.iter().all(Result::is_err));
    server.resume();
}

/// Fewer may be in flight than are asked for.
#[tokio::test]
async fn the_bound_of_calls_in_flight_is_kept() {
    let server = RedisServer::start();
    let backend = Redis::builder().url(server.url()).command_timeout(PATIENCE).max_in_flight(7);
    let throttle = throttle(backend.build().unwrap(), TokenBucket::new());
    each_passes_twice(&throttle, "bound", 100, |_| {}).await;
}
