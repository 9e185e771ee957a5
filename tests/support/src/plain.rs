//! Futures without a tokio runtime.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread, as the executor of another library does.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Runs it so, and then in a tokio runtime without a time driver.
pub fn without_timer<T>(mut future: impl AsyncFnMut() -> T) -> [T; 2] {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    [block_on(future()), runtime.expect("a runtime").block_on(future())]
}
