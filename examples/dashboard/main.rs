//! A page that draws what is left of each limit, live while one clicks.
//!
//! `cargo run --features axum --example dashboard`, then open <http://127.0.0.1:3000>. The page asks `/click`, which
//! is limited, and reads `/limits`, which peeks and counts nothing.

mod app;
#[cfg(test)]
mod browser;
#[cfg(test)]
mod tests;

use std::error::Error;

use tokio::net::TcpListener;
use traffik::http::{serve, shutdown_signal};
use traffik::{InMemory, LifespanExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = InMemory::new();
    let life = backend.lifespan().await?;
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("open http://{}", listener.local_addr()?);
    Ok(serve(listener, app::app(&backend)?)
        .lifespan(life)
        .with_graceful_shutdown(shutdown_signal())
        .await?)
}
