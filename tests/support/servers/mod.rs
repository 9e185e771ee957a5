//! Real servers, for tests: `#[path = "support/servers/mod.rs"] mod servers;`.
//!
//! A server listens on 127.0.0.1 only, has a directory of its own, and ends with its value, with a
//! panic of its test, and with the test's process. All is blocking `std` code, so that a test of
//! any runtime can call it.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(unused_imports, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

pub(crate) mod certificates;
pub(crate) mod cluster;
pub(crate) mod dir;
pub(crate) mod faketime;
pub(crate) mod memcached;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod resp;
pub(crate) mod sentinel;
pub(crate) mod wait;
pub(crate) mod web;
pub(crate) mod workers;

pub(crate) use certificates::Certificates;
pub(crate) use cluster::RedisCluster;
pub(crate) use faketime::FakeTime;
pub(crate) use memcached::MemcachedServer;
pub(crate) use proxy::{Direction, Proxy};
pub(crate) use redis::RedisServer;
pub(crate) use resp::Value;
pub(crate) use sentinel::Sentinels;
pub(crate) use wait::wait_until;
pub(crate) use web::web_server;
pub(crate) use workers::Workers;
