//! [`HashedKey`]: the parts of a key with their hash.

#![expect(
    clippy::inline_always,
    reason = "without it a hit takes 1.12x the time: docs/performance.md"
)]

use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;

use super::short_key::ShortKey;
use crate::key::{KeyPart, push_prefixed};

/// A key's parts, their short form if they have one, and their hash.
#[derive(Clone, Copy, Debug)]
pub(super) struct HashedKey<'a> {
    parts: &'a [KeyPart<'a>],
    short: Option<ShortKey>,
    hash: u64,
}

impl<'a> HashedKey<'a> {
    #[inline(always)]
    pub(super) fn new(hasher: &RandomState, parts: &'a [KeyPart<'a>]) -> Self {
        let short = ShortKey::of(parts);
        let hash = match &short {
            Some(short) => short.hash(hasher),
            None => hash_long(hasher, parts),
        };
        Self { parts, short, hash }
    }

    pub(super) fn parts(&self) -> &'a [KeyPart<'a>] {
        self.parts
    }

    /// Returns the key in 16 bytes, if it fits.
    #[inline]
    pub(super) fn short(&self) -> Option<&ShortKey> {
        self.short.as_ref()
    }

    #[inline]
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// Returns the stored form: the parts, each after its length.
    pub(super) fn encoded(&self) -> Vec<u8> {
        let mut encoded = Vec::new();
        for part in self.parts {
            push_prefixed(&mut encoded, part.as_bytes());
        }
        encoded
    }
}

#[inline(never)]
fn hash_long(hasher: &RandomState, parts: &[KeyPart<'_>]) -> u64 {
    let mut state = hasher.build_hasher();
    for part in parts {
        let bytes = part.as_bytes();
        state.write(bytes);
        state.write_usize(bytes.len());
    }
    state.finish()
}
