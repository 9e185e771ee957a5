//! What the Redis backend does in each state that a server, its sentinels or a cluster can be in.

#![cfg(all(feature = "redis-cluster", feature = "redis-sentinel"))]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "support/decisions.rs"]
mod decisions;
#[path = "support/servers/mod.rs"]
mod servers;

#[path = "redis_states/access.rs"]
mod access;
#[path = "redis_states/clear.rs"]
mod clear;
#[path = "redis_states/cluster.rs"]
mod cluster;
#[path = "redis_states/cluster_failures.rs"]
mod cluster_failures;
#[path = "redis_states/cluster_seeds.rs"]
mod cluster_seeds;
#[path = "redis_states/cluster_silence.rs"]
mod cluster_silence;
#[path = "redis_states/commands.rs"]
mod commands;
#[path = "redis_states/corrupt.rs"]
mod corrupt;
#[path = "redis_states/keys.rs"]
mod keys;
#[path = "redis_states/lifespan.rs"]
mod lifespan;
#[path = "redis_states/memory.rs"]
mod memory;
#[path = "redis_states/mistakes.rs"]
mod mistakes;
#[path = "support/plain.rs"]
mod plain;
#[path = "redis_states/refusals.rs"]
mod refusals;
#[path = "support/remote.rs"]
mod remote;
#[path = "redis_states/replicas.rs"]
mod replicas;
#[path = "redis_states/rights.rs"]
mod rights;
#[path = "redis_states/runtime.rs"]
mod runtime;
#[path = "redis_states/sentinels.rs"]
mod sentinels;
#[path = "redis_states/starting.rs"]
mod starting;
#[path = "redis_states/world.rs"]
mod world;
