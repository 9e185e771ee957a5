//! [`ClientAddr`] and [`PeerAddr`]: the client's address as its identity.

mod chain;
mod hop;
mod prefix;
mod proxies;
mod quoted;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::request::Parts;
use http::{HeaderName, StatusCode};
use tracing::{error, warn};

pub use prefix::ClientKey;
pub use proxies::{TrustedProxies, TrustedProxiesError};

use self::chain::Walk;
use self::prefix::Ipv6Prefix;
use super::hints::Once;
use super::identity::{Identified, Identity, Refusal};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// An extension with the socket's peer address, for servers that have none of their own.
///
/// With the feature `axum`, its `ConnectInfo<SocketAddr>` is found too, and with the feature `tonic` what its server
/// knows of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a name for its content")]
pub struct Peer(pub SocketAddr);

/// Returns the address of the socket's peer, without a port.
fn peer_of(request: &Parts) -> Option<IpAddr> {
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
/// limited together: use [`ClientAddr`] there.
///
/// IPv4 addresses count one by one, and IPv6 addresses by their first 56 bits, since a client has a whole network of
/// them: see [`ipv6_prefix`](Self::ipv6_prefix).
///
/// The server must hand the address over: axum by `into_make_service_with_connect_info::<SocketAddr>()` (or by
/// `traffik::http::serve`), others, also where axum's connect info is a type of your own, by the extension [`Peer`]. A request without one is answered with 500, and the
/// log says what to set.
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

    /// Returns the key under which an address is counted, to look it up or block it.
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

/// The header in which a proxy says whose request it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`: a list of addresses, to which each proxy adds the one it sees.
    XForwardedFor,
    /// `Forwarded` (RFC 7239): the same as `for=` of each element.
    Forwarded,
    /// `X-Real-IP`: one address, by nginx when it is set so.
    XRealIp,
    /// `True-Client-IP`: one address, by Akamai and Cloudflare.
    TrueClientIp,
    /// `CF-Connecting-IP`: one address, by Cloudflare.
    CfConnectingIp,
    /// `CloudFront-Viewer-Address`: one address with its port, by Amazon CloudFront.
    CloudFrontViewerAddress,
    /// `Fly-Client-IP`: one address, by Fly.io.
    FlyClientIp,
    /// `X-Envoy-External-Address`: one address, by Envoy.
    XEnvoyExternalAddress,
    /// Another header with one address.
    Single(HeaderName),
}

impl ForwardedHeader {
    /// Returns the name of the header.
    #[must_use]
    pub fn name(&self) -> HeaderName {
        HeaderName::from_static(match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
            Self::XRealIp => "x-real-ip",
            Self::TrueClientIp => "true-client-ip",
            Self::CfConnectingIp => "cf-connecting-ip",
            Self::CloudFrontViewerAddress => "cloudfront-viewer-address",
            Self::FlyClientIp => "fly-client-ip",
            Self::XEnvoyExternalAddress => "x-envoy-external-address",
            Self::Single(name) => return name.clone(),
        })
    }
}

/// The client's address behind proxies that are trusted.
///
/// A header counts only if the socket's peer is one of the proxies; otherwise the peer is the client. Of
/// `X-Forwarded-For` and `Forwarded` all lines are joined and read from the right, past addresses of trusted proxies,
/// at most 32: the first other address is the client's, whatever stands to the left of it, which the client may
/// have written. What cannot be read ends the walk at the last good address, and is never skipped.
///
/// ```
/// use traffik::http::{ClientAddr, ForwardedHeader};
///
/// let nginx = ClientAddr::behind(["10.0.0.0/8", "::1"])?; // by X-Forwarded-For
/// let cloudflare = ClientAddr::behind(["173.245.48.0/20"])?.header(ForwardedHeader::CfConnectingIp);
/// # drop((nginx, cloudflare));
/// # Ok::<(), traffik::http::TrustedProxiesError>(())
/// ```
///
/// Choose one header, the one that your proxy sets or adds to, and let it remove what the client sent of others. A
/// header with one address is taken as it is.
///
/// Addresses count as for [`PeerAddr`].
///
/// # What the log says, once
///
/// A header from a peer that is not trusted: the proxy's address is missing in the list. A chain in which all are
/// trusted: a net in the list contains clients. A header that never comes: the proxy does not set it.
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientAddr {
    proxies: TrustedProxies,
    header: ForwardedHeader,
    /// Of the header.
    name: HeaderName,
    address: Addresses,
}

impl ClientAddr {
    /// Identifies clients behind these proxies: addresses, and nets as `10.0.0.0/8`. The header is
    /// `X-Forwarded-For`, unless [`header`](Self::header) says otherwise.
    ///
    /// # Errors
    ///
    /// For text that is neither, a list without any, and a net of all addresses: then each client could choose its
    /// address.
    pub fn behind<P: AsRef<str>>(
        proxies: impl IntoIterator<Item = P>,
    ) -> Result<Self, TrustedProxiesError> {
        Ok(Self::behind_nets(TrustedProxies::new(proxies)?))
    }

