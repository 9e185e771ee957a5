//! [`serve`]: an axum server with a lifespan, and what its handlers extract.

use std::fmt;
use std::future::{IntoFuture, pending};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::FromRequestParts;
use http::StatusCode;
use http::request::Parts;
use thiserror::Error as ThisError;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::decisions::Decisions;
use super::hints::Once;
use crate::error::BackendError;
use crate::lifespan::Lifespan;
use crate::on_drop::OnDrop;

/// Serves an axum router, with the addresses of its clients. When the signal comes that was set by
/// [`with_graceful_shutdown`](Serve::with_graceful_shutdown), it ends, and the lifespan with it.
///
/// ```no_run
/// use axum::Router;
/// use axum::routing::get;
/// use tokio::net::TcpListener;
/// use traffik::http::{PeerAddr, ThrottleLayer, serve, shutdown_signal};
/// use traffik::{InMemory, LifespanExt, Throttle};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = InMemory::new();
/// let throttle = Throttle::builder("api").rate("10/s").backend(backend.clone()).build()?;
/// let app = Router::new()
///     .route("/", get(async || "hello"))
///     .layer(ThrottleLayer::new(throttle, PeerAddr::new()));
///
/// serve(TcpListener::bind("0.0.0.0:8080").await?, app)
///     .lifespan(backend.lifespan().await?)
///     .with_graceful_shutdown(shutdown_signal())
///     .drain_timeout(std::time::Duration::from_secs(20))
///     .await?;
/// # Ok(())
/// # }
/// ```
///
/// The order matters: first no more connections are accepted, then those that are open finish, and the backend is
/// closed last. What goes on after that hits a closed backend, which is an error: connections that were upgraded, such
/// as WebSockets, for which nobody waits here, and those that are left after the
/// [`drain_timeout`](Serve::drain_timeout).
///
/// # Errors
///
/// When awaited: of the listener, and of closing the lifespan.
///
/// # Cancel safety
///
/// When dropped, no more connections are accepted, those that are open go on, and the lifespan is dropped: background
/// tasks stop.
pub fn serve(listener: TcpListener, app: Router) -> Serve {
    let (lifespans, signal) = (Vec::new(), Box::pin(pending()));
    Serve { listener, app, lifespans, signal, drain: Serve::DEFAULT_DRAIN_TIMEOUT }
}

/// A server that is to be awaited; see [`serve`].
#[must_use = "it does nothing until it is awaited"]
pub struct Serve {
    listener: TcpListener,
    app: Router,
    lifespans: Vec<Lifespan>,
    signal: Pin<Box<dyn Future<Output = ()> + Send>>,
    drain: Duration,
}

/// Why a server ended with an error.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum ServeError {
    /// The listener failed.
    #[error("the server failed: {0}")]
    Server(#[from] io::Error),
    /// The lifespan could not be closed.
    #[error("the server ended, and its backend could not be closed: {0}")]
    Backend(#[from] BackendError),
}

impl Serve {
    /// Default of [`drain_timeout`](Self::drain_timeout): 20 seconds, which is less than supervisors allow.
    pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

    /// Closes a lifespan when the server has ended, which it does by the
    /// [signal](Self::with_graceful_shutdown). Of several all are closed, the last one first.
    pub fn lifespan(mut self, lifespan: Lifespan) -> Self {
        self.lifespans.push(lifespan);
        self
    }

    /// Ends when this future does, usually [`shutdown_signal`](super::shutdown_signal): connections finish what they are
    /// at, and no more are accepted. Without it the server never ends by itself: a signal kills the process, no lifespan
    /// is closed and no snapshot is written.
    pub fn with_graceful_shutdown(
        mut self,
        signal: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.signal = Box::pin(signal);
        self
    }

    /// Sets how long connections may take to finish after the signal. Then the server ends without them. Defaults to
    /// 20 seconds.
    pub const fn drain_timeout(mut self, longest: Duration) -> Self {
        self.drain = longest;
        self
    }

    /// Returns the address on which it listens.
    ///
    /// # Errors
    ///
    /// As for [`TcpListener::local_addr`].
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    async fn run(self) -> Result<(), ServeError> {
        let Self { listener, app, lifespans, signal, drain } = self;
        let stopping = Arc::new(Notify::new());
        let told = Arc::clone(&stopping);
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        let serving = axum::serve(listener, app).with_graceful_shutdown(async move {
            // Also of a signal that panics, for axum then ends too.
            let _told = OnDrop::new(|| told.notify_one());
            signal.await;
        });
        let cut = async {
            stopping.notified().await;
            tracing::info!(
                ?drain,
                "the server ends when its connections have finished, or after the drain timeout"
            );
            sleep(drain).await;
        };
        let served = tokio::select! {
            served = serving.into_future() => served,
            () = cut => {
                tracing::warn!("connections did not finish in time after the signal; the server ends without them");
                Ok(())
            }
        };
        let mut closed = Ok(());
        for lifespan in lifespans.into_iter().rev() {
            let result = lifespan.close().await;
            // The first failure is returned.
            if let (Err(error), true) = (&result, served.is_err() || closed.is_err()) {
                tracing::warn!(%error, "a backend could not be closed either");
            } else {
                closed = closed.and(result);
            }
        }
        served?;
        Ok(closed?)
    }
}

impl IntoFuture for Serve {
    type Output = Result<(), ServeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("listener", &self.listener)
            .field("lifespans", &self.lifespans.len())
            .field("drain", &self.drain)
            .finish_non_exhaustive()
    }
}

/// No [`ThrottleLayer`](super::ThrottleLayer) has put decisions into the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
#[error(
    "no decisions about the request: its route has no ThrottleLayer, or one with `DecisionsIn::Neither`"
)]
pub struct NoDecisions(());

impl axum::response::IntoResponse for NoDecisions {
    fn into_response(self) -> axum::response::Response {
        static SAID: Once = Once::new();
        if SAID.is_first() {
            tracing::error!(
                "a handler extracts `Decisions`, and no `ThrottleLayer` puts them into its requests; add the layer to \
                 its route, and set no `DecisionsIn::Neither`"
            );
        }
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

/// Extracts what the throttles decided. An `Option` of it is `None` where none did.
impl<S: Sync> FromRequestParts<S> for Decisions {
    type Rejection = NoDecisions;

    async fn from_request_parts(request: &mut Parts, _state: &S) -> Result<Self, NoDecisions> {
        request.extensions.get().cloned().ok_or(NoDecisions(()))
    }
}

impl<S: Sync> axum::extract::OptionalFromRequestParts<S> for Decisions {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        request: &mut Parts,
        _state: &S,
    ) -> Result<Option<Self>, Self::Rejection> {
        Ok(request.extensions.get().cloned())
    }
}
