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
        self.push(itoa::Buffer::new().format(number).as_bytes());
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

/// The texts of the numbers that need no memory of their own, with three digits each.
static SMALL_NUMBERS: [u8; 3 * SMALLER_THAN] = {
    const DIGITS: &[u8; 10] = b"0123456789";
    let mut texts = [0; 3 * SMALLER_THAN];
    let mut number = 0;
    while number < SMALLER_THAN {
        texts[3 * number] = DIGITS[number / 100];
        texts[3 * number + 1] = DIGITS[number / 10 % 10];
        texts[3 * number + 2] = DIGITS[number % 10];
        number += 1;
    }
    texts
};

const SMALLER_THAN: usize = 1000;

/// Returns the text of a small number, of which most fields are.
fn small(number: u64) -> Option<&'static str> {
    let number = usize::try_from(number).ok().filter(|number| *number < SMALLER_THAN)?;
    let unused = 2 - usize::from(number >= 10) - usize::from(number >= 100);
    str::from_utf8(SMALL_NUMBERS.get(3 * number + unused..3 * number + 3)?).ok()
}

/// Returns the value of a field that is an integer alone.
pub(super) fn number(number: u64) -> HeaderValue {
    if let Some(text) = small(number) {
        return HeaderValue::from_static(text);
    }
    let mut room = itoa::Buffer::new();
    HeaderValue::from_str(room.format(number)).unwrap_or_else(|_| number.into())
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
        for small in 0..=2 * SMALLER_THAN as u64 {
            assert_eq!(number(small), small.to_string());
        }
        assert_eq!(number(u64::MAX), "18446744073709551615");
    }
}
