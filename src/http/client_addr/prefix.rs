//! How addresses are grouped, and the key of a group.

use std::net::{IpAddr, Ipv6Addr};

use crate::key::{KeyPart, KeyParts, ToKey};

/// How many bits of an IPv6 address are a client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ipv6Prefix(u8);

impl Default for Ipv6Prefix {
    fn default() -> Self {
        Self(56)
    }
}

impl Ipv6Prefix {
    #[track_caller]
    pub(super) fn new(bits: u8) -> Self {
        assert!((1..=128).contains(&bits), "an IPv6 prefix has 1 to 128 bits, and not {bits}");
        Self(bits)
    }

    /// An IPv4 address that is written as an IPv6 one counts as what it is.
    pub(super) fn key_of(self, address: IpAddr) -> ClientKey {
        match address.to_canonical() {
            IpAddr::V4(address) => ClientKey(IpAddr::V4(address)),
            IpAddr::V6(address) if is_translated(address) => ClientKey(IpAddr::V6(address)),
            IpAddr::V6(address) => {
                let kept = u128::MAX << (128 - u32::from(self.0));
                ClientKey(IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & kept)))
            }
        }
    }
}

/// Returns whether the address is an IPv4 one that a network has translated (RFC 6052, section 2.1): these have one
/// prefix for all.
fn is_translated(address: Ipv6Addr) -> bool {
    address.to_bits() >> 32 == 0x0064_ff9b_0000_0000_0000_0000
}

/// The key under which a client's address is counted: an IPv4 address, or the prefix of an IPv6 address.
///
/// Where the identity is digested, see [`DigestKey::key_of`](crate::http::DigestKey::key_of); behind
/// [`Lookup::or`](crate::http::Lookup::or) it is `("\0or", key)`.
///
/// ```
/// use std::time::Duration;
/// use traffik::http::PeerAddr;
/// # use traffik::{InMemory, Throttle};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let throttle = Throttle::builder("doc").rate("5/s").backend(InMemory::new()).build()?;
/// let clients = PeerAddr::new();
/// throttle.block(clients.key_of("2001:db8::7".parse()?), Duration::from_secs(3600)).await?;
/// let neighbour = clients.key_of("2001:db8::8".parse()?);
/// assert!(throttle.peek(neighbour).await?.is_denied(), "of the same /56");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientKey(IpAddr);

impl ClientKey {
    /// Returns the address, whose bits after the prefix are 0.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.0
    }

    #[inline]
    pub(super) fn parts(self) -> KeyParts<'static> {
        KeyParts::one(match self.0 {
            IpAddr::V4(address) => KeyPart::inline(address.octets()),
            IpAddr::V6(address) => KeyPart::inline(address.octets()),
        })
    }
}

impl ToKey for ClientKey {
    fn to_key(&self) -> KeyParts<'_> {
        self.parts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(bits: u8, address: &str) -> IpAddr {
        Ipv6Prefix::new(bits).key_of(address.parse().unwrap()).address()
    }

    #[test]
    fn groups_ipv6_by_prefix_and_ipv4_not_at_all() {
        for (bits, address, expected) in [
            (56, "2001:db8:aaaa:bbcc::1", "2001:db8:aaaa:bb00::"),
            (48, "2001:db8:aaaa:bbcc::1", "2001:db8:aaaa::"),
            (128, "2001:db8::1", "2001:db8::1"),
            (1, "ffff::1", "8000::"),
            (56, "203.0.113.7", "203.0.113.7"),
            (56, "::ffff:203.0.113.7", "203.0.113.7"),
            (56, "64:ff9b::203.0.113.7", "64:ff9b::203.0.113.7"),
            (56, "64:ff9b:1::203.0.113.7", "64:ff9b:1::"),
        ] {
            assert_eq!(key(bits, address), expected.parse::<IpAddr>().unwrap(), "{address}/{bits}");
        }
    }

    #[test]
    #[should_panic(expected = "an IPv6 prefix has 1 to 128 bits, and not 0")]
    fn a_prefix_of_all_addresses_is_refused() {
        let _ = Ipv6Prefix::new(0);
    }
}
