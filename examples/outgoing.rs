//! Requests to somebody else's API, which wait for their turn and heed what the remote says.
//!
//! `cargo run --features axum,http-client --example outgoing` starts a remote that allows two requests a second, asks
//! it six times with a client that would send five a second, and ends.

#![expect(clippy::disallowed_methods, reason = "shows how long it takes")]

use std::error::Error;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};
use traffik::http::{AcquireLayer, PeerAddr, RemoteHost, ThrottleLayer, serve};
use traffik::{InMemory, Throttle};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // The remote.
    let theirs = Throttle::builder("theirs").rate("2/s").backend(InMemory::new()).build()?;
    let app = Router::new()
        .route("/", get(async || "an answer"))
        .layer(ThrottleLayer::new(theirs, PeerAddr::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(async move { serve(listener, app).await });

    // The client: five a second for each host, and less when the host says so.
    let ours = Throttle::builder("ours").rate("5/s burst 1").backend(InMemory::new()).build()?;
    let layer = AcquireLayer::new(ours, RemoteHost).timeout(Duration::from_secs(10));
    let client = ServiceBuilder::new()
        .layer(layer)
        .service(Client::builder(TokioExecutor::new()).build_http::<Body>());

    let started = Instant::now();
    for number in 1..=6 {
        let request = Request::get(&url).body(Body::empty())?;
        let response = client.clone().oneshot(request).await?;
        let (at, status) = (started.elapsed().as_secs_f32(), response.status());
        println!("{at:4.1} s  request {number}: {status}");
    }
    Ok(())
}
