//! States that another client overwrote.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use traffik::backend::Stat;
use traffik::{
    DecidedBy, Error, ErrorKind, FixedWindow, Gcra, HasCore, LeakyBucket, OnError, Redis,
    SlidingWindowCounter, SlidingWindowLog, Strategy, Throttle, ThrottleBuilder, TokenBucket,
};

use super::world::{LONG, Own, backend_error, patient};
use test_support::servers::resp::Connection;
use test_support::servers::wait::now;
use test_support::servers::{RedisServer, Value};

const LIMIT: u32 = 500;

fn strategies() -> Vec<(&'static str, Arc<dyn Strategy>)> {
    vec![
        ("bucket", Arc::new(TokenBucket::new())),
        ("leaky", Arc::new(LeakyBucket::new())),
        ("gcra", Arc::new(Gcra::new())),
        ("window", Arc::new(FixedWindow::new())),
        ("counter", Arc::new(SlidingWindowCounter::new())),
        ("log", Arc::new(SlidingWindowLog::new())),
        ("own", Arc::new(Own)),
    ]
}

fn builder(name: &str, strategy: &Arc<dyn Strategy>, backend: &Redis) -> ThrottleBuilder {
    // So slow that nothing comes back while the test runs.
    let builder = Throttle::builder(name).rate(format!("{LIMIT}/366d").as_str());
    let builder = builder.strategy(Arc::clone(strategy)).backend(backend.clone());
    builder.deadline(LONG).on_error(OnError::Raise)
}

/// The only key on the server.
fn stored_key(server: &RedisServer) -> Vec<u8> {
    let keys = server.cmd("KEYS *");
    match keys.array() {
        [Value::Bytes(key)] => key.clone(),
        other => panic!("not one key: {other:?}"),
    }
}

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.0 >> 33
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next()).unwrap() % end
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.next() & 255).unwrap()
    }
}

/// Puts something wrong in the key's place.
fn spoil(server: &mut Connection, key: &[u8], valid: &[u8], random: &mut Random) -> &'static str {
    let mut put = |words: &[&[u8]]| {
        server.command(&[b"DEL", key]).unwrap();
        // Under load a hit may come in between; then its state stays, which is of another type.
        server.command(words).unwrap();
    };
    match random.below(9) {
        0 => put(&[b"RPUSH", key, b"1"]),
        1 => put(&[b"HSET", key, b"a", b"1"]),
        2 => put(&[b"XADD", key, b"*", b"a", b"1"]),
        3 => put(&[b"SADD", key, b"1"]),
        4 => put(&[b"ZADD", key, b"1", b"a"]),
        5 => {
            let bytes: Vec<u8> = (0..random.below(200)).map(|_| random.byte()).collect();
            put(&[b"SET", key, &bytes]);
            return "random bytes";
        }
        6 => {
            // Cut, or too long.
            let mut bytes = [valid, b"!"].concat();
            let length = random.below(bytes.len());
            if length + 1 < valid.len() {
                bytes.truncate(length);
            }
            put(&[b"SET", key, &bytes]);
            return "cut or too long";
        }
        7 => {
            // A codec of the future.
            let mut bytes = valid.to_vec();
            bytes[0] = 2;
            put(&[b"SET", key, &bytes]);
            return "another version";
        }
        _ => put(&[b"SET", key, b""]),
    }
    "another type"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f30_each_corrupt_state_is_reported_once_and_starts_afresh() {
    for (name, strategy) in strategies() {
        let server = RedisServer::start();
        let backend = patient().url(server.url()).build().unwrap();
        let throttle = builder(name, &strategy, &backend).build().unwrap();
        let allowing = builder(name, &strategy, &backend).on_error(OnError::Allow).build().unwrap();
        let _ = throttle.hit("a").await.unwrap();
        let key = stored_key(&server);
        let mut other = server.connect().unwrap();
        let Value::Bytes(valid) = other.command(&[b"GET", &key]).unwrap() else { panic!() };
        let mut random = Random(7);
        for round in 1..=60 {
            let what = spoil(&mut other, &key, &valid, &mut random);
            if round % 2 == 0 {
                let decision = allowing.hit("a").await.unwrap();
                assert_eq!(decision.decided_by(), DecidedBy::Policy, "{name}: {what}");
            } else {
                let error = backend_error(throttle.hit("a").await);
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {what}: {error}");
            }
            assert_eq!(backend.core().stat(Stat::Corrupt), round, "{name}: {what}");
            let next = throttle.hit("a").await.unwrap();
            assert_eq!(next.remaining(), LIMIT - 2, "{name}: {what}: it holds the hit before");
        }
        // A type that is wrong is no worse when nothing is taken.
        other.command(&[b"DEL", &key]).unwrap();
        other.command(&[b"RPUSH", &key, b"1"]).unwrap();
        assert_eq!(backend_error(throttle.peek("a").await).kind(), ErrorKind::Corrupt, "{name}");
        throttle.reset("a").await.unwrap();
        assert_eq!(throttle.peek("a").await.unwrap().remaining(), LIMIT, "{name}");
    }
}

