//! The conformance suite on the in-memory backend, as it is and behind each kind of pointer.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::sync::Arc;

use async_trait::async_trait;
use traffik::backend::LockKind;
use traffik::conformance::{self, Harness};
use traffik::{Backend, InMemory, ManualClock};

struct Memory {
    lock_kind: LockKind,
    shards: usize,
    wrap: fn(InMemory) -> Arc<dyn Backend>,
}

#[async_trait]
impl Harness for Memory {
    async fn backend(&self, namespace: &str, clock: ManualClock) -> Arc<dyn Backend> {
        let builder = InMemory::builder()
            .namespace(namespace)
            .clock(clock)
            .number_of_shards(self.shards)
            .lock_kind(self.lock_kind);
        (self.wrap)(builder.build().unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn in_memory() {
    let harness =
        Memory { lock_kind: LockKind::Unfair, shards: 64, wrap: |backend| Arc::new(backend) };
    conformance::run(&harness).await;
}

#[tokio::test(start_paused = true)]
async fn with_fair_locks_and_one_shard() {
    let harness =
        Memory { lock_kind: LockKind::Fair, shards: 1, wrap: |backend| Arc::new(backend) };
    conformance::run(&harness).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_several_threads() {
    let harness =
        Memory { lock_kind: LockKind::Unfair, shards: 3, wrap: |backend| Arc::new(backend) };
    conformance::run(&harness).await;
}

#[tokio::test(start_paused = true)]
async fn behind_a_box_of_a_trait_object() {
    let wrap = |backend| {
        let boxed: Box<dyn Backend> = Box::new(backend);
        let shared: Arc<dyn Backend> = Arc::new(boxed);
        shared
    };
    conformance::run(&Memory { lock_kind: LockKind::Unfair, shards: 64, wrap }).await;
}

#[tokio::test(start_paused = true)]
async fn behind_an_arc_of_a_trait_object() {
    let wrap = |backend| {
        let shared: Arc<dyn Backend> = Arc::new(backend);
        let twice: Arc<dyn Backend> = Arc::new(shared);
        twice
    };
    conformance::run(&Memory { lock_kind: LockKind::Fair, shards: 64, wrap }).await;
}
