//! Decorators: backends around backends, which add what to do when a store is slow, down or asked too often.

mod coalesce;
mod deny_cache;
mod forward;

pub use coalesce::{Coalesce, CoalesceInfo};
pub use deny_cache::{DenyCache, DenyCacheInfo, DenyCacheOptions};
