//! The service, and what shows its limits.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};
use traffik::http::{Lookup, PeerAddr, Rule, ThrottleLayer, header};
use traffik::observe::{Metrics, TrackDenied};
use traffik::{Backend, Mode, Throttle};

/// A recorder that names metrics as Prometheus does (`traffik_requests_total`), with buckets from a fast hit in memory
/// to the deadline of a store.
pub(crate) fn recorder() -> Result<PrometheusBuilder, BuildError> {
    let seconds = [1e-6, 1e-5, 1e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5];
    let duration = Matcher::Full("traffik.request.duration".to_owned());
    PrometheusBuilder::new()
        .with_recommended_naming(true)
        .set_buckets_for_metric(duration, &seconds)
}

pub(crate) fn app(
    backend: Arc<dyn Backend>,
    prometheus: PrometheusHandle,
) -> Result<Router, traffik::BuildError> {
    let throttle = |name: &str, rate: &str, mode| {
        Throttle::builder(name)
            .rate(rate)
            .mode(mode)
            .observer(Metrics::new())
            .near_limit(20)
            .track_denied(TrackDenied::new(1_000))
            .backend(Arc::clone(&backend))
            .build()
    };
    let clients = throttle("clients", "10/s", Mode::Enforce)?;
    // Tried out first: `outcome="shadowed"` counts what it would deny.
    let strict = throttle("strict", "5/s", Mode::Shadow)?;
    // A proxy in front has checked the key; who has none counts by the address.
    let client = || header("x-api-key").or(PeerAddr::new());
    let layer = ThrottleLayer::of_rules([
        Rule::new(clients.clone(), client()),
        Rule::new(strict.clone(), client()),
    ]);
    let operators = Router::new()
        .route("/metrics", get(move || async move { prometheus.render() }))
        .route("/denied", get(denied))
        .route("/mode/{mode}", post(switch))
        .with_state([clients, strict]);
    Ok(Router::new().route("/", get(async || "served")).layer(layer).merge(operators))
}

async fn denied(State(throttles): State<[Throttle; 2]>) -> Json<Value> {
    let all = throttles.iter().flat_map(|throttle| {
        throttle.top_denied(10).into_iter().map(|key| {
            json!({
                "throttle": throttle.name(),
                "digest": key.digest().to_string(),
                "denials": key.denials(),
                "shadowed": key.shadowed(),
            })
        })
    });
    Json(all.collect())
}

async fn switch(
    State([_, strict]): State<[Throttle; 2]>,
    Path(mode): Path<String>,
) -> Result<(), StatusCode> {
    strict.set_mode(match &*mode {
        "enforce" => Mode::Enforce,
        "shadow" => Mode::Shadow,
        "off" => Mode::Off,
        _ => return Err(StatusCode::NOT_FOUND),
    });
    Ok(())
}
