//! Charges by outcome: what is given back, and what is not when nobody knows.

use std::convert::Infallible;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use futures_util::{StreamExt, poll, stream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tower::{Layer, ServiceExt, service_fn};
use traffik::http::{Charge, Everyone, PeerAddr, Rule, ThrottleLayer};
use traffik::{InMemory, Throttle};

use crate::support::{backend, read, request, throttle};

type AnyBody = BoxBody<Bytes, &'static str>;

fn full(text: &'static str) -> AnyBody {
    Full::from(text).map_err(|error: Infallible| match error {}).boxed()
}

/// A body of these frames, which does not know beforehand where it ends.
fn frames(frames: Vec<Result<Frame<Bytes>, &'static str>>) -> AnyBody {
    BodyExt::boxed(StreamBody::new(stream::iter(frames)))
}

fn data(text: &'static str) -> Result<Frame<Bytes>, &'static str> {
    Ok(Frame::data(Bytes::from(text)))
}

fn grpc(status: &'static str) -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(status))])
}

/// A layer whose throttle has ten units, and the throttle.
fn layer(charge: Charge, backend: &InMemory) -> (ThrottleLayer, Throttle) {
    let throttle = throttle("attempts", "10/min", backend);
    let rule = Rule::new(throttle.clone(), Everyone).charge(charge);
    (ThrottleLayer::of_rules([rule]), throttle)
}

async fn left(throttle: &Throttle) -> u32 {
    throttle.peek(Everyone).await.unwrap().remaining()
}

/// What is left after a response was read to its end.
async fn left_after(charge: Charge, status: u16, body: fn() -> AnyBody) -> u32 {
    let (backend, _clock) = backend();
    let (layer, throttle) = layer(charge, &backend);
    let response = layer.layer(service_fn(move |_request: Request<Full<Bytes>>| {
        let response = Response::builder().status(status).body(body()).unwrap();
        std::future::ready(Ok::<_, Infallible>(response))
    }));
    let mut request = request("/", "::1");
    // Over which a body of any length may have trailers.
    *request.version_mut() = http::Version::HTTP_2;
    let response = response.oneshot(request).await.unwrap();
    let mut body = pin!(response.into_body());
    while let Some(Ok(_frame)) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {}
    left(&throttle).await
}

#[tokio::test]
async fn what_is_charged_is_what_was_said() {
    let not_found = || Charge::when(|response| response.status == StatusCode::NOT_FOUND);
    for (status, all, failures, successes, when) in [
        (200, 9, 10, 9, 10),
        (302, 9, 10, 9, 10),
        (401, 9, 9, 10, 10),
        (404, 9, 9, 10, 9),
        (500, 9, 9, 10, 10),
    ] {
        for body in [|| full("text"), || full(""), || frames(vec![data("a"), data("b")])] {
            assert_eq!(left_after(Charge::all(), status, body).await, all, "{status}");
            assert_eq!(left_after(Charge::failures(), status, body).await, failures, "{status}");
            assert_eq!(left_after(Charge::successes(), status, body).await, successes, "{status}");
            assert_eq!(left_after(not_found(), status, body).await, when, "{status}");
        }
    }
}

#[tokio::test]
async fn a_grpc_status_is_read_from_the_head_and_from_the_trailers() {
    let fails = || frames(vec![data("a"), Ok(Frame::trailers(grpc("16")))]);
    let succeeds = || frames(vec![data("a"), Ok(Frame::trailers(grpc("0")))]);
    assert_eq!(left_after(Charge::failures(), 200, fails).await, 9);
    assert_eq!(left_after(Charge::failures(), 200, succeeds).await, 10);
    assert_eq!(left_after(Charge::successes(), 200, fails).await, 10);
    assert_eq!(left_after(Charge::successes(), 200, succeeds).await, 9);

    let (backend, _clock) = backend();
    let (layer, throttle) = layer(Charge::failures(), &backend);
    let service = layer.layer(service_fn(async |_request: Request<Full<Bytes>>| {
        let response = Response::builder().header("grpc-status", "7");
        Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap())
    }));
    let response = service.oneshot(request("/", "::1")).await.unwrap();
    read(response).await;
    assert_eq!(left(&throttle).await, 9, "a response of trailers only");
}

/// What is left after something happened whose outcome nobody knows, as it is and when that is asked for.
async fn unknown(happen: impl AsyncFn(ThrottleLayer), charge: fn() -> Charge) -> [u32; 2] {
    let mut left_over = [0; 2];
    for (left_over, charge) in left_over.iter_mut().zip([charge(), charge().refund_unknown()]) {
        let (backend, _clock) = backend();
        let (layer, throttle) = layer(charge, &backend);
        happen(layer).await;
        *left_over = left(&throttle).await;
    }
    left_over
}

#[tokio::test]
async fn an_outcome_that_nobody_knows_keeps_the_charge() {
    let with_body = async |layer: ThrottleLayer, body: fn() -> AnyBody| {
        let inner = service_fn(move |_request: Request<Full<Bytes>>| {
            std::future::ready(Ok::<_, Infallible>(Response::new(body())))
        });
        layer.layer(inner).oneshot(request("/", "::1")).await.unwrap()
    };
    for charge in [Charge::failures, Charge::successes] {
        let left = unknown(
            async |layer| drop(with_body(layer, || frames(vec![data("a"), data("b")])).await),
            charge,
        );
        assert_eq!(left.await, [9, 10], "the client goes away before it reads");

        let left = unknown(
            async |layer| {
                let body =
                    with_body(layer, || frames(vec![data("a"), data("b")])).await.into_body();
                let mut body = pin!(body);
                assert!(body.frame().await.unwrap().is_ok());
            },
            charge,
        );
        assert_eq!(left.await, [9, 10], "in the middle");

        let left = unknown(
            async |layer| {
                let body = with_body(layer, || frames(vec![data("a"), Err("cut")])).await;
                assert!(body.into_body().collect().await.is_err());
            },
            charge,
        );
        assert_eq!(left.await, [9, 10], "the body fails");

        let left = unknown(
            async |layer| {
                let inner = service_fn(async |_request: Request<Full<Bytes>>| {
                    Err::<Response<AnyBody>, _>("the service fails")
                });
                assert!(layer.layer(inner).oneshot(request("/", "::1")).await.is_err());
            },
            charge,
        );
        assert_eq!(left.await, [9, 10], "the service fails");

        let left = unknown(
            async |layer| {
                let inner = service_fn(async |_request: Request<Full<Bytes>>| {
                    std::future::pending::<Result<Response<AnyBody>, Infallible>>().await
                });
                let mut response = pin!(layer.layer(inner).oneshot(request("/", "::1")));
                assert!(poll!(response.as_mut()).is_pending());
            },
            charge,
        );
        assert_eq!(left.await, [9, 10], "the client goes away while it is served");
    }
}

#[tokio::test]
async fn a_body_whose_length_is_known_ends_with_its_last_byte() {
    let (backend, _clock) = backend();
    let (layer, throttle) = layer(Charge::failures(), &backend);
    // A server that has sent as much as was announced does not poll for the end.
    let service = layer.layer(service_fn(async |_request: Request<Full<Bytes>>| {
        let body = frames(vec![data("ab"), data("c")]);
        Ok::<_, Infallible>(Response::builder().header("content-length", "3").body(body).unwrap())
    }));
    let mut body = pin!(service.oneshot(request("/", "::1")).await.unwrap().into_body());
    assert!(body.frame().await.unwrap().is_ok());
    assert_eq!(left(&throttle).await, 9);
    assert!(body.frame().await.unwrap().is_ok());
    assert_eq!(left(&throttle).await, 10);

    let empty = layer.layer(service_fn(async |_request: Request<Full<Bytes>>| {
        let response = Response::builder().header("content-length", "0");
        Ok::<_, Infallible>(response.body(frames(Vec::new())).unwrap())
    }));
    drop(empty.oneshot(request("/", "::1")).await.unwrap());
    assert_eq!(left(&throttle).await, 10, "nobody asks such a body for anything");
}

/// A server announces such a length by itself, and does not poll for the end.
#[tokio::test]
async fn a_body_that_knows_its_length_ends_with_its_last_byte() {
    struct Known(AnyBody);

    impl Body for Known {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            std::pin::Pin::new(&mut self.0).poll_frame(cx)
        }

        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(3)
        }
    }

    let (backend, _clock) = backend();
    let (layer, throttle) = layer(Charge::failures(), &backend);
    let service = layer.layer(service_fn(async |_request: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Known(frames(vec![data("ab"), data("c")]))))
    }));
    let mut body = pin!(service.oneshot(request("/", "::1")).await.unwrap().into_body());
    for expected in [9, 10] {
        assert!(body.frame().await.unwrap().is_ok());
        assert_eq!(left(&throttle).await, expected);
    }
}

