//! The current backend of a task, for throttles that were built without one.
//!
//! It suits tests, and tenants that each have a backend. It does not suit servers: a task that is
//! spawned, as they do for each connection, does not inherit it.

use std::future::Future;
use std::sync::Arc;

use crate::backend::{self, Backend};

tokio::task_local! {
    static CURRENT: Arc<dyn Backend>;
}

/// Makes `backend` the current backend while `work` runs, for throttles that were built without one.
///
/// It is asked for at each hit, so a test or a tenant can bring its own. A task that `work` spawns does
/// not inherit it.
///
/// ```
/// use traffik::{InMemory, Throttle, ambient};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let throttle = Throttle::builder("api").rate("5/s").build()?;
/// let hit = async || throttle.hit("alice").await;
/// let decision = ambient::with_backend(InMemory::new(), hit()).await?;
/// assert!(decision.is_allowed());
/// assert!(throttle.hit("alice").await.is_err(), "there is no backend out here");
/// # Ok(())
/// # }
/// ```
pub async fn with_backend<T>(backend: impl Backend, work: impl Future<Output = T>) -> T {
    CURRENT.scope(backend::erase(backend), work).await
}

/// Runs work that may go on in another task with the backend that is current here.
pub(crate) fn inherit<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let current = current_backend();
    async move {
        match current {
            Some(backend) => CURRENT.scope(backend, work).await,
            None => work.await,
        }
    }
}

/// Returns the backend that is current in this task, if any.
#[must_use]
pub fn current_backend() -> Option<Arc<dyn Backend>> {
    CURRENT.try_with(Arc::clone).ok()
}
