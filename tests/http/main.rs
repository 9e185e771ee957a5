//! The layer for HTTP: whose request it is, what is counted, and what a client is told.

#![allow(clippy::disallowed_methods, reason = "tests measure real or paused time")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod bodies;
mod chains;
mod charge;
mod client_addr;
mod denials;
mod fields;
mod identity;
mod log;
mod modes;
mod outgoing;
mod readme;
mod rules;
mod servers;
mod service;
mod soak;
mod support;
