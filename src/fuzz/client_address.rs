//! Whose request it is, behind proxies.

use std::net::IpAddr;

use http::{HeaderValue, Request};

use crate::http::{ClientAddr, ForwardedHeader, Peer};

/// Whatever a client writes into a forwarding header, what the proxies add to its right says whose request it is.
pub fn client_address(written: &[u8]) {
    let behind = || ClientAddr::behind(["10.0.0.0/8", "fd00::/8"]).expect("two nets");
    let client = IpAddr::from([203, 0, 113, 7]);
    for (identity, name, added) in [
        (behind(), "x-forwarded-for", "203.0.113.7:443, 10.0.0.9"),
        (
            behind().header(ForwardedHeader::Forwarded),
            "forwarded",
            "for=203.0.113.7;proto=https, for=10.0.0.9",
        ),
    ] {
        let request = |lines: &[&[u8]]| {
            let (mut request, ()) = Request::new(()).into_parts();
            request.extensions.insert(Peer(([10, 0, 0, 1], 443).into()));
            for line in lines {
                request.headers.append(name, HeaderValue::from_bytes(line).ok()?);
            }
            Some(request)
        };
        let added = added.as_bytes();
        let one_line = [written, b", ", added].concat();
        for lines in [&[&*one_line][..], &[written, added]] {
            let Some(request) = request(lines) else { return };
            assert_eq!(identity.address_of(&request), Some(client), "{:?}", written.escape_ascii());
        }
        // What the proxies did not add to is somebody's, too.
        let Some(request) = request(&[written]) else { return };
        assert!(identity.address_of(&request).is_some());
    }
}
