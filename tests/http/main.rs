//! The layer for HTTP: whose request it is, what is counted, and what a client is told.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod chains;
mod charge;
mod client_addr;
mod denials;
mod fields;
mod identity;
mod log;
mod rules;
mod servers;
mod service;
mod support;
