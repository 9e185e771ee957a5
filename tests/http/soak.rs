//! Many clients at once, of which some go away in the middle, and a store that fails under them.
//!
//! `TRAFFIK_SOAK=1` runs the long forms: `scripts/test --soak`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request, StatusCode};
use test_support::servers::RedisServer;
use test_support::servers::wait::{eventually, now};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;
use tower::ServiceBuilder;
use traffik::http::{Charge, Everyone, PeerAddr, Rule, ThrottleLayer, serve};
use traffik::{Redis, Throttle};

use crate::servers::axum::served;
use crate::servers::plain_client::Client;
use crate::support::{backend, field, throttle};

const CLIENTS: u8 = 16;

/// How long a request may take before the test ends; none should come near.
const HANGS: Duration = Duration::from_secs(30);

fn soak_time() -> Option<Duration> {
    std::env::var_os("TRAFFIK_SOAK").map(|_| Duration::from_secs(60))
}

/// What one client saw.
#[derive(Debug, Default)]
struct Seen {
    served: u32,
    failed: u32,
    /// Requests that it did not wait for.
    left: u32,
}

/// A client that asks for all kinds of responses, and leaves some of them before they have ended.
async fn impatient(server: SocketAddr, number: u8, is_over: impl Fn(u32) -> bool) -> Seen {
    const PATHS: [&str; 4] = ["/served", "/failed", "/long", "/broken"];
    let from = [127, 0, 0, 2 + number];
    let connect = async || match number.is_multiple_of(2) {
        true => Client::http1(server, from).await,
        false => Client::http2(server, from).await,
    };
    let mut seen = Seen::default();
    let mut client = connect().await;
    let mut turn = u32::from(number);
    while !is_over(turn) {
        turn += 1;
        let path = PATHS[turn as usize % PATHS.len()];
        let patience = turn.wrapping_mul(7919) % 61;
        let leaves = turn.is_multiple_of(8) || path == "/broken";
        let goes_away = async {
            if !leaves {
                std::future::pending::<()>().await;
            }
            for _ in 0..patience {
                yield_now().await;
            }
        };
        let response = tokio::select! {
            response = timeout(HANGS, client.ask(Method::GET, path, &[])) => Some(response.unwrap()),
            () = goes_away => None,
        };
        match response {
            Some(Ok(response)) if response.status() == StatusCode::OK => seen.served += 1,
            Some(Ok(response)) => {
                assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
                seen.failed += 1;
            }
            // The body broke, or nobody waited for it.
            Some(Err(_)) | None => {
                assert!(leaves, "{path} was not served");
                seen.left += 1;
                client = connect().await;
            }
        }
    }
    seen
}

/// Counts the requests that come by.
fn counting(count: &Arc<AtomicU32>) -> impl Fn(Request<Body>) -> Request<Body> + Clone + use<> {
    let count = Arc::clone(count);
    move |request| {
        count.fetch_add(1, Ordering::Relaxed);
        request
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_unit_is_accounted_for_though_clients_go_away() {
    const UNITS: u32 = 1_000_000_000;
    let (backend, _clock) = backend();
    let of = |name| throttle(name, "1000000000/h", &backend);
    let (requests, failures, known) = (of("requests"), of("failures"), of("known failures"));
    let layer = ThrottleLayer::of_rules([
        Rule::new(requests.clone(), Everyone),
        Rule::new(failures.clone(), Everyone).charge(Charge::failures()),
        Rule::new(known.clone(), Everyone).charge(Charge::failures().refund_unknown()),
    ]);
    let reached = Arc::default();
    let long = async || {
        Body::from_stream(stream::iter(0..32).then(async |_| {
            yield_now().await;
            Ok::<_, Infallible>(Bytes::from_static(&[7; 1024]))
        }))
    };
    let broken = async || Body::from_stream(stream::iter([Err::<Bytes, _>("broken")]));
    let app = Router::new()
        .route("/served", get(async || "served"))
        .route("/failed", get(async || StatusCode::INTERNAL_SERVER_ERROR))
        .route("/long", get(long))
        .route("/broken", get(broken))
        .layer(ServiceBuilder::new().layer(layer).map_request(counting(&reached)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) });
    let serving = tokio::spawn(serving.into_future());

    let start = now();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let is_over = move |turn| match soak_time() {
            Some(time) => start.elapsed() > time,
            None => turn > 400,
        };
        clients.spawn(impatient(server, number, is_over));
    }
    let all: Vec<Seen> = clients.join_all().await;
    for seen in &all {
        assert!(seen.served > 0 && seen.failed > 0 && seen.left > 0, "{seen:?}");
    }
    stop.send(()).unwrap();
    // All connections have ended with it, so what was under way is settled.
    timeout(HANGS, serving).await.unwrap().unwrap().unwrap();

    let sum = |of: fn(&Seen) -> u32| all.iter().map(of).sum::<u32>();
    let (served, failed, left) = (sum(|it| it.served), sum(|it| it.failed), sum(|it| it.left));
    let used =
        async |throttle: &Throttle| UNITS - throttle.peek(Everyone).await.unwrap().remaining();
    let used = [used(&requests).await, used(&failures).await, used(&known).await];
    println!("served {served}, failed {failed}, left {left}; used {used:?}");
    assert_eq!(used[0], reached.load(Ordering::Relaxed), "each that passed is counted");
    assert!((served + failed..=served + failed + left).contains(&used[0]));
    // Who went away had one that failed, one that did not, or one of which nobody knows.
    assert!((failed..=failed + left).contains(&used[1]));
    assert!((failed..=used[1]).contains(&used[2]), "what is unknown costs nothing there");
    assert!(used[2] < used[1], "some were unknown");
}

