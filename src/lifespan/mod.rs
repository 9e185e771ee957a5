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
//!
//! The end of a lifespan clears what was counted in memory, and keeps it on a shared store; a backend's
//! `persistent` changes that. Lifespans of one backend may nest and overlap. [`Start::Degraded`] begins
//! one while the store is away.

mod degraded;
mod options;

use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;

use async_trait::async_trait;
use tracing::warn;

pub use options::{LifespanOptions, Start};

use crate::backend::Backend;
use crate::background::Task;
use crate::error::{BackendError, ErrorKind};
use crate::on_drop::OnDrop;
use crate::unwind;

/// Runs `work` in a lifespan of `backend`, and closes it when `work` returns or panics.
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
    scoped_with(backend, LifespanOptions::new(), work).await
}

/// Runs `work` as [`scoped`] does, with options.
///
/// ```
/// use traffik::lifespan::{self, LifespanOptions, Start};
/// use traffik::{InMemory, Throttle};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = InMemory::new();
/// let throttle = Throttle::builder("api").rate("5/s").backend(backend.clone()).build()?;
/// let options = LifespanOptions::new().start(Start::Degraded);
/// let hit = async || throttle.hit("alice").await;
/// assert!(lifespan::scoped_with(backend, options, hit).await??.is_allowed());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// As for [`scoped`].
///
/// # Cancel safety
///
/// As for [`scoped`].
pub async fn scoped_with<B, T>(
    backend: B,
    options: LifespanOptions,
    work: impl AsyncFnOnce() -> T,
) -> Result<T, BackendError>
where
    B: Backend + Clone,
{
    let life = backend.lifespan_with(options).await?;
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
    /// Initializes the backend, and returns a handle that ends it.
    ///
    /// Lifespans of one backend nest and overlap: only the last to end clears and closes it. So a
    /// reload that begins the new lifespan and then closes the old one never meets a closed backend. A
    /// lifespan that begins while the last one ends waits for that end.
    ///
    /// A store that cannot be reached is an error; [`lifespan_with`](Self::lifespan_with) and
    /// [`Start::Degraded`] begin without it.
    ///
    /// ```
    /// use traffik::{InMemory, LifespanExt};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = InMemory::new();
    /// let life = backend.lifespan().await?;
    /// // Serve.
    /// life.close().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the backend cannot be initialized.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the backend may be initialized; no lifespan began.
    async fn lifespan(&self) -> Result<Lifespan, BackendError>;

    /// As [`lifespan`](Self::lifespan), with options.
    ///
    /// ```no_run
    /// # #[cfg(feature = "redis")] {
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use traffik::lifespan::{LifespanOptions, Start};
    /// use traffik::{LifespanExt, OnError, Redis};
    ///
    /// // Serves without limits while Redis is down, also if it is down at the start.
    /// let backend = Redis::builder().url("redis://10.0.0.5").on_error(OnError::Allow).build()?;
    /// let life = backend.lifespan_with(LifespanOptions::new().start(Start::Degraded)).await?;
    /// # drop(life);
    /// # Ok(())
    /// # }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the backend cannot be initialized; with [`Start::Degraded`] only for a mistake of the
    /// program or its configuration.
    ///
    /// # Cancel safety
    ///
    /// As for [`lifespan`](Self::lifespan).
    async fn lifespan_with(&self, options: LifespanOptions) -> Result<Lifespan, BackendError>;
}

#[async_trait]
impl<B: Backend + Clone> LifespanExt for B {
    async fn lifespan(&self) -> Result<Lifespan, BackendError> {
        self.lifespan_with(LifespanOptions::new()).await
    }

    async fn lifespan_with(&self, options: LifespanOptions) -> Result<Lifespan, BackendError> {
        Lifespan::begin(Arc::new(self.clone()), options).await
    }
}

/// Keeps a backend running. Call [`close`](Self::close) to end it cleanly; dropping it only stops
/// background tasks.
#[must_use = "a lifespan that is dropped at once stops the backend's background tasks"]
pub struct Lifespan {
    backend: Arc<dyn Backend>,
    /// Goes on connecting after a start without the store.
    connecting: Task,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Counted, and not yet handed out.
    Beginning,
    Running,
    /// No longer counted.
    Ended,
}

