//! Walks the chain of addresses that proxies have written, from the right.

use std::net::IpAddr;

use super::proxies::TrustedProxies;
use super::quoted::split_last;
use super::{ForwardedHeader, hop};

/// The most hops that are read.
pub(super) const MOST_HOPS: usize = 32;

/// Where a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// At an address that is not trusted, or at the last good one before what cannot be read.
    Found(IpAddr),
    /// At the peer, which is no proxy.
    UntrustedPeer(IpAddr),
    /// At the last of addresses which are all trusted.
    AllTrusted(IpAddr),
    /// At the peer, a proxy that wrote nothing.
    NoHeader(IpAddr),
}

impl Walk {
    pub(super) const fn address(self) -> IpAddr {
        match self {
            Self::Found(address)
            | Self::UntrustedPeer(address)
            | Self::AllTrusted(address)
            | Self::NoHeader(address) => address,
        }
    }
}

/// Finds the client's address by the lines of the header, in reverse order.
pub(super) fn walk<'l>(
    peer: IpAddr,
    lines: impl Iterator<Item = &'l [u8]>,
    proxies: &TrustedProxies,
    header: &ForwardedHeader,
) -> Walk {
    if !proxies.contains(peer) {
        return Walk::UntrustedPeer(peer);
    }
    let mut lines = lines.peekable();
    if lines.peek().is_none() {
        return Walk::NoHeader(peer);
    }
    let read = match header {
        ForwardedHeader::XForwardedFor => hop::read,
        ForwardedHeader::Forwarded => hop::read_forwarded,
        ForwardedHeader::CloudFrontViewerAddress => {
            return Walk::Found(single(lines, hop::read_with_port).unwrap_or(peer));
        }
        _ => return Walk::Found(single(lines, hop::read).unwrap_or(peer)),
    };
    let mut last_good = peer;
    for element in lines.flat_map(FromRight::of).take(MOST_HOPS) {
        let Some(address) = read(element) else { return Walk::Found(last_good) };
        last_good = address;
        if !proxies.contains(address) {
            return Walk::Found(address);
        }
    }
    Walk::AllTrusted(last_good)
}

/// Reads a header with one address. One that comes twice was not written by one proxy alone.
fn single<'l>(
    mut lines: impl Iterator<Item = &'l [u8]>,
    read: fn(&[u8]) -> Option<IpAddr>,
) -> Option<IpAddr> {
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    read(line)
}

/// The elements of a line, from the right.
struct FromRight<'l>(Option<&'l [u8]>);

impl<'l> FromRight<'l> {
    const fn of(line: &'l [u8]) -> Self {
        Self(Some(line))
    }
}

impl<'l> Iterator for FromRight<'l> {
    type Item = &'l [u8];

    fn next(&mut self) -> Option<&'l [u8]> {
        let (before, element) = split_last(self.0?, b',');
        self.0 = before;
        Some(element)
    }
}
