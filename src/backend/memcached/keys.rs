//! Item names: visible ASCII, at most 250 bytes, distinct for distinct keys.
//!
//! ```text
//! <namespace>/v/<name>               a user's value
//! <namespace>/t/<throttle>/<part>... the state of a throttle's key
//! <namespace>/l/<name>               a lock
//! <namespace>/g                      the generation of a node's items, for `clear`
//! <namespace>/V/<hash>               the same as the first three, for a key whose name would be longer
//! <namespace>/T/<hash>
//! <namespace>/L/<hash>
//! ```
//!
//! A namespace has no slash, and parts are percent-encoded ([`names`](crate::backend::names)), so the
//! borders are certain. The hash is SHA-256 of the injective form of the key, cut to 192 bits.

use sha2::{Digest, Sha256};

use crate::backend::names;
use crate::key::{Key, push_prefixed};

/// As long as a server takes it.
const MAX_NAME: usize = 250;
const SEPARATOR: u8 = b'/';
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The name of a value's or a state's item.
pub(super) fn of_key(namespace: &str, key: &Key<'_>) -> String {
    let kind = if key.throttle().is_some() { 't' } else { 'v' };
    // No readable name is shorter than what it names.
    let length: usize = key.parts().iter().map(|part| part.as_bytes().len()).sum();
    let readable = (length < MAX_NAME).then(|| {
        let mut name = beginning(namespace);
        names::push_key(&mut name, key, SEPARATOR);
        name
    });
    fitting(readable).unwrap_or_else(|| hashed(namespace, kind, &key.encode()))
}

/// The name of a lock's item.
pub(super) fn of_lock(namespace: &str, lock: &str) -> String {
    let mut name = beginning(namespace);
    name.extend_from_slice(b"l/");
    names::push_part(&mut name, lock.as_bytes(), SEPARATOR);
    fitting(Some(name)).unwrap_or_else(|| {
        let mut encoded = Vec::with_capacity(lock.len() + 2);
        push_prefixed(&mut encoded, lock.as_bytes());
        hashed(namespace, 'l', &encoded)
    })
}

/// The name of a generation's item, which each node has.
pub(super) fn of_generation(namespace: &str) -> String {
    format!("{namespace}/g")
}

fn beginning(namespace: &str) -> Vec<u8> {
    let mut name = Vec::with_capacity(namespace.len() + 64);
    name.extend_from_slice(namespace.as_bytes());
    name.push(SEPARATOR);
    name
}

fn fitting(name: Option<Vec<u8>>) -> Option<String> {
    String::from_utf8(name.filter(|name| name.len() <= MAX_NAME)?).ok()
}

fn hashed(namespace: &str, kind: char, encoded: &[u8]) -> String {
    let digest = Sha256::digest(encoded);
    let mut name = format!("{namespace}/{}/", kind.to_ascii_uppercase());
    for three in digest[..24].chunks_exact(3) {
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for shift in [18, 12, 6, 0] {
            name.push(char::from(ALPHABET[(bits >> shift & 63) as usize]));
        }
    }
    name
}

/// A number that is the same in every process, to choose a node by.
pub(super) fn stable_hash(bytes: &[u8]) -> u64 {
    let digest = Sha256::digest(bytes);
    digest[..8].iter().fold(0, |all, byte| all << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::key::KeyPart;
    use proptest::prelude::*;

    fn name(throttle: &str, parts: &[Vec<u8>]) -> String {
        let parts: Vec<_> = parts.iter().map(|part| KeyPart::bytes(part)).collect();
        of_key("n", &Key::new(throttle, &parts))
    }

    fn is_safe(name: &str) -> bool {
        name.len() <= 250 && name.bytes().all(|byte| byte.is_ascii_graphic())
    }

    #[test]
    fn short_plain_keys_are_readable() {
        assert_eq!(name("api", &[b"alice".to_vec()]), "n/t/api/alice");
        assert_eq!(name("api", &[b"a:b".to_vec(), b"".to_vec()]), "n/t/api/a:b/");
        assert_eq!(of_key("n", &Key::value("x")), "n/v/x");
        assert_eq!(of_lock("n", "x"), "n/l/x");
        assert_eq!(name("api", &[b"a b/{c}".to_vec()]), "n/t/api/a%20b%2F%7Bc%7D");
        assert_eq!(name("t", &[vec![b'k'; 244]]).len(), 250);
        assert!(name("t", &[vec![b'k'; 245]]).starts_with("n/T/"));
        assert!(name("t", &[vec![b' '; 82]]).starts_with("n/T/"));
        assert!(of_lock("n", &"\u{e9}".repeat(100)).starts_with("n/L/"));
    }

    #[test]
    fn f31_every_byte_and_every_length_is_safe_and_no_two_meet() {
        let namespace = "n".repeat(64);
        let mut seen = HashSet::new();
        let mut check = |bytes: &[u8]| {
            for key in [Key::value(bytes), Key::new("t", &[KeyPart::bytes(bytes)])] {
                let name = of_key(&namespace, &key);
                assert!(is_safe(&name), "{name}");
                assert!(seen.insert(name), "{key:?}");
            }
        };
        (0..=255).for_each(|byte| check(&[byte]));
        (2..300).chain([4096]).for_each(|length| check(&vec![b'k'; length]));
        check(b"a\r\nflush_all\r\n");
        check(b"a/b");
    }

    proptest! {
        #[test]
        fn f31_names_are_injective(
            a in prop::collection::vec("[a/ ]{0,3}", 0..4),
            b in prop::collection::vec("[a/ ]{0,3}", 0..4),
            t in "[a/ ]{0,2}",
            u in "[a/ ]{0,2}",
        ) {
            let bytes = |parts: &[String]| parts.iter().map(|it| it.clone().into_bytes()).collect::<Vec<_>>();
            let same = t == u && a == b;
            let (first, second) = (name(&t, &bytes(&a)), name(&u, &bytes(&b)));
            prop_assert!(is_safe(&first));
            prop_assert_eq!(same, first == second);
        }
    }
}
