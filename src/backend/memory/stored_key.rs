//! [`StoredKey`]: a key in 16 bytes, as a slot holds it: the key itself if it is short, else its keyed digest.
//!
//! The digest is SipHash-1-3 (Aumasson and Bernstein, 2012, with fewer rounds, as in the hash maps of the standard
//! library) with the 128 bits that its authors added later: a pseudo-random function of a secret that each backend
//! draws. So nobody can make two keys meet who does not know the secret, and of `n` long keys any two meet by chance
//! with a probability of some `n² / 2^129`: of a million, 2^-89.

#![expect(
    clippy::inline_always,
    reason = "without it a hit takes 1.12x the time: docs/performance.md"
)]

use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;
use siphasher::sip128::{Hash128, Hasher128, SipHasher13};

use crate::key::{KeyPart, Prefix};
use crate::random;

/// Bytes of a key that are stored as they are.
const MOST: usize = 16;
/// Bytes of several parts with their lengths, each below 128, that are digested together.
const JOINED: usize = 128;

/// A key in 16 bytes. Equal exactly if the keys are, but for digests that meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoredKey {
    /// For one short part its first and its last bytes, which may overlap: with the length they tell all of
    /// it. For several short parts these bytes, each part after its length. For a long key its digest.
    pub(super) words: [u64; 2],
    /// The length, or that it is a digest, and whether there are several parts; below 64.
    pub(super) shape: u8,
}

/// A key and the hash that places it.
#[derive(Clone, Copy, Debug)]
pub(super) struct HashedKey {
    pub(super) stored: StoredKey,
    pub(super) hash: u64,
}

/// What hashes the keys of one backend, by secrets of its own: nobody outside can choose keys that collide.
#[derive(Debug)]
pub(super) struct KeyHasher {
    /// Spreads short keys.
    spread: RandomState,
    /// Digests long ones; as it is before the first byte.
    digest: SipHasher13,
}

impl StoredKey {
    /// Marks several parts, in the shape.
    const SEVERAL: u8 = 0b10_0000;
    /// Marks a digest, in the place of the length.
    const DIGEST: u8 = 0b01_1111;

    /// Returns the key of which these are the parts; `None` if none has them.
    pub(super) fn from_raw(words: [u64; 2], shape: u8) -> Option<Self> {
        let length = shape & Self::DIGEST;
        let is_known = shape <= Self::SEVERAL | Self::DIGEST
            && (usize::from(length) <= MOST || length == Self::DIGEST);
        is_known.then_some(Self { words, shape })
    }

    fn is_digest(&self) -> bool {
        self.shape & Self::DIGEST == Self::DIGEST
    }

    /// One short part, by overlapping reads, because a copy of unknown length is a loop or a call.
    #[inline(always)]
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

    /// Several parts that are short together, each after its length.
    #[inline]
    fn of_several(parts: &[KeyPart<'_>]) -> Option<Self> {
        let length: usize = parts.iter().map(|part| 1 + part.as_bytes().len()).sum();
        if length > MOST {
            return None;
        }
        let mut joined = 0u128;
        let mut at = 0;
        for part in parts {
            let bytes = part.as_bytes();
            joined |= (bytes.len() as u128) << (8 * at);
            // Of no bytes there is nothing to shift, perhaps out of the number.
            if !bytes.is_empty() {
                joined |= number(bytes) << (8 * (at + 1));
            }
            at += 1 + bytes.len();
        }
        #[expect(clippy::cast_possible_truncation, reason = "the two halves, and at most 16")]
        Some(Self {
            words: [joined as u64, (joined >> 64) as u64],
            shape: Self::SEVERAL | at as u8,
        })
    }

    fn digest(Hash128 { h1, h2 }: Hash128, several: u8) -> Self {
        Self { words: [h1, h2], shape: Self::DIGEST | several }
    }
}

/// Returns up to 15 bytes as a number, the first the lowest; by overlapping reads.
#[inline]
fn number(bytes: &[u8]) -> u128 {
    let length = bytes.len();
    if let (Some(head), Some(tail)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let (head, tail) = (u64::from_le_bytes(*head), u64::from_le_bytes(*tail));
        u128::from(head) | u128::from(tail) << (8 * (length - 8))
    } else if let (Some(head), Some(tail)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let (head, tail) = (u32::from_le_bytes(*head), u32::from_le_bytes(*tail));
        u128::from(head) | u128::from(tail) << (8 * (length - 4))
    } else {
        bytes.iter().rev().fold(0, |all, byte| all << 8 | u128::from(*byte))
    }
}

impl KeyHasher {
    /// Draws the secrets.
    pub(super) fn new() -> Self {
        Self::with_secret(random::secret())
    }

