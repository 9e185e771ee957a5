//! A service that shows what its limits do: metrics for Prometheus, a dashboard for Grafana, and who is denied most.
//!
//! `cargo run --features axum,metrics --example observability` serves on 127.0.0.1:3000:
//!
//! * `/` is limited by two throttles: one that is enforced, and a stricter one that is tried out in shadow mode first.
//! * `/metrics` is what Prometheus scrapes. Keep it, and what follows, from the outside.
//! * `/denied` lists who is denied most, by digests: a key is personal data, or a secret.
//! * `/mode/shadow`, `/mode/enforce` and `/mode/off` (POST) switch the strict throttle.
//!
//! `dashboard.json` beside this file is a dashboard to be imported into Grafana, with a Prometheus as its source that
//! scrapes this service. Panels: hits by outcome, the share that is denied and that would be, why, limits that run low,
//! the time of a decision, failures of the store.

mod app;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use traffik::http::{serve, shutdown_signal};
use traffik::{InMemory, LifespanExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Before the first hit, or what comes first is counted nowhere.
    let prometheus = app::recorder()?.install_recorder()?;
    let upkeep = prometheus.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_secs(5));
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    let backend = InMemory::new();
    let life = backend.lifespan().await?;
    let app = app::app(Arc::new(backend), prometheus)?;
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("scrape http://{}/metrics", listener.local_addr()?);
    Ok(serve(listener, app).lifespan(life).with_graceful_shutdown(shutdown_signal()).await?)
}
