//! [`Lookup`]: what a request may lack, and what holds then.

use std::borrow::Cow;

use http::request::Parts;

use super::{Identified, Identity, Refusal};
use crate::key::{KeyPart, KeyParts, ToKey};

/// A key that a request may lack, such as a header.
///
/// It is no [`Identity`] until it is said what holds for a request without it. A client can leave out what it
/// sends, so choose as if it did. Import the trait to call its methods:
///
/// | method | without the key |
/// | --- | --- |
/// | [`or_refuse`](Self::or_refuse) | the request is answered with a status, and never served |
/// | [`or_share`](Self::or_share) | all such requests are counted together |
/// | [`or`](Self::or) | another identity counts, such as the client's address |
/// | [`or_exempt`](Self::or_exempt) | the request is not limited |
///
/// ```
/// use http::{HeaderValue, StatusCode};
/// use traffik::http::{Lookup, PeerAddr, Refusal, header};
///
/// let refusal = Refusal::new(StatusCode::UNAUTHORIZED).challenge(HeaderValue::from_static("ApiKey"));
/// let strict = header("x-api-key").or_refuse(refusal);
/// let lenient = header("x-api-key").or(PeerAddr::new());
/// # drop((strict, lenient));
/// ```
///
/// A key that nobody has checked is the client's own word, and it has a new count for each that it invents: limit its
/// address too, in a layer around, or take the [`extension`](super::extension) in which your authentication says who it
/// is.
pub trait Lookup: Send + Sync + 'static {
    /// Returns the key; `None` if the request has none.
    fn look_up<'r>(&'r self, request: &'r Parts) -> Option<Identified<'r>>;

    /// Refuses a request without it: by a status, or by a [`Refusal`] that says more.
    ///
    /// A request that is refused is counted by no rule of its layer. So that guesses are limited too, put the limit of
    /// each client into a layer around that one.
    fn or_refuse(self, refusal: impl Into<Refusal>) -> OrRefuse<Self>
    where
        Self: Sized,
    {
        OrRefuse { lookup: self, refusal: refusal.into() }
    }

    /// Counts all requests without it together. Their key has two parts, `"\0shared"` and `name`, so that no
    /// client can send it.
    fn or_share(self, name: impl Into<Cow<'static, str>>) -> OrShare<Self>
    where
        Self: Sized,
    {
        OrShare { lookup: self, name: name.into() }
    }

    /// Lets another identity say whose a request without it is. That key has `"\0or"` as its first part, so that
    /// no client can send what another one is known by; so it may have three parts of its own.
    fn or<I: Identity>(self, other: I) -> Or<Self, I>
    where
        Self: Sized,
    {
        Or { lookup: self, other }
    }

    /// Lets a request without it pass unlimited.
    ///
    /// For what the service itself adds to a request. What the client sends, it can leave out.
    fn or_exempt(self) -> OrExempt<Self>
    where
        Self: Sized,
    {
        OrExempt { lookup: self }
    }
}

/// Refuses requests without a key; see [`Lookup::or_refuse`].
#[derive(Clone, Debug)]
pub struct OrRefuse<L> {
    lookup: L,
    refusal: Refusal,
}

impl<L: Lookup> Identity for OrRefuse<L> {
    fn identify<'r>(&'r self, request: &'r Parts) -> Identified<'r> {
        let refused = || Identified::refused(self.refusal.clone());
        self.lookup.look_up(request).unwrap_or_else(refused)
    }
}

/// Counts requests without a key together; see [`Lookup::or_share`].
#[derive(Clone, Debug)]
pub struct OrShare<L> {
    lookup: L,
    name: Cow<'static, str>,
}

impl<L: Lookup> Identity for OrShare<L> {
    fn identify<'r>(&'r self, request: &'r Parts) -> Identified<'r> {
        self.lookup.look_up(request).unwrap_or_else(|| {
            let parts = [KeyPart::bytes(b"\0shared"), KeyPart::bytes(self.name.as_bytes())];
            Identified::parts(KeyParts::several(&parts))
        })
    }
}

/// Asks another identity about requests without a key; see [`Lookup::or`].
#[derive(Clone, Debug)]
pub struct Or<L, I> {
    lookup: L,
    other: I,
}

/// The key of the other identity.
struct Other<'r>(Identified<'r>);

impl ToKey for Other<'_> {
    fn to_key(&self) -> KeyParts<'_> {
        match self.0.to_key() {
            Ok(key) => KeyParts::join([KeyParts::one(KeyPart::bytes(b"\0or")), key]),
            // Handed on as it is.
            Err(_) => KeyParts::EXEMPT,
        }
    }
}

impl<L: Lookup, I: Identity> Identity for Or<L, I> {
    fn identify<'r>(&'r self, request: &'r Parts) -> Identified<'r> {
        self.lookup.look_up(request).unwrap_or_else(|| {
            let other = self.other.identify(request);
            match other.to_key() {
                Ok(_) => Identified::key(Other(other)),
                Err(_) => other,
            }
        })
    }
}

/// Does not limit requests without a key; see [`Lookup::or_exempt`].
#[derive(Clone, Debug)]
pub struct OrExempt<L> {
    lookup: L,
}

impl<L: Lookup> Identity for OrExempt<L> {
    fn identify<'r>(&'r self, request: &'r Parts) -> Identified<'r> {
        self.lookup.look_up(request).unwrap_or_else(Identified::exempt)
    }
}

/// A closure that returns a key, or `None`; see [`lookup`].
#[derive(Clone, Copy)]
pub struct LookupFn<F>(F);

/// Makes a [`Lookup`] of a closure that returns a key, or `None` for a request without one.
///
/// ```
/// use traffik::http::{Lookup, PeerAddr, lookup};
///
/// /// What the layer that checked the session has put into the extensions.
/// #[derive(Clone)]
/// struct Session {
///     tenant: Option<String>,
/// }
///
/// let tenant = lookup(|request| request.extensions.get::<Session>()?.tenant.clone());
/// let identity = tenant.or(PeerAddr::new());
/// # drop(identity);
/// ```
///
/// Do not make a key of what a client is free to choose: it would have a count for each that it invents. The host is
/// such a thing, in `Host` as in the URI.
pub const fn lookup<F, K>(look_up: F) -> LookupFn<F>
where
    F: Fn(&Parts) -> Option<K> + Send + Sync + 'static,
    K: ToKey + Send + Sync + 'static,
{
    LookupFn(look_up)
}

impl<F, K> Lookup for LookupFn<F>
where
    F: Fn(&Parts) -> Option<K> + Send + Sync + 'static,
    K: ToKey + Send + Sync + 'static,
{
    fn look_up<'r>(&'r self, request: &'r Parts) -> Option<Identified<'r>> {
        self.0(request).map(Identified::key)
    }
}

impl<F> std::fmt::Debug for LookupFn<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LookupFn")
    }
}
