//! Real servers, for tests: `#[path = "support/servers/mod.rs"] mod servers;`.
//!
//! A server listens on 127.0.0.1 only, has a directory of its own, and ends with its value, with a
//! panic of its test, and with the test's process. All is blocking `std` code, so that a test of
//! any runtime can call it.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(unused_imports, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

pub(crate) mod dir;
pub(crate) mod memcached;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod redis;
pub(crate) mod resp;
pub(crate) mod wait;

pub(crate) use memcached::MemcachedServer;
pub(crate) use redis::RedisServer;
pub(crate) use resp::Value;
pub(crate) use wait::wait_until;
