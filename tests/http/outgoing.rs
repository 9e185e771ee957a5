//! Outgoing requests: they wait for their turn, and heed what the remote says; on a paused clock.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use test_support::RuntimeClock;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};
use traffik::http::{AcquireError, AcquireLayer, Identified, Identity, RemoteHost};
use traffik::key::{KeyPart, KeyParts};
use traffik::{Denial, Error, InMemory, Mode, Throttle};

use crate::support::SECOND;

type Sent = Arc<Mutex<Vec<Instant>>>;

fn throttle(rate: &str) -> Throttle {
    Throttle::builder("outgoing").rate(rate).backend(RuntimeClock::memory()).build().unwrap()
}

/// A remote that notes when requests come, and answers the first of them by that.
fn remote(
    sent: &Sent,
    first: (u16, &'static str, &'static str),
) -> impl Service<
    Request<Empty<Bytes>>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ 'static {
    let sent = Arc::clone(sent);
    service_fn(move |_request| {
        let mut sent = sent.lock().unwrap();
        sent.push(Instant::now());
        let (status, name, value) = if sent.len() == 1 { first } else { (200, "x-none", "") };
        let response = Response::builder().status(status).header(name, value);
        std::future::ready(Ok(response.body(Full::default()).unwrap()))
    })
}

fn to(host: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://{host}/")).body(Empty::new()).unwrap()
}

fn seconds(sent: &Sent) -> Vec<f64> {
    let sent = sent.lock().unwrap();
    let since = |at: &Instant| (at.duration_since(sent[0]).as_secs_f64() * 100.0).round() / 100.0;
    sent.iter().map(since).collect()
}

#[tokio::test(start_paused = true)]
async fn requests_leave_no_faster_than_the_rate_of_their_host() {
    let sent = Sent::default();
    let layer = AcquireLayer::new(throttle("2/s burst 1"), RemoteHost);
    let client = layer.layer(remote(&sent, (200, "x-none", "")));
    for host in ["a.example", "A.example", "user:pass@a.example", "b.example", "a.example"] {
        client.clone().oneshot(to(host)).await.unwrap();
    }
    assert_eq!(seconds(&sent), [0.0, 0.5, 1.0, 1.0, 1.5]);
}

