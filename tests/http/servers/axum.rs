//! An axum server, by [`serve`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use futures_util::poll;
use http::StatusCode;
use test_support::servers::dir::TempDir;
use test_support::servers::{Workers, pause, workers};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use traffik::http::{Decisions, Everyone, PeerAddr, ThrottleLayer, serve, shutdown_signal};
use traffik::{Backend, InMemory, LifespanExt};

use super::plain_client::Client;
use crate::support::{SECOND, backend, field, throttle};

/// Serves in a task until the test ends.
pub(crate) async fn served(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { serve(listener, app).await });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_clients_at_once_see_exactly_what_is_promised() {
    let (backend, clock) = backend();
    let layer = ThrottleLayer::new(throttle("api", "10/s", &backend), Everyone);
    let app = Router::new().route("/", get(async || "served")).layer(layer);
    let address = served(app).await;
    let mut clients = Vec::new();
    for index in 0..20 {
        clients.push(match index % 2 {
            0 => Client::http1(address, [127, 0, 0, 1]).await,
            _ => Client::http2(address, [127, 0, 0, 1]).await,
        });
    }
    for _second in 0..3 {
        let mut requests = JoinSet::new();
        for mut client in clients.drain(..) {
            requests.spawn(async move {
                let mut seen = Vec::new();
                for _ in 0..5 {
                    let response = client.get("/", &[]).await;
                    let said = field(response.headers(), "ratelimit").unwrap();
                    let wait = field(response.headers(), "retry-after");
                    seen.push((response.status(), said, wait));
                }
                (client, seen)
            });
        }
        let mut left = BTreeMap::new();
        let mut denied = 0;
        while let Some(done) = requests.join_next().await {
            let (client, seen) = done.unwrap();
            clients.push(client);
            for (status, said, wait) in seen {
                match status {
                    StatusCode::OK => {
                        assert_eq!(wait, None);
                        *left.entry(said).or_insert(0) += 1;
                    }
                    StatusCode::TOO_MANY_REQUESTS => {
                        assert_eq!(
                            (said.as_str(), wait.as_deref()),
                            ("\"api/s\";r=0;t=1", Some("1"))
                        );
                        denied += 1;
                    }
                    other => panic!("{other}"),
                }
            }
        }
        // Ten pass, and each is told another rest.
        let expected = (0..10).map(|rest| (format!("\"api/s\";r={rest};t=1"), 1)).collect();
        assert_eq!(left, expected);
        assert_eq!(denied, 90);
        clock.advance(SECOND);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_told_apart_by_their_address_over_http_1_and_2() {
    let (backend, _clock) = backend();
    let layer = ThrottleLayer::new(throttle("api", "1/min", &backend), PeerAddr::new());
    let address = served(Router::new().route("/", get(async || "served")).layer(layer)).await;
    for from in [[127, 0, 0, 2], [127, 0, 0, 3]] {
        let mut one = Client::http1(address, from).await;
        let mut two = Client::http2(address, from).await;
        let forged = [("x-forwarded-for", "198.51.100.1")];
        assert_eq!(one.get("/", &[]).await.status(), StatusCode::OK);
        assert_eq!(one.get("/", &forged).await.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(two.get("/", &forged).await.status(), StatusCode::TOO_MANY_REQUESTS);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_alone_and_waits_as_it_is_told_passes() {
    let layer = ThrottleLayer::new(throttle("api", "2/s", &InMemory::new()), PeerAddr::new());
    let address = served(Router::new().route("/", get(async || "served")).layer(layer)).await;
    let mut client = Client::http1(address, [127, 0, 0, 1]).await;
    let mut waits = 0;
    while waits < 2 {
        let response = client.get("/", &[]).await;
        let Some(wait) = field(response.headers(), "retry-after") else { continue };
        waits += 1;
        pause::expires(Duration::from_secs(wait.parse().unwrap())).await;
        assert_eq!(client.get("/", &[]).await.status(), StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_extracts_what_was_decided() {
    let (backend, _clock) = backend();
    let layer = ThrottleLayer::new(throttle("api", "5/min", &backend), PeerAddr::new());
    let app = Router::new()
        .route(
            "/",
            get(async |decisions: Decisions| {
                decisions.of_throttle("api").unwrap().remaining().to_string()
            }),
        )
        .layer(layer)
        .route("/free", get(async |decisions: Option<Decisions>| decisions.is_none().to_string()))
        .route("/wrong", get(async |_decisions: Decisions| "never"));
    let mut client = Client::http1(served(app).await, [127, 0, 0, 1]).await;
    assert_eq!(client.get("/", &[]).await.body(), "4");
    assert_eq!(client.get("/free", &[]).await.body(), "true");
    assert_eq!(client.get("/wrong", &[]).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_ends_with_its_lifespan_when_it_is_told_to() {
    let backend = InMemory::new();
    let throttle = throttle("api", "5/min", &backend);
    let (began, entered) = oneshot::channel();
    let began = std::sync::Arc::new(std::sync::Mutex::new(Some(began)));
    let (let_go, gate) = oneshot::channel::<()>();
    let gate = std::sync::Arc::new(tokio::sync::Mutex::new(Some(gate)));
    let app = Router::new()
        .route(
            "/slow",
            get(move || async move {
                began.lock().unwrap().take().unwrap().send(()).unwrap();
                let gate = gate.lock().await.take().unwrap();
                gate.await.unwrap();
                "finished"
            }),
        )
        .layer(ThrottleLayer::new(throttle.clone(), PeerAddr::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let life = backend.lifespan().await.unwrap();
    let (second, third) = (InMemory::new(), InMemory::new());
    let (others, too) = (second.lifespan().await.unwrap(), third.lifespan().await.unwrap());
    let server = tokio::spawn(async move {
        serve(listener, app)
            .lifespan(others)
            .lifespan(life)
            .lifespan(too)
            .with_graceful_shutdown(async { drop(stopped.await) })
            .await
    });
    let mut client = Client::http1(address, [127, 0, 0, 1]).await;
    let slow = tokio::spawn(async move { client.get("/slow", &[]).await });
    entered.await.unwrap();
    stop.send(()).unwrap();
    assert!(throttle.hit("another").await.is_ok(), "open while a request is under way");
    let_go.send(()).unwrap();
    assert_eq!(slow.await.unwrap().body(), "finished");
    server.await.unwrap().unwrap();
    assert!(throttle.hit("another").await.is_err(), "the lifespan has ended");
    assert!(second.ready().await.is_err() && third.ready().await.is_err(), "and each other");
}

/// A service, and what tells that its handler was entered, once.
fn never_answering() -> (Router, oneshot::Receiver<()>) {
    let (began, entered) = oneshot::channel();
    let began = std::sync::Arc::new(std::sync::Mutex::new(Some(began)));
    let app = Router::new().route(
        "/",
        get(move || async move {
            began.lock().unwrap().take().unwrap().send(()).unwrap();
            std::future::pending::<&str>().await
        }),
    );
    (app, entered)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_never_finishes_is_left_after_the_drain() {
    let backend = InMemory::new();
    let (app, entered) = never_answering();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let life = backend.lifespan().await.unwrap();
    let server = tokio::spawn(async move {
        let server = serve(listener, app).lifespan(life).drain_timeout(Duration::from_millis(10));
        server.with_graceful_shutdown(async { drop(stopped.await) }).await
    });
    let mut client = Client::http1(address, [127, 0, 0, 1]).await;
    let hanging = tokio::spawn(async move { client.get("/", &[]).await });
    entered.await.unwrap();
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
    hanging.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_that_panics_ends_the_server_in_bounded_time_too() {
    let (app, entered) = never_answering();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let server = serve(listener, app).drain_timeout(Duration::from_millis(10));
        server.with_graceful_shutdown(async { panic!("as it was told: {:?}", entered.await) }).await
    });
    let mut client = Client::http1(address, [127, 0, 0, 1]).await;
    let hanging = tokio::spawn(async move { client.get("/", &[]).await });
    let ended = tokio::time::timeout(Duration::from_secs(60), server).await;
    ended.expect("it ends").unwrap().unwrap();
    hanging.abort();
}

#[tokio::test]
#[ignore = "run by another test as a process of its own"]
async fn service() {
    if workers::number().is_none() {
        return;
    }
    let backend = InMemory::builder().snapshot_file(workers::variable("FILE")).build().unwrap();
    let life = backend.lifespan().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut told = Box::pin(shutdown_signal());
    assert!(poll!(&mut told).is_pending(), "it listens");
    workers::say("SERVING");
    let server = serve(listener, Router::new()).lifespan(life);
    server.with_graceful_shutdown(told).await.unwrap();
    workers::report("ended by itself");
}

#[test]
fn a_service_that_is_told_to_end_closes_its_lifespan() {
    let dir = TempDir::new();
    for signal in ["TERM", "INT"] {
        let file = dir.join(signal);
        let envs = [("FILE", file.to_str().unwrap())];
        let mut service = Workers::spawn(1, "servers::axum::service", &envs);
        service.wait_for_line(0, "SERVING");
        assert!(!file.exists());
        service.signal(0, signal);
        assert_eq!(service.results(), ["ended by itself"]);
        assert!(file.exists(), "the snapshot is written at the end of the lifespan");
    }
}
