//! The Memcached backend on real servers.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![cfg(unix)]

mod all;
mod cancellation;
mod clearing;
mod clocks;
mod coalescing;
mod conformance;
mod counters;
mod crash;
mod exactness;
mod fairness;
mod faults;
mod hostile;
mod lifespans;
mod locks;
mod many;
mod nodes;
mod round_trips;
mod runtime;
mod runtimes;
mod settings;
mod silence;
mod world;