#[tokio::test(start_paused = true)]
async fn what_the_remote_says_holds_back_its_own_requests() {
    for (first, wait) in [
        ((429, "retry-after", "7"), 7.0),
        ((503, "retry-after", "3"), 3.0),
        ((429, "x-none", ""), 1.0),
        ((200, "ratelimit", "\"a\";r=0;t=4"), 4.0),
        ((200, "retry-after", "7"), 0.01),
    ] {
        let sent = Sent::default();
        let layer = AcquireLayer::new(throttle("100/s burst 1"), RemoteHost);
        let client = layer.layer(remote(&sent, first));
        let answer = client.clone().oneshot(to("a.example")).await.unwrap();
        assert_eq!(answer.status(), first.0, "the response is handed on");
        client.clone().oneshot(to("b.example")).await.unwrap();
        client.clone().oneshot(to("a.example")).await.unwrap();
        assert_eq!(seconds(&sent), [0.0, 0.0, wait], "{first:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_already_are_held_back_too() {
    let sent = Sent::default();
    let layer = AcquireLayer::new(throttle("10/s burst 1"), RemoteHost);
    let client = layer.layer(remote(&sent, (429, "retry-after", "60")));
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let client = client.clone();
        all.spawn(async move { client.oneshot(to("a.example")).await.unwrap().status() });
    }
    let statuses = all.join_all().await;
    assert_eq!(statuses.iter().filter(|status| status.is_success()).count(), 19);
    let at = seconds(&sent);
    assert_eq!((at.len(), at[0]), (20, 0.0));
    assert!(at[1] >= 60.0, "none in the time that the remote asked for: {at:?}");
    let gaps: Vec<_> = at[1..].windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| *gap > 0.09), "and no faster than the rate after it: {at:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_holds_nothing_of_the_inner_service() {
    let sent = Sent::default();
    let inner = tower::limit::ConcurrencyLimit::new(remote(&sent, (429, "retry-after", "60")), 1);
    let client = AcquireLayer::new(throttle("10/s burst 1"), RemoteHost).layer(inner);
    client.clone().oneshot(to("a.example")).await.unwrap();
    let waiting = tokio::spawn(client.clone().oneshot(to("a.example")));
    client.clone().oneshot(to("b.example")).await.unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(seconds(&sent), [0.0, 0.0, 60.0]);
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_before_it_is_sent_gives_its_turn_back() {
    let throttle = throttle("5/min");
    // Never ready, as a client without a connection.
    let sent = Sent::default();
    let inner = tower::limit::ConcurrencyLimit::new(remote(&sent, (200, "x-none", "")), 0);
    let client = AcquireLayer::new(throttle.clone(), RemoteHost).layer(inner);
    let mut waiting = Box::pin(client.oneshot(to("a.example")));
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    assert_eq!(throttle.peek("a.example").await.unwrap().remaining(), 4);
    drop(waiting);
    assert_eq!(throttle.peek("a.example").await.unwrap().remaining(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_wait_beyond_the_timeout_is_an_error_at_once() {
    let sent = Sent::default();
    let layer = AcquireLayer::new(throttle("100/s burst 1"), RemoteHost).timeout(SECOND * 5);
    let client = layer.layer(remote(&sent, (429, "retry-after", "7")));
    client.clone().oneshot(to("a.example")).await.unwrap();
    let start = Instant::now();
    let refused = client.clone().oneshot(to("a.example")).await.unwrap_err();
    let AcquireError::Throttle(Error::Denied(denied)) = refused else { panic!("{refused:?}") };
    assert_eq!(denied.denial(), Some(Denial::Blocked));
    assert_eq!(start.elapsed(), Duration::ZERO);
    tokio::time::advance(SECOND * 3).await;
    client.oneshot(to("a.example")).await.unwrap();
    assert_eq!(seconds(&sent), [0.0, 7.0]);
}

#[tokio::test(start_paused = true)]
async fn a_remote_cannot_hold_back_for_longer_than_it_may() {
    for (longest, expected) in [(SECOND * 10, 10.0), (Duration::ZERO, 0.01)] {
        let sent = Sent::default();
        let layer = AcquireLayer::new(throttle("100/s burst 1"), RemoteHost).longest_block(longest);
        let client = layer.layer(remote(&sent, (429, "retry-after", "99999999999999999999")));
        for _ in 0..2 {
            client.clone().oneshot(to("a.example")).await.unwrap();
        }
        assert_eq!(seconds(&sent), [0.0, expected]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_later_and_shorter_word_does_not_shorten_the_block() {
    let throttle = throttle("100/s burst 10");
    let layer = AcquireLayer::new(throttle.clone(), RemoteHost);
    let answers = Arc::new(Mutex::new(vec!["5", "60"]));
    let both = Arc::new(tokio::sync::Barrier::new(2));
    let client = layer.layer(service_fn(move |_request: Request<Empty<Bytes>>| {
        let wait = answers.lock().unwrap().pop().unwrap();
        let both = Arc::clone(&both);
        async move {
            // Both are under way at the same time, and answered one after the other.
            both.wait().await;
            tokio::time::sleep(if wait == "5" { SECOND } else { Duration::ZERO }).await;
            let response = Response::builder().status(429).header("retry-after", wait);
            Ok::<_, Infallible>(response.body(Full::<Bytes>::default()).unwrap())
        }
    }));
    let (one, other) = tokio::join!(
        client.clone().oneshot(to("a.example")),
        client.clone().oneshot(to("a.example"))
    );
    assert_eq!(one.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(other.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
    let wait = throttle.peek("a.example").await.unwrap().outcome();
    assert_eq!(wait, traffik::Outcome::Denied { retry_after: SECOND * 59 });
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_host_is_not_sent() {
    let sent = Sent::default();
    let client = AcquireLayer::new(throttle("1/s"), RemoteHost);
    let client = client.layer(remote(&sent, (200, "x-none", "")));
    let refused = client.oneshot(Request::get("/path").body(Empty::new()).unwrap()).await;
    let error = refused.unwrap_err();
    assert_eq!(error.to_string(), "the URI of the request has no host");
    assert!(sent.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_client_is_handed_on_and_costs_its_turn() {
    let throttle = throttle("5/min");
    let layer = AcquireLayer::new(throttle.clone(), RemoteHost).cost(|_request| 2);
    let client = layer.layer(service_fn(async |_request: Request<Empty<Bytes>>| {
        Err::<Response<Full<Bytes>>, _>(std::io::Error::other("refused"))
    }));
    let error = client.oneshot(to("a.example")).await.unwrap_err();
    assert!(matches!(&error, AcquireError::Inner(error) if error.to_string() == "refused"));
    assert_eq!(throttle.peek("a.example").await.unwrap().remaining(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_redirect_another_host_does_not_speak_for_the_first() {
    use axum::http::header::RETRY_AFTER;

    let busy = async || (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "600")]);
    let other = axum::Router::new().route("/", axum::routing::get(busy));
    let other = crate::servers::axum::served(other).await;
    let elsewhere =
        move || async move { axum::response::Redirect::to(&format!("http://{other}/")) };
    let first = axum::Router::new().route("/", axum::routing::get(elsewhere));
    let first = crate::servers::axum::served(first).await;
    let throttle = throttle("5/min");
    let layer = AcquireLayer::new(throttle.clone(), RemoteHost).timeout(SECOND);
    let client = reqwest_middleware::ClientBuilder::new(reqwest_middleware::reqwest::Client::new())
        .with(layer)
        .build();
    let response = client.get(format!("http://{first}/")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(throttle.peek(first.to_string()).await.unwrap().is_allowed(), "it said nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reqwest_waits_and_heeds_by_the_same_layer() {
    use axum::http::header::RETRY_AFTER;

    let app = axum::Router::new().route(
        "/",
        axum::routing::get(async || (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "600")])),
    );
    let address = crate::servers::axum::served(app).await;
    let throttle = throttle("5/min");
    let layer = AcquireLayer::new(throttle.clone(), RemoteHost).timeout(SECOND);
    let client = reqwest_middleware::ClientBuilder::new(reqwest_middleware::reqwest::Client::new())
        .with(layer)
        .build();
    let url = format!("http://{address}/");
    let response = client.get(&url).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    let refused = client.get(&url).send().await.unwrap_err();
    let reqwest_middleware::Error::Middleware(error) = refused else { panic!("{refused:?}") };
    let error = error.downcast_ref::<AcquireError<Infallible>>().unwrap();
    assert!(matches!(error, AcquireError::Throttle(Error::Denied(_))), "{error:?}");
    let decision = throttle.peek(address.to_string()).await.unwrap();
    assert_eq!(decision.denial(), Some(Denial::Blocked));
}

/// A key of so many parts that nobody can be asked about it.
#[derive(Debug)]
struct TooLong;

impl Identity for TooLong {
    fn identify<'r>(&'r self, _: &'r http::request::Parts) -> Identified<'r> {
        Identified::parts(KeyParts::several(&[KeyPart::bytes(b"a"); 20]))
    }
}

#[tokio::test]
async fn where_nobody_is_denied_a_request_without_a_usable_key_is_sent() {
    for mode in [Mode::Enforce, Mode::Shadow, Mode::Off] {
        let throttle = Throttle::builder("out").rate("5/h").mode(mode).backend(InMemory::new());
        let throttle = throttle.build().unwrap();
        let service =
            || service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(())) });
        let sent = AcquireLayer::new(throttle.clone(), TooLong).layer(service());
        let is_sent = sent.oneshot(Request::new(())).await.is_ok();
        assert_eq!(is_sent, mode != Mode::Enforce, "{mode:?}");
    }
}