/// Any change of any bytes: no panic, no other kind of error, and the next hit is fine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f30_forged_states_are_answered_or_reported() {
    for (name, strategy) in strategies() {
        let server = RedisServer::start();
        let backend = patient().url(server.url()).build().unwrap();
        let throttle = builder(name, &strategy, &backend).build().unwrap();
        let _ = throttle.hit("a").await.unwrap();
        let key = stored_key(&server);
        let mut other = server.connect().unwrap();
        let mut random = Random(11);
        let Value::Bytes(valid) = other.command(&[b"GET", &key]).unwrap() else { panic!() };
        for _ in 0..150 {
            let mut forged = valid.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(forged.len());
                forged[at] = [0, 255, random.byte()][random.below(3)];
            }
            other.command(&[b"SET", &key, &forged]).unwrap();
            let before = backend.core().stat(Stat::Corrupt);
            match throttle.hit("a").await {
                Ok(decision) => assert!(decision.remaining() <= LIMIT, "{name}: {forged:?}"),
                Err(error) => {
                    let kind = backend_error::<()>(Err(error)).kind();
                    assert_eq!(kind, ErrorKind::Corrupt, "{name}: {forged:?}");
                    assert_eq!(backend.core().stat(Stat::Corrupt), before + 1);
                    let next = throttle.hit("a").await.unwrap();
                    assert_eq!(next.remaining(), LIMIT - 2, "{name}: {forged:?}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f30_garbage_under_load_is_an_error_of_single_hits() {
    let server = RedisServer::start();
    let backend = patient().url(server.url()).build().unwrap();
    for (name, strategy) in [strategies().remove(3), strategies().remove(5), ("own", Arc::new(Own))]
    {
        server.cmd("FLUSHALL");
        let throttle = builder(name, &strategy, &backend).build().unwrap();
        let _ = throttle.hit("a").await.unwrap();
        let key = stored_key(&server);
        let mut other = server.connect().unwrap();
        let Value::Bytes(valid) = other.command(&[b"GET", &key]).unwrap() else { panic!() };
        let stop = Arc::new(AtomicBool::new(false));
        let before = backend.core().stat(Stat::Corrupt);
        let spoiler = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut random = Random(13);
                while !stop.load(Ordering::Relaxed) {
                    spoil(&mut other, &key, &valid, &mut random);
                }
            }
        });
        let tasks = (0..8).map(|_| {
            let (throttle, backend) = (throttle.clone(), backend.clone());
            tokio::spawn(async move {
                let mut corrupt = 0;
                let start = now();
                // Until all together have met so many.
                while backend.core().stat(Stat::Corrupt) < before + 50 {
                    assert!(start.elapsed() < LONG, "too few were met");
                    match throttle.hit("a").await {
                        Ok(_) => {}
                        Err(Error::Backend(error)) => match error.kind() {
                            ErrorKind::Corrupt => corrupt += 1,
                            // Changed by others at each of very many attempts: only without a script.
                            ErrorKind::Contended => {}
                            _ => panic!("{error}"),
                        },
                        Err(error) => panic!("{error}"),
                    }
                }
                corrupt
            })
        });
        let tasks: Vec<_> = tasks.collect();
        let mut corrupt = 0;
        for task in tasks {
            corrupt += task.await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        spoiler.join().unwrap();
        let counted = backend.core().stat(Stat::Corrupt) - before;
        assert_eq!(counted, corrupt, "{name}: each is counted once");
        let _ = throttle.hit("a").await;
        assert_eq!(throttle.hit("a").await.unwrap().decided_by(), DecidedBy::Backend, "{name}");
    }
}
