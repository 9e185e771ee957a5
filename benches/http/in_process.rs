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

use crate::least::Least;
use crate::{Case, layers};

/// To it the others are compared.
pub(crate) const TOWER_GOVERNOR: &str = "tower_governor";

/// Sends requests, and returns how many nanoseconds each took.
type Run = Box<dyn FnMut(u32) -> f64>;

/// Who serves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    /// It turns each response into one with a body of its own type, which puts others into a box.
    Axum,
    /// It takes responses as they are.
    Hyper,
}

pub(crate) fn run(server: Server, is_denied: bool, rounds: usize, requests: u32) -> Vec<Case> {
    let inner = service_fn(async |_request: Request<Body>| {
        Ok::<_, Infallible>(Response::new(Body::from("served")))
    });
    let status = if is_denied { 429 } else { 200 };
    macro_rules! case {
        ($name:expr, $layer:expr) => {
            (Case::new($name), calls($layer.layer(inner), server, status))
        };
    }
    let mut all: Vec<(Case, Run)> = vec![
        (Case::new("no layer"), calls(inner, server, 200)),
        case!("traffik", layers::traffik(is_denied)),
        case!("traffik, X-RateLimit", layers::traffik_x(is_denied)),
        case!("traffik, no decisions", layers::without_decisions(layers::traffik(is_denied))),
        case!("traffik, X, no decisions", layers::without_decisions(layers::traffik_x(is_denied))),
        case!(TOWER_GOVERNOR, layers::tower_governor!(is_denied)),
        case!("axum-governor", layers::axum_governor(is_denied)),
    ];
    if !is_denied {
        all.insert(1, (Case::new("the least code"), calls(Least::new(inner), server, status)));
    }
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

fn calls<S, B>(mut service: S, server: Server, status: u16) -> Run
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + 'static,
    Response<B>: IntoResponse,
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
            let response = response.unwrap_or_else(|never| match never {});
            let told = match server {
                Server::Axum => response.into_response().status(),
                Server::Hyper => response.status(),
            };
            assert!(!warm || told == status, "{told}");
        }
        warm = true;
        start.elapsed().as_nanos() as f64 / f64::from(requests)
    })
}
