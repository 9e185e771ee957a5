//! Chains of forwarding headers, as a table: what each says, and who the client is.

use std::net::IpAddr;

use http::{HeaderName, HeaderValue};
use traffik::http::{ClientAddr, ForwardedHeader};

use crate::support::{head, request};

const TABLE: &str = include_str!("chains.txt");

pub(crate) fn behind() -> ClientAddr {
    ClientAddr::behind(["10.0.0.0/8", "fd00::/8", "192.0.2.1"]).unwrap()
}

fn header(name: &str) -> ForwardedHeader {
    match name {
        "xff" => ForwardedHeader::XForwardedFor,
        "forwarded" => ForwardedHeader::Forwarded,
        "x-real-ip" => ForwardedHeader::XRealIp,
        "true-client-ip" => ForwardedHeader::TrueClientIp,
        "cf-connecting-ip" => ForwardedHeader::CfConnectingIp,
        "fly-client-ip" => ForwardedHeader::FlyClientIp,
        "x-envoy-external-address" => ForwardedHeader::XEnvoyExternalAddress,
        "cloudfront-viewer-address" => ForwardedHeader::CloudFrontViewerAddress,
        other => ForwardedHeader::Single(HeaderName::try_from(other).unwrap()),
    }
}

#[test]
fn each_chain_of_the_table_has_the_client_that_it_says() {
    let mut wrong = Vec::new();
    let mut rows = 0;
    for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let columns: Vec<&str> = line.split(" | ").map(str::trim).collect();
        let [name, peer, lines, client] = columns[..] else { panic!("not four columns: {line}") };
        let header = header(name);
        let mut request = head(request("/", peer));
        for text in lines.split(" ~ ").filter(|text| !text.is_empty()) {
            let bytes = text.replace("\\t", "\t");
            let Ok(value) = HeaderValue::from_bytes(bytes.replace("\\x00", "\u{80}").as_bytes())
            else {
                panic!("no header can have this value: {line}")
            };
            request.headers.append(header.name(), value);
        }
        let found = behind().header(header).address_of(&request);
        if found != Some(client.parse::<IpAddr>().unwrap()) {
            wrong.push(format!("{line}: {found:?}"));
        }
        rows += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rows >= 150, "{rows} rows");
}

#[test]
fn a_header_that_is_not_chosen_does_not_count() {
    for name in ["forwarded", "x-real-ip", "true-client-ip", "cf-connecting-ip"] {
        let mut request = head(request("/", "10.0.0.2"));
        request.headers.append(header(name).name(), HeaderValue::from_static("198.51.100.1"));
        assert_eq!(behind().address_of(&request), Some("10.0.0.2".parse().unwrap()), "{name}");
    }
}

#[test]
fn at_most_32_hops_are_read() {
    for (trusted, client) in [(31, "198.51.100.1"), (32, "10.0.0.0"), (1000, "10.0.0.0")] {
        let mut request = head(request("/", "10.0.0.2"));
        let chain = format!("198.51.100.1{}", ", 10.0.0.0".repeat(trusted));
        request.headers.append("x-forwarded-for", HeaderValue::try_from(chain).unwrap());
        assert_eq!(behind().address_of(&request), Some(client.parse().unwrap()), "{trusted} hops");
    }
}

#[test]
fn a_hop_of_a_million_bytes_costs_no_more_than_its_reading() {
    for junk in ["\\\"", "\"", ",", "a", "[", ":"] {
        let mut request = head(request("/", "10.0.0.2"));
        let chain = format!("{}, 10.0.0.3", junk.repeat(1_000_000));
        request.headers.append("x-forwarded-for", HeaderValue::try_from(chain).unwrap());
        assert_eq!(behind().address_of(&request), Some("10.0.0.3".parse().unwrap()));
    }
}
