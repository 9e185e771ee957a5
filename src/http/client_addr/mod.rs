//! [`ClientAddr`] and [`PeerAddr`]: the client's address as its identity.

mod addresses;
mod behind_proxies;
mod chain;
mod forwarded_header;
mod hop;
mod peer;
mod prefix;
mod proxies;
mod quoted;

pub use behind_proxies::ClientAddr;
pub use forwarded_header::ForwardedHeader;
pub use peer::{Peer, PeerAddr};
pub use prefix::ClientKey;
pub use proxies::{TrustedProxies, TrustedProxiesError};
