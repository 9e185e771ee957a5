//! Hits that count together or not at all: by one script where the slots allow it, else in order.

use std::time::Duration;

use test_support::servers::{Proxy, RedisCluster, RedisServer, wait, workers};
use test_support::together::{self, Pair};
use test_support::{Failing, Mode};
use traffik::{
    Backend, DecidedBy, Denial, Effect, Error, ErrorKind, FixedWindow, HitOptions, Key, OnError,
    Outcome, Redis, SlidingWindowCounter, SlidingWindowLog, Throttle, TokenBucket, Values, all,
};

const PATIENCE: Duration = Duration::from_secs(10);

fn on(url: &str) -> Redis {
    Redis::builder().url(url).command_timeout(PATIENCE).build().unwrap()
}

fn throttle(name: &str, rate: &str, backend: &Redis) -> Throttle {
    let throttle = Throttle::builder(name).rate(rate).backend(backend.clone()).deadline(PATIENCE);
    throttle.on_error(OnError::Raise).build().unwrap()
}

async fn left(throttle: &Throttle, key: &str) -> u32 {
    throttle.peek(key).await.unwrap().remaining()
}

#[tokio::test]
async fn it_is_one_command_whatever_the_strategies() {
    let server = RedisServer::start();
    let backend = on(&server.url());
    let with = |name: &str| Throttle::builder(name).backend(backend.clone()).deadline(PATIENCE);
    let throttles = [
        with("bucket").limit("5/h", TokenBucket::new()).limit("9/min", TokenBucket::new()),
        with("fixed").limit("7/h", FixedWindow::new()),
        with("counter").limit("7/h", SlidingWindowCounter::new()),
        with("log").limit("3/h", SlidingWindowLog::new()),
    ]
    .map(|throttle| throttle.build().unwrap());
    let hit = async || {
        let hits = throttles.iter().fold(all(), |hits, throttle| hits.hit(throttle, "a"));
        hits.await.unwrap()
    };
    assert!(hit().await.is_allowed());
    let before = server.calls("evalsha");
    for expected in [true, true, false, false] {
        let decision = hit().await;
        assert_eq!(decision.is_allowed(), expected);
        assert!(decision.decisions().all(|one| one.unwrap().decided_by() == DecidedBy::Backend));
        if !expected {
            assert_eq!(decision.denied_by(), Some(3), "the log is used up");
        }
    }
    assert_eq!(server.calls("evalsha") - before, 4, "one for each");
    let mut remaining = Vec::new();
    for throttle in &throttles {
        remaining.push(left(throttle, "a").await);
    }
    assert_eq!(remaining, [2, 4, 4, 0]);
}

#[test]
fn processes_that_race_for_two_limits_take_exactly_what_there_is() {
    let server = RedisServer::start();
    let seen = together::race_of_processes("all::worker", &server.url());
    let passed: u32 = seen.iter().map(|seen| seen.passed).sum();
    assert_eq!(passed, together::NARROW, "by one script nobody is in another's way");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Pair::new(on(&server.url())).expect_exact(&seen).await });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by another test as a process of its own"]
