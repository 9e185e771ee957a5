//! What the benchmarks have in common.

#![allow(clippy::missing_panics_doc, clippy::must_use_candidate, reason = "for benchmarks only")]

pub mod batches;
pub mod machine;
pub mod output;
