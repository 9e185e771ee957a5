//! Keys: the callers, tenants or routes that a limit is counted for.
//!
//! A key travels in parts and is never joined to one text, so `("a:b", "c")` and `("a", "b:c")` differ.
//! It is opaque and may be hostile: any bytes, and of any length. One of more than [`MAX_KEY_BYTES`] is
//! replaced by its SHA-256, the same on every backend, so a long header is neither an error nor a way
//! around a limit.

mod long;
mod owned;
mod sources;

use std::fmt;

use thiserror::Error;

pub(crate) use long::{Digest, bounded, short_enough};
pub use owned::OwnedKey;

use crate::excerpt::Excerpt;

/// The most bytes of a key, over all its parts, that reaches a backend as it is. A longer one is replaced by its
/// SHA-256, which costs time in proportion to its length: bound what you read from a client.
pub const MAX_KEY_BYTES: usize = 4096;
/// The most parts of a key; more are an error.
pub const MAX_KEY_PARTS: usize = 4;

/// A value that can be used as a rate limit key.
///
/// Text and bytes are taken as they are, integers as their big-endian bytes, addresses as their
/// octets. A tuple of two to four is a key of several parts, in that order.
///
/// Only the bytes count: `65u8` and `"A"` are one key, and so are an IPv4 address and a text of its four
/// bytes; `1u32` and `1u64` are two. Where keys of several kinds meet in one throttle, put the kind in
/// front, `("user", name)` and `("address", address)`, or one client can choose a name that is another's
/// address.
///
/// ```
/// # use traffik::{InMemory, Throttle};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let throttle = Throttle::builder("doc:keys").rate("5/s").backend(InMemory::new()).build()?;
/// let address = std::net::Ipv4Addr::LOCALHOST;
/// let _ = throttle.hit("alice").await?;
/// let _ = throttle.hit(address).await?;
/// let _ = throttle.hit(("tenant-7", "alice", 42u64)).await?;
/// # Ok(())
/// # }
/// ```
///
/// An [`Option`] is not a key, for a client that leaves the key out must not pass unlimited. Refuse it,
/// count all such clients together, or say that they are exempt by [`ExemptIfNone`]:
///
/// ```
/// use traffik::ExemptIfNone;
/// # use traffik::{InMemory, Throttle};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let throttle = Throttle::builder("doc:option").rate("5/s").backend(InMemory::new()).build()?;
/// # let header: Option<&str> = None;
/// let together = throttle.hit(("api-key", header.unwrap_or_default())).await?;
/// let unlimited = throttle.hit(ExemptIfNone(header)).await?;
/// # drop((together, unlimited));
/// # Ok(())
/// # }
/// ```
///
/// ```compile_fail,E0277
/// # async fn example(throttle: traffik::Throttle, header: Option<&str>) {
/// let _ = throttle.hit(header).await;
/// # }
/// ```
///
/// ```compile_fail,E0277
/// # async fn example(throttle: traffik::Throttle, header: Option<&str>) {
/// let _ = throttle.hit(("tenant-7", header)).await;
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a key",
    label = "not a key",
    note = "keys are text, bytes, integers, addresses, and tuples of two to four of them",
    note = "an `Option` is not a key: take its value or a common one with `unwrap_or`, or write \
            `ExemptIfNone(option)` to let a client without a key pass unlimited"
)]
pub trait ToKey {
    /// The parts of the key.
    fn to_key(&self) -> KeyParts<'_>;
}

/// A key that is never limited: the backend is not asked.
///
/// In a tuple it makes the whole key exempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a mark without content")]
pub struct Exempt;

/// A key that may be absent: `None` is [`Exempt`], so whoever leaves the key out passes unlimited.
///
/// For keys that the service itself decides about, such as its own health checks. A key that the
/// client sends, such as a header, is not one of these.
///
/// ```
/// use traffik::ExemptIfNone;
/// # use traffik::{InMemory, Throttle};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let throttle = Throttle::builder("doc:exempt").rate("5/s").backend(InMemory::new()).build()?;
/// # let (is_health_check, client) = (true, "alice");
/// let decision = throttle.hit(ExemptIfNone((!is_health_check).then_some(client))).await?;
/// assert_eq!(decision.decided_by(), traffik::DecidedBy::Exempt);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "an adapter around what is given")]
pub struct ExemptIfNone<T>(pub Option<T>);

/// Why a key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It has too many parts.
    #[error("the key has too many parts; the most is {MAX_KEY_PARTS}")]
    TooManyParts,
}

