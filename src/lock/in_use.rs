//! [`InUse`]: keeps a backend connected while its locks are in use.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, ReentrantMutex};

type Work = Box<dyn FnOnce() + Send>;

/// Counts the holders and waiters of locks, and the releases that are in flight.
///
/// A backend that is closed still has to release what was locked before. So it closes its connections only
/// when nobody is counted here.
#[derive(Default)]
pub(crate) struct InUse {
    count: AtomicUsize,
    /// What is done when nobody is left.
    when_free: Mutex<Option<Work>>,
    /// Held while that is done. The work may drop users, and so come back here.
    doing: ReentrantMutex<()>,
}

/// One who is counted, as long as it lives.
#[derive(Debug)]
pub(crate) struct User(Arc<InUse>);

impl InUse {
    /// Counts one more.
    pub(crate) fn enter(self: &Arc<Self>) -> User {
        self.count.fetch_add(1, Ordering::SeqCst);
        User(Arc::clone(self))
    }

    /// Runs `work` as soon as nobody is left, which may be now.
    pub(crate) fn when_free(&self, work: impl FnOnce() + Send + 'static) {
        *self.when_free.lock() = Some(Box::new(work));
        if self.count.load(Ordering::SeqCst) == 0 {
            self.run();
        }
    }

    /// Takes back what [`when_free`](Self::when_free) was given, if it is not done yet; waits for its end if
    /// it has begun. What the caller does next comes after it.
    pub(crate) fn stay(&self) {
        let _done = self.doing.lock();
        let work = self.when_free.lock().take();
        drop(work);
    }

    fn run(&self) {
        let _doing = self.doing.lock();
        // Not under that lock: the work may come back here.
        let work = self.when_free.lock().take();
        if let Some(work) = work {
            work();
        }
    }
}

impl Clone for User {
    fn clone(&self) -> Self {
        self.0.enter()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.run();
        }
    }
}

impl fmt::Debug for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InUse").field(&self.count).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stays_comes_after_work_that_has_begun() {
        let in_use = Arc::new(InUse::default());
        let (opened, opens) = std::sync::mpsc::channel();
        let user = in_use.enter();
        let other = Arc::clone(&in_use);
        in_use.when_free(move || {
            let stays = std::thread::spawn(move || {
                other.stay();
                let _ = opened.send(());
            });
            // Long enough for a thread that does not wait.
            let early = opens.recv_timeout(std::time::Duration::from_millis(300));
            assert!(early.is_err(), "opened while the work closes");
            drop(stays);
        });
        drop(user);
    }

    #[test]
    fn the_work_is_done_once_and_only_when_nobody_is_left() {
        let in_use = Arc::new(InUse::default());
        let done = Arc::new(AtomicUsize::new(0));
        let work = || {
            let done = Arc::clone(&done);
            move || {
                let _ = done.fetch_add(1, Ordering::SeqCst);
            }
        };
        let times = || done.load(Ordering::SeqCst);
        let user = in_use.enter();
        let other = user.clone();
        in_use.when_free(work());
        drop(user);
        assert_eq!(times(), 0);
        drop(other);
        assert_eq!(times(), 1);
        drop(in_use.enter());
        assert_eq!(times(), 1, "once");
        in_use.when_free(work());
        assert_eq!(times(), 2, "at once, for nobody is there");
        let user = in_use.enter();
        in_use.when_free(work());
        in_use.stay();
        drop(user);
        assert_eq!(times(), 2, "taken back");
    }
}
