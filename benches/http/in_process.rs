//! Calls of a service in this process.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::IntoResponse;
use http::{Request, Response};
use tower::{Layer, Service, service_fn};

use crate::{Case, layers};

/// Sends requests, and returns how many nanoseconds each took.
type Run = Box<dyn FnMut(u32) -> f64>;

pub(crate) fn run(is_denied: bool, rounds: usize, requests: u32) -> Vec<Case> {
    let inner = service_fn(async |_request: Request<Body>| {
        Ok::<_, Infallible>(Response::new(Body::from("served")))
    });
    let status = if is_denied { 429 } else { 200 };
    let mut all: Vec<(Case, Run)> = vec![
        (Case::new("no layer"), calls(inner, 200)),
        (Case::new("traffik"), calls(layers::traffik(is_denied).layer(inner), status)),
        (
            Case::new("traffik, X-RateLimit"),
            calls(layers::traffik_x(is_denied).layer(inner), status),
        ),
        (
            Case::new("traffik, no decisions"),
            calls(layers::traffik_x_alone(is_denied).layer(inner), status),
        ),
        (
            Case::new("tower_governor"),
            calls(layers::tower_governor!(is_denied).layer(inner), status),
        ),
        (Case::new("axum-governor"), calls(layers::axum_governor(is_denied).layer(inner), status)),
    ];
    for round in 0..=rounds {
        for (case, run) in &mut all {
            let nanos = run(requests);
            // The first is to warm up, and makes every key known.
            if round > 0 {
                case.figures.push(nanos);
            }
        }
    }
    all.into_iter().map(|(case, _)| case).collect()
}

fn calls<S>(mut service: S, status: u16) -> Run
where
    S: Service<Request<Body>, Response: IntoResponse, Error = Infallible> + 'static,
{
    let mut warm = false;
    Box::new(move |requests| {
        let cx = &mut Context::from_waker(Waker::noop());
        let start = Instant::now();
        for number in 0..requests {
            let mut request = Request::new(Body::empty());
            let [_, _, high, low] = (number % 1000).to_be_bytes();
            let peer = SocketAddr::from((Ipv4Addr::new(192, 0, high, low), 4711));
            request.extensions_mut().insert(ConnectInfo(peer));
            assert!(service.poll_ready(cx).is_ready());
            let mut response = pin!(service.call(request));
            let response = loop {
                if let Poll::Ready(response) = response.as_mut().poll(cx) {
                    break response;
                }
            };
            // As axum does with what a layer returns.
            let response = response.unwrap_or_else(|never| match never {}).into_response();
            assert!(!warm || response.status() == status, "{}", response.status());
        }
        warm = true;
        start.elapsed().as_nanos() as f64 / f64::from(requests)
    })
}
