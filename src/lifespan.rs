//! [`Lifespan`]: starts a backend and ends it.
//!
//! ```
//! use traffik::{InMemory, LifespanExt, Throttle};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = InMemory::new();
//! let life = backend.lifespan().await?;
//! let throttle = Throttle::builder("api").rate("5/s").backend(backend).build()?;
//! let _ = throttle.hit("alice").await?;
//! life.close().await?;
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::panic::resume_unwind;
use std::sync::Arc;

use async_trait::async_trait;
use tracing::warn;

use crate::backend::Backend;
use crate::error::{BackendError, ErrorKind};
use crate::unwind;

tokio::task_local! {
    static CURRENT: Arc<dyn Backend>;
}

/// Makes `backend` the current one for throttles that were built without, while `work` runs.
///
/// It is asked for at each hit, so a test or a tenant can bring its own. A task that `work` spawns does
/// not inherit it.
pub async fn with_current<T>(backend: impl Backend, work: impl Future<Output = T>) -> T {
    let backend: Arc<dyn Backend> = Arc::new(backend);
    CURRENT.scope(backend, work).await
}

/// The backend that is current in this task, if any.
#[must_use]
pub fn current() -> Option<Arc<dyn Backend>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Runs `work` in a lifespan of `backend`, and closes it on every way out.
///
/// A panic of `work` goes on after the close. If `work` returns and the close fails, that error is
/// returned and the result of `work` is dropped.
///
/// # Errors
///
/// When the backend cannot be initialized (`work` does not run then) or closed.
///
/// # Cancel safety
///
/// When dropped, the lifespan ends as if its handle was dropped: nothing is cleared.
///
/// ```
/// use traffik::{InMemory, Throttle, lifespan};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = InMemory::new();
/// let throttle = Throttle::builder("api").rate("5/s").backend(backend.clone()).build()?;
/// let decision = lifespan::scoped(backend, async || throttle.hit("alice").await).await??;
/// assert!(decision.is_allowed());
/// # Ok(())
/// # }
/// ```
pub async fn scoped<B, T>(backend: B, work: impl AsyncFnOnce() -> T) -> Result<T, BackendError>
where
    B: Backend + Clone,
{
    let life = backend.lifespan().await?;
    let outcome = unwind::catch(work()).await;
    let closed = life.close().await;
    match outcome {
        Ok(output) => closed.map(|()| output),
        Err(panic) => {
            if let Err(error) = closed {
                warn!(%error, "the backend could not be closed after a panic");
            }
            resume_unwind(panic)
        }
    }
}

/// Begins a lifespan: for a backend that can be cloned, an `Arc` of one, or an `Arc<dyn Backend>`.
#[async_trait]
pub trait LifespanExt: Backend {
    /// Initializes the backend, and gives a handle that ends it.
    ///
    /// Lifespans of one backend nest: only the last to end clears and closes it.
    ///
    /// # Errors
    ///
    /// When the backend cannot be initialized.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the backend may be initialized; no lifespan began.
    async fn lifespan(&self) -> Result<Lifespan, BackendError>;
}

#[async_trait]
impl<B: Backend + Clone> LifespanExt for B {
    async fn lifespan(&self) -> Result<Lifespan, BackendError> {
        Lifespan::begin(Arc::new(self.clone())).await
    }
}

/// A backend's time of use. Ends by [`close`](Self::close), or, worse, by being dropped.
#[must_use = "a lifespan that is dropped at once stops the backend's background tasks"]
pub struct Lifespan {
    backend: Arc<dyn Backend>,
    ended: bool,
}

impl Lifespan {
    async fn begin(backend: Arc<dyn Backend>) -> Result<Self, BackendError> {
        backend.initialize().await?;
        // Counted only now: a failed or cancelled initialize began nothing.
        let settings = backend.settings();
        let first = settings.lifespan_begins() == 1;
        if first && settings.is_shared() && !settings.is_persistent() {
            warn!(
                backend = settings.name(),
                namespace = settings.namespace(),
                "the end of this lifespan clears what other processes count in the same namespace; \
                 make the backend persistent to keep it"
            );
        }
        Ok(Self { backend, ended: false })
    }

    /// Clears the backend unless it is persistent, and closes it; if it is in use by another lifespan,
    /// only ends this one.
    ///
    /// # Errors
    ///
    /// The first error. The backend is closed in any case.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the backend may not be cleared or closed; its background tasks stop.
    pub async fn close(mut self) -> Result<(), BackendError> {
        self.ended = true;
        let settings = self.backend.settings();
        if settings.lifespan_ends() > 0 {
            return Ok(());
        }
        let mut unfinished = AbandonUnlessDone { backend: &*self.backend, done: false };
        let cleared = if settings.is_persistent() { Ok(()) } else { clear(&*self.backend).await };
        let closed = self.backend.close().await;
        unfinished.done = true;
        cleared.and(closed)
    }

    /// The backend.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }
}

/// Clears a backend. One that cannot keeps what it has, and the log says so once.
async fn clear(backend: &dyn Backend) -> Result<(), BackendError> {
    match backend.clear().await {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            let settings = backend.settings();
            warn!(
                backend = settings.name(),
                namespace = settings.namespace(),
                %error,
                "the end of a lifespan left the backend as it is"
            );
            Ok(())
        }
        cleared => cleared,
    }
}

/// Stops the background tasks of a backend whose close was cancelled.
struct AbandonUnlessDone<'a> {
    backend: &'a dyn Backend,
    done: bool,
}

impl Drop for AbandonUnlessDone<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.backend.abandon();
        }
    }
}

impl Drop for Lifespan {
    fn drop(&mut self) {
        if self.ended || self.backend.settings().lifespan_ends() > 0 {
            return;
        }
        self.backend.abandon();
        let settings = self.backend.settings();
        warn!(
            backend = settings.name(),
            namespace = settings.namespace(),
            "a lifespan was dropped without close: background tasks stopped, nothing was cleared"
        );
    }
}

impl fmt::Debug for Lifespan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lifespan").field("backend", &self.backend).finish_non_exhaustive()
    }
}
