//! A server that is there and refuses to work now.

use std::thread;
use std::time::Duration;

use tokio::task::JoinSet;
use traffik::{Effect, ErrorKind, Key, Values};

use super::world::{CAPACITY, LONG, heals, patient, refused, refused_by_policy, throttle};
use test_support::servers::{RedisServer, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f14_a_busy_server_refuses_and_its_script_is_not_killed() {
    let server = RedisServer::with(&["--busy-reply-threshold", "50"]);
    let backend = patient().url(server.url()).build().unwrap();
    let throttle = throttle(&backend);
    let _ = throttle.hit("a").await.unwrap();
    let mut other = server.connect().unwrap();
    other.limit(LONG * 3).unwrap();
    let endless = thread::spawn(move || other.command(&[b"EVAL", b"while true do end", b"0"]));
    wait_until("the server is busy", LONG, || {
        server.words(&["GET", "a"]).is_ok_and(|reply| reply.text().starts_with("BUSY"))
    });

    refused_by_policy(&backend, "BUSY").await;
    for _ in 0..20 {
        let _ = refused(&throttle, "BUSY").await;
    }
    assert!(!endless.is_finished(), "its script goes on");
    server.cmd("SCRIPT KILL");
    assert!(endless.join().unwrap().unwrap().is_error());
    assert_eq!(heals(&throttle).await.remaining(), CAPACITY - 2, "no refused hit was counted");
    assert_eq!(server.calls("script|kill"), 1, "only this test's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_too_few_replicas() {
    let server = RedisServer::start();
    let backend = patient().url(server.url()).build().unwrap();
    let throttle = throttle(&backend);
    let _ = throttle.hit("a").await.unwrap();
    server.cmd("CONFIG SET min-replicas-to-write 1");
    refused_by_policy(&backend, "NOREPLICAS").await;
    server.cmd("CONFIG SET min-replicas-to-write 0");
    assert_eq!(heals(&throttle).await.remaining(), CAPACITY - 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_a_server_that_cannot_save() {
    let server = RedisServer::start();
    let backend = patient().url(server.url()).build().unwrap();
    let throttle = throttle(&backend);
    let _ = throttle.hit("a").await.unwrap();
    // A file cannot take the place of a directory.
    std::fs::create_dir(server.dir().join("dump.rdb")).unwrap();
    server.words(&["CONFIG", "SET", "save", "3600 1"]).unwrap();
    server.cmd("BGSAVE");
    wait_until("it cannot save", LONG, || {
        server.cmd("INFO persistence").field("rdb_last_bgsave_status").as_deref() == Some("err")
    });
    refused_by_policy(&backend, "MISCONF").await;
    server.cmd("CONFIG SET stop-writes-on-bgsave-error no");
    assert_eq!(heals(&throttle).await.remaining(), CAPACITY - 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_too_many_clients() {
    let server = RedisServer::start();
    let mut operator = server.connect().unwrap();
    operator.cmd("CONFIG SET maxclients 1").unwrap();
    let backend = patient().url(server.url()).build().unwrap();
    let throttle = throttle(&backend);
    // The server closes the connection with its words unread, which are lost by that or not. So the
    // error's text may be of either; that the server refused it, it counts.
    refused_by_policy(&backend, "redis: apply: ").await;
    let stats = operator.cmd("INFO stats").unwrap();
    let rejected: u64 = stats.field("rejected_connections").unwrap().parse().unwrap();
    assert!(rejected > 0, "{rejected} connections rejected");
    operator.cmd("CONFIG SET maxclients 100").unwrap();
    let _ = heals(&throttle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_a_connection_that_an_operator_kills_is_replaced() {
    let server = RedisServer::start();
    let backend = patient().url(server.url()).build().unwrap();
    let throttle = throttle(&backend);
    let _ = throttle.hit("a").await.unwrap();
    for _ in 0..10 {
        server.cmd("CLIENT KILL TYPE normal");
        let _ = heals(&throttle).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_single_url_of_a_cluster_says_what_to_use() {
    let cluster = test_support::servers::RedisCluster::start(3, 0);
    let backend = patient().url(&cluster.urls()[0]).build().unwrap();
    let throttle = throttle(&backend);
    let mut refusals = 0;
    for number in 0..30 {
        if let Err(error) = throttle.hit(format!("k{number}")).await {
            let text = error.to_string();
            assert!(text.contains("cluster(...)"), "{text}");
            let error = super::world::backend_error::<()>(Err(error));
            assert_eq!(error.effect(), Effect::NotApplied);
            assert_ne!(error.kind(), ErrorKind::Other);
            refusals += 1;
        }
    }
    assert!(refusals > 0, "some keys are on other nodes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f21_a_thousand_tasks_for_one_place_before_a_silent_server_wait_for_a_bounded_time() {
    const TASKS: usize = 1000;
    let call = Duration::from_millis(300);
    let server = RedisServer::start();
    let builder = patient().url(server.url()).max_in_flight(1).command_timeout(call);
    let backend = builder.build().unwrap();
    let key = Key::value("a");
    backend.set(&key, b"1", None).await.unwrap();
    server.pause();
    let start = test_support::servers::wait::now();
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let backend = backend.clone();
        tasks.spawn(async move { backend.get(&Key::value("a")).await });
    }
    let results = tasks.join_all().await;
    let took = start.elapsed();
    assert!(took < call * 10, "a bounded wait: {took:?}");
    let errors: Vec<_> = results.into_iter().map(|result| result.unwrap_err()).collect();
    let overloaded = errors.iter().filter(|error| error.kind() == ErrorKind::Overloaded);
    let overloaded: Vec<_> = overloaded.map(|error| error.effect()).collect();
    assert!(overloaded.len() > 900, "{} of {TASKS}", overloaded.len());
    assert!(overloaded.iter().all(|effect| *effect == Effect::NotApplied), "nothing was sent");
    server.resume();
    let heals = || async { backend.get(&key).await };
    let healed = test_support::servers::wait::heals("a call", LONG, heals).await;
    assert_eq!(healed.as_deref(), Some(&b"1"[..]));
}

/// On one thread, a loop over an answer that comes at once must let the others go on.
#[tokio::test]
async fn f21_who_is_overloaded_lets_others_run() {
    const ENOUGH: u32 = 3;
    let server = RedisServer::start();
    let backend = patient().url(server.url()).max_in_flight(1).build().unwrap();
    let key = Key::value("a");
    backend.set(&key, b"1", None).await.unwrap();
    server.pause();
    let waiting = tokio::spawn({
        let backend = backend.clone();
        async move { backend.get(&Key::value("a")).await }
    });
    let start = test_support::servers::wait::now();
    let (mut refused, mut tried) = (0, 0);
    // On this one thread it runs now, until it waits for the server.
    tokio::task::yield_now().await;
    // Until the call that waits has its answer.
    while !waiting.is_finished() {
        tried += 1;
        if let Err(error) = backend.get(&key).await {
            assert_eq!(error.kind(), ErrorKind::Overloaded, "{error}");
            refused += 1;
            if refused == ENOUGH {
                server.resume();
            }
        }
        assert!(start.elapsed() < LONG, "nobody else runs");
    }
    assert!(refused >= ENOUGH, "{tried} tries");
    let _ = waiting.await.unwrap().unwrap();
}