    /// With the secret of another, whose digests it then makes too.
    pub(super) fn with_secret([first, second]: [u64; 2]) -> Self {
        Self { spread: RandomState::new(), digest: SipHasher13::new_with_keys(first, second) }
    }

    /// Returns the secret of the digests.
    pub(super) fn secret(&self) -> [u64; 2] {
        let (first, second) = self.digest.keys();
        [first, second]
    }

    /// Returns random bits for a name.
    pub(super) fn salt(&self, name: &str) -> u64 {
        self.spread.hash_one(name)
    }

    #[inline(always)]
    pub(super) fn key(&self, parts: &[KeyPart<'_>]) -> HashedKey {
        let short = match parts {
            [part] => StoredKey::of_one(part.as_bytes()),
            parts => StoredKey::of_several(parts),
        };
        if let Some(stored) = short {
            return HashedKey { stored, hash: self.hash_short(&stored) };
        }
        let (digest, several) = match parts {
            [part] => (self.digest_one(part.as_bytes()), 0),
            parts => (self.digest_several(parts), StoredKey::SEVERAL),
        };
        let stored = StoredKey::digest(digest.into(), several);
        HashedKey { stored, hash: stored.words[0] }
    }

    /// Returns the hash of a key that was stored.
    #[inline]
    pub(super) fn hash(&self, stored: &StoredKey) -> u64 {
        if stored.is_digest() { stored.words[0] } else { self.hash_short(stored) }
    }

    #[inline(always)]
    fn hash_short(&self, stored: &StoredKey) -> u64 {
        let mut state = self.spread.build_hasher();
        let [low, high] = stored.words;
        state.write_u128(u128::from(low) | u128::from(high) << 64);
        // Only to tell apart keys whose words are equal and whose lengths are not.
        state.finish() ^ u64::from(stored.shape) << 32
    }

    #[inline(never)]
    fn digest_one(&self, bytes: &[u8]) -> u128 {
        self.digest.hash(bytes).into()
    }

    /// Each part after its length in LEB128.
    #[inline(never)]
    fn digest_several(&self, parts: &[KeyPart<'_>]) -> u128 {
        // Joined if they are short enough for lengths of one byte: one pass over all is faster than two or more.
        let mut joined = [0; JOINED];
        let mut end = 0;
        let fits = parts.iter().all(|part| {
            let (bytes, start) = (part.as_bytes(), end);
            end += 1 + bytes.len();
            let Some([length, room @ ..]) = joined.get_mut(start..end) else { return false };
            *length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
            room.copy_from_slice(bytes);
            true
        });
        if fits {
            return self.digest.hash(&joined[..end]).into();
        }
        let mut state = self.digest;
        for part in parts {
            state.write(Prefix::of(part.as_bytes().len()).as_bytes());
            state.write(part.as_bytes());
        }
        state.finish128().into()
    }
}

impl Default for KeyHasher {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(traffik_model)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(pieces: &[Vec<u8>]) -> Vec<KeyPart<'_>> {
        pieces.iter().map(|piece| KeyPart::bytes(piece)).collect()
    }

    /// Pieces that are alike, of all lengths around the borders.
    fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let piece = prop::collection::vec(0u8..2, 0..20);
        prop::collection::vec(
            prop_oneof![4 => piece, 1 => prop::collection::vec(0u8..2, 120..140)],
            0..5,
        )
    }

