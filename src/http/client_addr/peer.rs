//! [`PeerAddr`]: the address of the socket's peer.

use std::net::{IpAddr, SocketAddr};

use http::HeaderName;
use http::request::Parts;

use super::addresses::Addresses;
use super::prefix::{ClientKey, Ipv6Prefix};
use crate::http::identity::{Identified, Identity};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// An extension with the socket's peer address, for servers that have none of their own.
///
/// With the feature `axum`, its `ConnectInfo<SocketAddr>` is found too, and with the feature `tonic` what its server
/// knows of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a name for its content")]
pub struct Peer(pub SocketAddr);

/// Returns the address of the socket's peer, without a port.
pub(super) fn peer_of(request: &Parts) -> Option<IpAddr> {
    let extensions = &request.extensions;
    let peer = extensions.get().map(|Peer(address)| *address);
    #[cfg(feature = "axum")]
    let peer = peer.or_else(|| {
        let connection = extensions.get::<axum::extract::ConnectInfo<SocketAddr>>();
        let of_a_test =
            || extensions.get::<axum::extract::connect_info::MockConnectInfo<SocketAddr>>();
        connection.map(|it| it.0).or_else(|| of_a_test().map(|it| it.0))
    });
    #[cfg(feature = "tonic")]
    let peer = peer.or_else(|| {
        let connection = extensions.get::<tonic::transport::server::TcpConnectInfo>();
        connection.and_then(tonic::transport::server::TcpConnectInfo::remote_addr)
    });
    peer.map(|address| address.ip().to_canonical())
}

/// The address of the socket's peer: the client's, where no proxy stands between.
///
/// Headers are not looked at, for anybody can write them. Behind a proxy all clients would have its address, and be
/// limited together: use [`ClientAddr`](crate::http::ClientAddr) there.
///
/// IPv4 addresses count one by one, and IPv6 addresses by their first 56 bits, since a client has a whole network of
/// them: see [`ipv6_prefix`](Self::ipv6_prefix).
///
/// The server must hand the address over: axum by `into_make_service_with_connect_info::<SocketAddr>()` (or by
/// `traffik::http::serve`), others, also where axum's connect info is a type of your own, by the extension [`Peer`]. A
/// request without one is answered with 500, and the log says what to set.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct PeerAddr {
    address: Addresses,
}

impl PeerAddr {
    /// Identifies clients by the socket's peer address.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how many bits of an IPv6 address are a client's, from 1 to 128. Defaults to 56.
    ///
    /// A home has a /64 or a /56, a company often a /48, which holds 256 of /56. To bound both, set two limits:
    ///
    /// ```
    /// use traffik::http::{PeerAddr, Rule, ThrottleLayer};
    /// # use traffik::{InMemory, Throttle};
    /// # let backend = InMemory::new();
    /// # let throttle = |name, rate| Throttle::builder(name).rate(rate).backend(backend.clone()).build();
    ///
    /// let clients = Rule::new(throttle("clients", "20/s")?, PeerAddr::new());
    /// let networks = Rule::new(throttle("networks", "200/s")?, PeerAddr::new().ipv6_prefix(48));
    /// let layer = ThrottleLayer::of_rules([clients, networks]);
    /// # drop(layer);
    /// # Ok::<(), traffik::BuildError>(())
    /// ```
    ///
    /// # Panics
    ///
    /// If it is 0 or above 128.
    #[track_caller]
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.address.prefix = Ipv6Prefix::new(bits);
        self
    }

    /// Returns the address of the peer; `None` if the server did not hand it over.
    #[must_use]
    pub fn address_of(&self, request: &Parts) -> Option<IpAddr> {
        peer_of(request)
    }

    /// Returns the key under which an address is counted, to look it up or block it. Behind
    /// [`Lookup::or`](crate::http::Lookup::or) that is `("\0or", key)`, and no other.
    #[must_use]
    pub fn key_of(&self, address: IpAddr) -> ClientKey {
        self.address.prefix.key_of(address)
    }
}

impl Identity for PeerAddr {
    fn identify<'r>(&'r self, request: &'r Parts) -> Identified<'r> {
        let Some(peer) = peer_of(request) else { return self.address.without_peer() };
        self.address.hint_untrusted(request, peer, &X_FORWARDED_FOR);
        self.address.identified(peer)
    }
}
