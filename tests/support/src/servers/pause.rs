//! Real pauses in tests of real servers, each named by what it is for.
//!
//! None stands for an event: what waits for one waits by [`wait`](super::wait).

use std::time::Duration;

/// Lets what a server keeps run out: a TTL, a lease.
pub async fn expires(ttl: Duration) {
    tokio::time::sleep(ttl).await;
}

/// Lets a fault last.
pub async fn lasts(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Comes between two calls of a load, or two faults.
pub async fn pace(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Gives time to what must not come.
pub async fn stays(time: Duration) {
    tokio::time::sleep(time).await;
}

/// The same for a thread.
pub mod blocking {
    use std::thread::sleep;
    use std::time::Duration;

    /// Lets what a server keeps run out: a TTL, a lease.
    pub fn expires(ttl: Duration) {
        sleep(ttl);
    }

    /// Lets a fault last.
    pub fn lasts(time: Duration) {
        sleep(time);
    }

    /// Comes between two calls of a load, or two faults.
    pub fn pace(time: Duration) {
        sleep(time);
    }
}
