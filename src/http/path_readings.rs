//! What servers and proxies may take a path for, other than as it is written.

use super::percent;

/// A path that is longer is not read in all ways: it may be anything.
const LONGEST: usize = 4096;
/// How often a path is decoded, as by a proxy before a server.
const DECODED: usize = 3;

/// Returns whether somebody could take the path for another one.
pub(super) fn is_ambiguous(path: &str) -> bool {
    let has_escape = |code: &str| {
        path.as_bytes()
            .windows(3)
            .any(|escape| escape[0] == b'%' && escape[1..].eq_ignore_ascii_case(code.as_bytes()))
    };
    let mut segments = path.split('/').peekable();
    // What is before the first slash is nothing, and what is after the last may be.
    let has_dots = |segment: &str| matches!(segment, "." | "..");
    let is_odd = |segment: &str| segment.is_empty() || has_dots(segment);
    segments.next();
    let mut is_any_odd = false;
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        is_any_odd |= if is_last { has_dots(segment) } else { is_odd(segment) };
    }
    is_any_odd
        || path.contains(['\\', ';'])
        || ["25", "2e", "2f", "3b", "5c"].into_iter().any(has_escape)
}

/// Returns whether `is_meant` holds for the path as somebody could read it, other than as it is written: with escapes
/// or without, with or without parameters of segments, empty segments and a slash at the end, and `..` applied to
/// either.
pub(super) fn any(path: &str, is_meant: impl Fn(&[u8]) -> bool) -> bool {
    let is_plain = !path.contains('%') && !is_ambiguous(path);
    if is_plain {
        return path.starts_with('/') && ends_either_way(path.as_bytes(), &is_meant);
    }
    if path.len() > LONGEST {
        return true;
    }
    let mut spellings = vec![path.as_bytes().to_vec(), percent::without_needless(path.as_bytes())];
    let mut last = path.as_bytes().to_vec();
    for _ in 0..DECODED {
        let decoded = percent::decoded(&last);
        if decoded == last {
            break;
        }
        spellings.push(decoded.clone());
        last = decoded;
    }
    spellings.dedup();
    let without: Vec<_> = spellings
        .iter()
        .filter(|spelling| spelling.contains(&b';'))
        .map(|spelling| without_parameters(spelling))
        .collect();
    spellings.iter().chain(&without).any(|spelling| {
        let readings = [spelling.clone(), resolved(spelling, true), resolved(spelling, false)];
        readings.iter().any(|reading| ends_either_way(reading, &is_meant))
    })
}

fn ends_either_way(path: &[u8], is_meant: &impl Fn(&[u8]) -> bool) -> bool {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
    let trimmed = &path[..end];
    is_meant(path) || is_meant(trimmed) || is_meant(&[trimmed, b"/"].concat())
}

/// Returns the path without what follows a semicolon in a segment.
fn without_parameters(path: &[u8]) -> Vec<u8> {
    let segments = path.split(|byte| *byte == b'/');
    let segments: Vec<&[u8]> = segments
        .map(|segment| segment.split(|byte| *byte == b';').next().unwrap_or_default())
        .collect();
    segments.join(&b'/')
}

/// Returns the path without dot segments and backslashes, and without empty segments or with them.
fn resolved(path: &[u8], keeps_empty: bool) -> Vec<u8> {
    let mut segments: Vec<&[u8]> = Vec::new();
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let mut pieces = path.split(|byte| matches!(byte, b'/' | b'\\')).peekable();
    let mut ends_open = false;
    while let Some(segment) = pieces.next() {
        let is_last = pieces.peek().is_none();
        ends_open = is_last && matches!(segment, b"" | b"." | b"..");
        match segment {
            b"." => {}
            b"" if is_last || !keeps_empty => {}
            b".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let mut resolved = Vec::with_capacity(path.len() + 1);
    for segment in segments {
        resolved.push(b'/');
        resolved.extend_from_slice(segment);
    }
    // A directory stays one.
    if resolved.is_empty() || ends_open {
        resolved.push(b'/');
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_path_as_others_do() {
        for (path, reading) in [
            ("/in/../api", "/api"),
            ("/in/..", "/"),
            ("/in/./x", "/in/x"),
            ("/in//x", "/in/x"),
            ("/in/%2e%2E/api", "/api"),
            ("/in/..%2fapi", "/api"),
            ("/in/%5c..", "/in/"),
            ("/in%5c..", "/"),
            ("/../../x/", "/x/"),
            ("//in", "/in"),
            // As RFC 3986 resolves them, and the URL standard.
            ("/api//../login", "/api/login"),
            ("/x%2fy/../login", "/login"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            // By servers that ignore a slash at the end, parameters, or decode once more.
            ("/login/", "/login"),
            ("/login//", "/login"),
            ("/login", "/login/"),
            ("/assets/..;/api", "/api"),
            ("/login;session=7", "/login"),
            ("/assets/%252e%252e/api", "/api"),
            ("/lo%67in", "/login"),
            ("/caf%c3%a9", "/caf\u{e9}"),
        ] {
            assert!(any(path, |read| read == reading.as_bytes()), "{path} as {reading}");
            assert!(!any(path, |read| read == b"/other"), "{path}");
        }
        assert!(any(&format!("/{}//", "a".repeat(LONGEST)), |_| false), "it may be anything");
        assert!(!any(&format!("/{}", "a".repeat(LONGEST)), |_| false));
    }
}
