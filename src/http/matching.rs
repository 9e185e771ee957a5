//! [`Matcher`]: to which requests a rule applies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::Method;
use http::request::Parts;

use super::identity::MatchedRoute;
use super::percent;

/// To which requests a rule applies: a [`Method`], a [`path`], a [`route`], or a closure.
///
/// A method is that one alone: `Method::GET` is not `HEAD`, which the same handlers answer.
///
/// ```
/// use http::Method;
/// use traffik::http::{Everyone, Rule, path, route};
/// # use traffik::{InMemory, Throttle};
/// # let throttle = Throttle::builder("writes").rate("5/s").backend(InMemory::new()).build()?;
///
/// let rule = Rule::new(throttle, Everyone)
///     .only(Method::POST)
///     .skip(path("/internal/**"))
///     .skip(route("/health"))
///     .skip(|request: &http::request::Parts| request.headers.contains_key("x-probe"));
/// # drop(rule);
/// # Ok::<(), traffik::BuildError>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say which requests it means",
    label = "no matcher",
    note = "write `path(\"/items/**\")`, `route(\"/items/{{id}}\")`, an `http::Method`, or a closure \
            `|request: &http::request::Parts| -> bool`"
)]
pub trait Matcher: Send + Sync + 'static {
    /// Returns whether the request is one of these: then [`skip`](super::Rule::skip) skips it.
    fn matches(&self, request: &Parts) -> bool;

    /// Returns whether the request may be one of these: then a rule [`only`](super::Rule::only) for these concerns it.
    /// Where it is hard to tell, this is `true` and [`matches`](Self::matches) is `false`, so that the request is limited.
    fn might_match(&self, request: &Parts) -> bool {
        self.matches(request)
    }
}

impl<F> Matcher for F
where
    F: Fn(&Parts) -> bool + Send + Sync + 'static,
{
    fn matches(&self, request: &Parts) -> bool {
        self(request)
    }
}

impl Matcher for Method {
    fn matches(&self, request: &Parts) -> bool {
        request.method == *self
    }
}

/// Requests of one route; see [`route`].
#[derive(Clone, Debug)]
pub struct RouteMatcher {
    pattern: String,
    unmatched: Arc<Unmatched>,
}

/// How many requests a rule has not concerned so far; `MATCHED` once it has.
#[derive(Debug, Default)]
struct Unmatched(AtomicU32);

const MATCHED: u32 = u32::MAX;
/// How many requests may come without a match before that is said.
const PATIENCE: u32 = 1000;

impl Unmatched {
    /// Notes whether a request matches, and says once if none did.
    fn note(&self, pattern: &str, is_match: bool) -> bool {
        let without = self.0.load(Ordering::Relaxed);
        if without == MATCHED {
            return is_match;
        }
        let next = if is_match || without + 1 == PATIENCE { MATCHED } else { without + 1 };
        let won = self.0.compare_exchange(without, next, Ordering::Relaxed, Ordering::Relaxed);
        if won.is_ok() && !is_match && next == MATCHED {
            tracing::warn!(
                pattern,
                "no request has matched the route or path so far, so its rule limits nothing; of a route give the \
                 whole pattern as the router has it, and of a path what comes after a router around it; and add the \
                 layer to the router, not around it"
            );
        }
        is_match
    }
}

/// Matches requests of a route, by its pattern as the router has it, such as `/items/{id}`; see
/// [`matched_route`](super::matched_route).
///
/// In a nested router that is the whole pattern, such as `/api/items/{id}`. A rule for a pattern that no route has
/// limits nothing: if no request has matched among the first thousand, the log says so, once.
#[must_use]
pub fn route(pattern: impl Into<String>) -> RouteMatcher {
    RouteMatcher { pattern: pattern.into(), unmatched: Arc::default() }
}

impl Matcher for RouteMatcher {
    fn matches(&self, request: &Parts) -> bool {
        MatchedRoute::of(request) == Some(&self.pattern)
    }

    fn might_match(&self, request: &Parts) -> bool {
        self.unmatched.note(&self.pattern, self.matches(request))
    }
}

/// Requests whose path is like a pattern; see [`path`].
#[derive(Clone, Debug)]
pub struct PathMatcher {
    pattern: String,
    unmatched: Arc<Unmatched>,
}

/// Matches requests by their path: `*` is any text within a segment, `**` any text, and all else is itself.
///
/// The path is compared as the client wrote it, and case counts. Whoever serves it may take another spelling for the
/// same, so such a one is limited: [`skip`](super::Rule::skip) does not match a path with `.` or `..` as a segment, an
/// empty segment, a backslash, or one of these escaped, and [`only`](super::Rule::only) also matches what a path means
/// without its escapes and these.
///
/// In a nested router of axum it is the path without the prefix of that router. As for a [`route`], the log says once
/// if a rule only for a path has concerned no request.
///
/// # Panics
///
/// If the pattern begins neither with `/` nor with `*`, for it would match nothing.
#[must_use]
#[track_caller]
pub fn path(pattern: impl Into<String>) -> PathMatcher {
    let pattern = pattern.into();
    assert!(pattern.starts_with(['/', '*']), "a path begins with `/`, and not as {pattern:?}");
    PathMatcher { pattern, unmatched: Arc::default() }
}

