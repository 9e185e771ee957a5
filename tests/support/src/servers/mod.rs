//! Real servers, for tests.
//!
//! A server listens on 127.0.0.1 only, has a directory of its own, and ends with its value, with a
//! panic of its test, and with the test's process. All is blocking `std` code, so that a test of
//! any runtime can call it.

pub mod certificates;
pub mod cluster;
pub mod dir;
pub mod faketime;
pub mod instance;
pub mod memcached;
pub mod nginx;
pub mod pause;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod resp;
pub mod sentinel;
pub mod stalls;
pub mod wait;
pub mod web;
pub mod workers;

pub use certificates::Certificates;
pub use cluster::RedisCluster;
pub use faketime::FakeTime;
pub use memcached::MemcachedServer;
pub use nginx::NginxServer;
pub use proxy::{Direction, Proxy};
pub use redis::RedisServer;
pub use resp::Value;
pub use sentinel::Sentinels;
pub use stalls::Abandoned;
pub use wait::wait_until;
pub use web::web_server;
pub use workers::Workers;
