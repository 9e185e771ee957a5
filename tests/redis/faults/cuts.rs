//! The connection is cut, at each byte.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use traffik::{Backend, Effect, Error, ErrorKind, Key, Throttle, Values};

use super::common::{
    Dice, PATIENT, PLENTY, admits, builder, ends, heals, patient, soak, throttle, until, used,
};
use test_support::servers::{Direction, Proxy, RedisServer, pause};

/// What one hit over a connection that was cut was told.
struct Told {
    key: String,
    effect: Option<Effect>,
}

/// A backend that does not wait long before the next attempt, through the proxy.
fn fresh(proxy: &Proxy) -> Throttle {
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let builder = builder(url).command_timeout(PATIENT).connect_timeout(PATIENT);
    throttle(&builder.build().unwrap(), PLENTY)
}

async fn hit_and_heal(throttle: &Throttle, key: String) -> Told {
    let effect = match ends(throttle.hit(&*key)).await {
        Ok(decision) => {
            assert!(decision.is_allowed());
            assert_eq!(decision.remaining(), PLENTY - 1, "the reply to another");
            None
        }
        Err(Error::Backend(error)) => {
            assert!(!error.kind().bypasses_policy(), "{error:?}");
            assert_ne!(error.kind(), ErrorKind::Corrupt, "{error:?}");
            Some(error.effect())
        }
        Err(other) => panic!("{other:?}"),
    };
    let next = format!("{key} healed");
    let decision = heals("the next hit", || throttle.hit(&*next)).await;
    assert!(decision.is_allowed(), "{decision:?}");
    Told { key, effect }
}

/// How many bytes pass for a connection and one hit.
async fn bytes_of_a_hit(server: &RedisServer) -> [u64; 2] {
    let proxy = Proxy::start(server.port());
    let throttle = fresh(&proxy);
    // The longest key of the tests.
    admits(&throttle, "Request 9999").await;
    let request = proxy.bytes(Direction::Request);
    until("the last reply is counted", || proxy.bytes(Direction::Reply) > 10).await;
    [request, proxy.bytes(Direction::Reply)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_cut_at_each_byte_of_the_setup_and_of_a_hit() {
    const AT_ONCE: usize = 4;
    let server = Arc::new(RedisServer::start());
    let direct = throttle(&patient(server.url()), PLENTY);
    admits(&direct, "loads the script").await;
    let [requests, replies] = bytes_of_a_hit(&server).await;
    assert!(requests > 100 && replies > 20, "{requests} and {replies} bytes");
    let mut cuts: Vec<(Direction, u64)> = (0..=requests).map(|n| (Direction::Request, n)).collect();
    cuts.extend((0..=replies).map(|n| (Direction::Reply, n)));
    let mut tasks = JoinSet::new();
    for first in 0..AT_ONCE {
        let (server, cuts) = (Arc::clone(&server), cuts.clone());
        tasks.spawn(async move {
            let proxy = Proxy::start(server.port());
            let mut told = Vec::new();
            for (direction, bytes) in cuts.into_iter().skip(first).step_by(AT_ONCE) {
                proxy.cut_next(direction, bytes);
                let key = format!("{direction:?} {bytes}");
                told.push(hit_and_heal(&fresh(&proxy), key).await);
            }
            assert!(proxy.cuts() > 0);
            told
        });
    }
    let told: Vec<Told> = tasks.join_all().await.into_iter().flatten().collect();
    let count = |effect| told.iter().filter(|told| told.effect == effect).count();
    for Told { key, effect } in &told {
        let used = used(&direct, key, PLENTY).await;
        match effect {
            None => assert_eq!(used, 1, "{key} was admitted"),
            Some(Effect::NotApplied) => assert_eq!(used, 0, "{key} said that it did not run"),
            Some(_ambiguous) => assert!(used <= 1, "{key} ran {used} times"),
        }
    }
    let effects = [Some(Effect::NotApplied), Some(Effect::Ambiguous), None].map(count);
    assert!(effects[0] > 10 && effects[1] > 10, "in the setup and in the hit: {effects:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_cut_amid_many_nobody_gets_the_reply_of_another() {
    const TASKS: u64 = 8;
    let server = RedisServer::start();
    let proxy = Arc::new(Proxy::start(server.port()));
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let backend = builder(url).command_timeout(PATIENT).connect_timeout(PATIENT).build().unwrap();
    heals("the first call", || backend.ready()).await;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let backend = backend.clone();
        tasks.spawn(async move {
            let (own, value) = (format!("own {task}"), format!("value {task}"));
            let (own, mut dice) = (Key::value(&own), Dice::new(task));
            heals("a value", || backend.set(&own, value.as_bytes(), None)).await;
            for _ in 0..if soak() { 50_000 } else { 500 } {
                if let Ok(got) = ends(backend.get(&own)).await {
                    assert_eq!(got.as_deref(), Some(value.as_bytes()), "of task {task}");
                }
                pause::pace(Duration::from_micros(dice.roll(1_000))).await;
            }
        });
    }
    let mut dice = Dice::new(99);
    while !tasks.is_empty() {
        let direction = [Direction::Request, Direction::Reply][usize::from(dice.roll(2) == 0)];
        proxy.cut_after(direction, dice.roll(300));
        pause::pace(Duration::from_millis(dice.roll(30))).await;
        while let Some(task) = tasks.try_join_next() {
            task.unwrap();
        }
    }
    assert!(proxy.cuts() > 10, "{} cuts", proxy.cuts());
    heals("the last call", || backend.ready()).await;
    until("one connection is left", || proxy.open() == 1).await;
}
