//! How late the machine lets timers fire: a timer on a runtime and a thread that do nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use test_support::servers::{pause, wait};

use crate::history::{MILLI, Micros, Stall, now};

const TICK: Duration = Duration::from_millis(5);
/// What is later than that is a stall: a timer has a millisecond's resolution.
const LATE: Micros = 2 * MILLI;

/// Watches until it is stopped.
#[derive(Debug)]
pub(crate) struct Monitor {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Stall>>,
}

impl Monitor {
    pub(crate) fn start() -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let done = Arc::clone(&done);
            move || {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                runtime.enable_time().build().unwrap().block_on(watch(&done))
            }
        });
        Self { done, thread }
    }

    /// What it has seen, in order of time.
    pub(crate) fn stop(self) -> Vec<Stall> {
        self.done.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

async fn watch(done: &AtomicBool) -> Vec<Stall> {
    let mut stalls = Vec::new();
    while !done.load(Ordering::SeqCst) {
        let (start, began) = (now(), wait::now());
        pause::pace(TICK).await;
        let micros = |duration: Duration| Micros::try_from(duration.as_micros()).unwrap();
        let (from, to) = (start + micros(TICK), start + micros(began.elapsed()));
        if to > from + LATE {
            stalls.push(Stall { from, to });
        }
    }
    stalls
}
