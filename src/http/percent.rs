//! Percent-encoding (RFC 3986, section 2.1).

/// Returns what percent-encoded text says (RFC 3986, section 2.1); what is no escape stays as it is.
pub(super) fn decoded(text: &[u8]) -> Vec<u8> {
    let mut said = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let (byte, after) = match escaped.filter(|_| *byte == b'%') {
            Some(escaped) => (escaped, &after[2..]),
            None => (*byte, after),
        };
        said.push(byte);
        rest = after;
    }
    said
}

/// Returns the text without the escapes of characters that need none (RFC 3986, section 6.2.2.2).
pub(super) fn without_needless(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        let escape = rest.get(..3).filter(|_| *byte == b'%');
        let unescaped = match escape.map(decoded).as_deref() {
            Some([one]) if one.is_ascii_alphanumeric() || b"-._~".contains(one) => Some(*one),
            _ => None,
        };
        plain.push(unescaped.unwrap_or(*byte));
        rest = if unescaped.is_some() { &rest[3..] } else { after };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_escapes_and_leaves_the_rest() {
        for (text, said) in [
            ("", ""),
            ("a%20b", "a b"),
            ("%2F%2f", "//"),
            ("%252e", "%2e"),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz%+1%41", "%zz%+1A"),
        ] {
            assert_eq!(decoded(text.as_bytes()), said.as_bytes(), "{text}");
        }
        assert_eq!(decoded(b"%ff\xfe"), b"\xff\xfe");
    }

    #[test]
    fn only_needless_escapes_go() {
        assert_eq!(without_needless(b"/%6Cogin%2fa%2Eb%7e%20%zz%"), b"/login%2fa.b~%20%zz%");
    }
}
