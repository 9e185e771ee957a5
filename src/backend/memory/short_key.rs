//! [`ShortKey`]: a key of up to 16 bytes as two integers, hashed and compared without a loop.

use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;

use crate::key::{KeyPart, PrefixedParts};

/// Bytes of a key that fit.
const MOST: usize = 16;

/// A key of up to 16 bytes. Equal exactly if the keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShortKey {
    /// For one part its first and its last bytes, which may overlap: with the length they tell all of
    /// it. For several parts these bytes, each part after its length.
    pub(super) words: [u64; 2],
    /// The length, and whether there are several parts; below 64.
    pub(super) shape: u8,
}

impl ShortKey {
    /// Marks several parts, in the shape.
    const SEVERAL: u8 = 0b10_0000;

    #[inline]
    pub(super) fn of(parts: &[KeyPart<'_>]) -> Option<Self> {
        match parts {
            [part] => Self::of_one(part.as_bytes()),
            parts => Self::of_several(parts),
        }
    }

    /// Overlapping reads, because a copy of unknown length is a loop or a call.
    #[inline]
    fn of_one(bytes: &[u8]) -> Option<Self> {
        let length = bytes.len();
        if length > MOST {
            return None;
        }
        let words = if let (Some(head), Some(tail)) = (bytes.first_chunk(), bytes.last_chunk()) {
            [u64::from_le_bytes(*head), u64::from_le_bytes(*tail)]
        } else if let (Some(head), Some(tail)) = (bytes.first_chunk(), bytes.last_chunk()) {
            [u64::from(u32::from_le_bytes(*head)), u64::from(u32::from_le_bytes(*tail))]
        } else {
            [bytes.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)), 0]
        };
        #[expect(clippy::cast_possible_truncation, reason = "at most 16")]
        Some(Self { words, shape: length as u8 })
    }

    #[inline(never)]
    fn of_several(parts: &[KeyPart<'_>]) -> Option<Self> {
        let length: usize = parts.iter().map(|part| part.as_bytes().len() + 1).sum();
        if length > MOST {
            return None;
        }
        let mut joined = [0; MOST];
        let mut at = 0;
        for part in parts {
            let bytes = part.as_bytes();
            joined[at] = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
            joined[at + 1..=at + bytes.len()].copy_from_slice(bytes);
            at += 1 + bytes.len();
        }
        let (words, _) = joined.as_chunks::<8>();
        let words = [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])];
        let shape = Self::SEVERAL | u8::try_from(length).unwrap_or(u8::MAX);
        Some(Self { words, shape })
    }

    /// The parts, each after its length: what
    /// [`HashedKey::encoded`](super::hashed_key::HashedKey::encoded) writes.
    pub(super) fn encoded(&self) -> Vec<u8> {
        let length = usize::from(self.shape & !Self::SEVERAL);
        let [head, tail] = self.words.map(u64::to_le_bytes);
        if self.shape & Self::SEVERAL != 0 {
            let joined = [head, tail].concat();
            return joined[..length].to_vec();
        }
        let mut bytes = vec![self.shape];
        match length {
            8.. => {
                bytes.extend_from_slice(&head);
                bytes.extend_from_slice(&tail[16 - length..]);
            }
            4.. => {
                bytes.extend_from_slice(&head[..4]);
                bytes.extend_from_slice(&tail[8 - length..4]);
            }
            _ => bytes.extend(head[..length].iter().rev()),
        }
        bytes
    }

    /// Reads back what [`encoded`](Self::encoded) wrote; `None` if the key does not fit.
    pub(super) fn of_encoded(encoded: &[u8]) -> Option<Self> {
        let parts: Vec<_> = PrefixedParts::new(encoded).map(KeyPart::bytes).collect();
        Self::of(&parts)
    }

    /// The keyed hash.
    #[inline]
    pub(super) fn hash(&self, hasher: &RandomState) -> u64 {
        let mut state = hasher.build_hasher();
        let [low, high] = self.words;
        state.write_u128(u128::from(low) | u128::from(high) << 64);
        // Only to tell apart keys whose words are equal and whose lengths are not.
        state.finish() ^ u64::from(self.shape) << 32
    }
}

#[cfg(all(test, not(traffik_model)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn f31_equal_exactly_if_the_keys_are(
            a in prop::collection::vec(prop::collection::vec(0u8..2, 0..18), 0..4),
            b in prop::collection::vec(prop::collection::vec(0u8..2, 0..18), 0..4),
        ) {
            fn short(pieces: &[Vec<u8>]) -> Option<ShortKey> {
                let parts: Vec<_> = pieces.iter().map(|piece| KeyPart::bytes(piece)).collect();
                ShortKey::of(&parts)
            }
            if let (Some(short_a), Some(short_b)) = (short(&a), short(&b)) {
                prop_assert_eq!(short_a == short_b, a == b);
            }
            prop_assert_eq!(short(&a), short(&a));
        }
    }

    #[test]
    fn what_fits_and_what_does_not() {
        assert!(ShortKey::of(&[KeyPart::bytes(&[0; 16])]).is_some());
        assert!(ShortKey::of(&[KeyPart::bytes(&[0; 17])]).is_none());
        assert!(ShortKey::of(&[KeyPart::bytes(&[0; 7]), KeyPart::bytes(&[0; 7])]).is_some());
        assert!(ShortKey::of(&[KeyPart::bytes(&[0; 8]), KeyPart::bytes(&[0; 7])]).is_none());
    }
}
