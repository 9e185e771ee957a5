//! Locks on real Redis servers, with what happens to servers, holders and clocks.
//!
//! `TRAFFIK_SOAK=1` runs the long form of the soak and of redlock: `scripts/test --soak`.

#![cfg(feature = "redis-cluster")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "support/decisions.rs"]
mod decisions;
#[path = "support/servers/mod.rs"]
mod servers;

#[path = "redis_locks/clocks.rs"]
mod clocks;
#[path = "redis_locks/common.rs"]
mod common;
#[path = "redis_locks/exclusion.rs"]
mod exclusion;
#[path = "redis_locks/holders.rs"]
mod holders;
#[path = "redis_locks/minority.rs"]
mod minority;
#[path = "redis_locks/redlock.rs"]
mod redlock;
#[path = "redis_locks/rules.rs"]
mod rules;
#[path = "redis_locks/slow.rs"]
mod slow;
#[path = "redis_locks/soak.rs"]
mod soak;
#[path = "redis_locks/waiting.rs"]
mod waiting;
