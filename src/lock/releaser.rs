//! Letting go of locks on a server without waiting for it.
//!
//! A guard may be dropped anywhere: in a task, on a plain thread, while unwinding, after its runtime is
//! gone. So its release is only handed over here, and a task does it. Where no task can, the lock's TTL
//! frees it.

use std::future::Future;
use std::pin::Pin;

use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use crate::background::{self, Home};

/// Releases that run at the same time; more wait their turn.
const AT_ONCE: usize = 16;

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Does what is handed over, in a task that ends with the last handle.
#[derive(Debug, Default)]
pub(crate) struct Releaser {
    /// As many as there are locks let go of: each was paid for by an acquisition.
    sender: Mutex<Option<UnboundedSender<Job>>>,
    home: Home,
}

impl Releaser {
    #[cfg(any(feature = "memcached", test))]
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A releaser whose task lives there.
    #[cfg(feature = "redis")]
    pub(crate) fn on(home: Home) -> Self {
        Self { home, ..Self::default() }
    }

    /// Starts the task if none runs. Call it inside a runtime, before a lock is given out; else a guard
    /// that is dropped on a plain thread finds nobody.
    pub(crate) fn start(&self) {
        let mut sender = self.sender.lock();
        if sender.as_ref().is_none_or(UnboundedSender::is_closed) {
            let (jobs, queue) = unbounded_channel();
            if background::start_detached_on(self.home, work(queue)) {
                *sender = Some(jobs);
            }
        }
    }

    /// Hands a release over, which must end by itself. Never blocks or panics, and needs no runtime.
    pub(crate) fn send(&self, job: impl Future<Output = ()> + Send + 'static) {
        let mut job: Job = Box::pin(job);
        // The first try fails if the task went away with its runtime; here may be another.
        for _ in 0..2 {
            let sender = self.sender.lock().clone();
            match sender.map(|sender| sender.send(job)) {
                Some(Ok(())) => return,
                Some(Err(back)) => job = back.0,
                None => return,
            }
            self.start();
        }
    }
}

async fn work(mut jobs: UnboundedReceiver<Job>) {
    let mut running = JoinSet::new();
    while let Some(job) = jobs.recv().await {
        running.spawn(job);
        while running.try_join_next().is_some() {}
        if running.len() >= AT_ONCE {
            running.join_next().await;
        }
    }
    while running.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use tokio::runtime::Handle;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    #[test]
    fn f23_a_release_from_anywhere_is_done_or_left_to_the_ttl() {
        let releaser = Arc::new(Releaser::new());
        let done = Arc::new(AtomicU32::new(0));
        let job = |done: &Arc<AtomicU32>| {
            let done = Arc::clone(done);
            async move {
                done.fetch_add(1, Ordering::SeqCst);
            }
        };
        releaser.send(job(&done));
        let first = runtime();
        first.block_on(async {
            releaser.start();
            let (releaser, job) = (Arc::clone(&releaser), job(&done));
            std::thread::spawn(move || releaser.send(job)).join().unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        });
        assert_eq!(done.load(Ordering::SeqCst), 1, "handed over from a plain thread");
        drop(first);
        releaser.send(job(&done));
        assert_eq!(done.load(Ordering::SeqCst), 1, "no runtime, no panic");
        runtime().block_on(async {
            releaser.send(job(&done));
            tokio::time::sleep(Duration::from_millis(20)).await;
        });
        assert_eq!(done.load(Ordering::SeqCst), 2, "by a task of the next runtime");
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_done_and_the_task_ends_with_the_last_handle() {
        let releaser = Releaser::new();
        releaser.start();
        let done = Arc::new(AtomicU32::new(0));
        for _ in 0..100 {
            let done = Arc::clone(&done);
            releaser.send(async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        drop(releaser);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(done.load(Ordering::SeqCst), 100);
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0, "no task is left");
    }
}
