//! The Redis backend on real servers, which the tests start and stop themselves.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "support/servers/mod.rs"]
mod servers;

#[path = "redis/conformance.rs"]
mod conformance;
