//! Throttles, keys, decisions, policies and lifespans, on backends that need no server.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by it, and measures paused time"
)]

mod acquire;
mod all;
mod blocks;
mod concurrency;
mod custom_strategy;
mod decisions;
mod dependencies;
mod extremes;
mod fast_path;
mod faults;
mod full_memory;
mod future_sizes;
mod keys;
mod lifespan;
mod locks;
mod many;
#[cfg(feature = "metrics")]
mod metrics;
mod modes;
mod observers;
mod on_error;
mod readme;
mod runtime;
mod settings;
mod snapshot;
mod snapshot_files;
mod spans;
#[cfg(feature = "stream")]
mod stream;
mod top_denied;
mod usage;
mod value_defaults;
