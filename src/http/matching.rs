//! [`Matcher`]: to which requests a rule applies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::Method;
use http::request::Parts;

use super::glob::Glob;
use super::identity::MatchedRoute;
use super::{path_readings, percent};

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
                "no request has matched the route or path so far, so its rule limits nothing; if some should have, give of \
                 a route the whole pattern as the router has it, and of a path what comes after a router around it; and add the \
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
    glob: Glob,
    /// The same without escapes.
    decoded: Option<Glob>,
    unmatched: Arc<Unmatched>,
}

/// Matches requests by their path: `*` is any text within a segment, `**` any text, and all else is itself.
///
/// The path is compared as the client wrote it, and case counts. Whoever serves it, or a proxy before or behind, may take
/// another spelling for the same, so such a one is limited: [`skip`](super::Rule::skip) does not match a path with `.`
/// or `..` as a segment, an empty segment, a backslash, a semicolon, or one of these or a percent sign escaped. And
/// [`only`](super::Rule::only) also matches what a path means without its escapes and these, and with a slash at the
/// end or without, and any such path of more than 4096 bytes.
///
/// In a nested router of axum it is the path without the prefix of that router. As for a [`route`], the log says once
/// if a rule only for a path has concerned no request.
///
/// # Panics
///
/// If the pattern begins neither with `/` nor with `*`, for it would match nothing, or has more than 127 bytes from its
/// first star on.
#[must_use]
#[track_caller]
pub fn path(pattern: impl Into<String>) -> PathMatcher {
    let pattern = pattern.into();
    assert!(pattern.starts_with(['/', '*']), "a path begins with `/`, and not as {pattern:?}");
    let Some(glob) = Glob::new(pattern.as_bytes()) else {
        panic!("a path has at most {} bytes from its first star on: {pattern:?}", Glob::MOST);
    };
    let decoded = Glob::new(&percent::decoded(pattern.as_bytes()));
    let decoded = decoded.filter(|decoded| *decoded != glob);
    PathMatcher { pattern, glob, decoded, unmatched: Arc::default() }
}

impl Matcher for PathMatcher {
    fn matches(&self, request: &Parts) -> bool {
        let path = request.uri.path();
        self.glob.matches(path.as_bytes()) && !path_readings::is_ambiguous(path)
    }

    fn might_match(&self, request: &Parts) -> bool {
        self.unmatched.note(&self.pattern, self.is_meant(request.uri.path()))
    }
}

impl PathMatcher {
    /// Returns whether somebody could take the path for one of these.
    fn is_meant(&self, path: &str) -> bool {
        let is_meant = |path: &[u8]| {
            self.glob.matches(path) || self.decoded.as_ref().is_some_and(|it| it.matches(path))
        };
        if is_meant(path.as_bytes()) {
            return true;
        }
        // Of `OPTIONS *` and `CONNECT`.
        let rooted = (!path.starts_with('/')).then(|| format!("/{path}"));
        path_readings::any(rooted.as_deref().unwrap_or(path), is_meant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "a path begins with `/`, and not as \"items\"")]
    fn a_path_that_no_request_has_is_refused() {
        let _ = path("items");
    }

    #[test]
    #[should_panic(expected = "a path has at most 127 bytes from its first star on")]
    fn a_path_that_is_too_long_is_refused() {
        let _ = path(format!("/*{}", "x".repeat(127)));
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
            ("/in//x", "/in/x"),
            ("/in/..%2fapi", "/api"),
            ("/in/..;/api", "/api"),
            ("/in/%252e%252e/api", "/api"),
            ("/api//../login", "/api/login"),
        ] {
            assert_eq!(asks("**", text), (false, true), "{text}");
            assert_eq!(asks(means, text), (false, true), "{text}");
            assert_eq!(asks("/other/**", text), (false, false), "{text}");
        }
        assert_eq!(asks("/login", "/login/"), (false, true));
        assert_eq!(asks("/login/", "/login"), (false, true));
        assert_eq!(asks("/in/**", "/in/a%20b"), (true, true));
        assert_eq!(asks("/login", "/in/a%20b"), (false, false));
        assert_eq!(asks("/in/**", "/%69n/a"), (false, true));
        assert_eq!(asks("/in/**", "/in/a..b/c./"), (true, true));
        assert_eq!(asks("/in/**", "/out/a"), (false, false));
        assert_eq!(asks("/caf%C3%A9", "/caf%C3%A9"), (true, true));
        assert_eq!(asks("/caf%C3%A9", "/caf%c3%a9"), (false, true));
    }

    #[test]
    fn requests_without_a_path_are_of_every_path() {
        let options = http::Request::options("*").body(()).unwrap().into_parts().0;
        let connect = http::Request::connect("example.com:443").body(()).unwrap().into_parts().0;
        for request in [options, connect] {
            assert!(path("/**").might_match(&request), "{request:?}");
            assert!(!path("/login").might_match(&request), "{request:?}");
        }
    }

    /// A path is the client's, and its length too.
    #[test]
    fn no_path_takes_more_than_its_length() {
        let text = format!("/assets/{}/x/y", ".".repeat(60_000));
        let (request, ()) = http::Request::get(text).body(()).unwrap().into_parts();
        for pattern in ["/assets/**.*", "/assets/**.min*.js", "/**.*.*.*.*.*.*x"] {
            let matcher = path(pattern);
            for _ in 0..50 {
                assert!(!matcher.matches(&request) && !matcher.might_match(&request));
            }
        }
    }
}
