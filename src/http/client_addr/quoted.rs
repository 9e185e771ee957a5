//! Splits text with quoted strings (RFC 9110, section 5.6.4), from the right.

/// Splits at the last separator outside of quotes. They are read from the right too, so that a quote which a client
/// opened in its part hides nothing of what a proxy wrote after it.
pub(super) fn split_last(text: &[u8], separator: u8) -> (Option<&[u8]>, &[u8]) {
    let mut is_quoted = false;
    for (at, byte) in text.iter().enumerate().rev() {
        match byte {
            b'"' if !is_escaped(&text[..at]) => is_quoted = !is_quoted,
            byte if *byte == separator && !is_quoted => {
                return (Some(&text[..at]), &text[at + 1..]);
            }
            _ => {}
        }
    }
    (None, text)
}

fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}
