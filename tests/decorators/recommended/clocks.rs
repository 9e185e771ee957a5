//! The stack when the server's clock steps while the deny cache remembers what it has said.

use std::time::Duration;

use test_support::servers::{FakeTime, RedisServer, wait};
use traffik::decorator::{CircuitBreakerOptions, DenyCacheOptions, FailoverOptions, Resilience};
use traffik::{DecidedBy, Decision, FixedWindow, InMemory, OnError, Redis, Throttle};

use super::SOON;

const LIMIT: u32 = 3;
/// Longer than the limit's period.
const YEARS: i64 = 3 * 366 * 24 * 3600;
/// Short, so that the server is asked again soon.
const MAX_AGE: Duration = Duration::from_millis(200);

struct World {
    server: RedisServer,
    time: FakeTime,
    throttle: Throttle,
}

impl World {
    /// So patient that no busy machine makes it ask the fallback.
    fn start() -> Self {
        let time = FakeTime::new();
        let server = RedisServer::with_env(&[], &time.env());
        let redis = Redis::builder().url(server.url()).command_timeout(SOON).build().unwrap();
        let stack = Resilience::recommended()
            .deny_cache(DenyCacheOptions::new().max_age(MAX_AGE))
            .circuit_breaker(CircuitBreakerOptions::new().silent_after(SOON))
            .fallback_with(InMemory::new(), FailoverOptions::new().primary_timeout(SOON));
        let rate = format!("{LIMIT}/366d");
        let builder = Throttle::builder("clocks").limit(rate.as_str(), FixedWindow::new());
        let builder = builder.backend(stack.around(redis).unwrap()).on_error(OnError::Raise);
        Self { server, time, throttle: builder.deadline(SOON * 2).build().unwrap() }
    }

    /// From now on the server's clock is that many seconds ahead.
    fn shift(&self, seconds: i64) {
        let ahead = || {
            let time = self.server.cmd("TIME").array()[0].int();
            let ours = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            time - i64::try_from(ours.unwrap().as_secs()).unwrap()
        };
        self.time.shift(seconds);
        wait::wait_until("the server's clock is shifted", SOON, || {
            ahead().abs_diff(seconds) < 3600
        });
    }

    fn commands(&self) -> u64 {
        self.server.calls("evalsha") + self.server.calls("eval")
    }

    /// A hit, and whether the server was asked. Never the fallback.
    async fn hit(&self) -> (Decision, bool) {
        let before = self.commands();
        let decision = self.throttle.hit("a").await.unwrap();
        assert_eq!(decision.decided_by(), DecidedBy::Backend);
        (decision, self.commands() > before)
    }

    /// How many pass until the server itself denies. What is remembered is no answer of the server.
    async fn passes(&self) -> u32 {
        let mut passed = 0;
        wait::eventually("the server denies", SOON, async || {
            let (decision, is_asked) = self.hit().await;
            passed += u32::from(decision.is_allowed());
            decision.is_denied() && is_asked
        })
        .await;
        passed
    }

    /// Waits until a denial is one that is remembered.
    async fn remembers(&self) {
        wait::eventually("a denial is remembered", SOON, async || {
            let (decision, is_asked) = self.hit().await;
            assert!(decision.is_denied());
            !is_asked
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f27_the_deny_cache_follows_a_clock_of_the_server_that_steps() {
    let world = World::start();
    assert_eq!(world.passes().await, LIMIT);
    for ahead in [-YEARS, 0] {
        world.remembers().await;
        world.shift(ahead);
        assert_eq!(world.passes().await, 0, "nothing is granted at {ahead}");
    }
    world.remembers().await;
    world.shift(YEARS);
    // A new window: what is remembered is not believed for longer than it may be.
    assert_eq!(world.passes().await, LIMIT, "each once");
    for ahead in [0, -YEARS] {
        world.remembers().await;
        world.shift(ahead);
        assert_eq!(world.passes().await, 0, "nothing is granted twice at {ahead}");
    }
}
