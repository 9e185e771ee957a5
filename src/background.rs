//! Background tasks. The only module that spawns any that outlive a call.
//!
//! A task is as alive as its runtime. A current-thread runtime runs its tasks only inside of `block_on`:
//! when it stands idle between two calls, all of them do, and so does everything that waits for them on
//! another runtime. So a task says where it belongs, by its [`Home`].

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use tracing::Instrument;

use crate::{ambient, timer};

/// The runtime that a background task belongs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Home {
    /// The caller's.
    #[default]
    Caller,
    /// One that makes progress whatever its users do: the caller's if it has threads of its own, else
    /// that of a thread of ours. The thread is started at the first need, shared by the whole process,
    /// and never ends.
    #[cfg(feature = "redis")]
    Steady,
    /// That of the thread of ours in any case: what must outlive the caller's runtime.
    #[cfg(feature = "memcached")]
    Own,
}

impl Home {
    /// Returns the runtime; `None` if there is none, as for [`Home::Caller`] outside of a runtime.
    fn runtime(self) -> Option<Handle> {
        let current = Handle::try_current().ok();
        match self {
            Self::Caller => current,
            #[cfg(feature = "redis")]
            Self::Steady => match &current {
                Some(runtime) if has_threads(runtime) && timer::is_there() => current,
                // Without a thread of ours the caller's runtime is better than nothing.
                _ => own::runtime().or(current),
            },
            #[cfg(feature = "memcached")]
            Self::Own => own::runtime().or(current),
        }
    }
}

/// A place for one background task, which ends with it.
#[derive(Debug, Default)]
pub(crate) struct Task(Mutex<Option<AbortHandle>>);

impl Task {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Starts the work on the caller's runtime, as [`start_on`](Self::start_on) does.
    pub(crate) fn start<W>(&self, work: impl FnOnce() -> W) -> bool
    where
        W: Future<Output = ()> + Send + 'static,
    {
        self.start_on(Home::Caller, work)
    }

    /// Starts the work unless it is under way; returns `true` if it is now. It is not where there is no
    /// runtime that can measure time.
    ///
    /// A task that ended together with its runtime is started again by this.
    pub(crate) fn start_on<W>(&self, home: Home, work: impl FnOnce() -> W) -> bool
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let mut task = self.0.lock();
        if task.as_ref().is_some_and(|task| !task.is_finished()) {
            return true;
        }
        // A task sleeps between its steps.
        if home == Home::Caller && !timer::is_there() {
            return false;
        }
        let Some(runtime) = home.runtime() else { return false };
        *task = Some(runtime.spawn(work()).abort_handle());
        true
    }

    /// Stops the work at its next await, without waiting. Needs no runtime.
    pub(crate) fn stop(&self) {
        if let Some(task) = self.0.lock().take() {
            task.abort();
        }
    }
}

/// Starts work on the caller's runtime that ends by itself. Returns whether there is a runtime for it.
pub(crate) fn start_detached(work: impl Future<Output = ()> + Send + 'static) -> bool {
    start_detached_on(Home::Caller, work)
}

/// Starts work that ends by itself. Returns whether there is a runtime for it.
pub(crate) fn start_detached_on(
    home: Home,
    work: impl Future<Output = ()> + Send + 'static,
) -> bool {
    home.runtime().map(|runtime| drop(runtime.spawn(work))).is_some()
}

/// Runs work to its end, also when the caller goes away: what does not end at the first poll goes on in a task of
/// the caller's runtime, if there is one. `None` if it panicked, or the runtime is being shut down.
///
/// A result that nobody takes is dropped.
pub(crate) async fn to_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let mut work = Box::pin(ambient::inherit(work).in_current_span());
    let first =
        poll_fn(|cx| Poll::Ready(catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)))));
    if let Poll::Ready(done) = first.await.ok()? {
        return Some(done);
    }
    let Some(runtime) = Home::Caller.runtime() else { return Some(work.await) };
    let (done, ended) = oneshot::channel();
    drop(runtime.spawn(async move { drop(done.send(work.await)) }));
    ended.await.ok()
}

/// Runs work that blocks on a thread for such, also when the caller goes away; where there is no runtime, on this one.
/// `None` if it panicked, or the runtime is being shut down.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    match Home::Caller.runtime() {
        Some(runtime) => runtime.spawn_blocking(work).await.ok(),
        None => Some(work()),
    }
}

/// Returns `true` if the runtime runs its tasks while nobody is inside of it.
#[cfg(feature = "redis")]
fn has_threads(runtime: &Handle) -> bool {
    matches!(runtime.runtime_flavor(), tokio::runtime::RuntimeFlavor::MultiThread)
}

#[cfg(any(feature = "redis", feature = "memcached"))]
mod own {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::runtime::{Builder, Handle, Runtime};

    /// Returns the runtime of our own thread; `None` if the system gives us no thread.
    pub(super) fn runtime() -> Option<Handle> {
        static OWN: Mutex<Option<Handle>> = Mutex::new(None);
        let mut own = OWN.lock();
        if own.is_none() {
            let runtime = Builder::new_current_thread().enable_all().build().ok()?;
            *own = run_forever(runtime, |work| {
                std::thread::Builder::new().name("traffik".into()).spawn(work).map(drop)
            });
        }
        own.clone()
    }

    /// Hands a runtime to a thread; `None` if there is none to be had.
    fn run_forever(
        runtime: Runtime,
        spawn: impl FnOnce(Box<dyn FnOnce() + Send>) -> io::Result<()>,
    ) -> Option<Handle> {
        let handle = runtime.handle().clone();
        let runtime = Arc::new(Mutex::new(Some(runtime)));
        let taken = Arc::clone(&runtime);
        let forever = move || {
            let runtime = taken.lock().take();
            if let Some(runtime) = runtime {
                runtime.block_on(std::future::pending::<()>());
            }
        };
        if spawn(Box::new(forever)).is_ok() {
            return Some(handle);
        }
        // The caller may be inside of a runtime, where a drop that waits is a panic.
        if let Some(runtime) = runtime.lock().take() {
            runtime.shutdown_background();
        }
        None
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[tokio::test]
        async fn without_a_thread_there_is_no_runtime_and_no_panic() {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            let refused = |work| {
                drop(work);
                Err(io::ErrorKind::WouldBlock.into())
            };
            assert!(run_forever(runtime, refused).is_none());
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.stop();
    }
}
