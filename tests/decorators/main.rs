//! Decorators: what each does for itself, around a backend in memory and around real servers.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod coalesce;
mod deny_cache;
