//! [`TrustedProxies`]: the addresses whose headers count.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use thiserror::Error;

use crate::excerpt::Excerpt;

/// The addresses and nets of proxies whose headers say who the client is.
#[derive(Clone, Debug)]
pub struct TrustedProxies {
    nets: Arc<[IpNet]>,
}

/// What is wrong with a list of trusted proxies.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TrustedProxiesError {
    /// An entry is neither an address nor a net.
    #[error(
        "trusted proxy {entry} is neither an address such as 10.0.0.7 nor a net such as 10.0.0.0/8"
    )]
    Syntax {
        /// The entry, escaped.
        entry: String,
    },
    /// An entry is a net of all addresses.
    #[error(
        "trusted proxy {entry} is every address, so each client could choose its own; list the proxies' nets"
    )]
    Everybody {
        /// The entry, escaped.
        entry: String,
    },
    /// The list is empty.
    #[error(
        "the list of trusted proxies is empty; identify clients by `PeerAddr` if there is no proxy"
    )]
    Empty,
}

impl TrustedProxies {
    /// Reads addresses, and nets as `10.0.0.0/8`.
    ///
    /// # Errors
    ///
    /// As for [`ClientAddr::behind`](super::ClientAddr::behind).
    pub fn new<P: AsRef<str>>(
        proxies: impl IntoIterator<Item = P>,
    ) -> Result<Self, TrustedProxiesError> {
        let nets: Result<Arc<[_]>, _> =
            proxies.into_iter().map(|entry| net_of(entry.as_ref())).collect();
        match nets? {
            nets if nets.is_empty() => Err(TrustedProxiesError::Empty),
            nets => Ok(Self { nets }),
        }
    }

    /// Returns whether an address is a proxy's.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.nets.iter().any(|net| net.contains(&address))
    }
}

fn net_of(entry: &str) -> Result<IpNet, TrustedProxiesError> {
    let text = || Excerpt(entry.as_bytes()).to_string();
    let trimmed = entry.trim();
    let net = match trimmed.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => match trimmed.parse() {
            Ok(net) => net,
            Err(_) => return Err(TrustedProxiesError::Syntax { entry: text() }),
        },
    };
    match canonical(net) {
        net if net.prefix_len() == 0 => Err(TrustedProxiesError::Everybody { entry: text() }),
        net => Ok(net),
    }
}

/// IPv4 that is written as IPv6 is IPv4, as addresses are when they are looked up.
fn canonical(net: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    if let IpNet::V6(v6) = net
        && let Some(bits) = v6.prefix_len().checked_sub(MAPPED)
        && let Some(address) = v6.addr().to_ipv4_mapped()
        && let Ok(v4) = Ipv4Net::new(address, bits)
    {
        return IpNet::V4(v4);
    }
    net
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses_and_nets() {
        let proxies = TrustedProxies::new([
            "10.0.0.0/8",
            " 192.0.2.7 ",
            "fd00::/8",
            "::ffff:198.51.100.0/120",
        ])
        .unwrap();
        for (address, expected) in [
            ("10.255.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("fd12::1", true),
            ("fe80::1", false),
            ("198.51.100.9", true),
            ("198.51.101.9", false),
        ] {
            assert_eq!(proxies.contains(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let error = |entries: &[&str]| TrustedProxies::new(entries).unwrap_err().to_string();
        for (entries, expected) in [
            (&["10.0.0.0/33"][..], "trusted proxy \"10.0.0.0/33\" is neither an address"),
            (&["proxy.internal"], "trusted proxy \"proxy.internal\" is neither an address"),
            (&["10.0.0.1", ""], "trusted proxy \"\" is neither an address"),
            (&["0.0.0.0/0"], "trusted proxy \"0.0.0.0/0\" is every address"),
            (&["::/0"], "trusted proxy \"::/0\" is every address"),
            (&["::ffff:0:0/96"], "trusted proxy \"::ffff:0:0/96\" is every address"),
            (&[], "the list of trusted proxies is empty"),
        ] {
            let said = error(entries);
            assert!(said.starts_with(expected), "{entries:?}: {said}");
        }
    }
}
