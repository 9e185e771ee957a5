//! A hyper server with no framework around it.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, service_fn};
use traffik::http::{Peer, PeerAddr, ThrottleLayer};

use super::plain_client::Client;
use crate::support::{backend, field, throttle};

async fn served(layer: ThrottleLayer) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            let service = ServiceBuilder::new()
                .map_request(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(Peer(peer));
                    request
                })
                .layer(layer.clone())
                .service(service_fn(async |_request: Request<Incoming>| {
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("served")))
                }));
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let service = TowerToHyperService::new(service);
                drop(server.serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    address
}

/// Over HTTP/2 a body in the answer to `HEAD` breaks the stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_is_denied_has_no_body() {
    let (backend, _clock) = backend();
    let address =
        served(ThrottleLayer::new(throttle("api", "0/min", &backend), PeerAddr::new())).await;
    let mut one = Client::http1(address, [127, 0, 0, 1]).await;
    let mut two = Client::http2(address, [127, 0, 0, 1]).await;
    let length = one.get("/", &[]).await.body().len().to_string();
    for client in [&mut one, &mut two] {
        let denied = client.ask(Method::HEAD, "/", &[]).await.unwrap();
        assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(field(denied.headers(), "content-length").unwrap(), length);
        assert!(denied.body().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_serves_and_denies_without_a_framework() {
    let (backend, _clock) = backend();
    let address =
        served(ThrottleLayer::new(throttle("api", "2/min", &backend), PeerAddr::new())).await;
    let mut one = Client::http1(address, [127, 0, 0, 1]).await;
    let mut two = Client::http2(address, [127, 0, 0, 1]).await;
    assert_eq!(one.get("/", &[]).await.body(), "served");
    assert_eq!(two.get("/", &[]).await.body(), "served");
    for client in [&mut one, &mut two] {
        let denied = client.get("/", &[]).await;
        assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(field(denied.headers(), "retry-after").unwrap(), "30");
        assert!(denied.body().starts_with(b"{\"type\":"));
    }
}
