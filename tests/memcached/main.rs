//! The Memcached backend on real servers.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![cfg(unix)]

#[path = "../support/servers/mod.rs"]
mod servers;

#[path = "../support/decisions.rs"]
mod decisions;
#[path = "../support/plain.rs"]
mod plain;
#[path = "../support/remote.rs"]
mod remote;

mod cancellation;
mod clearing;
mod coalescing;
mod conformance;
mod counters;
mod exactness;
mod fairness;
mod faults;
mod hostile;
mod lifespans;
mod locks;
mod nodes;
mod round_trips;
mod runtime;
mod runtimes;
mod settings;
mod world;
