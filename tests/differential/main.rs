//! One random history on memory, Redis and Memcached at once: each step gives the same decision, field
//! by field, whatever the clock does, and also where several throttles have one name.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod history;
mod random;

use std::time::Duration;

use traffik::{InMemory, ManualClock, Memcached, Redis};

use history::History;
use random::Random;
use test_support::servers::{MemcachedServer, RedisServer};

/// Long, so that a busy machine changes no result.
const PATIENCE: Duration = Duration::from_secs(30);

/// Histories and the steps of each: thousands in the suite, a million in the soak.
fn size() -> (u64, u64) {
    match std::env::var_os("TRAFFIK_SOAK") {
        Some(_) => (5_000, 200),
        None => (150, 120),
    }
}

#[tokio::test]
async fn memory_redis_and_memcached_decide_alike() {
    let redis_server = RedisServer::start();
    let memcached_server = MemcachedServer::start();
    let clock = ManualClock::new();
    let memory = InMemory::builder().clock(clock.clone()).build().unwrap();
    let redis =
        Redis::builder().url(redis_server.url()).clock(clock.clone()).command_timeout(PATIENCE);
    let redis = redis.namespace("differential").build().unwrap();
    let memcached = Memcached::builder().clock(clock.clone()).command_timeout(PATIENCE);
    let memcached = memcached
        .url(format!("memcached://{}", memcached_server.address()))
        .namespace("differential")
        .build()
        .unwrap();

    let (histories, steps) = size();
    let mut counts = history::Counts::default();
    for seed in 0..histories {
        let backends = [
            ("memory", memory.clone().into_shared()),
            ("redis", redis.clone().into_shared()),
            ("memcached", memcached.clone().into_shared()),
        ];
        let random = Random::new(seed);
        let mut history = History::new(seed, random, clock.clone(), backends, PATIENCE);
        for _ in 0..steps {
            history.step(&mut counts).await;
        }
    }
    println!("{histories} histories of {steps} steps: {counts:?}");
    counts.assert_that_much_was_seen();
}

trait IntoShared {
    fn into_shared(self) -> std::sync::Arc<dyn traffik::Backend>;
}

impl<B: traffik::Backend> IntoShared for B {
    fn into_shared(self) -> std::sync::Arc<dyn traffik::Backend> {
        std::sync::Arc::new(self)
    }
}