/// Asks until it is told to stop, and counts what it is answered.
async fn patient(server: SocketAddr, number: u8, seen: Arc<[AtomicU32; 2]>) {
    let mut client = Client::http1(server, [127, 0, 0, 2 + number]).await;
    loop {
        let response = timeout(HANGS, client.get("/", &[])).await.unwrap();
        let wait = field(response.headers(), "retry-after");
        match response.status() {
            StatusCode::OK => {
                assert_eq!(wait, None);
                seen[0].fetch_add(1, Ordering::Relaxed);
            }
            status => {
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
                assert_eq!(wait.as_deref(), Some("1"));
                seen[1].fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Waits until each client has been answered once more.
async fn each_is_answered(what: &str, clients: &[Arc<[AtomicU32; 2]>], answer: usize) {
    let read = |seen: &Arc<[AtomicU32; 2]>| seen[answer].load(Ordering::Relaxed);
    let before: Vec<_> = clients.iter().map(read).collect();
    let all = async || clients.iter().zip(&before).all(|(seen, before)| read(seen) > *before + 1);
    eventually(what, HANGS, all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_client_is_answered_while_the_store_is_silent_or_dead() {
    const SERVED: usize = 0;
    const REFUSED: usize = 1;
    let mut store = RedisServer::start();
    let backend = Redis::new(store.url()).unwrap();
    let throttle = Throttle::builder("api").rate("1000000/s").backend(backend);
    let throttle = throttle.deadline(Duration::from_millis(200)).build().unwrap();
    let layer = ThrottleLayer::new(throttle, PeerAddr::new());
    let server = served(Router::new().route("/", get(async || "served")).layer(layer)).await;
    // From the first request on.
    store.pause();
    let clients: Vec<Arc<[AtomicU32; 2]>> = (0..CLIENTS).map(|_| Arc::default()).collect();
    let mut load = JoinSet::new();
    for (number, seen) in (0..CLIENTS).zip(&clients) {
        load.spawn(patient(server, number, Arc::clone(seen)));
    }
    let start = now();
    loop {
        each_is_answered("a silent store", &clients, REFUSED).await;
        store.resume();
        each_is_answered("it speaks again", &clients, SERVED).await;
        store.kill();
        each_is_answered("a dead store", &clients, REFUSED).await;
        store.restart();
        each_is_answered("it lives again", &clients, SERVED).await;
        if soak_time().is_none_or(|time| start.elapsed() > time) {
            break;
        }
        store.pause();
    }
    assert!(load.try_join_next().is_none(), "every client goes on");
    let seen: Vec<_> =
        clients.iter().map(|it| [0, 1].map(|answer| it[answer].load(Ordering::Relaxed))).collect();
    println!("served and refused of each client: {seen:?}");
}
