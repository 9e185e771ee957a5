//! The Memcached backend on real servers.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![cfg(unix)]

#[path = "../support/servers/mod.rs"]
mod servers;

#[path = "../support/plain.rs"]
mod plain;

mod cancellation;
mod clearing;
mod conformance;
mod counters;
mod exactness;
mod faults;
mod hostile;
mod lifespans;
mod locks;
mod one_number;
mod round_trips;
mod runtime;
mod settings;
mod world;
