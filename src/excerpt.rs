//! Excerpts of foreign bytes for messages: escaped, so that they cannot forge a line, and cut.

use std::fmt;

/// What an excerpt takes up, at most.
const LONGEST: usize = 60;

/// Shows as many of the first bytes as take up 60 when they are escaped, in quotes.
pub(crate) struct Excerpt<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut room = LONGEST;
        let fits = |byte: &&u8| {
            let left = room.checked_sub(std::ascii::escape_default(**byte).len());
            room = left.unwrap_or_default();
            left.is_some()
        };
        let shown = &self.0[..self.0.iter().take_while(fits).count()];
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
        let escaped = format!("\"{}\" and 34 bytes more", r"\x00".repeat(15));
        assert_eq!(Excerpt(&[0; 49]).to_string(), escaped, "by what is shown");
    }
}