#[tokio::test]
async fn what_has_no_body_is_settled_by_its_head() {
    for (method, status, expected) in [
        (Method::HEAD, 200, 10),
        (Method::HEAD, 401, 9),
        (Method::GET, 204, 10),
        (Method::GET, 304, 10),
    ] {
        let (backend, _clock) = backend();
        let (layer, throttle) = layer(Charge::failures(), &backend);
        let service = layer.layer(service_fn(move |_request: Request<Full<Bytes>>| {
            let response = Response::builder().status(status).header("content-length", "5");
            // Such a body is dropped, and never asked for its end.
            let response = response.body(frames(vec![data("text!")])).unwrap();
            std::future::ready(Ok::<_, Infallible>(response))
        }));
        let mut request = request("/", "::1");
        *request.method_mut() = method;
        drop(service.oneshot(request).await.unwrap());
        assert_eq!(left(&throttle).await, expected, "{status}");
    }
}

#[tokio::test]
async fn a_length_that_is_known_does_not_hide_a_grpc_status() {
    let with_trailers = || {
        let trailers = std::future::ready(Some(Ok::<_, Infallible>(grpc("16"))));
        let body = Full::<Bytes>::from("text").with_trailers(trailers);
        body.map_err(|error: Infallible| match error {}).boxed()
    };
    assert_eq!(left_after(Charge::failures(), 200, with_trailers).await, 9);

    let (backend, _clock) = backend();
    let (layer, throttle) = layer(Charge::failures(), &backend);
    let service = layer.layer(service_fn(move |_request: Request<Full<Bytes>>| {
        let response = Response::builder().header("content-type", "application/grpc-web+proto");
        std::future::ready(Ok::<_, Infallible>(response.body(full("status within")).unwrap()))
    }));
    let response = service.oneshot(request("/", "::1")).await.unwrap();
    drop(response.into_body().collect().await.unwrap());
    assert_eq!(left(&throttle).await, 9, "nobody has read its status");
}

