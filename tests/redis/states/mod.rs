//! What the Redis backend does in each state that a server, its sentinels or a cluster can be in.

mod access;
mod clear;
mod cluster;
mod cluster_failures;
mod cluster_seeds;
mod cluster_silence;
mod commands;
mod corrupt;
mod keys;
mod lifespan;
mod memory;
mod mistakes;
mod refusals;
mod replicas;
mod rights;
mod runtime;
mod sentinels;
mod starting;
mod world;
