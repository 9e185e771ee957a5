//! Retries alone around a real Redis whose connections are refused and cut. The server counts what was done.

use std::num::NonZeroU32;
use std::time::Duration;

use test_support::Counting;
use test_support::servers::{Direction, Proxy, RedisServer, wait};
use tokio::task::JoinSet;
use traffik::decorator::{Retry, RetryOptions};
use traffik::{
    BackendError, Decision, Effect, Error, ErrorKind, FixedWindow, OnError, Redis, Throttle,
};

use super::support::MS;

/// Enough for whatever must happen at all.
const SOON: Duration = Duration::from_secs(30);
const LIMIT: u32 = 1_000_000;
const HITS: usize = 20;

/// A throttle on a server behind a proxy, and one that goes straight to it.
struct World {
    server: RedisServer,
    proxy: Proxy,
    asked: Counting<Redis>,
    throttle: Throttle,
    of_server: Throttle,
}

impl World {
    fn start(command: Duration, options: RetryOptions) -> Self {
        let server = RedisServer::start();
        let proxy = Proxy::start(server.port());
        let redis = |port: u16| {
            let builder = Redis::builder().url(format!("redis://127.0.0.1:{port}"));
            builder.namespace("retried").command_timeout(command).build().unwrap()
        };
        let asked = Counting::new(redis(proxy.port()));
        let retry = Retry::with_options(asked.clone(), options).unwrap();
        let throttle = throttle(retry);
        let of_server = self::throttle(redis(server.port()));
        Self { server, proxy, asked, throttle, of_server }
    }

    fn hit_at_once(&self) -> JoinSet<Result<Decision, Error>> {
        let mut hits = JoinSet::new();
        for _ in 0..HITS {
            let throttle = self.throttle.clone();
            hits.spawn(async move { throttle.hit("a").await });
        }
        hits
    }

    /// How many hits the server has counted.
    async fn counted(&self) -> usize {
        let peeked = wait::heals("a peek", SOON, || self.of_server.peek("a")).await;
        (LIMIT - peeked.remaining()) as usize
    }
}

fn throttle(backend: impl traffik::Backend) -> Throttle {
    let rate = format!("{LIMIT}/366d");
    let builder = Throttle::builder("retried").limit(rate.as_str(), FixedWindow::new());
    // No machine is so busy that this decides.
    builder.backend(backend).on_error(OnError::Raise).deadline(SOON * 2).build().unwrap()
}

fn error(outcome: Result<Decision, Error>) -> BackendError {
    match outcome {
        Err(Error::Backend(error)) => error,
        other => panic!("not an error of the backend: {other:?}"),
    }
}

/// Until it is done, as far as these tests go.
fn often() -> RetryOptions {
    let often = NonZeroU32::new(1_000_000).unwrap();
    RetryOptions::new().retries(often).first_pause(5 * MS).longest_pause(20 * MS).within(SOON)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_what_a_server_refuses_is_asked_again_until_it_is_done() {
    let world = World::start(SOON, often());
    let _ = world.throttle.hit("a").await.unwrap();
    world.proxy.refuse();
    world.proxy.cut();
    // The first may find the connection cut when it has written already.
    wait::eventually("it is known that nobody listens", SOON, async || {
        let before = world.asked.asked();
        let throttle = throttle(world.asked.clone());
        let error = error(throttle.hit("b").await);
        assert_eq!(world.asked.asked(), before + 1);
        error.effect() == Effect::NotApplied
    })
    .await;
    let before = world.asked.asked();
    let hits = world.hit_at_once();
    wait::eventually("they are repeated", SOON, async || world.asked.asked() >= before + HITS * 4)
        .await;
    assert_eq!(world.counted().await, 1, "nothing comes through");
    world.proxy.forward();
    let decisions = hits.join_all().await;
    let mut left: Vec<u32> = decisions.into_iter().map(|it| it.unwrap().remaining()).collect();
    left.sort_unstable();
    let (last, first) = (LIMIT - 1 - u32::try_from(HITS).unwrap(), LIMIT - 1);
    assert_eq!(left, (last..first).collect::<Vec<_>>(), "each is one decision of the server");
    assert_eq!(world.counted().await, 1 + HITS, "and each was counted once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_what_a_server_goes_on_refusing_is_asked_as_often_as_was_said() {
    let retries = NonZeroU32::new(4).unwrap();
    let options = RetryOptions::new().retries(retries).first_pause(MS).longest_pause(4 * MS);
    let world = World::start(SOON, options.within(SOON));
    world.proxy.refuse();
    for outcome in world.hit_at_once().join_all().await {
        let error = error(outcome);
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::NotApplied));
    }
    assert_eq!(world.asked.asked(), HITS * 5);
    assert_eq!(world.counted().await, 0);
}

/// How those end that the server has done and whose replies do not come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    /// Their connection is cut, and new ones go through.
    Cut,
    /// Nothing comes, until their time is over.
    Silence,
}

async fn is_asked_once(loss: Loss, command: Duration) {
    let world = World::start(command, often());
    // It has the script then, and needs one command for each of the others.
    let first = || world.throttle.hit("a");
    let _ = wait::heals("the first", SOON, first).await;
    let (asked, counted) = (world.asked.asked(), world.counted().await);
    let commands = || usize::try_from(world.server.calls("evalsha")).unwrap();
    let sent = commands();
    world.proxy.hold(Direction::Reply);
    let hits = world.hit_at_once();
    wait::eventually("the server has done all", SOON, async || commands() >= sent + HITS).await;
    if loss == Loss::Cut {
        world.proxy.cut();
        world.proxy.forward();
    }
    for outcome in hits.join_all().await {
        let error = error(outcome);
        assert_eq!(error.effect(), Effect::Ambiguous, "{loss:?}: {error}");
    }
    world.proxy.forward();
    assert_eq!(world.asked.asked(), asked + HITS, "{loss:?}: each once");
    assert_eq!(world.counted().await, counted + HITS, "{loss:?}: and each was counted once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_what_may_have_been_done_when_it_was_cut_is_not_asked_again() {
    is_asked_once(Loss::Cut, SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_what_may_have_been_done_in_silence_is_not_asked_again() {
    // Long enough for so many to be sent, and done, by a busy machine.
    is_asked_once(Loss::Silence, Duration::from_secs(2)).await;
}
