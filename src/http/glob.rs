//! [`Glob`]: a pattern for paths, in which stars stand for any text.

/// A pattern: `*` is any text within a segment, `**` any text, and all else is itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glob {
    /// What comes before the first star.
    literal: Box<[u8]>,
    /// What comes from there on.
    tokens: Box<[Token]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    Star,
    DoubleStar,
}

/// Places in the tokens, a bit each: as many as are reached at the same time.
type Places = u128;

impl Glob {
    /// The most bytes from the first star on; two stars are one.
    pub(super) const MOST: usize = 127;

    /// `None` if there are more bytes after the first star.
    pub(super) fn new(pattern: &[u8]) -> Option<Self> {
        let star = pattern.iter().position(|byte| *byte == b'*').unwrap_or(pattern.len());
        let (literal, mut rest) = pattern.split_at(star);
        let mut tokens: Vec<Token> = Vec::new();
        while let [byte, after @ ..] = rest {
            let token = match (byte, after) {
                (b'*', [b'*', ..]) => Token::DoubleStar,
                (b'*', _) => Token::Star,
                (byte, _) => Token::Byte(*byte),
            };
            rest = if token == Token::DoubleStar { &after[1..] } else { after };
            // Of stars in a row the widest is all.
            match (tokens.last_mut(), token) {
                (Some(Token::DoubleStar), Token::Star | Token::DoubleStar) => {}
                (Some(last @ Token::Star), Token::Star | Token::DoubleStar) => *last = token,
                _ => tokens.push(token),
            }
        }
        (tokens.len() <= Self::MOST)
            .then(|| Self { literal: literal.into(), tokens: tokens.into() })
    }

    /// Compares in one pass, for all places in the pattern that may be reached at once: so no text takes more than its
    /// length times that of the pattern.
    pub(super) fn matches(&self, text: &[u8]) -> bool {
        let Some(text) = text.strip_prefix(&*self.literal) else { return false };
        let mut reached = self.with_stars(1);
        for byte in text {
            let mut next: Places = 0;
            let mut left = reached;
            while left != 0 {
                let at = left.trailing_zeros();
                left &= left - 1;
                next |= match self.tokens.get(at as usize) {
                    Some(Token::Byte(own)) if own == byte => 1 << (at + 1),
                    Some(Token::Star) if *byte != b'/' => 1 << at,
                    Some(Token::DoubleStar) => 1 << at,
                    _ => 0,
                };
            }
            if next == 0 {
                return false;
            }
            reached = self.with_stars(next);
        }
        reached >> self.tokens.len() & 1 == 1
    }

    /// Adds the places after stars, which may stand for nothing. No two of them are in a row.
    fn with_stars(&self, reached: Places) -> Places {
        let mut all = reached;
        let mut left = reached;
        while left != 0 {
            let at = left.trailing_zeros();
            left &= left - 1;
            if matches!(self.tokens.get(at as usize), Some(Token::Star | Token::DoubleStar)) {
                all |= 1 << (at + 1);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(pattern: &str, text: &str) -> bool {
        Glob::new(pattern.as_bytes()).unwrap().matches(text.as_bytes())
    }

    #[test]
    fn a_star_stays_in_its_segment_and_two_do_not() {
        for (pattern, text, expected) in [
            ("/health", "/health", true),
            ("/health", "/health/", false),
            ("/health*", "/healthz", true),
            ("/health*", "/health/x", false),
            ("/v1/*/items", "/v1/7/items", true),
            ("/v1/*/items", "/v1/7/8/items", false),
            ("/v1/**/items", "/v1/7/8/items", true),
            ("/v1/**", "/v1/", true),
            ("/v1/**", "/v1", false),
            ("**", "", true),
            ("*", "a/b", false),
            ("/a*b*c", "/aXbXbXc", true),
            ("/**x*y", "/1/x/2/xzy", true),
            ("/**x*y", "/1/x/2/xz/y", false),
            ("/a?", "/ab", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_pattern_has_a_greatest_length() {
        assert!(Glob::new(format!("{}*{}", "a".repeat(500), "b".repeat(126)).as_bytes()).is_some());
        assert!(Glob::new(format!("*{}", "b".repeat(127)).as_bytes()).is_none());
        let longest = format!("*{}", "b".repeat(126));
        assert!(glob(&longest, &"b".repeat(400)));
        assert!(!glob(&longest, &"b".repeat(125)));
    }

    /// By the definition, in exponential time.
    fn model(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', b'*', rest @ ..] => (0..=text.len()).any(|taken| model(rest, &text[taken..])),
            [b'*', rest @ ..] => {
                let border = text.iter().position(|byte| *byte == b'/').unwrap_or(text.len());
                (0..=border).any(|taken| model(rest, &text[taken..]))
            }
            [byte, rest @ ..] => text.first() == Some(byte) && model(rest, &text[1..]),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn agrees_with_the_definition(pattern in "[ab/*]{0,7}", text in "[ab/]{0,8}") {
            prop_assert_eq!(glob(&pattern, &text), model(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