    /// As [`behind`](Self::behind), for a list that was read before.
    pub fn behind_nets(proxies: TrustedProxies) -> Self {
        let header = ForwardedHeader::XForwardedFor;
        Self { proxies, name: header.name(), header, address: Addresses::default() }
    }

    /// Sets the header that the proxies write. Defaults to `X-Forwarded-For`.
    pub fn header(mut self, header: ForwardedHeader) -> Self {
        self.name = header.name();
        self.header = header;
        self
    }

    /// Sets how many bits of an IPv6 address are a client's, as [`PeerAddr::ipv6_prefix`] does.
    ///
    /// # Panics
    ///
    /// If it is 0 or above 128.
    #[track_caller]
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.address.prefix = Ipv6Prefix::new(bits);
        self
    }

    /// Returns the client's address; `None` if the server did not hand over the peer's.
    #[must_use]
    pub fn address_of(&self, request: &Parts) -> Option<IpAddr> {
        Some(self.walk(request, peer_of(request)?).address())
    }

    /// Returns the key under which an address is counted, to look it up or block it.
    #[must_use]
    pub fn key_of(&self, address: IpAddr) -> ClientKey {
        self.address.prefix.key_of(address)
    }

    fn walk(&self, request: &Parts, peer: IpAddr) -> Walk {
        let lines = request.headers.get_all(&self.name).iter().rev();
        let lines = lines.map(http::HeaderValue::as_bytes);
        chain::walk(peer, lines, &self.proxies, &self.header)
    }
}

impl Identity for ClientAddr {
    fn identify<'r>(&'r self, request: &'r Parts) -> Identified<'r> {
        let Some(peer) = peer_of(request) else { return self.address.without_peer() };
        let walk = self.walk(request, peer);
        match walk {
            Walk::Found(_) => self.address.hints.header_came(),
            Walk::UntrustedPeer(_) => {
                self.address.hint_untrusted(request, peer, &self.name);
            }
            Walk::AllTrusted(address) => self.hint_all_trusted(address),
            Walk::NoHeader(_) => self.hint_no_header(peer),
        }
        self.address.identified(walk.address())
    }
}

impl ClientAddr {
    #[inline]
    fn hint_all_trusted(&self, client: IpAddr) {
        if self.address.hints.all_trusted.is_first() {
            warn!(
                %client,
                header = %self.name,
                "every address in the header is of a trusted proxy, so the last of them counts as the client; \
                 if clients come from that net, make the list of trusted proxies narrower"
            );
        }
    }

    #[inline]
    fn hint_no_header(&self, peer: IpAddr) {
        if self.address.hints.is_first_without_header() {
            warn!(
                %peer,
                header = %self.name,
                "no request of a trusted proxy had the header so far, so all clients behind it are limited as one; \
                 let the proxy set it, or choose the header that it sets by `ClientAddr::header`"
            );
        }
    }
}

/// What both identities do with an address.
#[derive(Clone, Debug, Default)]
struct Addresses {
    prefix: Ipv6Prefix,
    hints: Arc<Hints>,
}

/// What was said in the log.
#[derive(Debug, Default)]
struct Hints {
    no_peer: Once,
    untrusted: Once,
    all_trusted: Once,
    /// Requests of proxies without the header; `CAME` once one had it.
    came: AtomicU32,
}

impl Hints {
    const CAME: u32 = u32::MAX;
    /// How many requests may come without the header before that is said: health checks have none.
    const PATIENCE: u32 = 1000;

    fn header_came(&self) {
        // Written once, for all cores read it.
        if self.came.load(Ordering::Relaxed) != Self::CAME {
            self.came.store(Self::CAME, Ordering::Relaxed);
        }
    }

    /// Counts a request of a proxy without the header. Returns `true` once, if no other had it before.
    fn is_first_without_header(&self) -> bool {
        let without = self.came.load(Ordering::Relaxed);
        if without == Self::CAME {
            return false;
        }
        let is_enough = without + 1 == Self::PATIENCE;
        let next = if is_enough { Self::CAME } else { without + 1 };
        let won = self.came.compare_exchange(without, next, Ordering::Relaxed, Ordering::Relaxed);
        is_enough && won.is_ok()
    }
}

impl Addresses {
    fn identified(&self, address: IpAddr) -> Identified<'static> {
        Identified::parts(self.prefix.key_of(address).parts())
    }

    #[cold]
    fn without_peer(&self) -> Identified<'static> {
        if self.hints.no_peer.is_first() {
            error!(
                "the server does not say the peer's address, so every request is refused; serve an axum router \
                 by `into_make_service_with_connect_info::<SocketAddr>()` or `traffik::http::serve`, and give \
                 requests of others the extension `traffik::http::Peer`"
            );
        }
        let refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR);
        Identified::refused(refusal.detail("the server does not know the address of its clients"))
    }

    #[inline]
    fn hint_untrusted(&self, request: &Parts, peer: IpAddr, header: &HeaderName) {
        if self.hints.untrusted.was() || !request.headers.contains_key(header) {
            return;
        }
        if self.hints.untrusted.is_first() {
            warn!(
                %peer,
                %header,
                "the header came from a peer that is not a trusted proxy, and does not count; if a proxy of yours \
                 has this address, identify clients by `ClientAddr::behind`, with it in the list"
            );
        }
    }
}
