//! The deny cache before a real server: how many commands a denied key costs it, also under attack.

use std::time::Duration;

use test_support::servers::RedisServer;
use tokio::task::JoinSet;
use traffik::decorator::{Coalesce, DenyCache};
use traffik::{ManualClock, OnError, Redis, Throttle};

use super::deny_cache::{LONG, deny, hit_at_once};

#[tokio::test]
async fn on_redis_a_denied_key_sends_no_command() {
    let server = RedisServer::start();
    let redis = Redis::builder().url(server.url()).command_timeout(Duration::from_secs(5));
    let cache = DenyCache::with_options(redis.build().unwrap(), LONG).unwrap();
    let throttle = Throttle::builder("t").rate("1/h").backend(cache.clone());
    let throttle = throttle.deadline(Duration::from_secs(5)).build().unwrap();
    let receipt = throttle.hit("a").await.unwrap().receipt().unwrap();
    let _ = deny(&throttle, "a").await;
    let commands = || server.calls("evalsha") + server.calls("eval");
    let before = commands();
    for _ in 0..10_000 {
        assert!(throttle.hit("a").await.unwrap().is_denied());
    }
    assert_eq!(commands() - before, 0);
    throttle.refund("a", receipt).await.unwrap();
    assert!(throttle.hit("a").await.unwrap().is_allowed());
    let _ = deny(&throttle, "a").await;
    server.pause();
    assert!(throttle.hit("a").await.unwrap().is_denied(), "also of a server that is silent");
    server.resume();
    assert_eq!(cache.info().hits(), 10_001);
}

/// On a clock that stands, so that a denial is remembered until it is moved.
struct OnServer {
    server: RedisServer,
    clock: ManualClock,
}

impl OnServer {
    fn start() -> Self {
        Self { server: RedisServer::start(), clock: ManualClock::new() }
    }

    fn redis(&self) -> Redis {
        let redis = Redis::builder().url(self.server.url()).clock(self.clock.clone());
        redis.command_timeout(Duration::from_secs(10)).build().unwrap()
    }

    /// Returns how many decisions the server makes for a call.
    async fn commands(&self, call: impl Future<Output = ()>) -> u64 {
        let commands = || self.server.calls("evalsha") + self.server.calls("eval");
        let before = commands();
        call.await;
        commands() - before
    }
}

fn patient(cache: &DenyCache) -> Throttle {
    let throttle = Throttle::builder("t").rate("1/day").backend(cache.clone());
    let throttle = throttle.on_error(OnError::Raise).deadline(Duration::from_secs(30));
    throttle.build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_redis_many_tasks_that_hit_a_denied_key_send_no_command() {
    const EACH: usize = 500;
    let world = OnServer::start();
    let cache = DenyCache::with_options(world.redis(), LONG).unwrap();
    let throttle = patient(&cache);
    let _ = deny(&throttle, "a").await;
    let hits = async {
        let mut tasks = JoinSet::new();
        for _ in 0..64 {
            let throttle = throttle.clone();
            tasks.spawn(async move {
                for _ in 0..EACH {
                    assert!(throttle.hit("a").await.unwrap().is_denied());
                    tokio::task::yield_now().await;
                }
            });
        }
        tasks.join_all().await;
    };
    assert_eq!(world.commands(hits).await, 0);
    assert_eq!(cache.info().hits(), 64 * EACH as u64);
}

#[tokio::test]
async fn on_redis_a_flood_of_denied_keys_costs_others_less_than_itself() {
    const FLOOD: u64 = 400;
    let world = OnServer::start();
    let inner = Coalesce::new(world.redis());
    let cache = DenyCache::with_options(inner, LONG.max_keys(8)).unwrap();
    let throttle = patient(&cache);
    let _ = deny(&throttle, "a").await;
    let commands = world.commands(async {
        let mut flood = JoinSet::new();
        for task in 0..4 {
            let throttle = throttle.clone();
            flood.spawn(async move {
                for number in 0..FLOOD / 4 {
                    let _ = deny(&throttle, &format!("flood {task} {number}")).await;
                }
            });
        }
        let mut hits = JoinSet::new();
        for _ in 0..16 {
            let throttle = throttle.clone();
            hits.spawn(async move {
                loop {
                    assert!(throttle.hit("a").await.unwrap().is_denied());
                    tokio::task::yield_now().await;
                }
            });
        }
        flood.join_all().await;
        hits.abort_all();
        while let Some(ended) = hits.join_next().await {
            assert!(ended.is_err_and(|error| error.is_cancelled()), "denied all the time");
        }
    });
    let (commands, answered) = (commands.await, cache.info().hits());
    println!("{commands} commands for a flood of {FLOOD}, {answered} hits answered here");
    // Two for each key of the flood; and should seven others come between two hits, it is asked for again, by four at most.
    let most = 2 * FLOOD + 4 * (FLOOD / 7 + 1);
    assert!((2 * FLOOD..=most).contains(&commands), "{commands} commands, {most} at most");
    assert!(answered > commands, "{answered} answered here");
}

#[tokio::test]
async fn on_redis_few_commands_are_sent_when_a_denial_runs_out_where_hits_share() {
    const TASKS: usize = 64;
    let world = OnServer::start();
    for (shares, most) in [(false, TASKS as u64), (true, 4)] {
        let cache = match shares {
            true => DenyCache::with_options(Coalesce::new(world.redis()), LONG).unwrap(),
            false => DenyCache::with_options(world.redis(), LONG).unwrap(),
        };
        let throttle = patient(&cache);
        let _ = deny(&throttle, "a").await;
        for _ in 0..5 {
            world.clock.advance(Duration::from_secs(3600));
            let commands = world.commands(hit_at_once(&throttle, TASKS)).await;
            println!("shares: {shares}, {commands} commands");
            assert!((1..=most).contains(&commands), "shares: {shares}, {commands} commands");
            assert_eq!(world.commands(hit_at_once(&throttle, TASKS)).await, 0);
        }
    }
}
