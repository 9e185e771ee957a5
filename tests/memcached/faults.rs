//! Servers that fail.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use traffik::backend::Stat;
use traffik::strategy::Op;
use traffik::{
    Backend, BackendError, DecidedBy, Decision, Effect, ErrorKind, FixedWindow, HasCore, Key,
    LockOptions, Locks, ManualClock, Memcached, OnError, SlidingWindowCounter, SlidingWindowLog,
    Throttle, Timestamp, TokenBucket, Values,
};

use crate::world::{PATIENCE, act, backend, builder, hit, limit};
use test_support::servers::{Direction, MemcachedServer, Proxy, pause};

#[expect(clippy::disallowed_methods, reason = "how long a real server takes is the subject")]
fn now() -> Instant {
    Instant::now()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f17_after_a_restart_counters_begin_anew_and_nothing_wedges() {
    let mut server = MemcachedServer::start();
    let backend = Arc::new(backend(&server));
    let limits = Arc::new([limit("5/30d", FixedWindow::new())]);
    // Many connections, all of them stale after the restart.
    let round = |backend: &Arc<Memcached>| {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..32 {
            let (backend, limits) = (Arc::clone(backend), Arc::clone(&limits));
            let key = format!("k{}", task % 4);
            tasks.spawn(async move { hit(&*backend, &key, &*limits).await });
        }
        tasks.join_all()
    };
    let allowed = |results: &[Result<traffik::Decision, _>]| {
        results.iter().filter(|it| it.as_ref().is_ok_and(traffik::Decision::is_allowed)).count()
    };
    assert_eq!(allowed(&round(&backend).await), 20);
    assert_eq!(allowed(&round(&backend).await), 0);
    let _lost = backend.lock("l", LockOptions::new()).await.unwrap();
    server.restart();
    let results = round(&backend).await;
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    assert!(allowed(&results) <= 20);
    let again = round(&backend).await;
    assert!(again.iter().all(Result::is_ok), "healed");
    assert!(backend.lock("l", LockOptions::new().blocking(false)).await.is_ok(), "forgotten too");
}

#[tokio::test]
async fn f17_eviction_forgets_and_nothing_wedges() {
    let server = MemcachedServer::with(&["-m", "8"]);
    let backend = backend(&server);
    let limits = [limit("1/30d", FixedWindow::new())];
    let held = backend.lock("l", LockOptions::new()).await.unwrap();
    assert!(hit(&backend, "a", &limits).await.unwrap().is_allowed());
    let filler = vec![b'x'; 1000];
    for number in 0u32..20_000 {
        backend.set(&Key::value(&number.to_be_bytes()), &filler, None).await.unwrap();
        if server_evicts(&server, number) {
            break;
        }
    }
    assert!(server.stat("evictions") > 0);
    // A counter may have been forgotten, and nothing else: then it counts from none.
    let decisions =
        [hit(&backend, "a", &limits).await.unwrap(), hit(&backend, "a", &limits).await.unwrap()];
    assert!(decisions[1].is_denied(), "at most one more passes: {decisions:?}");
    assert!(held.release().await.is_ok());
}

fn server_evicts(server: &MemcachedServer, number: u32) -> bool {
    number % 1000 == 999 && server.stat("evictions") > 2000
}

#[tokio::test]
async fn f18_out_of_memory_is_for_the_policy() {
    let server = MemcachedServer::with(&["-m", "8", "-M"]);
    let backend = backend(&server);
    let filler = vec![b'x'; 100_000];
    let mut full = None;
    for number in 0u32..1000 {
        if let Err(error) = backend.set(&Key::value(&number.to_be_bytes()), &filler, None).await {
            full = Some(error);
            break;
        }
    }
    let error = full.expect("the server is full");
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Full, Effect::NotApplied), "{error}");
    // Small items have room of their own; use that up, too.
    let limits = [limit("5/30d", FixedWindow::new())];
    let mut number = 0;
    let error = loop {
        number += 1;
        assert!(number < 200_000, "it never gets full");
        match hit(&backend, &format!("k{number}"), &limits).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Full, Effect::NotApplied), "{error}");
    let throttle = Throttle::builder("t").rate("5/30d").strategy(FixedWindow::new());
    let throttle = throttle.backend(backend.clone()).on_error(OnError::Allow).build().unwrap();
    let decision = throttle.hit(&*format!("k{}", number + 1)).await.unwrap();
    assert_eq!(decision.decided_by(), DecidedBy::Policy);
    // What writes nothing needs no memory.
    let peeked = act(&backend, "k1", &limits, 1, Op::Peek).await.unwrap();
    assert_eq!(peeked.remaining(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f21_a_pool_that_is_used_up_is_waited_for_a_while() {
    let server = MemcachedServer::start();
    let call = Duration::from_millis(300);
    let backend = builder(&server).pool_size(1).command_timeout(call).build().unwrap();
    let backend = Arc::new(backend);
    let limits = Arc::new([limit("5/30d", TokenBucket::new())]);
    assert!(hit(&*backend, "a", &*limits).await.unwrap().is_allowed());
    server.pause();
    let start = now();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..1000 {
        let (backend, limits) = (Arc::clone(&backend), Arc::clone(&limits));
        tasks.spawn(async move { hit(&*backend, &format!("k{task}"), &*limits).await });
    }
    let results = tasks.join_all().await;
    let took = start.elapsed();
    assert!(took < call * 10, "a bounded wait: {took:?}");
    let kinds: Vec<_> = results.iter().map(|it| it.as_ref().unwrap_err().kind()).collect();
    let overloaded = kinds.iter().filter(|kind| **kind == ErrorKind::Overloaded).count();
    assert!(overloaded > 900, "{overloaded} of 1000");
    let errors = results.iter().map(|it| it.as_ref().unwrap_err());
    for error in errors.filter(|error| error.kind() == ErrorKind::Overloaded) {
        assert_eq!(error.effect(), Effect::NotApplied, "nothing was sent");
    }
    server.resume();
    assert!(hit(&*backend, "a", &*limits).await.unwrap().is_allowed(), "heals");
}

/// What two hits on a key were told.
struct Twice {
    key: String,
    answered: u32,
    effects: Vec<Effect>,
}

impl Twice {
    fn new(key: String) -> Self {
        Self { key, answered: 0, effects: Vec::new() }
    }

    fn heard(&mut self, answer: Result<Decision, BackendError>) {
        match answer {
            Ok(decision) => {
                self.answered += 1;
                self.compare(50 - decision.remaining());
            }
            Err(error) => self.effects.push(error.effect()),
        }
    }

    /// So many were counted: each that was answered, those in doubt or not, and no other.
    fn compare(&self, counted: u32) {
        let in_doubt = self.effects.iter().filter(|it| **it == Effect::Ambiguous).count();
        let most = self.answered + u32::try_from(in_doubt).unwrap();
        let Self { key, effects, .. } = self;
        assert!((self.answered..=most).contains(&counted), "{key}: {counted} after {effects:?}");
    }
}

#[tokio::test]
async fn f07_errors_say_whether_it_may_have_happened() {
    let mut server = MemcachedServer::start();
    let proxy = Proxy::start(server.port());
    let quick = Duration::from_millis(200);
    let url = format!("memcached://127.0.0.1:{}", proxy.port());
    let backend = Memcached::builder().url(url).command_timeout(quick).build().unwrap();
    let numbers = [limit("50/30d", FixedWindow::new())];
    let buckets = [limit("50/30d", TokenBucket::new())];
    assert!(hit(&backend, "a", &numbers).await.unwrap().is_allowed());
    assert!(hit(&backend, "b", &buckets).await.unwrap().is_allowed());
    proxy.blackhole();
    let error = hit(&backend, "b", &buckets).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::NotApplied), "a read");
    proxy.forward();
    // Every offset of a reply and of a request: an error or the right answer, and never a wrong one.
    let mut told = Vec::new();
    for direction in [Direction::Request, Direction::Reply] {
        for bytes in 0..150 {
            // The connection that is open, or the next one from its greeting on.
            if bytes % 2 == 0 {
                proxy.cut_after(direction, bytes);
            } else {
                proxy.cut();
            }
            proxy.cut_next(direction, bytes);
            let mut twice = Twice::new(format!("{direction:?}{bytes}"));
            for _ in 0..2 {
                let answer = hit(&backend, &twice.key, &buckets).await;
                twice.heard(answer);
            }
            told.push(twice);
        }
    }
    proxy.forward();
    let direct = Memcached::builder().url(crate::world::url(&server)).command_timeout(PATIENCE);
    let direct = direct.build().unwrap();
    for twice in &told {
        let peeked = act(&direct, &twice.key, &buckets, 1, Op::Peek).await.unwrap();
        twice.compare(50 - peeked.remaining());
    }
    let count = |effect| told.iter().flat_map(|it| &it.effects).filter(|it| **it == effect).count();
    // A write whose answer was cut off may have happened; a command that was not sent whole has not.
    let [doubtful, refused] = [Effect::Ambiguous, Effect::NotApplied].map(count);
    assert!(doubtful > 10 && refused > 10, "{doubtful} in doubt, {refused} not");
    server.kill();
    proxy.cut();
    let error = hit(&backend, "a", &numbers).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    server.restart();
    assert!(hit(&backend, "a", &numbers).await.is_ok(), "heals");
}

