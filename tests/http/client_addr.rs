//! The client's address: what holds for every chain, and how addresses are grouped.

use std::net::IpAddr;

use http::HeaderValue;
use proptest::prelude::*;
use traffik::ToKey;
use traffik::http::{ClientAddr, ForwardedHeader, Identity, PeerAddr};

use crate::chains::behind;
use crate::support::{head, request, with_header};

/// Bytes that a header can have.
fn header_bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => Just(b','), 2 => Just(b'"'), 2 => Just(b'\\'), 1 => Just(b';'), 1 => Just(b'='),
        6 => 0x20u8..0x7f, 1 => 0x80u8..=0xff, 1 => Just(b'\t'),
    ];
    prop::collection::vec(byte, 0..80)
}

fn untrusted() -> impl Strategy<Value = IpAddr> {
    any::<IpAddr>().prop_map(|address| address.to_canonical()).prop_filter("trusted", |address| {
        !traffik::http::TrustedProxies::new(["10.0.0.0/8", "fd00::/8", "192.0.2.1"])
            .unwrap()
            .contains(*address)
    })
}

/// A hop as proxies write it.
fn written(address: IpAddr, form: u8) -> String {
    match (address, form % 5) {
        (IpAddr::V4(address), 0) => format!("{address}:443"),
        (IpAddr::V4(address), 1) => format!("\"{address}:443\""),
        (IpAddr::V4(address), 2) => format!("::ffff:{address}"),
        (IpAddr::V4(address), _) => address.to_string(),
        (IpAddr::V6(address), 0) => format!("[{address}]:443"),
        (IpAddr::V6(address), 1) => format!("\"[{address}]:443\""),
        (IpAddr::V6(address), 2) => format!("[{address}]"),
        (IpAddr::V6(address), _) => address.to_string(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Whatever a client writes stands to the left of what the proxies add, and changes nothing.
    #[test]
    fn nothing_that_a_client_writes_changes_whose_request_it_is(
        forged in header_bytes(),
        client in untrusted(),
        trusted in prop::collection::vec(0u8..3, 0..5),
        form in any::<u8>(),
        in_lines in any::<bool>(),
        is_forwarded in any::<bool>(),
    ) {
        let hops = trusted.iter().map(|which| ["10.9.9.9", "fd00::9", "192.0.2.1"][usize::from(*which)]);
        let hops = hops.map(|hop| hop.parse::<IpAddr>().unwrap());
        let added = std::iter::once(client).chain(hops).map(|hop| match is_forwarded {
            false => written(hop, form),
            true => format!("for=\"{}\";proto=https", match hop {
                IpAddr::V4(hop) => hop.to_string(),
                IpAddr::V6(hop) => format!("[{hop}]"),
            }),
        });
        let header = if is_forwarded { ForwardedHeader::Forwarded } else { ForwardedHeader::XForwardedFor };
        let mut request = head(request("/", "10.0.0.2"));
        let mut line = forged;
        for hop in added {
            if in_lines {
                let value = HeaderValue::from_bytes(&std::mem::take(&mut line)).unwrap();
                request.headers.append(header.name(), value);
                line = hop.into_bytes();
            } else {
                line.extend_from_slice(b", ");
                line.extend_from_slice(hop.as_bytes());
            }
        }
        request.headers.append(header.name(), HeaderValue::from_bytes(&line).unwrap());
        prop_assert_eq!(behind().header(header).address_of(&request), Some(client));
    }

    /// Any bytes give an address: the peer's, or one that stands in them.
    #[test]
    fn any_header_gives_an_address(
        lines in prop::collection::vec(header_bytes(), 0..4),
        kind in 0usize..3,
    ) {
        let header = [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded,
            ForwardedHeader::CloudFrontViewerAddress][kind].clone();
        let mut request = head(request("/", "10.0.0.2"));
        for line in lines {
            request.headers.append(header.name(), HeaderValue::from_bytes(&line).unwrap());
        }
        prop_assert!(behind().header(header).address_of(&request).is_some());
    }
}

fn key(identity: &impl Identity, peer: &str) -> Vec<Vec<u8>> {
    let request = head(request("/", peer));
    let identified = identity.identify(&request);
    let key = identified.to_key().unwrap();
    let parts = key.as_slice().unwrap().unwrap();
    parts.iter().map(|part| part.as_bytes().to_vec()).collect()
}

#[test]
fn addresses_of_one_network_are_one_client() {
    let clients = PeerAddr::new();
    for (one, other, are_same) in [
        ("2001:db8:0:1100::1", "2001:db8:0:11ff:ffff::2", true),
        ("2001:db8:0:1100::1", "2001:db8:0:1200::1", false),
        ("203.0.113.1", "203.0.113.2", false),
        ("203.0.113.1", "::ffff:203.0.113.1", true),
    ] {
        assert_eq!(key(&clients, one) == key(&clients, other), are_same, "{one} {other}");
    }
    let wide = ClientAddr::behind(["10.0.0.1"]).unwrap().ipv6_prefix(48);
    assert_eq!(key(&wide, "2001:db8::1"), key(&wide, "2001:db8:0:ff00::1"));
}

#[test]
fn the_key_of_an_address_is_that_of_its_requests() {
    let clients = PeerAddr::new();
    for address in ["203.0.113.1", "2001:db8:0:11aa::1"] {
        let looked_up = clients.key_of(address.parse().unwrap());
        let parts = looked_up.to_key();
        let parts: Vec<_> = parts
            .as_slice()
            .unwrap()
            .unwrap()
            .iter()
            .map(|part| part.as_bytes().to_vec())
            .collect();
        assert_eq!(parts, key(&clients, address));
    }
}

#[test]
fn the_address_of_a_test_of_axum_is_one_too() {
    use axum::extract::connect_info::{ConnectInfo, MockConnectInfo};

    let mut request = head(request("/", "203.0.113.1"));
    request.extensions.clear();
    assert_eq!(PeerAddr::new().address_of(&request), None);
    let (real, mock) = ([192, 0, 2, 1], [192, 0, 2, 2]);
    let socket = |address: [u8; 4]| std::net::SocketAddr::from((address, 1));
    request.extensions.insert(MockConnectInfo(socket(mock)));
    assert_eq!(PeerAddr::new().address_of(&request), Some(mock.into()));
    request.extensions.insert(ConnectInfo(socket(real)));
    assert_eq!(PeerAddr::new().address_of(&request), Some(real.into()));
}

#[test]
fn a_peer_is_taken_as_it_is_whatever_the_headers_say() {
    let request = request("/", "203.0.113.1");
    let request = with_header(request, "x-forwarded-for", "198.51.100.1");
    let request = head(with_header(request, "forwarded", "for=198.51.100.1"));
    assert_eq!(PeerAddr::new().address_of(&request), Some("203.0.113.1".parse().unwrap()));
}