async fn worker() {
    if workers::number().is_some() {
        together::worker(on(&workers::variable("URL"))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_cluster_keys_of_a_group_are_one_command_and_others_are_in_order() {
    let cluster = RedisCluster::start(3, 0);
    let builder = || Redis::builder().cluster(cluster.urls()).command_timeout(PATIENCE);
    let scripts = || cluster.nodes().iter().map(|node| node.calls("evalsha")).sum::<u64>();
    let grouped =
        builder().namespace("grouped").group("g", ["requests", "tokens"]).build().unwrap();
    let apart = builder().namespace("apart").build().unwrap();
    for (backend, is_one) in [(grouped, true), (apart, false)] {
        let (requests, tokens) =
            (throttle("requests", "100/h", &backend), throttle("tokens", "10/h", &backend));
        let hit =
            async |key: u32| all().hit(&requests, key).hit(&tokens, (key, "x")).await.unwrap();
        // Each server has each script then.
        for key in 0..40 {
            assert!(hit(key).await.is_allowed());
        }
        let before = scripts();
        for key in 0..40 {
            assert!(hit(key).await.is_allowed());
        }
        let each = (scripts() - before) as f64 / 40.0;
        assert!(if is_one { each < 1.01 } else { each > 1.5 }, "{each} scripts for two keys");
        for _ in 0..8 {
            assert!(hit(7).await.is_allowed());
        }
        for _ in 0..3 {
            assert_eq!(hit(7).await.denied_by(), Some(1));
        }
        assert_eq!(requests.peek(7u32).await.unwrap().remaining(), 90, "given back, or not taken");
        let pair = Pair::new(backend);
        let seen = together::race(&pair, 16, 30).await;
        pair.expect_exact(&seen).await;
    }
}

/// The time is used up by another backend: nothing is sent that could not be taken back.
#[tokio::test]
async fn f04_what_comes_too_late_is_not_asked() {
    let server = RedisServer::start();
    let backend = on(&server.url());
    let silent = Throttle::builder("silent").rate("5/h").backend(Failing::new(Mode::Hang));
    let silent = silent.deadline(Duration::from_millis(300)).on_error(OnError::Allow);
    let silent = silent.build().unwrap();
    let with = |name: &str| {
        let throttle = Throttle::builder(name).rate("5/h").backend(backend.clone());
        let throttle = throttle.deadline(Duration::from_millis(300)).on_error(OnError::Raise);
        throttle.build().unwrap()
    };
    let (one, two) = (with("one"), with("two"));
    assert!(all().hit(&one, "a").hit(&two, "a").await.unwrap().is_allowed());
    let before = server.calls("evalsha");
    let error = all().hit(&silent, "a").hit(&one, "a").hit(&two, "a").await.unwrap_err();
    let Error::Backend(error) = error else { panic!("{error}") };
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::NotApplied));
    assert_eq!(server.calls("evalsha"), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_who_goes_away_gives_back_what_was_taken() {
    let server = RedisServer::start();
    let by_one_script = Pair::new(on(&server.url()));
    together::callers_who_go_away_lose_nothing(&by_one_script).await;
    let cluster = RedisCluster::start(3, 0);
    let in_order = Redis::builder().cluster(cluster.urls()).command_timeout(PATIENCE);
    let in_order = Pair::new(in_order.build().unwrap());
    together::callers_who_go_away_lose_nothing(&in_order).await;
}

/// A value that cannot be read is a matter of its own entry, as for a single hit.
#[tokio::test]
async fn a_corrupt_state_is_decided_by_its_own_policy() {
    let server = RedisServer::start();
    let backend = on(&server.url());
    let good = throttle("good", "5/h", &backend);
    let spoiled = |policy| {
        let throttle = Throttle::builder("spoiled").rate("5/h").backend(backend.clone());
        throttle.on_error(policy).deadline(PATIENCE).build().unwrap()
    };
    let spoil = async || {
        let name = backend.stored_name("spoiled", "a").unwrap().unwrap();
        assert_eq!(server.words(&["SET", &name, "garbage"]).unwrap().text(), "OK");
    };
    spoil().await;
    let denied = all().hit(&good, "a").hit(&spoiled(OnError::default()), "a").await.unwrap();
    assert_eq!(denied.decision(1).unwrap().denial(), Some(Denial::Policy));
    assert_eq!(left(&good, "a").await, 5);
    assert_eq!(left(&spoiled(OnError::Raise), "a").await, 4, "starts over, and holds the hit");
    spoil().await;
    let passed = all().hit(&good, "a").hit(&spoiled(OnError::Allow), "a").await.unwrap();
    assert!(passed.is_allowed());
    assert_eq!(left(&good, "a").await, 4);
    // One rate more than a key can count.
    for limit in 101..=132u32 {
        let rate = HitOptions::new().replace_rates([traffik::Rate::per_hour(limit)]);
        let _ = good.hit_with("b", rate).await.unwrap();
    }
    let more = HitOptions::new().replace_rates([traffik::Rate::per_hour(133)]);
    let error = all().hit(&good, "a").hit_with(&good, "b", more).await.unwrap_err();
    let Error::Backend(error) = error else { panic!("{error}") };
    assert_eq!(error.kind(), ErrorKind::TooManyRates);
    assert_eq!(left(&good, "a").await, 4);
}

#[tokio::test]
async fn f04_a_silent_server_ends_it_within_the_deadline() {
    let server = RedisServer::start();
    let backend = Redis::builder().url(server.url()).build().unwrap();
    let throttle = |name: &str, policy| {
        let throttle = Throttle::builder(name).rate("5/h").backend(backend.clone());
        throttle.on_error(policy).build().unwrap()
    };
    let (one, two) = (throttle("one", OnError::Allow), throttle("two", OnError::Allow));
    let closed = throttle("closed", OnError::default());
    assert!(all().hit(&one, "a").hit(&two, "a").await.unwrap().is_allowed());
    server.pause();
    let start = wait::now();
    let passed = all().hit(&one, "a").hit(&two, "a").await.unwrap();
    assert!(passed.decisions().all(|one| one.unwrap().decided_by() == DecidedBy::Policy));
    let denied = all().hit(&one, "a").hit(&closed, "a").await.unwrap();
    assert_eq!(denied.denied_by(), Some(1));
    assert_eq!(denied.outcome(), Outcome::Denied { retry_after: Duration::from_secs(1) });
    // A quarter of a second each.
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    server.resume();
}

#[tokio::test]
async fn f08_a_server_without_memory_takes_none() {
    let server = RedisServer::start();
    let backend = on(&server.url());
    let (one, two) = (throttle("one", "5/h", &backend), throttle("two", "5/h", &backend));
    assert!(all().hit(&one, "a").hit(&two, "a").await.unwrap().is_allowed());
    assert_eq!(server.cmd("CONFIG SET maxmemory 1").text(), "OK");
    let error = all().hit(&one, "a").hit(&two, "a").await.unwrap_err();
    assert!(error.to_string().contains("OOM"), "{error}");
    assert_eq!(server.cmd("CONFIG SET maxmemory 0").text(), "OK");
    assert_eq!((left(&one, "a").await, left(&two, "a").await), (4, 4));
}

#[tokio::test]
async fn a_closed_backend_is_an_error() {
    let server = RedisServer::start();
    let backend = on(&server.url());
    let (one, two) = (throttle("one", "5/h", &backend), throttle("two", "5/h", &backend));
    backend.set(&Key::value("x"), b"1", None).await.unwrap();
    backend.close().await.unwrap();
    let error = all().hit(&one, "a").hit(&two, "a").await.unwrap_err();
    assert!(error.to_string().contains("closed"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_connections_cut_all_the_time_admit_no_more_and_lose_nothing_else() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let through = Redis::new(format!("redis://127.0.0.1:{}", proxy.port())).unwrap();
    together::through_cuts(through, on(&server.url()), &proxy).await;
}