impl Lifespan {
    async fn begin(
        backend: Arc<dyn Backend>,
        options: LifespanOptions,
    ) -> Result<Self, BackendError> {
        // Counted first, so that a lifespan that ends meanwhile leaves the backend open. A failed or
        // cancelled start is uncounted again by the drop.
        let first = backend.core().lifespans().begin();
        let mut life = Self { backend, connecting: Task::new(), stage: Stage::Beginning };
        life.initialize(options.start).await?;
        life.stage = Stage::Running;
        if first {
            life.warn_of_clearing();
        }
        Ok(life)
    }

    async fn initialize(&self, start: Start) -> Result<(), BackendError> {
        let _turn = self.backend.core().lifespans().opening().await;
        match start {
            Start::Required => self.backend.initialize().await,
            Start::Degraded => degraded::initialize(&self.backend, &self.connecting).await,
        }
    }

    fn warn_of_clearing(&self) {
        let core = self.backend.core();
        if core.is_shared() && !core.is_persistent() {
            warn!(
                backend = core.name(),
                namespace = core.namespace(),
                "the end of this lifespan clears what other processes count in the same namespace; \
                 make the backend persistent to keep it"
            );
        }
    }

    /// Clears the backend unless it is persistent, and closes it; if it is in use by another lifespan,
    /// only ends this one.
    ///
    /// A backend on a server is persistent unless it was built with `persistent(false)`; one in memory is
    /// not. Waits for the time of one call at most until guards that were dropped are released;
    /// other releases go on in the background. Clearing is tried up to five times, each for the time of
    /// one call, before it fails.
    ///
    /// ```
    /// use traffik::{InMemory, LifespanExt};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = InMemory::new();
    /// let life = backend.lifespan().await?;
    /// life.close().await?;
    /// assert_eq!(backend.key_count(), 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The first error. The backend is closed in any case.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the backend may not be cleared or closed; its background tasks stop.
    pub async fn close(mut self) -> Result<(), BackendError> {
        self.connecting.stop();
        self.stage = Stage::Ended;
        let core = self.backend.core();
        let lifespans = core.lifespans();
        if !lifespans.end() {
            return Ok(());
        }
        // A close that is cancelled stops the background tasks.
        let stop = OnDrop::new(|| lifespans.if_none(|| self.backend.stop()));
        let _turn = lifespans.closing().await;
        let mut cleared = Ok(());
        if lifespans.is_left_open() && !core.is_persistent() {
            cleared = clear(&*self.backend).await;
        }
        let mut closed = Ok(());
        // Asked again, for a lifespan that began while the backend was cleared keeps it open.
        if lifespans.is_left_open() {
            closed = self.backend.close().await;
            lifespans.closed();
        }
        stop.defuse();
        cleared.and(closed)
    }

    /// Ends it as a drop does, but says nothing: for one of several that end together.
    pub(crate) fn stop(mut self) {
        self.connecting.stop();
        self.stage = Stage::Ended;
        self.backend.core().lifespans().end_and(|| self.backend.stop());
    }

    /// Returns the backend.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }
}

/// Clears a backend. One that cannot keeps what it has, and a warning is logged.
async fn clear(backend: &dyn Backend) -> Result<(), BackendError> {
    match backend.clear().await {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            let core = backend.core();
            warn!(
                backend = core.name(),
                namespace = core.namespace(),
                %error,
                "the end of a lifespan left the backend as it is"
            );
            Ok(())
        }
        cleared => cleared,
    }
}

impl Drop for Lifespan {
    fn drop(&mut self) {
        if self.stage == Stage::Ended {
            return;
        }
        let core = self.backend.core();
        let last = core.lifespans().end_and(|| self.backend.stop());
        if last && self.stage == Stage::Running {
            warn!(
                backend = core.name(),
                namespace = core.namespace(),
                "a lifespan was dropped without close: background tasks stopped, nothing was cleared"
            );
        }
    }
}

impl fmt::Debug for Lifespan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lifespan").field("backend", &self.backend).finish_non_exhaustive()
    }
}
