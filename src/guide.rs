//! Pages for those who run a service with traffik.

/// How a hit goes through the crate, for its readers.
///
#[doc = include_str!("../docs/hit.svg")]
///
#[doc = include_str!("../docs/architecture.md")]
pub mod architecture {}

/// For users of the Python library.
#[doc = include_str!("../docs/differences.md")]
pub mod differences {}

/// What can fail, and what holds then.
#[doc = include_str!("../docs/faults.md")]
pub mod faults {}

/// The backend on Memcached.
#[doc = include_str!("../docs/memcached.md")]
pub mod memcached {}

/// Figures, and how they are measured.
#[doc = include_str!("../docs/performance.md")]
pub mod performance {}

/// The backend on Redis.
#[doc = include_str!("../docs/redis.md")]
pub mod redis {}

/// What a hit sees while something fails, and what was seen.
#[doc = include_str!("../docs/reliability.md")]
pub mod reliability {}
