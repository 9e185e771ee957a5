//! Reads one element of a forwarding header: the address of a hop.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

use super::quoted;

/// No address with its port, quoted and escaped, is longer.
const LONGEST: usize = 128;

/// Reads a hop of `X-Forwarded-For`, or the only one of a header with one address: an address, also with a port, in
/// brackets or in quotes. `None` for anything else.
pub(super) fn read(element: &[u8]) -> Option<IpAddr> {
    let element = trim(element);
    if element.len() > LONGEST {
        return None;
    }
    let text = unquoted(element)?;
    node(std::str::from_utf8(&text).ok()?)
}

/// Reads the `for=` of an element of `Forwarded` (RFC 7239, section 4). `None` if there is none, or more than one.
pub(super) fn read_forwarded(element: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    let mut rest = Some(element);
    while let Some(pairs) = rest {
        let (before, pair) = quoted::split_last(pairs, b';');
        rest = before;
        if trim(pair).is_empty() {
            continue;
        }
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (trim(&pair[..equals]), &pair[equals + 1..]);
        if name.eq_ignore_ascii_case(b"for") {
            if found.is_some() {
                return None;
            }
            found = Some(read(value)?);
        }
    }
    found
}

/// Reads an address that a port follows, an IPv6 one also without brackets, as CloudFront writes it. Only where it is
/// known that there is a port, for `2001:db8::1:443` is an address too.
pub(super) fn read_with_port(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(trim(element)).ok()?;
    let (address, port) = text.rsplit_once(':')?;
    match address.parse::<Ipv6Addr>() {
        Ok(address) => is_port(port).then(|| IpAddr::V6(address).to_canonical()),
        Err(_) => read(element),
    }
}

/// Optional whitespace (RFC 9110, section 5.6.3).
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// Returns what a quoted string says (RFC 9110, section 5.6.4), or the text as it is. `None` if a quote or an escape
/// has no end.
fn unquoted(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    let [b'"', inner @ ..] = text else {
        return Some(Cow::Borrowed(text));
    };
    let mut said = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    loop {
        match bytes.next()? {
            b'"' => break,
            b'\\' => said.push(*bytes.next()?),
            byte => said.push(*byte),
        }
    }
    bytes.as_slice().is_empty().then_some(Cow::Owned(said))
}

/// Reads `address`, `address:port`, `[address]` or `[address]:port`.
fn node(text: &str) -> Option<IpAddr> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, after) = bracketed.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        let is_whole = after.is_empty() || after.strip_prefix(':').is_some_and(is_port);
        return is_whole.then(|| IpAddr::V6(address).to_canonical());
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    match text.rsplit_once(':') {
        Some((address, port)) if is_port(port) => address.parse().ok().map(IpAddr::V4),
        _ => None,
    }
}

/// A port, or one that is obfuscated (RFC 7239, section 6).
fn is_port(text: &str) -> bool {
    match text.strip_prefix('_') {
        Some(name) => {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !name.is_empty() && name.bytes().all(allowed)
        }
        None => {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits && text.len() <= 5 && text.parse::<u16>().is_ok()
        }
    }
}
