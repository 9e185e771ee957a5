//! [`Matcher`]: to which requests a rule applies.

use http::Method;
use http::request::Parts;

use super::identity::MatchedRoute;

/// To which requests a rule applies: a [`Method`], a [`path`], a [`route`], or a closure.
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
pub trait Matcher: Send + Sync + 'static {
    /// Returns whether the request is one of these.
    fn matches(&self, request: &Parts) -> bool;
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pattern: String,
}

/// Matches requests of a route, by its pattern as the router has it, such as `/items/{id}`; see
/// [`matched_route`](super::matched_route).
#[must_use]
pub fn route(pattern: impl Into<String>) -> Route {
    Route { pattern: pattern.into() }
}

impl Matcher for Route {
    fn matches(&self, request: &Parts) -> bool {
        MatchedRoute::of(request) == Some(&self.pattern)
    }
}

/// Requests whose path is like a pattern; see [`path`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    pattern: String,
}

/// Matches requests by their path: `*` is any text within a segment, `**` any text, and all else is itself.
///
/// The path is compared as the client wrote it, with its escapes, and case counts. So it suits [`skip`], where an
/// unusual spelling is limited. To limit certain paths [`only`], prefer a [`route`]: a router that takes another
/// spelling for the same would be a way around.
///
/// [`skip`]: super::Rule::skip
/// [`only`]: super::Rule::only
#[must_use]
pub fn path(pattern: impl Into<String>) -> Path {
    Path { pattern: pattern.into() }
}

impl Matcher for Path {
    fn matches(&self, request: &Parts) -> bool {
        glob(self.pattern.as_bytes(), request.uri.path().as_bytes())
    }
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
