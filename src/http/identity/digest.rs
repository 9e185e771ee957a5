//! [`DigestKey`]: keys that are stored only as a digest with a secret.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use http::request::Parts;
use sha2::Sha256;
use thiserror::Error;

use super::{Identified, Identity};
use crate::key::{KeyPart, KeyParts, ToKey, push_prefixed};

/// A secret with which keys are digested, so that the store holds no address, name or API key.
///
/// A key becomes the first 16 bytes of HMAC-SHA-256 (RFC 2104) over its parts, each after its length. Without the
/// secret nobody can tell whose a stored key is, not by trying all addresses either. Give all processes that share a
/// store the same secret; after a change all counts begin anew.
///
/// ```
/// use traffik::http::{DigestKey, Identity, PeerAddr};
///
/// let secret = "3f7c1d0b9a6e45f2a81c0d5e7b9f3a64"; // from the configuration
/// let identity = PeerAddr::new().digested(DigestKey::new(secret)?);
/// # drop(identity);
/// # Ok::<(), traffik::http::DigestKeyError>(())
/// ```
#[derive(Clone)]
pub struct DigestKey(Hmac<Sha256>);

/// A secret that is too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the digest key has {bytes} bytes; use {least} at least, chosen at random", least = DigestKey::LEAST_BYTES)]
pub struct DigestKeyError {
    bytes: usize,
}

impl DigestKey {
    /// The least bytes of a secret.
    pub const LEAST_BYTES: usize = 16;

    /// Takes a secret of 16 bytes or more, chosen at random.
    ///
    /// # Errors
    ///
    /// When it is shorter.
    pub fn new(secret: impl AsRef<[u8]>) -> Result<Self, DigestKeyError> {
        let secret = secret.as_ref();
        let error = DigestKeyError { bytes: secret.len() };
        if secret.len() < Self::LEAST_BYTES {
            return Err(error);
        }
        Hmac::new_from_slice(secret).map(Self).map_err(|_| error)
    }

    /// Returns the key under which a key is counted, to look it up or block it; `None` for one that is exempt or has
    /// too many parts.
    ///
    /// ```
    /// use traffik::http::{DigestKey, PeerAddr};
    ///
    /// let digest = DigestKey::new("3f7c1d0b9a6e45f2a81c0d5e7b9f3a64")?;
    /// let client = PeerAddr::new().key_of("203.0.113.7".parse()?);
    /// let key = digest.key_of(client); // throttle.block(key, time)
    /// # assert!(key.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn key_of(&self, key: impl ToKey) -> Option<[u8; 16]> {
        let parts = key.to_key();
        Some(self.digest(parts.as_slice().ok()??))
    }

    fn digest(&self, parts: &[KeyPart<'_>]) -> [u8; 16] {
        let mut mac = self.0.clone();
        let mut encoded = Vec::with_capacity(64);
        for part in parts {
            push_prefixed(&mut encoded, part.as_bytes());
        }
        mac.update(&encoded);
        let all = mac.finalize().into_bytes();
        let mut first = [0; 16];
        first.copy_from_slice(&all[..16]);
        first
    }
}

impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DigestKey(..)")
    }
}

/// An identity whose keys are digested; see [`Identity::digested`].
#[derive(Clone, Debug)]
pub struct Digested<I> {
    identity: I,
    key: DigestKey,
}

impl<I> Digested<I> {
    pub(super) const fn new(identity: I, key: DigestKey) -> Self {
        Self { identity, key }
    }
}

impl<I: Identity> Identity for Digested<I> {
    fn identify<'r>(&'r self, request: &'r Parts) -> Identified<'r> {
        let identified = self.identity.identify(request);
        // What is refused, exempt or has too many parts stays what it is.
        match identified.to_key().ok().and_then(|key| self.key.key_of(key)) {
            Some(digest) => Identified::parts(KeyParts::one(KeyPart::inline(digest))),
            None => identified,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_of_every_byte_and_border_and_of_the_secret() {
        let digest = |secret: &str, parts: &[&str]| {
            let parts: Vec<_> = parts.iter().map(|part| KeyPart::bytes(part.as_bytes())).collect();
            DigestKey::new(secret).unwrap().digest(&parts)
        };
        let one = digest("0123456789abcdef", &["alice", "7"]);
        assert_eq!(one, digest("0123456789abcdef", &["alice", "7"]));
        for other in [
            digest("0123456789abcdeg", &["alice", "7"]),
            digest("0123456789abcdef", &["alice", "8"]),
            digest("0123456789abcdef", &["alice7", ""]),
            digest("0123456789abcdef", &["alice7"]),
            digest("0123456789abcdef", &["7", "alice"]),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn a_short_secret_is_refused_and_none_is_shown() {
        let error = DigestKey::new("short").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the digest key has 5 bytes; use 16 at least, chosen at random"
        );
        let key = DigestKey::new("a secret of many bytes").unwrap();
        assert_eq!(format!("{key:?}"), "DigestKey(..)");
    }
}
