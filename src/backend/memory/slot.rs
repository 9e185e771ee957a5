//! What a table holds: [`Slot`] for short keys, [`LargeSlot`] for long keys and long states.

use super::table::Hashed;
use crate::clock::Timestamp;
use crate::key::{self, Key, KeyPart, Pieces};
use crate::strategy::State;

/// Bytes of a key that fit into a slot.
const INLINE: usize = 16;
const LENGTH: u64 = 0b1_1111;
const SEVERAL: u64 = 0b10_0000;
const LAST_SHIFT: u32 = 6;

/// Whose state is looked for: a key, prepared once for all its limits.
pub(super) struct Identity<'k> {
    key: &'k Key<'k>,
    /// The key as a slot holds it, if it fits.
    short: Option<Short>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Short {
    bytes: u128,
    /// The length, and whether the bytes are several parts, each after its length.
    shape: u64,
}

impl<'k> Identity<'k> {
    #[inline(always)]
    pub(super) fn of(key: &'k Key<'k>) -> Self {
        Self { key, short: Short::of(key.parts()) }
    }

    /// Whether it fits into a [`Slot`].
    #[inline(always)]
    pub(super) fn is_short(&self) -> bool {
        self.short.is_some()
    }

    /// The hash of the key; its shard comes from this.
    #[inline(always)]
    pub(super) fn hash(&self) -> u64 {
        self.key.hash()
    }

    /// The hash of the key's state with that number.
    #[inline(always)]
    pub(super) fn hash_of(&self, interned: u32) -> u64 {
        self.hash() ^ salt(interned)
    }
}

