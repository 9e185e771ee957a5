//! The decorators, around backends that do as they are told and around real servers.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![allow(clippy::disallowed_methods, reason = "by the paused time of its runtime")]

mod at_once;
mod breaker;
mod breaker_told;
mod builder;
mod coalesce;
mod conformance;
mod deny_cache;
mod deny_cache_on_redis;
mod failover;
mod prepared;
mod recommended;
mod retry;
mod retry_on_redis;
mod servers;
mod stack;
mod support;
