//! The names under which servers store things: readable where they are text, distinct for distinct keys.
//!
//! Visible ASCII stays as it is. Every other byte, and of the visible ones `%`, the braces and the
//! separator, is `%` and two hexadecimal digits, as in a URL. So a part never holds the separator, and
//! never a brace, by which a key would choose its slot in a Redis cluster.

use crate::key::{self, Key, KeyError, ToKey};

/// Returns whether it is written as it is.
const fn is_plain(byte: u8, separator: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'%' | b'{' | b'}') && byte != separator
}

/// Appends one part.
pub(crate) fn push_part(out: &mut Vec<u8>, part: &[u8], separator: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in part {
        if is_plain(*byte, separator) {
            out.push(*byte);
        } else {
            let digit = |half: u8| DIGITS[usize::from(half)];
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}

/// Appends `t` and the throttle's name, or `v` for a value of the user's, and then each part, with the
/// separator before each.
pub(crate) fn push_key(out: &mut Vec<u8>, key: &Key<'_>, separator: u8) {
    out.push(if key.throttle().is_some() { b't' } else { b'v' });
    let throttle = key.throttle().map(str::as_bytes);
    for part in throttle.into_iter().chain(key.parts().iter().map(|part| part.as_bytes())) {
        out.push(separator);
        push_part(out, part, separator);
    }
}

/// Returns the stored name of a throttle's key, by `name`; `None` for one that is exempt, of which
/// nothing is stored.
pub(crate) fn stored_name(
    throttle: &str,
    key: &impl ToKey,
    name: impl FnOnce(&Key<'_>) -> Vec<u8>,
) -> Result<Option<String>, KeyError> {
    let parts = key.to_key();
    let Some(parts) = parts.as_slice()? else { return Ok(None) };
    let mut room = None;
    let name = name(&Key::new(throttle, key::bounded(parts, &mut room)));
    Ok(Some(String::from_utf8_lossy(&name).into_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::KeyPart;

    fn name(throttle: &str, parts: &[Vec<u8>]) -> Vec<u8> {
        let parts: Vec<_> = parts.iter().map(|part| KeyPart::bytes(part)).collect();
        let mut out = Vec::new();
        push_key(&mut out, &Key::new(throttle, &parts), b'|');
        out
    }

    #[test]
    fn text_is_readable_and_all_else_is_encoded() {
        let shown = |text: &str| {
            let mut out = Vec::new();
            push_part(&mut out, text.as_bytes(), b'|');
            String::from_utf8(out).unwrap()
        };
        let plain = "a.Z-0_~!\"#$&'()*+,/:;<=>?@[\\]^`";
        assert_eq!(shown(plain), plain);
        assert_eq!(shown("a|b%{x} \r\n\0\u{e9}"), "a%7Cb%25%7Bx%7D%20%0D%0A%00%C3%A9");
        assert_eq!(shown(""), "");
        assert_eq!(name("api", &[b"a:b".to_vec(), b"c".to_vec()]), b"t|api|a:b|c");
        let mut value = Vec::new();
        push_key(&mut value, &Key::value("x/y"), b'/');
        assert_eq!(value, b"v/x%2Fy");
    }

    #[test]
    fn a_helper_says_what_a_hit_uses() {
        let of = |key: &Key<'_>| {
            key.parts().iter().map(|part| part.as_bytes()).collect::<Vec<_>>().concat()
        };
        assert_eq!(stored_name("t", &("a", "b"), of).unwrap().as_deref(), Some("ab"));
        assert_eq!(stored_name("t", &crate::key::Exempt, of).unwrap(), None);
        let fits = "x".repeat(key::MAX_KEY_BYTES);
        assert_eq!(stored_name("t", &fits, of).unwrap(), Some(fits));
        let long = "x".repeat(key::MAX_KEY_BYTES + 1);
        let digest = stored_name("t", &long, of).unwrap().unwrap();
        assert!(digest.starts_with("sha256") && digest.len() == 6 + 64, "{digest}");
    }

    fn parts() -> impl Strategy<Value = Vec<Vec<u8>>> {
        // Mostly of those bytes on which it depends.
        let byte = prop_oneof![
            Just(b'|'),
            Just(b'%'),
            Just(b'{'),
            Just(b'}'),
            Just(b'a'),
            Just(b'7'),
            Just(b'C'),
            any::<u8>()
        ];
        prop::collection::vec(prop::collection::vec(byte, 0..4), 0..4)
    }

    proptest! {
        #[test]
        fn f31_names_are_injective_and_of_visible_bytes(
            a in parts(), b in parts(), t in "[a|%{7C]{0,3}", u in "[a|%{7C]{0,3}",
        ) {
            let (first, second) = (name(&t, &a), name(&u, &b));
            prop_assert_eq!(t == u && a == b, first == second);
            let visible = |byte: &u8| byte.is_ascii_graphic() && !b"{}".contains(byte);
            prop_assert!(first.iter().all(visible));
        }
    }
}
