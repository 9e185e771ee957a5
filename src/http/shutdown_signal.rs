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
/// The first poll installs handlers for the whole process. From then on these signals no longer end it by themselves, not
/// even after this future has completed or was dropped: so what follows must end in bounded time. A server drains for its
/// [`drain_timeout`](super::Serve::drain_timeout) at most, which a second signal does not shorten; then its lifespans
/// close, which takes as long as the disk does where a backend keeps a
/// [`snapshot_file`](crate::backend::InMemoryBuilder::snapshot_file). Before the first poll a signal
/// does what it does by default. If a signal cannot be listened for, an error is logged, and the other one is waited for.
///
/// # Panics
///
/// When polled outside of a tokio runtime, or on one whose I/O is not enabled.
///
/// # Cancel safety
///
/// When dropped, a signal that comes before the next call is lost: in a loop create the future once, and poll it by
/// `&mut`.
pub async fn shutdown_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        // Both are installed before one is waited for.
        let (mut interrupt, mut terminate) = (
            listening("SIGINT", signal(SignalKind::interrupt())),
            listening("SIGTERM", signal(SignalKind::terminate())),
        );
        tokio::select! {
            () = or_never(interrupt.as_mut().map(|it| it.recv())) => {}
            () = or_never(terminate.as_mut().map(|it| it.recv())) => {}
        }
    }
    #[cfg(not(unix))]
    if listening("ctrl-c", tokio::signal::ctrl_c().await).is_none() {
        pending::<()>().await;
    }
}

/// Logs where a signal cannot be listened for.
fn listening<T>(signal: &str, listener: io::Result<T>) -> Option<T> {
    let told = |error| {
        tracing::error!(%error, signal, "cannot listen for a signal, so it does not shut this service down gracefully");
    };
    listener.map_err(told).ok()
}

#[cfg(unix)]
async fn or_never(signal: Option<impl Future>) {
    match signal {
        Some(signal) => drop(signal.await),
        None => pending().await,
    }
}