impl Short {
    #[inline(always)]
    fn of(parts: &[KeyPart<'_>]) -> Option<Self> {
        match parts {
            [part] => {
                let bytes = part.as_bytes();
                let fits = bytes.len() <= INLINE;
                fits.then(|| Self { bytes: padded(bytes), shape: bytes.len() as u64 })
            }
            parts => Self::of_several(parts),
        }
    }

    fn of_several(parts: &[KeyPart<'_>]) -> Option<Self> {
        let length: usize = parts.iter().map(|part| part.as_bytes().len() + 1).sum();
        if length > INLINE {
            return None;
        }
        let mut joined = [0; INLINE];
        let mut at = 0;
        for part in parts {
            let bytes = part.as_bytes();
            // Below 128, so one byte is its LEB128 form too.
            joined[at] = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
            joined[at + 1..=at + bytes.len()].copy_from_slice(bytes);
            at += 1 + bytes.len();
        }
        Some(Self { bytes: u128::from_le_bytes(joined), shape: SEVERAL | length as u64 })
    }
}

/// At most 16 bytes, with zeros behind. Overlapping reads, because a copy of unknown length is a call.
#[inline(always)]
fn padded(bytes: &[u8]) -> u128 {
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

/// Sends the limits of one key to different places of a table.
#[inline(always)]
fn salt(interned: u32) -> u64 {
    (u64::from(interned) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The packed count of a short key: 36 bytes, aligned to 4.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// The packed count, in two halves.
    count: [u32; 2],
    /// The key's length and whether it is of several parts, and above them the instant of the last
    /// change; in two halves.
    meta: [u32; 2],
    interned: u32,
    key: [u8; INLINE],
}

const _: () = assert!(size_of::<Slot>() == 36);
const _: () = assert!(Timestamp::MAX.as_micros() < u64::MAX >> LAST_SHIFT);

#[inline(always)]
fn joined(halves: [u32; 2]) -> u64 {
    u64::from(halves[0]) | u64::from(halves[1]) << 32
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the two halves are meant")]
fn halves(whole: u64) -> [u32; 2] {
    [whole as u32, (whole >> 32) as u32]
}

impl Slot {
    /// A slot for a short key; `None` for a long one.
    #[inline(always)]
    pub(super) fn new(
        identity: &Identity<'_>,
        interned: u32,
        count: u64,
        last: Timestamp,
    ) -> Option<Self> {
        let Short { bytes, shape } = identity.short?;
        let meta = last.as_micros() << LAST_SHIFT | shape;
        Some(Self {
            count: halves(count),
            meta: halves(meta),
            interned,
            key: bytes.to_le_bytes(),
        })
    }

    #[inline(always)]
    pub(super) fn is(&self, identity: &Identity<'_>, interned: u32) -> bool {
        identity.short.is_some_and(|short| {
            self.interned == interned
                && u128::from_le_bytes(self.key) == short.bytes
                && joined(self.meta) & (LENGTH | SEVERAL) == short.shape
        })
    }

    #[inline(always)]
    pub(super) fn interned(&self) -> u32 {
        self.interned
    }

    #[inline(always)]
    pub(super) fn count(&self) -> u64 {
        joined(self.count)
    }

    #[inline(always)]
    pub(super) fn last(&self) -> Timestamp {
        Timestamp::from_micros(joined(self.meta) >> LAST_SHIFT)
    }

    #[inline(always)]
    pub(super) fn write(&mut self, count: u64, last: Timestamp) {
        let shape = joined(self.meta) & (LENGTH | SEVERAL);
        self.count = halves(count);
        self.meta = halves(last.as_micros() << LAST_SHIFT | shape);
    }
}

impl Hashed for Slot {
    fn hash(&self) -> u64 {
        let meta = joined(self.meta);
        let length = usize::try_from(meta & LENGTH).unwrap_or(INLINE).min(INLINE);
        hash_bytes(&self.key[..length], meta & SEVERAL != 0) ^ salt(self.interned)
    }
}

/// The hash of a key that is kept as bytes.
fn hash_bytes(bytes: &[u8], several: bool) -> u64 {
    if several {
        key::hash_pieces(key::hasher(), Pieces(bytes))
    } else {
        key::hash_pieces(key::hasher(), std::iter::once(bytes))
    }
}

/// A key of any length and a state of any size.
#[derive(Debug)]
pub(super) struct LargeSlot {
    interned: u32,
    several: bool,
    key: Box<[u8]>,
    pub(super) body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    Packed {
        count: u64,
        last: Timestamp,
    },
    Words {
        state: State,
        /// From when on it says no more than a missing one.
        fresh_at: Timestamp,
    },
}

impl LargeSlot {
    pub(super) fn new(identity: &Identity<'_>, interned: u32, body: Body) -> Self {
        let parts = identity.key.parts();
        let (several, key) = match parts {
            [part] => (false, part.as_bytes().into()),
            _ => {
                let mut joined = Vec::new();
                identity.key.push_parts(&mut joined);
                (true, joined.into_boxed_slice())
            }
        };
        Self { interned, several, key, body }
    }

    #[inline(always)]
    pub(super) fn is(&self, identity: &Identity<'_>, interned: u32) -> bool {
        self.interned == interned
            && match (identity.key.parts(), self.several) {
                ([part], false) => part.as_bytes() == &*self.key,
                ([_], true) | (_, false) => false,
                (parts, true) => Pieces(&self.key).eq(parts.iter().map(KeyPart::as_bytes)),
            }
    }

    pub(super) fn interned(&self) -> u32 {
        self.interned
    }
}

impl Hashed for LargeSlot {
    fn hash(&self) -> u64 {
        hash_bytes(&self.key, self.several) ^ salt(self.interned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(pieces: &[Vec<u8>]) -> Vec<KeyPart<'_>> {
        pieces.iter().map(|piece| KeyPart::bytes(piece)).collect()
    }

    fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(0u8..3, 0..18), 1..4)
    }

    proptest! {
        #[test]
        fn f31_a_slot_is_found_by_its_own_key_only(a in pieces(), b in pieces(), id in 0..3u32) {
            let (parts_a, parts_b) = (parts(&a), parts(&b));
            let (key_a, key_b) = (Key::new("t", &parts_a), Key::new("t", &parts_b));
            let (of_a, of_b) = (Identity::of(&key_a), Identity::of(&key_b));
            let body = Body::Packed { count: 7, last: Timestamp::ZERO };
            let large = LargeSlot::new(&of_a, id, body);
            prop_assert!(large.is(&of_a, id) && !large.is(&of_a, id + 1));
            prop_assert_eq!(large.is(&of_b, id), a == b);
            prop_assert_eq!(large.hash(), of_a.hash_of(id));
            if let Some(slot) = Slot::new(&of_a, id, 7, Timestamp::MAX) {
                prop_assert!(slot.is(&of_a, id) && !slot.is(&of_a, id + 1));
                prop_assert_eq!(slot.is(&of_b, id), a == b);
                prop_assert_eq!(slot.hash(), of_a.hash_of(id));
                prop_assert_eq!((slot.count(), slot.last()), (7, Timestamp::MAX));
            } else {
                prop_assert!(!of_a.is_short());
            }
        }

        #[test]
        fn padding_is_what_it_says(bytes in prop::collection::vec(any::<u8>(), 0..=16)) {
            let mut expected = [0; 16];
            expected[..bytes.len()].copy_from_slice(&bytes);
            prop_assert_eq!(padded(&bytes).to_le_bytes(), expected);
        }

        #[test]
        fn a_write_keeps_the_key(count: u64, last in 0..=Timestamp::MAX.as_micros()) {
            let parts = [KeyPart::bytes(b"alice")];
            let key = Key::new("t", &parts);
            let identity = Identity::of(&key);
            let mut slot = Slot::new(&identity, 3, 0, Timestamp::ZERO).unwrap();
            slot.write(count, Timestamp::from_micros(last));
            prop_assert!(slot.is(&identity, 3));
            prop_assert_eq!((slot.count(), slot.last().as_micros()), (count, last));
        }
    }
}
