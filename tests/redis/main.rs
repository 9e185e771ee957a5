//! The Redis backend on real servers, which the tests start and stop themselves.
//!
//! `TRAFFIK_SOAK=1` runs the long forms: `scripts/test --soak`.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod acquire;
mod all;
mod conformance;
mod exact;
mod faults;
mod locks;
mod many;
mod states;