impl Matcher for PathMatcher {
    fn matches(&self, request: &Parts) -> bool {
        let path = request.uri.path();
        glob(self.pattern.as_bytes(), path.as_bytes()) && !is_ambiguous(path)
    }

    fn might_match(&self, request: &Parts) -> bool {
        self.unmatched.note(&self.pattern, self.is_meant(request.uri.path()))
    }
}

impl PathMatcher {
    /// Returns whether a server could take the path for one of these.
    fn is_meant(&self, path: &str) -> bool {
        let pattern = self.pattern.as_bytes();
        if glob(pattern, path.as_bytes()) {
            return true;
        }
        if !path.contains('%') && !is_ambiguous(path) {
            return false;
        }
        let decoded = percent::decoded(path.as_bytes());
        glob(pattern, &decoded) || glob(pattern, &resolved(&decoded))
    }
}

/// Returns the path as a server could read it: without dot segments, empty segments and backslashes.
fn resolved(path: &[u8]) -> Vec<u8> {
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        match segment {
            b"" | b"." => {}
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
    if resolved.is_empty() || matches!(path.last(), Some(b'/' | b'\\')) {
        resolved.push(b'/');
    }
    resolved
}

/// Returns whether a server could take the path for another one.
fn is_ambiguous(path: &str) -> bool {
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
    is_any_odd || path.contains('\\') || ["2e", "2f", "5c"].into_iter().any(has_escape)
}

/// Where to go on in the pattern after a star, and where the text begins that it has not taken.
type Star = (usize, usize);

/// Compares in one pass: after a mismatch only the last star takes more, and the last double star if that one would
/// have to cross a border of segments.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    let (mut single, mut double): (Option<Star>, Option<Star>) = (None, None);
    loop {
        if pattern[at..].starts_with(b"**") {
            at += 2;
            (single, double) = (None, Some((at, read)));
        } else if pattern.get(at) == Some(&b'*') {
            at += 1;
            single = Some((at, read));
        } else if read == text.len() && at == pattern.len() {
            return true;
        } else if read < text.len() && pattern.get(at) == Some(&text[read]) {
            (at, read) = (at + 1, read + 1);
        } else if let Some((next, taken)) =
            single.filter(|(_, taken)| text.get(*taken).is_some_and(|byte| *byte != b'/'))
        {
            single = Some((next, taken + 1));
            (at, read) = (next, taken + 1);
        } else if let Some((next, taken)) = double.filter(|(_, taken)| *taken < text.len()) {
            (single, double) = (None, Some((next, taken + 1)));
            (at, read) = (next, taken + 1);
        } else {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    #[should_panic(expected = "a path begins with `/`, and not as \"items\"")]
    fn a_path_that_no_request_has_is_refused() {
        let _ = path("items");
    }

    #[test]
    fn what_could_be_another_path_is_limited() {
        let asks = |pattern: &str, text: &str| {
            let (request, ()) = http::Request::get(text).body(()).unwrap().into_parts();
            (path(pattern).matches(&request), path(pattern).might_match(&request))
        };
        // What is skipped, and to what it is limited all the same.
        for (text, means) in [
            ("/in/../api", "/api"),
            ("/in/..", "/"),
            ("/in/./x", "/in/x"),
            ("/in//x", "/in/x"),
            ("/in/%2e%2E/api", "/api"),
            ("/in/..%2fapi", "/api"),
            ("/in/%5c..", "/"),
            ("/../../x/", "/x/"),
            ("//in", "/in"),
        ] {
            assert_eq!(asks("**", text), (false, true), "{text}");
            assert_eq!(asks(means, text), (false, true), "{text}");
            assert_eq!(asks("/other/**", text), (false, false), "{text}");
        }
        assert_eq!(asks("/in/**", "/in/a%20b"), (true, true));
        assert_eq!(asks("/login", "/in/a%20b"), (false, false));
        assert_eq!(asks("/in/**", "/%69n/a"), (false, true));
        assert_eq!(asks("/in/**", "/in/a..b/c./"), (true, true));
        assert_eq!(asks("/in/**", "/out/a"), (false, false));
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
            prop_assert_eq!(
                glob(pattern.as_bytes(), text.as_bytes()),
                model(pattern.as_bytes(), text.as_bytes())
            );
        }
    }
}
