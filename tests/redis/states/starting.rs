//! A server that is loading its data.

use std::time::Duration;

use traffik::{Backend, ErrorKind};

use super::world::{CAPACITY, LONG, heals, patient, refused_by_policy, throttle};
use test_support::servers::{RedisServer, wait_until};

/// A server that needs minutes to load its data, until it is told to hurry.
fn loading() -> RedisServer {
    let mut server = RedisServer::with(&[
        "--key-load-delay",
        "1000",
        "--loading-process-events-interval-bytes",
        "1024",
    ]);
    let fill = b"for i = 1, 200000 do redis.call('SET', 'filler' .. i, 'x') end";
    assert!(!server.command(&[b"EVAL", fill, b"0"]).unwrap().is_error());
    server.cmd("SAVE");
    server.kill();
    server.start_again_without_wait();
    wait_until("the server is loading", LONG, || {
        server.words(&["GET", "a"]).is_ok_and(|reply| reply.text().starts_with("LOADING"))
    });
    server
}

fn hurry(server: &RedisServer) {
    server.cmd("CONFIG SET key-load-delay 0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f13_hits_on_a_loading_server_are_refused_and_initialize_waits() {
    let server = loading();
    let backend = patient().initialize_timeout(LONG).url(server.url()).build().unwrap();
    refused_by_policy(&backend, "loading the dataset").await;
    let waiting = tokio::spawn({
        let backend = backend.clone();
        async move { backend.initialize().await }
    });
    refused_by_policy(&backend, "loading the dataset").await;
    assert!(!waiting.is_finished(), "it waits");
    hurry(&server);
    waiting.await.unwrap().unwrap();
    assert_eq!(heals(&throttle(&backend)).await.remaining(), CAPACITY - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f13_initialize_fails_clearly_when_its_time_is_over() {
    let server = loading();
    // Long enough for one answer of a server that reads them only now and then while it loads.
    let time = Duration::from_secs(3);
    let backend = patient().initialize_timeout(time).url(server.url()).build().unwrap();
    let error = backend.initialize().await.unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Unavailable, "initialize"));
    let text = error.to_string();
    for part in [format!("127.0.0.1:{}", server.port()).as_str(), "3s", "loading the dataset"] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    hurry(&server);
    let _ = heals(&throttle(&backend)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f13_initialize_waits_for_a_server_that_starts_later() {
    let mut server = RedisServer::start();
    server.kill();
    let backend = patient().initialize_timeout(LONG).url(server.url()).build().unwrap();
    let waiting = tokio::spawn({
        let backend = backend.clone();
        async move { backend.initialize().await }
    });
    let _ = super::world::refused(&throttle(&backend), "onnection refused").await;
    assert!(!waiting.is_finished(), "it waits");
    server.restart();
    waiting.await.unwrap().unwrap();
}