#[tokio::test]
async fn of_many_attempts_at_once_none_goes_free() {
    let (backend, _clock) = backend();
    let attempts = throttle("attempts", "3/min", &backend);
    let rule = Rule::new(attempts, PeerAddr::new()).charge(Charge::failures());
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    let waiting = std::sync::Arc::clone(&gate);
    let service =
        ThrottleLayer::of_rules([rule]).layer(service_fn(move |_request: Request<Full<Bytes>>| {
            let waiting = std::sync::Arc::clone(&waiting);
            async move {
                waiting.notified().await;
                let refused = Response::builder().status(StatusCode::UNAUTHORIZED);
                Ok::<_, Infallible>(refused.body(full("no")).unwrap())
            }
        }));
    let mut all: Vec<_> =
        (0..20).map(|_| Box::pin(service.clone().oneshot(request("/", "203.0.113.1")))).collect();
    let mut denied = 0;
    for one in &mut all {
        if let Poll::Ready(response) = poll!(one.as_mut()) {
            assert_eq!(response.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
            denied += 1;
        }
    }
    assert_eq!(denied, 17, "while three are under way");
}

#[tokio::test]
async fn several_rules_are_charged_each_by_its_own() {
    let (backend, _clock) = backend();
    let (failures, requests) =
        (throttle("failures", "10/min", &backend), throttle("requests", "10/min", &backend));
    let layer = ThrottleLayer::of_rules([
        Rule::new(failures.clone(), Everyone).charge(Charge::failures()),
        Rule::new(requests.clone(), Everyone),
    ]);
    let service = layer.layer(service_fn(async |_request: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(full("welcome")))
    }));
    let response = service.oneshot(request("/", "::1")).await.unwrap();
    drop(response.into_body().collect().await.unwrap());
    assert_eq!((left(&failures).await, left(&requests).await), (10, 9));
}

#[tokio::test]
async fn on_a_store_that_has_to_be_awaited_units_come_back_by_a_task() {
    use test_support::{Failing, Mode};

    let (backend, _clock) = backend();
    let store: std::sync::Arc<dyn traffik::Backend> =
        std::sync::Arc::new(Failing::around(backend, Mode::Slow));
    let throttle = Throttle::builder("attempts").rate("10/min").backend(store).build().unwrap();
    let rule = Rule::new(throttle.clone(), Everyone).charge(Charge::failures());
    let service = ThrottleLayer::of_rules([rule]).layer(service_fn(
        async |_request: Request<Full<Bytes>>| Ok::<_, Infallible>(Response::new(full("welcome"))),
    ));
    let response = service.oneshot(request("/", "::1")).await.unwrap();
    drop(response.into_body().collect().await.unwrap());
    // The task that gives back has its turn.
    let mut turns = stream::iter(0..1000);
    while left(&throttle).await < 10 {
        turns.next().await.expect("given back");
        tokio::task::yield_now().await;
    }
}