    proptest! {
        #[test]
        fn f31_equal_exactly_if_the_keys_are(a in pieces(), b in pieces()) {
            let hasher = KeyHasher::new();
            let (key_a, key_b) = (hasher.key(&parts(&a)), hasher.key(&parts(&b)));
            prop_assert_eq!(key_a.stored == key_b.stored, a == b);
            prop_assert_eq!(key_a.hash == key_b.hash, a == b);
            prop_assert_eq!(hasher.hash(&key_a.stored), key_a.hash);
        }

        #[test]
        fn f31_a_digest_depends_on_every_bit_length_and_border(
            key in prop::collection::vec(any::<u8>(), 17..300),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let hasher = KeyHasher::new();
            let stored = |pieces: &[&[u8]]| {
                let parts: Vec<_> = pieces.iter().map(|piece| KeyPart::bytes(piece)).collect();
                let stored = hasher.key(&parts).stored;
                assert!(stored.is_digest());
                stored
            };
            let at = at.index(key.len());
            let mut flipped = key.clone();
            flipped[at] ^= 1 << bit;
            let longer = [&key[..], &[0]].concat();
            let (head, tail) = key.split_at(at);
            let (next_head, next_tail) = key.split_at(at + 1);
            let all = [
                stored(&[&key]),
                stored(&[&flipped]),
                stored(&[&longer]),
                stored(&[head, tail]),
                stored(&[next_head, next_tail]),
                stored(&[head, tail, b""]),
                stored(&[b"", head, tail]),
            ];
            for (index, one) in all.iter().enumerate() {
                for other in &all[..index] {
                    // Both words: each is a table's business by itself.
                    prop_assert_ne!(one.words[0], other.words[0]);
                    prop_assert_ne!(one.words[1], other.words[1]);
                }
            }
        }
    }

    #[test]
    fn what_is_stored_as_it_is_and_what_is_digested() {
        let hasher = KeyHasher::new();
        let is_digest = |lengths: &[usize]| {
            let pieces: Vec<_> = lengths.iter().map(|length| vec![7; *length]).collect();
            hasher.key(&parts(&pieces)).stored.is_digest()
        };
        assert!(
            [&[][..], &[0], &[16], &[7, 7], &[0, 0, 13], &[14, 0]].iter().all(|it| !is_digest(it))
        );
        assert!(
            [&[17][..], &[8, 7], &[15, 0], &[0, 15], &[4, 4, 4, 1]].iter().all(|it| is_digest(it))
        );
    }

    /// Computed by another program, and never to change once a snapshot holds such keys.
    #[test]
    fn the_digest_is_siphash_1_3_with_128_bits() {
        let digest = SipHasher13::new_with_keys(3, 5);
        let hasher = KeyHasher { spread: RandomState::new(), digest };
        let bytes: Vec<u8> = (0..40).collect();
        let words = |parts: &[KeyPart<'_>]| hasher.key(parts).stored.words;
        assert_eq!(
            words(&[KeyPart::bytes(&bytes)]),
            [0x4310_d818_edeb_d05f, 0x0e37_f135_2077_ccce]
        );
        assert_eq!(
            words(&[KeyPart::bytes(&bytes[..23]), KeyPart::bytes(&bytes[..23])]),
            [0x63a9_9cac_88fd_6f6d, 0x3f26_ef6a_9dbe_a943]
        );
    }

    #[test]
    fn each_backend_has_a_secret_of_its_own() {
        let key = |hasher: KeyHasher| hasher.key(&[KeyPart::bytes(&[7; 40])]).stored;
        assert_ne!(key(KeyHasher::new()), key(KeyHasher::new()));
    }
}
