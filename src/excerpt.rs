//! Excerpts of foreign bytes for messages: escaped, so that they cannot forge a line, and cut.

use std::fmt;

/// Shows at most the first 60 bytes, quoted and escaped.
pub(crate) struct Excerpt<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(60)];
        let rest = self.0.len() - shown.len();
        write!(f, "\"{}\"", shown.escape_ascii())?;
        if rest > 0 { write!(f, " and {rest} bytes more") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_cuts() {
        assert_eq!(Excerpt(b"a\r\n\"\xff").to_string(), r#""a\r\n\"\xff""#);
        assert!(Excerpt(&[b'a'; 100]).to_string().ends_with("aa\" and 40 bytes more"));
    }
}