/// The parts of a key, or that it is exempt.
#[derive(Clone, Copy, Debug)]
pub struct KeyParts<'a>(Parts<'a>);

#[derive(Clone, Copy, Debug)]
enum Parts<'a> {
    Exempt,
    One(KeyPart<'a>),
    Several { parts: [KeyPart<'a>; MAX_KEY_PARTS], len: usize },
    TooMany,
}

impl<'a> KeyParts<'a> {
    /// A key that is never limited.
    pub const EXEMPT: Self = Self(Parts::Exempt);

    /// Creates a key of one part.
    #[must_use]
    #[inline]
    pub const fn one(part: KeyPart<'a>) -> Self {
        Self(Parts::One(part))
    }

    /// Creates a key of several parts, at most [`MAX_KEY_PARTS`]; a hit with more is an error.
    #[must_use]
    pub fn several(parts: &[KeyPart<'a>]) -> Self {
        let mut all = [KeyPart::bytes(&[]); MAX_KEY_PARTS];
        match all.get_mut(..parts.len()) {
            Some(room) => {
                room.copy_from_slice(parts);
                Self(Parts::Several { parts: all, len: parts.len() })
            }
            None => Self(Parts::TooMany),
        }
    }

    /// Joins the parts of several keys, at most [`MAX_KEY_PARTS`]. An exempt one makes the whole exempt.
    #[inline]
    pub(crate) fn join<const N: usize>(keys: [KeyParts<'a>; N]) -> Self {
        const { assert!(N <= MAX_KEY_PARTS, "a tuple has as many at most") };
        let mut parts = [KeyPart::bytes(&[]); MAX_KEY_PARTS];
        for (part, key) in parts.iter_mut().zip(&keys) {
            match &key.0 {
                Parts::One(one) => *part = *one,
                _ => return Self::join_any(&keys),
            }
        }
        Self(Parts::Several { parts, len: N })
    }

    #[inline(never)]
    fn join_any(keys: &[KeyParts<'a>]) -> Self {
        let mut all = [KeyPart::bytes(&[]); MAX_KEY_PARTS + 1];
        let mut len = 0;
        for key in keys {
            let parts = match key.as_slice() {
                Ok(Some(parts)) => parts,
                Ok(None) => return Self::EXEMPT,
                Err(_) => return Self(Parts::TooMany),
            };
            for part in parts {
                all[len.min(MAX_KEY_PARTS)] = *part;
                len += 1;
            }
        }
        Self::several(&all[..len.min(MAX_KEY_PARTS + 1)])
    }

    /// Returns the parts; `None` if the key is exempt.
    ///
    /// # Errors
    ///
    /// When there are more than [`MAX_KEY_PARTS`] parts.
    #[inline]
    pub fn as_slice(&self) -> Result<Option<&[KeyPart<'a>]>, KeyError> {
        match &self.0 {
            Parts::Exempt => Ok(None),
            Parts::One(part) => Ok(Some(std::slice::from_ref(part))),
            Parts::Several { parts, len } => Ok(Some(&parts[..*len])),
            Parts::TooMany => Err(KeyError::TooManyParts),
        }
    }
}

/// One part of a key: borrowed bytes, or up to 16 bytes by value.
#[derive(Clone, Copy)]
pub struct KeyPart<'a>(PartRepr<'a>);

#[derive(Clone, Copy)]
enum PartRepr<'a> {
    Borrowed(&'a [u8]),
    Inline { bytes: [u8; 16], len: u8 },
}

impl<'a> KeyPart<'a> {
    /// Creates a part that borrows its bytes.
    #[must_use]
    #[inline]
    pub const fn bytes(bytes: &'a [u8]) -> Self {
        Self(PartRepr::Borrowed(bytes))
    }

    /// Creates a part by value.
    #[must_use]
    pub fn inline<const N: usize>(value: [u8; N]) -> KeyPart<'static> {
        const { assert!(N <= 16, "a part by value has at most 16 bytes") };
        let mut bytes = [0; 16];
        bytes[..N].copy_from_slice(&value);
        #[expect(clippy::cast_possible_truncation, reason = "checked above at compile time")]
        KeyPart(PartRepr::Inline { bytes, len: N as u8 })
    }

    /// Returns the bytes.
    #[must_use]
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            PartRepr::Borrowed(bytes) => bytes,
            PartRepr::Inline { bytes, len } => &bytes[..usize::from(*len)],
        }
    }
}

impl fmt::Debug for KeyPart<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Excerpt(self.as_bytes()), f)
    }
}

