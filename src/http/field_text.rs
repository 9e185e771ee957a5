//! [`FieldText`]: the value of a field while it is written.

use http::HeaderValue;

/// The most bytes that need no memory of their own.
const INLINE: usize = 96;

/// The value of a structured field (RFC 9651) while it is written: on the stack, unless it grows long.
pub(super) struct FieldText {
    inline: [u8; INLINE],
    len: usize,
    /// All of it, once it is too long.
    long: Vec<u8>,
}

impl Default for FieldText {
    fn default() -> Self {
        Self { inline: [0; INLINE], len: 0, long: Vec::new() }
    }
}

impl FieldText {
    pub(super) fn as_bytes(&self) -> &[u8] {
        if self.long.is_empty() { &self.inline[..self.len] } else { &self.long }
    }

    #[inline]
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.long.is_empty()
            && let Some(room) = self.inline.get_mut(self.len..self.len + bytes.len())
        {
            room.copy_from_slice(bytes);
            self.len += bytes.len();
            return;
        }
        if self.long.is_empty() {
            self.long.extend_from_slice(&self.inline[..self.len]);
        }
        self.long.extend_from_slice(bytes);
    }

    /// Writes an integer (RFC 9651, section 4.1.4).
    pub(super) fn push_number(&mut self, number: u64) {
        let mut room = [0; 20];
        self.push(digits(number, &mut room));
    }

    /// Writes a string (RFC 9651, section 4.1.6), in which all but printable ASCII is a question mark.
    pub(super) fn push_string(&mut self, text: &str) {
        self.push(b"\"");
        for char in text.chars() {
            match char {
                '"' | '\\' => self.push(&[b'\\', char as u8]),
                ' '..='~' => self.push(&[char as u8]),
                _ => self.push(b"?"),
            }
        }
        self.push(b"\"");
    }

    /// Begins the next item of a list.
    pub(super) fn separate(&mut self) {
        if !self.as_bytes().is_empty() {
            self.push(b", ");
        }
    }

    /// `None` for nothing.
    pub(super) fn into_value(self) -> Option<HeaderValue> {
        match self.as_bytes() {
            [] => None,
            text => HeaderValue::from_bytes(text).ok(),
        }
    }
}

/// Returns the value of a field that is an integer alone.
pub(super) fn number(number: u64) -> HeaderValue {
    let mut room = [0; 20];
    HeaderValue::from_bytes(digits(number, &mut room)).unwrap_or_else(|_| number.into())
}

fn digits(mut number: u64, room: &mut [u8; 20]) -> &[u8] {
    let mut at = room.len();
    loop {
        at -= 1;
        // One digit.
        room[at] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            return &room[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_same_short_and_long() {
        for count in [1, 10, 11, 12, 20, 1000] {
            let mut text = FieldText::default();
            let mut expected = String::new();
            for number in 0..count {
                text.separate();
                text.push_string("a \"b\" \\ c\u{e9}");
                text.push_number(number * 7919);
                let comma = if number > 0 { ", " } else { "" };
                expected.push_str(&format!("{comma}\"a \\\"b\\\" \\\\ c?\"{}", number * 7919));
            }
            assert_eq!(text.into_value().unwrap(), expected);
        }
        let mut largest = FieldText::default();
        largest.push_number(u64::MAX);
        assert_eq!(largest.into_value().unwrap(), "18446744073709551615");
        assert_eq!(FieldText::default().into_value(), None);
        assert_eq!([number(0), number(u64::MAX)], ["0", "18446744073709551615"]);
    }
}
