//! The suite that every backend must pass. Feature `conformance`.
//!
//! It holds a backend to the contract of [`Backend`]: lifecycle, values, decisions step by step
//! against the pure function, exactness under concurrency, and locks. A backend's author implements
//! [`Harness`] and calls [`run`] in a test, or only the parts that the backend has; a violation panics with
//! what was expected.
//!
//! ```no_run
//! use std::sync::Arc;
//! use traffik::conformance::{self, Harness};
//! use traffik::{Backend, InMemory, ManualClock};
//!
//! struct Mine;
//!
//! #[async_trait::async_trait]
//! impl Harness for Mine {
//!     async fn backend(&self, namespace: &str, clock: ManualClock) -> Arc<dyn Backend> {
//!         let builder = InMemory::builder().namespace(namespace).clock(clock);
//!         Arc::new(builder.build().expect("valid settings"))
//!     }
//! }
//!
//! # async fn example() {
//! conformance::run(&Mine).await;
//! # }
//! ```

mod all;
mod blocks;
mod decisions;
mod lifecycle;
mod locks;
mod many;
mod values;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use crate::backend::Backend;
use crate::clock::ManualClock;

/// The suite's access to a backend under test.
#[async_trait]
pub trait Harness: Sync {
    /// Returns a backend on this empty namespace, with this clock, not yet initialized.
    async fn backend(&self, namespace: &str, clock: ManualClock) -> Arc<dyn Backend>;

    /// Another backend on the same store and namespace, as another process would have it. `None`,
    /// the default, if the store is not shared.
    async fn peer(&self, namespace: &str, clock: ManualClock) -> Option<Arc<dyn Backend>> {
        let _ = (namespace, clock);
        None
    }

    /// Lets values of that TTL expire. Defaults to moving the clock; a store with its own clock
    /// has to wait.
    async fn elapse(&self, clock: &ManualClock, ttl: Duration) {
        clock.advance(ttl);
    }

    /// A TTL that the store can tell from a shorter one. Defaults to a second.
    fn ttl(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Returns whether locks have fencing tokens. Defaults to true.
    fn has_fences(&self) -> bool {
        true
    }

    /// Returns whether [`clear`](Backend::clear) clears. Defaults to true.
    fn clears(&self) -> bool {
        true
    }
}

/// Runs the whole suite: every part of it.
///
/// ```no_run
/// # use traffik::conformance::{self, Harness};
/// # async fn example(harness: &dyn Harness) {
/// conformance::run(harness).await;
/// # }
/// ```
///
/// # Panics
///
/// When the backend breaks its contract.
pub async fn run(harness: &dyn Harness) {
    lifecycle(harness).await;
    values(harness).await;
    decisions(harness).await;
    locks(harness).await;
}

/// Checks [`Backend`]'s lifecycle: initialize, ready, clear, close, and lifespans.
///
/// ```no_run
/// # use traffik::conformance::{self, Harness};
/// # async fn example(harness: &dyn Harness) {
/// conformance::lifecycle(harness).await;
/// # }
/// ```
///
/// # Panics
///
/// When the backend breaks its contract.
pub async fn lifecycle(harness: &dyn Harness) {
    lifecycle::run(harness).await;
}

/// Checks [`Values`](crate::Values): bytes, counters, and their TTLs.
///
/// ```no_run
/// # use traffik::conformance::{self, Harness};
/// # async fn example(harness: &dyn Harness) {
/// conformance::values(harness).await;
/// # }
/// ```
///
/// # Panics
///
/// When the backend breaks its contract.
pub async fn values(harness: &dyn Harness) {
    values::run(harness).await;
}

/// Checks decisions: [`Backend::apply`], [`Backend::apply_many`], [`Backend::apply_all`], [`Backend::change_block`],
/// [`Backend::inspect`] and [`Backend::forget`]; step by step against the pure function, and under concurrency.
///
/// ```no_run
/// # use traffik::conformance::{self, Harness};
/// # async fn example(harness: &dyn Harness) {
/// conformance::decisions(harness).await;
/// # }
/// ```
///
/// # Panics
///
/// When the backend breaks its contract.
pub async fn decisions(harness: &dyn Harness) {
    decisions::run(harness).await;
    many::run(harness).await;
    all::run(harness).await;
    blocks::run(harness).await;
}

/// Checks [`Locks`](crate::Locks). A backend that has none leaves this part out.
///
/// ```no_run
/// # use traffik::conformance::{self, Harness};
/// # async fn example(harness: &dyn Harness) {
/// conformance::locks(harness).await;
/// # }
/// ```
///
/// # Panics
///
/// When the backend breaks its contract.
pub async fn locks(harness: &dyn Harness) {
    locks::run(harness).await;
}

/// A backend under test, on its own namespace.
struct Subject {
    backend: Arc<dyn Backend>,
    namespace: String,
    clock: ManualClock,
}

impl Subject {
    async fn fresh(harness: &dyn Harness) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("conformance:{}:{number}", std::process::id());
        let clock = ManualClock::new();
        let backend = harness.backend(&namespace, clock.clone()).await;
        backend.initialize().await.expect("initialize");
        Self { backend, namespace, clock }
    }
}

/// A small generator of test data: xorshift64*, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let scrambled = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        scrambled % end
    }
}
