//! The Memcached backend on real servers.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "../support/servers/mod.rs"]
mod servers;

mod conformance;
mod world;
