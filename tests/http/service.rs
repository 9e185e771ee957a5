//! The service: who is served, what reaches the inner service, and what it is built of.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use traffik::http::{
    Charge, Decisions, DecisionsIn, Everyone, Mode, ModeSwitch, PeerAddr, Rule, ThrottleLayer,
    ThrottleService,
};
use traffik::{Backend, Outcome, Throttle};

use test_support::{Failing, Mode as Failure};

use crate::support::{SECOND, backend, builder, field, read, request, throttle};

/// A service that counts its requests.
fn counting(
    served: &Arc<AtomicUsize>,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future: Send,
> + Clone {
    let served = Arc::clone(served);
    service_fn(move |_request| {
        let served = Arc::clone(&served);
        async move {
            served.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(Response::new(Full::from("served")))
        }
    })
}

#[tokio::test]
async fn a_denied_request_never_reaches_the_inner_service() {
    let (backend, clock) = backend();
    let layer = ThrottleLayer::new(throttle("api", "2/s", &backend), PeerAddr::new());
    let served = Arc::default();
    let service = layer.layer(counting(&served));
    for (status, left) in [(200, "1"), (200, "0"), (429, "0"), (429, "0")] {
        let response = service.clone().oneshot(request("/", "203.0.113.1")).await.unwrap();
        assert_eq!(response.status(), status);
        let said = field(response.headers(), "ratelimit").unwrap();
        assert!(said.contains(&format!("\"api/s\";r={left}")), "{said}");
    }
    assert_eq!(served.load(Ordering::Relaxed), 2);
    let other = service.clone().oneshot(request("/", "203.0.113.2")).await.unwrap();
    assert_eq!(other.status(), StatusCode::OK, "another client");
    clock.advance(SECOND);
    let response = service.oneshot(request("/", "203.0.113.1")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn clones_and_routes_share_what_is_counted() {
    let (backend, _clock) = backend();
    let layer = ThrottleLayer::new(throttle("api", "2/min", &backend), PeerAddr::new());
    let app: Router = Router::new()
        .route("/a", get(async || "a").layer(layer.clone()))
        .route("/b", get(async || "b"))
        .route_layer(layer.clone())
        .route("/free", get(async || "free"));
    let status = async |path: &str| {
        let request = request(path, "203.0.113.1").map(axum::body::Body::new);
        app.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    // The first takes two, one for each layer.
    assert_eq!([status("/a").await, status("/b").await, status("/free").await], [200, 429, 200]);
}

#[tokio::test]
async fn it_is_ready_when_the_inner_service_is() {
    #[derive(Clone)]
    struct Busy(bool);
    impl Service<Request<Full<Bytes>>> for Busy {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            if self.0 { Poll::Pending } else { Poll::Ready(Ok(())) }
        }

        fn call(&mut self, _request: Request<Full<Bytes>>) -> Self::Future {
            std::future::ready(Ok(Response::default()))
        }
    }
    let (backend, _clock) = backend();
    let layer = ThrottleLayer::new(throttle("api", "0/s", &backend), Everyone);
    let cx = &mut Context::from_waker(std::task::Waker::noop());
    assert!(layer.layer(Busy(true)).poll_ready(cx).is_pending());
    assert!(layer.layer(Busy(false)).poll_ready(cx).is_ready(), "though its throttle denies all");
}

#[tokio::test]
async fn a_store_that_has_to_be_awaited_is_awaited() {
    let (backend, _clock) = backend();
    // It has no fast path.
    let remote: Arc<dyn Backend> = Arc::new(Failing::around(backend, Failure::Slow));
    let throttle = Throttle::builder("api").rate("1/min").backend(remote).build().unwrap();
    let served = Arc::default();
    let service = ThrottleLayer::new(throttle, PeerAddr::new()).layer(counting(&served));
    for status in [200, 429] {
        let response = service.clone().oneshot(request("/", "203.0.113.1")).await.unwrap();
        assert_eq!(response.status(), status);
    }
    assert_eq!(served.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn decisions_are_in_the_request_and_in_the_response() {
    let (backend, _clock) = backend();
    let outer = ThrottleLayer::new(throttle("outer", "5/min", &backend), Everyone);
    let inner = ThrottleLayer::new(throttle("inner", "1/min", &backend), PeerAddr::new());
    let service = ServiceBuilder::new().layer(outer).layer(inner).service(service_fn(
        async |request: Request<Full<Bytes>>| {
            let decisions = request.extensions().get::<Decisions>().unwrap();
            let names: Vec<_> = decisions.iter().map(|one| one.throttle().name()).collect();
            let left = decisions.of_throttle("outer").unwrap().remaining();
            Ok::<_, Infallible>(Response::new(Full::from(format!("{} {left}", names.join(" ")))))
        },
    ));
    let response = service.clone().oneshot(request("/", "203.0.113.1")).await.unwrap();
    let decisions = response.extensions().get::<Decisions>().unwrap().clone();
    assert_eq!(decisions.iter().len(), 2);
    assert_eq!(decisions.outcome(), Outcome::Allowed);
    assert_eq!(decisions.narrowest().unwrap().throttle().name(), "inner");
    assert_eq!(read(response).await.body(), "outer inner 4");

    let denied = service.oneshot(request("/", "203.0.113.1")).await.unwrap();
    let decisions = denied.extensions().get::<Decisions>().unwrap();
    assert!(matches!(decisions.outcome(), Outcome::Denied { .. }));
    assert_eq!(decisions.iter().len(), 2, "of the outer one too");
}

#[tokio::test]
async fn decisions_are_only_where_they_are_wanted() {
    let (backend, _clock) = backend();
    for (place, [in_request, in_response]) in [
        (DecisionsIn::Both, [true, true]),
        (DecisionsIn::Request, [true, false]),
        (DecisionsIn::Neither, [false, false]),
    ] {
        let throttle = throttle(&format!("{place:?}"), "1/min", &backend);
        let layer = ThrottleLayer::new(throttle, PeerAddr::new()).decisions_in(place);
        let service = layer.layer(service_fn(move |request: Request<Full<Bytes>>| {
            assert_eq!(request.extensions().get::<Decisions>().is_some(), in_request);
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
        }));
        for status in [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS] {
            let response = service.clone().oneshot(request("/", "203.0.113.1")).await.unwrap();
            assert_eq!(response.status(), status);
            assert_eq!(response.extensions().get::<Decisions>().is_some(), in_response);
            assert!(response.headers().contains_key("ratelimit"), "the fields are there");
        }
    }
}

#[tokio::test]
async fn nested_layers_append_their_fields() {
    let (backend, _clock) = backend();
    let outer = ThrottleLayer::new(throttle("outer", "5/min", &backend), Everyone);
    let inner = ThrottleLayer::new(throttle("inner", "1/min", &backend), PeerAddr::new());
    let served = Arc::default();
    let service = ServiceBuilder::new().layer(outer).layer(inner).service(counting(&served));
    for status in [200, 429] {
        let response = service.clone().oneshot(request("/", "203.0.113.1")).await.unwrap();
        assert_eq!(response.status(), status);
        let policy = field(response.headers(), "ratelimit-policy").unwrap();
        assert_eq!(policy, "\"inner/min\";q=1;w=60, \"outer/min\";q=5;w=60");
    }
}

#[tokio::test]
async fn a_shadow_asks_and_serves_and_off_asks_nobody() {
    let (backend, _clock) = backend();
    let api = throttle("api", "1/min", &backend);
    let switch = ModeSwitch::new(Mode::Shadow);
    let told = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&told);
    let layer =
        ThrottleLayer::new(api.clone(), PeerAddr::new()).mode(&switch).on_denied(move |_denied| {
            counter.fetch_add(1, Ordering::Relaxed);
        });
    let served = Arc::default();
    let service = layer.layer(counting(&served));
    for _ in 0..3 {
        let response = service.clone().oneshot(request("/", "203.0.113.1")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(field(response.headers(), "ratelimit"), None);
        assert_eq!(field(response.headers(), "retry-after"), None);
    }
    assert_eq!(told.load(Ordering::Relaxed), 2);
    switch.set(Mode::Off);
    let response = service.clone().oneshot(request("/", "203.0.113.2")).await.unwrap();
    assert!(response.extensions().get::<Decisions>().is_none());
    let extracting = layer.layer(service_fn(async |request: Request<Full<Bytes>>| {
        let decisions = request.extensions().get::<Decisions>().unwrap();
        assert_eq!((decisions.iter().len(), decisions.outcome()), (0, Outcome::Allowed));
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    extracting.oneshot(request("/", "203.0.113.2")).await.unwrap();
    assert_eq!(api.peek(std::net::Ipv4Addr::new(203, 0, 113, 2)).await.unwrap().remaining(), 1);
    switch.set(Mode::Enforce);
    let response = service.oneshot(request("/", "203.0.113.1")).await.unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn a_shadow_serves_whom_nobody_knows() {
    let (backend, _clock) = backend();
    let layer = ThrottleLayer::new(throttle("api", "1/min", &backend), PeerAddr::new())
        .mode(&ModeSwitch::new(Mode::Shadow));
    let served = Arc::default();
    let mut nameless = request("/", "203.0.113.1");
    nameless.extensions_mut().clear();
    let response = layer.layer(counting(&served)).oneshot(nameless).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_throttle_with_a_penalty_or_options_decides_alike() {
    let (backend, clock) = backend();
    let penalty = traffik::Penalty::block_for(SECOND * 60).after(2).within(SECOND * 10);
    let strict = builder("strict", "1/s", &backend).penalty(penalty).build().unwrap();
    let served = Arc::default();
    let service = ThrottleLayer::new(strict, PeerAddr::new()).layer(counting(&served));
    let status = async || {
        let response = service.clone().oneshot(request("/", "203.0.113.1")).await.unwrap();
        (response.status().as_u16(), field(response.headers(), "retry-after"))
    };
    assert_eq!(status().await, (200, None));
    assert_eq!(status().await, (429, Some("1".into())));
    assert_eq!(status().await.0, 429);
    clock.advance(SECOND * 2);
    assert_eq!(status().await, (429, Some("58".into())), "blocked");
}

/// Without a runtime no task can be spawned, nor time be measured.
#[test]
fn in_memory_a_request_needs_no_runtime() {
    let (backend, _clock) = backend();
    let rule = |name| Rule::new(throttle(name, "1/min", &backend), PeerAddr::new());
    for layer in [
        ThrottleLayer::of_rules([rule("one")]),
        ThrottleLayer::of_rules([rule("two"), rule("three")]),
        ThrottleLayer::of_rules([rule("four").cost(|_| 1).charge(Charge::failures())]),
    ] {
        let served = Arc::default();
        let service = layer.layer(counting(&served));
        for status in [200, 429] {
            let mut response = pin!(service.clone().oneshot(request("/", "203.0.113.1")));
            let cx = &mut Context::from_waker(std::task::Waker::noop());
            let Poll::Ready(response) = response.as_mut().poll(cx) else { panic!("at once") };
            assert_eq!(response.unwrap().status(), status);
        }
    }
}

/// What the docs promise of the types.
#[test]
fn the_service_and_its_future_can_be_sent() {
    fn is_send<T: Send>() {}
    fn is_clone<T: Clone + Send + Sync>() {}
    type Inner =
        tower::util::BoxCloneService<Request<Full<Bytes>>, Response<Full<Bytes>>, Infallible>;
    is_clone::<ThrottleLayer>();
    is_send::<ThrottleService<Inner>>();
    is_send::<<ThrottleService<Inner> as Service<Request<Full<Bytes>>>>::Future>();
    is_send::<traffik::http::ResponseBody<Full<Bytes>>>();
}
