//! The service: a page, what it clicks, and what it draws.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::Html;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use traffik::http::{PeerAddr, ThrottleLayer};
use traffik::{BuildError, FixedWindow, InMemory, SlidingWindowCounter, Throttle};

pub(crate) fn app(backend: &InMemory) -> Result<Router, BuildError> {
    let clicks = Throttle::builder("clicks")
        .rate("2/s burst 10")
        .named("a burst of ten, two a second")
        .limit("15/10s", SlidingWindowCounter::new())
        .named("fifteen in any ten seconds")
        .limit("40/min", FixedWindow::new())
        .named("forty a minute")
        .backend(backend.clone())
        .build()?;
    Ok(Router::new()
        .route("/click", post(async || "counted"))
        // For this route alone: `layer` would limit what no route matches too, such as a browser's /favicon.ico.
        .route_layer(ThrottleLayer::new(clicks.clone(), PeerAddr::new()))
        .route("/limits", get(limits))
        .with_state(clicks)
        .route("/", get(async || Html(include_str!("page.html")))))
}

/// What is left of each limit for whoever asks.
async fn limits(
    State(clicks): State<Throttle>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
) -> Result<Json<Value>, StatusCode> {
    let key = PeerAddr::new().key_of(peer.ip());
    let decision = clicks.peek(key).await.map_err(|_error| StatusCode::SERVICE_UNAVAILABLE)?;
    let limits = clicks.limits().iter().zip(decision.answers()).map(|(limit, answer)| {
        json!({
            "name": limit.name(),
            "remaining": answer.remaining(),
            "burst": answer.burst(),
            "full_in": answer.reset_after().as_secs_f64(),
        })
    });
    Ok(Json(limits.collect()))
}
