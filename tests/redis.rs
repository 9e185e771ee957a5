//! The Redis backend on real servers, which the tests start and stop themselves.

#![cfg(all(feature = "conformance", feature = "redis-cluster", feature = "redis-sentinel"))]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "support/servers/mod.rs"]
mod servers;

#[path = "redis/conformance.rs"]
mod conformance;