#[tokio::test]
async fn f01_a_server_that_is_not_there_is_no_doubt() {
    let server = MemcachedServer::start();
    let port = server.port();
    drop(server);
    let backend = Memcached::builder().port(port).command_timeout(PATIENCE).build().unwrap();
    let error = backend.initialize().await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::NotApplied));
    let limits = [limit("5/s", FixedWindow::new())];
    let error = hit(&backend, "a", &limits).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::NotApplied));
    assert!(backend.ready().await.is_err());
}

/// Each client has a clock of its own here, and a key goes by the one that is ahead.
#[tokio::test]
async fn f26_a_clock_that_jumps_grants_nothing_extra_in_a_key() {
    const HOUR: Duration = Duration::from_secs(3600);
    let server = MemcachedServer::start();
    let start = Timestamp::from_micros(1_800_000_000_000_000);
    let clocks = [(); 2].map(|()| ManualClock::at(start));
    let [one, other] =
        [0, 1].map(|number| builder(&server).clock(clocks[number].clone()).build().unwrap());
    for (key, limit) in [
        ("fixed", limit("3/h", FixedWindow::new())),
        ("counter", limit("3/h", SlidingWindowCounter::new())),
        ("log", limit("3/h", SlidingWindowLog::new())),
        ("bucket", limit("3/h", TokenBucket::new())),
    ] {
        let limits = [limit];
        let passes = async |backend: &Memcached| {
            let mut passed = 0;
            for _ in 0..4 {
                passed += u32::from(hit(backend, key, &limits).await.unwrap().is_allowed());
            }
            passed
        };
        clocks.iter().for_each(|clock| clock.set(start));
        assert_eq!((passes(&one).await, passes(&other).await), (3, 0), "{key}");
        clocks[0].set(start.saturating_add(3 * HOUR));
        assert_eq!((passes(&one).await, passes(&other).await), (3, 0), "{key}: ahead and behind");
        clocks[0].set(start);
        assert_eq!(passes(&one).await, 0, "{key}: set back");
        clocks.iter().for_each(|clock| clock.set(start.saturating_add(6 * HOUR)));
        assert_eq!(passes(&other).await, 3, "{key}: nothing is taken away");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f30_garbage_under_load_is_counted_and_starts_afresh() {
    let server = MemcachedServer::start();
    let backend = Arc::new(backend(&server));
    let garbage: [&str; 9] = [
        "",
        "garbage",
        "5",
        "0",
        "18446744073709551615",
        "99999999999999999999999999",
        " 7",
        "\x02\x01",
        "\x01\u{7f}\u{7f}\u{7f}\u{7f}",
    ];
    let strategies =
        [limit("1000000/30d", FixedWindow::new()), limit("1000000/30d", TokenBucket::new())];
    for limits in strategies.map(|limit| Arc::new([limit])) {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (backend, limits) = (Arc::clone(&backend), Arc::clone(&limits));
            tasks.spawn(async move {
                let mut errors = 0;
                for _ in 0..300 {
                    match hit(&*backend, "a", &*limits).await {
                        Ok(decision) => assert!(decision.is_allowed(), "{decision:?}"),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                            errors += 1;
                        }
                    }
                }
                errors
            });
        }
        let before = backend.core().stat(Stat::Corrupt);
        for round in 0..40 {
            let bytes = garbage[round % garbage.len()];
            server.command(&format!("set test/t/t/a 0 0 {}\r\n{bytes}\r\n", bytes.len()));
            pause::pace(Duration::from_millis(2)).await;
        }
        let errors: u64 = tasks.join_all().await.into_iter().sum();
        let counted = backend.core().stat(Stat::Corrupt);
        assert!(counted - before >= errors, "{errors} errors, {counted} counted");
        for bytes in garbage {
            server.command(&format!("set test/t/t/a 0 0 {}\r\n{bytes}\r\n", bytes.len()));
            let first = hit(&*backend, "a", &*limits).await;
            assert_eq!(first.unwrap_err().kind(), ErrorKind::Corrupt, "{bytes:?}");
            let next = hit(&*backend, "a", &*limits).await.unwrap();
            assert_eq!(next.remaining(), 1_000_000 - 2, "afresh, holding the hit: {bytes:?}");
        }
        backend.forget(&Key::new("t", &[traffik::key::KeyPart::bytes(b"a")])).await.unwrap();
    }
}