/// A key as a backend sees it: whose it is, and its parts.
///
/// The namespace is the backend's and not in here.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    throttle: Option<&'a str>,
    parts: BorrowedParts<'a>,
}

#[derive(Clone, Copy, Debug)]
enum BorrowedParts<'a> {
    One(KeyPart<'a>),
    Slice(&'a [KeyPart<'a>]),
}

impl<'a> Key<'a> {
    /// Creates a key of the throttle called `throttle`.
    #[must_use]
    pub fn new(throttle: &'a str, parts: &'a [KeyPart<'a>]) -> Self {
        Self { throttle: Some(throttle), parts: BorrowedParts::Slice(parts) }
    }

    /// Creates a key for a value of the user's own, which no throttle touches.
    #[must_use]
    pub fn value(name: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { throttle: None, parts: BorrowedParts::One(KeyPart::bytes(name.as_ref())) }
    }

    /// Returns the throttle's name; `None` for a value of the user's own.
    #[must_use]
    #[inline]
    pub fn throttle(&self) -> Option<&'a str> {
        self.throttle
    }

    /// Returns the parts. A throttle hands over at most [`MAX_KEY_PARTS`], or one more for a key that was
    /// too long: a mark and its digest.
    #[must_use]
    #[inline]
    pub fn parts(&self) -> &[KeyPart<'a>] {
        match &self.parts {
            BorrowedParts::One(part) => std::slice::from_ref(part),
            BorrowedParts::Slice(parts) => parts,
        }
    }

    /// Returns whether both are the same key.
    #[cfg(feature = "redis")]
    pub(crate) fn is_same(&self, other: &Key<'_>) -> bool {
        let bytes =
            |parts: &KeyPart<'_>, others: &KeyPart<'_>| parts.as_bytes() == others.as_bytes();
        let (parts, others) = (self.parts(), other.parts());
        self.throttle == other.throttle
            && parts.len() == others.len()
            && parts.iter().zip(others).all(|(part, other)| bytes(part, other))
    }

    /// Returns one byte string that differs for any two different keys.
    ///
    /// A byte for the kind, then the throttle's name if there is one and each part, each after its
    /// length in LEB128.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let parts: usize = self.parts().iter().map(|part| part.as_bytes().len() + 2).sum();
        let mut out = Vec::with_capacity(parts + self.throttle.map_or(0, str::len) + 3);
        match self.throttle {
            None => out.push(b'v'),
            Some(name) => {
                out.push(b't');
                push_prefixed(&mut out, name.as_bytes());
            }
        }
        for part in self.parts() {
            push_prefixed(&mut out, part.as_bytes());
        }
        out
    }
}

/// Appends the length in LEB128, then the bytes.
pub(crate) fn push_prefixed(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(Prefix::of(bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
}

/// A length in LEB128.
pub(crate) struct Prefix {
    bytes: [u8; 10],
    len: usize,
}

impl Prefix {
    pub(crate) fn of(mut length: usize) -> Self {
        let mut prefix = Self { bytes: [0; 10], len: 0 };
        loop {
            let [low, ..] = length.to_le_bytes();
            length >>= 7;
            prefix.bytes[prefix.len] = if length == 0 { low & 0x7f } else { low | 0x80 };
            prefix.len += 1;
            if length == 0 {
                return prefix;
            }
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(key: &impl ToKey) -> Vec<u8> {
        Key::new("t", key.to_key().as_slice().unwrap().expect("not exempt")).encode()
    }

    #[test]
    fn order_and_borders_of_parts_matter() {
        assert_ne!(encoded(&("a:b", "c")), encoded(&("a", "b:c")));
        assert_ne!(encoded(&("alice", "bob")), encoded(&("bob", "alice")));
        assert_ne!(encoded(&("ab", "")), encoded(&"ab"));
        assert_ne!(Key::value("a").encode(), encoded(&"a"));
    }

    proptest! {
        #[test]
        fn encoding_is_injective(
            a in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), 0..4),
            b in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), 0..4),
        ) {
            let code = |parts: &[Vec<u8>]| {
                let parts: Vec<_> = parts.iter().map(|part| KeyPart::bytes(part)).collect();
                Key::new("t", &parts).encode()
            };
            prop_assert_eq!(a == b, code(&a) == code(&b));
        }

        #[test]
        fn the_throttle_is_part_of_the_identity(a in "\\PC{0,6}", b in "\\PC{0,6}", key: Vec<u8>) {
            let parts = [KeyPart::bytes(&key)];
            prop_assert_eq!(a == b, Key::new(&a, &parts).encode() == Key::new(&b, &parts).encode());
        }
    }
}
