//! [`shutdown_signal`].

use std::future::pending;
use std::io;

/// Waits until the process is told to end: by ctrl-c, and on Unix by SIGTERM, which supervisors send. Give it to
/// [`Serve::with_graceful_shutdown`](super::Serve::with_graceful_shutdown).
///
/// ```no_run
/// use traffik::http::{serve, shutdown_signal};
/// # use traffik::{InMemory, LifespanExt};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// # let (backend, app) = (InMemory::new(), axum::Router::new());
/// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let life = backend.lifespan().await?;
/// serve(listener, app).lifespan(life).with_graceful_shutdown(shutdown_signal()).await?;
/// # Ok(())
/// # }
/// ```
///
/// From when it is first polled these signals end the process no more by themselves, also after it is dropped: what waits
/// for it has to end in a bounded time, as a server does by its [`drain_timeout`](super::Serve::drain_timeout). Where the
/// signals cannot be listened to, which is logged, it waits for ever.
pub async fn shutdown_signal() {
    if let Err(error) = told_to_end().await {
        tracing::error!(%error, "signals cannot be listened to, so this service ends by none gracefully");
        pending::<()>().await;
    }
}

#[cfg(unix)]
async fn told_to_end() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

#[cfg(not(unix))]
async fn told_to_end() -> io::Result<()> {
    tokio::signal::ctrl_c().await
}
