//! [`ClientAddr`]: the client's address behind proxies that are trusted.

use std::net::IpAddr;

use http::HeaderName;
use http::request::Parts;
use tracing::warn;

use super::addresses::Addresses;
use super::chain::{self, Walk};
use super::forwarded_header::ForwardedHeader;
use super::peer::peer_of;
use super::prefix::{ClientKey, Ipv6Prefix};
use super::proxies::{TrustedProxies, TrustedProxiesError};
use crate::http::identity::{Identified, Identity};

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
/// Addresses count as for [`PeerAddr`](crate::http::PeerAddr).
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

    /// Sets how many bits of an IPv6 address are a client's, as [`PeerAddr::ipv6_prefix`](crate::http::PeerAddr::ipv6_prefix) does.
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

    /// Returns the key under which an address is counted, to look it up or block it. Behind
    /// [`Lookup::or`](crate::http::Lookup::or) that is `("\0or", key)`, and no other.
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
