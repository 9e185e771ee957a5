//! [`OwnedKey`]: a key that owns its bytes.

use std::fmt;

use super::{KeyError, KeyPart, KeyParts, ToKey};

/// A key that owns its parts, to be kept and used for another hit.
///
/// ```
/// use traffik::key::{OwnedKey, ToKey};
///
/// let key = OwnedKey::new(&("tenant-7", 42u32))?;
/// assert_eq!(key.parts()[0], b"tenant-7");
/// # Ok::<(), traffik::KeyError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct OwnedKey {
    /// `None` for an exempt key.
    parts: Option<Vec<Vec<u8>>>,
}

impl OwnedKey {
    pub(crate) const EXEMPT: Self = Self { parts: None };

    /// Copies a key.
    ///
    /// # Errors
    ///
    /// When it has too many parts.
    pub fn new(key: &(impl ToKey + ?Sized)) -> Result<Self, KeyError> {
        let parts = key.to_key();
        let owned = |parts: &[KeyPart<'_>]| {
            parts.iter().map(|part| part.as_bytes().to_vec()).collect::<Vec<_>>()
        };
        Ok(Self { parts: parts.as_slice()?.map(owned) })
    }

    /// Returns the parts as one sequence of bytes, different for different keys.
    pub(crate) fn encoded(&self) -> Vec<u8> {
        let mut encoded = Vec::new();
        for part in self.parts() {
            super::push_prefixed(&mut encoded, part);
        }
        encoded
    }

    pub(crate) fn of(parts: &[KeyPart<'_>]) -> Self {
        let parts = parts.iter().map(|part| part.as_bytes().to_vec()).collect();
        Self { parts: Some(parts) }
    }

    /// Returns the bytes of each part; none for an exempt key.
    #[must_use]
    pub fn parts(&self) -> &[Vec<u8>] {
        self.parts.as_deref().unwrap_or_default()
    }
}

impl ToKey for OwnedKey {
    fn to_key(&self) -> KeyParts<'_> {
        let Some(parts) = &self.parts else { return KeyParts::EXEMPT };
        let parts: Vec<_> = parts.iter().map(|part| KeyPart::bytes(part)).collect();
        KeyParts::several(&parts)
    }
}

impl fmt::Debug for OwnedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts.as_deref() {
            None => f.write_str("Exempt"),
            Some(parts) => f.debug_list().entries(parts.iter().map(|p| KeyPart::bytes(p))).finish(),
        }
    }
}
