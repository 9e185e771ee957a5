//! Wall clocks that jump by an hour: a client's, and the server's.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use traffik::{
    FixedWindow, Gcra, LeakyBucket, Locks, OnError, Redis, SlidingWindowCounter, SlidingWindowLog,
    Strategy, Throttle, TokenBucket,
};

use super::common::{LONG, SOON, block_on, builder, is_held, on, take, ttl, until};
use test_support::servers::{FakeTime, RedisServer, Workers, wait_until, workers};
use test_support::wait_of;

const HOUR: i64 = 3600;

fn strategies() -> [(&'static str, Arc<dyn Strategy>); 6] {
    [
        ("fixed", Arc::new(FixedWindow::new())),
        ("counter", Arc::new(SlidingWindowCounter::new())),
        ("log", Arc::new(SlidingWindowLog::new())),
        ("bucket", Arc::new(TokenBucket::new())),
        ("leaky", Arc::new(LeakyBucket::new())),
        ("gcra", Arc::new(Gcra::new())),
    ]
}

/// Three hits pass; so long a period has no end while a test runs, except those of the wall clock.
fn throttles(backend: &Redis, rate: &str) -> Vec<Throttle> {
    let throttle = |(name, strategy): (&str, Arc<dyn Strategy>)| {
        Throttle::builder(name)
            .rate(rate)
            .strategy(strategy)
            .backend(backend.clone())
            .on_error(OnError::Raise)
            .deadline(SOON)
            .build()
            .unwrap()
    };
    strategies().into_iter().map(throttle).collect()
}

/// How many of that many hits pass, and what the last one is told to wait.
async fn hit(throttle: &Throttle, hits: usize) -> (usize, Duration) {
    let (mut passed, mut wait) = (0, Duration::ZERO);
    for _ in 0..hits {
        let decision = throttle.hit("key").await.unwrap();
        passed += usize::from(decision.is_allowed());
        wait = wait_of(&decision).unwrap_or_default();
    }
    (passed, wait)
}

#[allow(clippy::disallowed_methods, reason = "whether the wall clock has jumped is the subject")]
fn wall_clock() -> i64 {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(time.as_secs()).unwrap()
}

#[test]
#[ignore = "run by another test as a process of its own"]
fn worker() {
    if workers::number().is_none() {
        return;
    }
    block_on(async {
        let backend = builder().url(workers::variable("URL")).build().unwrap();
        // One token in ten days: an hour earns none.
        let throttles = throttles(&backend, "3/30d");
        for throttle in &throttles {
            assert_eq!(hit(throttle, 2).await.0, 2);
        }
        let guard = take(&backend, "a", ttl(LONG)).await;
        let before = wall_clock();
        workers::ready();
        let jumped = wall_clock() - before;
        for throttle in &throttles {
            assert_eq!(hit(throttle, 3).await.0, 1, "{}", throttle.name());
        }
        assert!(guard.is_valid());
        assert!(guard.extend(LONG * 2).await.unwrap());
        assert!(guard.is_valid());
        let token = guard.fencing_token().unwrap();
        assert!(guard.release().await.unwrap());
        let next = take(&backend, "a", ttl(LONG)).await;
        assert!(next.fencing_token().unwrap() > token);
        assert!(next.release().await.unwrap());
        workers::report(&jumped.to_string());
    });
}

/// Shifts the server's clock, and waits until its scripts go by it: a server may look at the wall clock some ten
/// times a second, and count on from there.
fn shift(server: &RedisServer, time: &FakeTime, seconds: i64) {
    time.shift(seconds);
    wait_until("the server's clock has jumped", SOON, || {
        let clock = server.words(&["EVAL", "return tonumber(redis.call('TIME')[1])", "0"]);
        (clock.unwrap().int() - seconds - wall_clock()).abs() <= 2
    });
}

#[test]
fn f26_a_clients_clock_that_jumps_changes_nothing() {
    let server = RedisServer::start();
    for shift in [HOUR, -HOUR] {
        server.cmd("FLUSHALL");
        let time = FakeTime::new();
        let (url, env) = (server.url(), time.env());
        let mut envs = vec![("URL", url.as_str())];
        envs.extend(env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let mut workers = Workers::spawn(1, "locks::clocks::worker", &envs);
        workers.wait_for_line(0, "READY");
        time.shift(shift);
        let jumped: i64 = workers.results()[0].parse().unwrap();
        assert!((jumped - shift).abs() < HOUR / 2, "its clock has jumped by {jumped} s");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f27_when_the_servers_clock_goes_back_nothing_is_granted_or_taken() {
    let time = FakeTime::new();
    let server = RedisServer::with_env(&[], &time.env());
    let backend = on(&server);
    let throttles = throttles(&backend, "3/h");
    for throttle in &throttles {
        shift(&server, &time, 0);
        let name = throttle.name();
        assert_eq!(hit(throttle, 1).await.0, 1, "{name}");
        shift(&server, &time, -HOUR);
        assert_eq!(hit(throttle, 3).await.0, 2, "{name}: the others are still there");
        let (passed, wait) = hit(throttle, 1).await;
        assert_eq!(passed, 0, "{name}");
        shift(&server, &time, 0);
        let (passed, wait_after) = hit(throttle, 1).await;
        assert_eq!(passed, 0, "{name}: the same window, bucket or log");
        // By the server's clock both mean the same instant.
        let difference = wait.as_secs() - wait_after.as_secs();
        let hour = HOUR.unsigned_abs();
        assert!((hour - 300..=hour + 300).contains(&difference), "{name}: {wait:?} {wait_after:?}");
        // That wait is true: then one passes.
        shift(&server, &time, i64::try_from(wait_after.as_secs()).unwrap() + 1);
        assert_eq!(hit(throttle, 1).await.0, 1, "{name}: {wait_after:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f27_windows_only_go_forward_within_a_key() {
    let time = FakeTime::new();
    let server = RedisServer::with_env(&[], &time.env());
    let backend = on(&server);
    for throttle in throttles(&backend, "3/h") {
        let name = throttle.name();
        shift(&server, &time, 0);
        assert_eq!(hit(&throttle, 4).await.0, 3, "{name}");
        shift(&server, &time, 3 * HOUR);
        assert_eq!(hit(&throttle, 4).await.0, 3, "{name}: hours later");
        for ahead in [2 * HOUR, HOUR, 0, -HOUR] {
            shift(&server, &time, ahead);
            assert_eq!(hit(&throttle, 2).await.0, 0, "{name}: nothing extra at {ahead}");
        }
        shift(&server, &time, 6 * HOUR);
        assert_eq!(hit(&throttle, 4).await.0, 3, "{name}: nothing is taken away");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f27_tokens_rise_whatever_the_servers_clock_does() {
    let time = FakeTime::new();
    let server = RedisServer::with_env(&[], &time.env());
    let backend = on(&server);
    let mut last = 0;
    for ahead in [0, HOUR, 0, -HOUR, -2 * HOUR, HOUR, -HOUR, 0] {
        shift(&server, &time, ahead);
        for _ in 0..3 {
            let guard = take(&backend, "a", ttl(LONG)).await;
            let token = guard.fencing_token().unwrap();
            assert!(token > last, "{token} after {last}, clock at {ahead}");
            last = token;
            assert!(guard.release().await.unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f27_a_lock_over_a_jump_of_the_servers_clock() {
    let time = FakeTime::new();
    let server = RedisServer::with_env(&[], &time.env());
    let (first, second) = (on(&server), on(&server));
    let guard = take(&first, "a", ttl(LONG)).await;
    // Back: it lasts longer on the server, and no longer here.
    shift(&server, &time, -HOUR);
    assert!(second.lock("a", ttl(LONG).blocking(false)).await.is_err());
    assert!(first.set_fenced(&guard, "value", Some(b"first"), None).await.unwrap());
    assert!(guard.extend(LONG).await.unwrap());
    // Forward: it is over, which only the server can know.
    shift(&server, &time, HOUR);
    let next = take(&second, "a", ttl(LONG)).await;
    assert!(next.fencing_token().unwrap() > guard.fencing_token().unwrap());
    assert!(second.set_fenced(&next, "value", Some(b"second"), None).await.unwrap());
    assert!(!first.set_fenced(&guard, "value", Some(b"stale"), None).await.unwrap());
    assert!(!guard.extend(LONG).await.unwrap());
    assert!(!guard.is_valid());
    assert!(!guard.release().await.unwrap());
    assert_eq!(first.get_fenced("a", "value").await.unwrap().as_deref(), Some(&b"second"[..]));
    assert!(next.release().await.unwrap());
}

/// While the server's clock is behind, a lock seems to have an hour left. When the clock is set right, it
/// has not: the holder must not have believed it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f27_a_holder_does_not_believe_a_clock_that_went_back() {
    let time = FakeTime::new();
    let server = RedisServer::with_env(&[], &time.env());
    let backend = on(&server);
    let guard = take(&backend, "a", ttl(Duration::from_secs(3))).await;
    shift(&server, &time, -HOUR);
    assert!(guard.extend(Duration::from_secs(1)).await.unwrap());
    until("it is taken for lost at its TTL", async || !guard.is_valid()).await;
    assert!(is_held(&server, "a"), "on the server the hour is not over");
    shift(&server, &time, 0);
    until("it is over on the server too", async || !is_held(&server, "a")).await;
    assert!(!guard.release().await.unwrap());
}
