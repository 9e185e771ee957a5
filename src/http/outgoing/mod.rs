//! Outgoing requests: they wait for their turn, and heed what the remote says.

mod layer;
mod remote;
#[cfg(feature = "reqwest-middleware")]
mod reqwest;
mod service;

pub use layer::{AcquireLayer, RemoteHost};
pub use service::{AcquireError, AcquireService};
