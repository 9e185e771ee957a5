//! Where keys are found: headers, cookies, extensions, the matched route.

use std::any::type_name;
use std::fmt;
use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{HeaderName, StatusCode};

use super::{Identified, Identity, Lookup, Refusal};
use crate::http::percent;
use crate::key::{KeyPart, KeyParts, ToKey};

/// All requests together: one count for everybody, such as what the service can bear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a mark without content")]
pub struct Everyone;

impl Identity for Everyone {
    fn identify<'r>(&'r self, _request: &'r Parts) -> Identified<'r> {
        Identified::parts(self.to_key())
    }
}

/// For an operator who looks at it or blocks it: no client can send that key.
impl ToKey for Everyone {
    fn to_key(&self) -> KeyParts<'_> {
        KeyParts::one(KeyPart::bytes(b"\0everyone"))
    }
}

fn one_part(bytes: &[u8]) -> Identified<'_> {
    Identified::parts(KeyParts::one(KeyPart::bytes(bytes)))
}

/// The value of a header; see [`header`](header()).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    name: HeaderName,
}

/// Finds the key in the header of that name. An empty one counts as missing; if it comes more than once, the request is
/// refused with 400, since nobody knows which of them the service will take.
///
/// A client writes what it likes into a header. One that invents API keys has a count for each, and one that writes the
/// same in another way (`Bearer` and `bearer`) too. So where the service checks a header, make the key of what it found,
/// by an [`extension`]; take the header itself where a proxy sets it and removes what the client sent. A key of more
/// than 4096 bytes is replaced by its SHA-256.
///
/// # Panics
///
/// If it is not a header's name.
#[must_use]
#[track_caller]
pub fn header(name: impl AsRef<str>) -> Header {
    let name = name.as_ref();
    match HeaderName::try_from(name) {
        Ok(name) => Header { name },
        Err(_) => panic!("{name:?} is not the name of a header, such as \"x-api-key\""),
    }
}

impl Lookup for Header {
    fn look_up<'r>(&'r self, request: &'r Parts) -> Option<Identified<'r>> {
        let mut values = request.headers.get_all(&self.name).iter();
        let value = values.next()?;
        if values.next().is_some() {
            let refusal = Refusal::new(StatusCode::BAD_REQUEST);
            let detail = format!("the header {} comes more than once", self.name);
            return Some(Identified::refused(refusal.detail(detail)));
        }
        (!value.is_empty()).then(|| one_part(value.as_bytes()))
    }
}

/// The value of a cookie; see [`cookie`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    name: String,
}

/// Finds the key in the cookie of that name, without quotes and percent-encoding. One that is empty, begins with a zero
/// byte, or comes more than once, counts as missing.
///
/// As for a [`header`](header()), a client that invents a session each time has a count for each: make the key of the
/// session that was found, by an [`extension`].
#[must_use]
pub fn cookie(name: impl Into<String>) -> Cookie {
    Cookie { name: name.into() }
}

impl Lookup for Cookie {
    fn look_up<'r>(&'r self, request: &'r Parts) -> Option<Identified<'r>> {
        let lines = request.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
        let pairs = lines.flat_map(|line| line.split(|byte| *byte == b';'));
        let mut values = pairs.filter_map(|pair| {
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            let (name, value) = (&pair[..equals], &pair[equals + 1..]);
            (name.trim_ascii() == self.name.as_bytes()).then(|| value.trim_ascii())
        });
        let (value, None) = (values.next()?, values.next()) else { return None };
        let value =
            value.strip_prefix(b"\"").and_then(|it| it.strip_suffix(b"\"")).unwrap_or(value);
        match value.contains(&b'%') {
            _ if value.is_empty() => None,
            false => Some(one_part(value)),
            true => {
                let key = percent::decoded(value);
                // With that begins what only the layer itself calls somebody.
                (key.first() != Some(&0)).then(|| Identified::key(key))
            }
        }
    }
}

/// A key made of an extension; see [`extension`].
pub struct ExtensionKey<T> {
    key: Arc<dyn Fn(&T) -> Identified<'static> + Send + Sync>,
}

/// Finds the key in an extension of the request, which a layer that runs before this one has put there, such as who is
/// logged in. In axum that is one that is added later, and without it every request lacks the key.
///
/// ```
/// use http::{HeaderValue, StatusCode};
/// use traffik::http::{Lookup, Refusal, extension};
///
/// #[derive(Clone)]
/// struct User {
///     id: u64,
/// }
///
/// let refusal = Refusal::new(StatusCode::UNAUTHORIZED).challenge(HeaderValue::from_static("Bearer"));
/// let identity = extension(|user: &User| user.id).or_refuse(refusal);
/// # drop(identity);
/// ```
pub fn extension<T, K>(key: impl Fn(&T) -> K + Send + Sync + 'static) -> ExtensionKey<T>
where
    T: Send + Sync + 'static,
    K: ToKey + Send + Sync + 'static,
{
    ExtensionKey { key: Arc::new(move |value| Identified::key(key(value))) }
}

impl<T: Send + Sync + 'static> Lookup for ExtensionKey<T> {
    fn look_up<'r>(&'r self, request: &'r Parts) -> Option<Identified<'r>> {
        request.extensions.get::<T>().map(|value| (self.key)(value))
    }
}

impl<T> Clone for ExtensionKey<T> {
    fn clone(&self) -> Self {
        Self { key: Arc::clone(&self.key) }
    }
}

impl<T> fmt::Debug for ExtensionKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExtensionKey").field(&type_name::<T>()).finish()
    }
}

/// An extension with the pattern that a router matched, such as `/items/{id}`.
///
/// For routers that have none of their own: with the feature `axum`, [`matched_route`] finds axum's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a name for its content")]
pub struct RoutePattern(pub Arc<str>);

/// The route that a router matched; see [`matched_route`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a mark without content")]
pub struct MatchedRoute;

/// Finds the pattern of the route that was matched, such as `/items/{id}`: axum's, or a [`RoutePattern`].
///
/// A request that no route matches has none. In axum the layer must be added to the router, by `Router::layer` or
/// `route_layer`, so that it comes after the matching.
#[must_use]
pub const fn matched_route() -> MatchedRoute {
    MatchedRoute
}

impl MatchedRoute {
    pub(crate) fn of(request: &Parts) -> Option<&str> {
        if let Some(RoutePattern(pattern)) = request.extensions.get() {
            return Some(pattern);
        }
        #[cfg(feature = "axum")]
        if let Some(path) = request.extensions.get::<axum::extract::MatchedPath>() {
            return Some(path.as_str());
        }
        None
    }
}

impl Lookup for MatchedRoute {
    fn look_up<'r>(&'r self, request: &'r Parts) -> Option<Identified<'r>> {
        Self::of(request).map(|pattern| one_part(pattern.as_bytes()))
    }
}
