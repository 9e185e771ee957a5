//! Whatever a client writes into a forwarding header, what the proxies add to its right says whose request it is.
//!
//! The same property runs in `tests/http/client_addr.rs`.

#![no_main]

use std::net::IpAddr;
use std::sync::LazyLock;

use http::{HeaderValue, Request};
use libfuzzer_sys::fuzz_target;
use traffik::http::{ClientAddr, ForwardedHeader, Peer};

static BY_LIST: LazyLock<ClientAddr> = LazyLock::new(behind);
static BY_FORWARDED: LazyLock<ClientAddr> =
    LazyLock::new(|| behind().header(ForwardedHeader::Forwarded));

fn behind() -> ClientAddr {
    ClientAddr::behind(["10.0.0.0/8", "fd00::/8"]).expect("two nets")
}

fuzz_target!(|written: &[u8]| {
    let client = IpAddr::from([203, 0, 113, 7]);
    for (identity, name, added) in [
        (&*BY_LIST, "x-forwarded-for", "203.0.113.7:443, 10.0.0.9"),
        (&*BY_FORWARDED, "forwarded", "for=203.0.113.7;proto=https, for=10.0.0.9"),
    ] {
        for is_one_line in [true, false] {
            let (mut request, ()) = Request::new(()).into_parts();
            request.extensions.insert(Peer(([10, 0, 0, 1], 443).into()));
            let mut line = Vec::new();
            match is_one_line {
                true => line = [written, b", "].concat(),
                false => match HeaderValue::from_bytes(written) {
                    Ok(value) => drop(request.headers.append(name, value)),
                    Err(_) => return,
                },
            }
            line.extend_from_slice(added.as_bytes());
            let Ok(value) = HeaderValue::from_bytes(&line) else { return };
            request.headers.append(name, value);
            assert_eq!(identity.address_of(&request), Some(client), "{:?}", line.escape_ascii());
        }
        // What the proxies did not add to is somebody's, too.
        let (mut request, ()) = Request::new(()).into_parts();
        request.extensions.insert(Peer(([10, 0, 0, 1], 443).into()));
        if let Ok(value) = HeaderValue::from_bytes(written) {
            request.headers.append(name, value);
        }
        assert!(identity.address_of(&request).is_some());
    }
});
