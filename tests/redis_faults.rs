//! What becomes of hits, values and locks when the connection to a Redis server fails.
//!
//! A test's name begins with the fault's id. Time never decides: each wait has a long end, and each call
//! a generous one, to show that it ends at all. `TRAFFIK_SOAK=1` runs the long forms:
//! `scripts/test --soak`.

#![cfg(all(feature = "redis-cluster", feature = "redis-sentinel", feature = "redis-rustls"))]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "support/servers/mod.rs"]
mod servers;

#[path = "redis_faults/cancel.rs"]
mod cancel;
#[path = "redis_faults/common.rs"]
mod common;
#[path = "redis_faults/crash.rs"]
mod crash;
#[path = "redis_faults/cuts.rs"]
mod cuts;
#[path = "redis_faults/effects.rs"]
mod effects;
#[path = "redis_faults/reconnect.rs"]
mod reconnect;
#[path = "redis_faults/runtimes.rs"]
mod runtimes;
#[path = "redis_faults/secrets.rs"]
mod secrets;
#[path = "redis_faults/silence.rs"]
mod silence;
#[path = "redis_faults/slow.rs"]
mod slow;
#[path = "redis_faults/tls.rs"]
mod tls;
