//! [`Identity`]: whose request it is, as a key.

mod closure;
mod digest;
mod lookup;
mod sources;

use std::borrow::Cow;
use std::fmt;

use http::request::Parts;
use http::{HeaderValue, StatusCode};

pub use digest::{DigestKey, DigestKeyError, Digested};
pub use lookup::{Lookup, LookupFn, Or, OrExempt, OrRefuse, OrShare, lookup};
pub use sources::{
    Cookie, Everyone, ExtensionKey, Header, MatchedRoute, RoutePattern, cookie, extension, header,
    matched_route,
};

use crate::key::{KeyParts, ToKey};

/// Whose request it is: makes a key of the head of a request.
///
/// [`PeerAddr`](super::PeerAddr) and [`ClientAddr`](super::ClientAddr) are identities, and so is a closure that
/// returns a key. What a request may lack, such as a [`header`], is a [`Lookup`], and becomes an identity when it is
/// said what holds without it. A tuple of two to four identities is a key of several parts:
///
/// ```
/// use http::StatusCode;
/// use traffik::http::{Lookup, PeerAddr, Rule, header, matched_route};
/// # use traffik::{InMemory, Throttle};
/// # let backend = InMemory::new();
/// # let throttle = |name| Throttle::builder(name).rate("5/s").backend(backend.clone()).build();
///
/// let by_address = Rule::new(throttle("address")?, PeerAddr::new());
/// let by_tenant = header("x-tenant").or_refuse(StatusCode::FORBIDDEN); // which a gateway sets
/// let by_tenant = Rule::new(throttle("tenant")?, by_tenant);
/// let by_route = (matched_route().or_share("unmatched"), PeerAddr::new());
/// let by_route = Rule::new(throttle("route")?, by_route);
/// let by_method = |request: &http::request::Parts| request.method.to_string();
/// let by_method = Rule::new(throttle("method")?, by_method);
/// # drop((by_address, by_tenant, by_route, by_method));
/// # Ok::<(), traffik::BuildError>(())
/// ```
///
/// Give each kind of identity a throttle of its own: in one throttle, a client can choose a text that has the bytes of
/// another's address.
///
/// Do not make a key of the raw path, which a client chooses: each path would have a count of its own, and a
/// client that never asks for the same twice none. [`matched_route`] is what the router made of it.
///
/// An `Option` is not a key, for a client that leaves it out must not pass unlimited:
///
/// ```compile_fail,E0277
/// # use traffik::{Throttle, http::Rule};
/// # fn example(throttle: Throttle) {
/// let rule = Rule::new(throttle, |request: &http::request::Parts| request.uri.query().map(str::to_owned));
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say whose every request is",
    label = "not an identity",
    note = "a header, a cookie, an extension or the matched route may be missing: say what holds then, by \
            `.or_refuse(status)`, `.or_share(name)`, `.or(identity)` or `.or_exempt()`",
    note = "`ClientAddr::behind` returns a `Result`: add `?`",
    note = "a closure is `|request: &http::request::Parts| key`, and returns a key that owns its text; wrap one \
            that returns an `Option` in `lookup`"
)]
pub trait Identity: Send + Sync + 'static {
    /// Returns the key of the request, or why it has none.
    fn identify<'r>(&'r self, request: &'r Parts) -> Identified<'r>;

    /// Replaces the key by a digest with a secret, so that the store holds no address, name or API key.
    ///
    /// See [`DigestKey`].
    fn digested(self, key: DigestKey) -> Digested<Self>
    where
        Self: Sized,
    {
        Digested::new(self, key)
    }
}

/// The key of a request, or why it has none.
#[derive(Debug)]
pub struct Identified<'r>(Who<'r>);

enum Who<'r> {
    Key(KeyParts<'r>),
    Owned(Box<dyn ToKey + Send + Sync + 'r>),
    Refused(Refusal),
}

impl<'r> Identified<'r> {
    /// The request of this key. [`Exempt`](crate::Exempt) is never limited.
    #[must_use]
    pub fn key(key: impl ToKey + Send + Sync + 'r) -> Self {
        Self(Who::Owned(Box::new(key)))
    }

    /// The request of a key of these parts; without memory of its own.
    #[must_use]
    pub const fn parts(parts: KeyParts<'r>) -> Self {
        Self(Who::Key(parts))
    }

    /// A request that is never limited.
    #[must_use]
    pub const fn exempt() -> Self {
        Self(Who::Key(KeyParts::EXEMPT))
    }

    /// A request that is refused, because nobody knows whose it is.
    #[must_use]
    pub const fn refused(refusal: Refusal) -> Self {
        Self(Who::Refused(refusal))
    }

    /// Returns the key.
    ///
    /// # Errors
    ///
    /// The refusal of a request without one.
    pub fn to_key(&self) -> Result<KeyParts<'_>, &Refusal> {
        match &self.0 {
            Who::Key(parts) => Ok(*parts),
            Who::Owned(key) => Ok(key.to_key()),
            Who::Refused(refusal) => Err(refusal),
        }
    }
}

impl<'r> Identified<'r> {
    /// As [`to_key`](Self::to_key), without a copy of what lies in it; what does not is put into `room`.
    pub(super) fn key_in<'k>(
        &'k self,
        room: &'k mut Option<KeyParts<'k>>,
    ) -> Result<&'k KeyParts<'k>, &'k Refusal> {
        match &self.0 {
            Who::Key(parts) => Ok(parts),
            Who::Owned(key) => Ok(room.insert(key.to_key())),
            Who::Refused(refusal) => Err(refusal),
        }
    }
}

impl fmt::Debug for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(parts) => parts.fmt(f),
            Self::Owned(key) => key.to_key().fmt(f),
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

/// The answer to a request of which nobody knows whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    status: StatusCode,
    detail: Cow<'static, str>,
    challenge: Option<HeaderValue>,
}

impl Refusal {
    /// Answers with this status.
    #[must_use]
    pub const fn new(status: StatusCode) -> Self {
        let detail = Cow::Borrowed("the request does not say whose it is");
        Self { status, detail, challenge: None }
    }

    /// Sets `WWW-Authenticate`, which a 401 must have (RFC 9110, section 15.5.2): how a client is to say who it is, such
    /// as `Bearer`. Defaults to none.
    #[must_use]
    pub fn challenge(mut self, challenge: HeaderValue) -> Self {
        self.challenge = Some(challenge);
        self
    }

    /// Sets what the client is told.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Returns the status.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the value of `WWW-Authenticate`.
    pub(super) const fn wanted(&self) -> Option<&HeaderValue> {
        self.challenge.as_ref()
    }

    /// Returns what the client is told.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.detail
    }
}

impl From<StatusCode> for Refusal {
    fn from(status: StatusCode) -> Self {
        Self::new(status)
    }
}
