//! The shortest service with a limit: ten requests a second for each client, and bursts of twenty.
//!
//! `cargo run --features axum --example axum_minimal`, then `curl -i http://127.0.0.1:3000`.

use axum::{Router, routing::get};
use tokio::net::TcpListener;
use traffik::http::{PeerAddr, ThrottleLayer, serve, shutdown_signal};
use traffik::{InMemory, LifespanExt, Throttle};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let backend = InMemory::new();
    let throttle =
        Throttle::builder("api").rate("10/s burst 20").backend(backend.clone()).build()?;
    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .layer(ThrottleLayer::new(throttle, PeerAddr::new()))
        .route("/health", get(async || "ok\n")); // after the layer, so without a limit
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("serving on http://{}", listener.local_addr()?);
    let life = backend.lifespan().await?;
    Ok(serve(listener, app).lifespan(life).with_graceful_shutdown(shutdown_signal()).await?)
}
