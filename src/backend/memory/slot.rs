//! What a table holds: [`Slot`] for short keys, [`LargeSlot`] for long keys and long states.

use super::table::Hashed;
use crate::clock::Timestamp;
use crate::key::{self, Key, KeyPart, Pieces, Short};
use crate::strategy::{Form, Interned, PartId, State, interned};

/// The lowest bits of a slot's `meta`: the shape of its key.
const SHAPE: u64 = 0b11_1111;
/// The bit above: the slot takes the place of its key in the budget.
const COUNTED: u64 = 0b100_0000;
/// Above these the instant.
const FLAG_BITS: u32 = 7;
const FLAGS: u64 = (1 << FLAG_BITS) - 1;

/// The hash under which a limit's state of a key is kept.
#[inline(always)]
pub(super) fn hash_of(key: &Key<'_>, interned: &Interned) -> u64 {
    key.hash() ^ interned.salt()
}

/// The packed count of a short key: 36 bytes, aligned to 4.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// The packed count, in two halves.
    count: [u32; 2],
    /// The shape of the key, whether it is counted, and the instant of the last change; in two halves.
    meta: [u32; 2],
    interned: u32,
    /// The words of the key, each in two halves.
    key: [[u32; 2]; 2],
}

const _: () = assert!(size_of::<Slot>() == 36);
const _: () = assert!(Timestamp::MAX.as_micros() < u64::MAX >> FLAG_BITS);

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
    #[inline(always)]
    pub(super) fn new(key: &Short, interned: u32, count: u64, last: Timestamp) -> Self {
        let meta = last.as_micros() << FLAG_BITS | u64::from(key.shape);
        Self { count: halves(count), meta: halves(meta), interned, key: key.words.map(halves) }
    }

    #[inline(always)]
    pub(super) fn is(&self, key: &Short, interned: u32) -> bool {
        self.interned == interned && self.key() == *key
    }

    /// As [`is`](Self::is), for any writer of the state.
    #[inline(always)]
    pub(super) fn is_of(&self, key: &Short, interned: &Interned) -> bool {
        self.is(key, interned.id())
            || self.interned != interned.id()
                && self.key() == *key
                && interned.is_same_state(self.interned)
    }

    #[inline(always)]
    pub(super) fn key(&self) -> Short {
        let shape = (joined(self.meta) & SHAPE) as u8;
        Short { words: self.key.map(joined), shape }
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
        Timestamp::from_micros(joined(self.meta) >> FLAG_BITS)
    }

    /// Whether it takes the place of its key in the budget.
    pub(super) fn is_counted(&self) -> bool {
        joined(self.meta) & COUNTED != 0
    }

    /// Makes it take the place of its key in the budget.
    pub(super) fn count_it(&mut self) {
        self.meta = halves(joined(self.meta) | COUNTED);
    }

    #[inline(always)]
    pub(super) fn write(&mut self, count: u64, last: Timestamp) {
        let flags = joined(self.meta) & FLAGS;
        self.count = halves(count);
        self.meta = halves(last.as_micros() << FLAG_BITS | flags);
    }

    /// As [`write`](Self::write), by another writer of the state.
    #[inline(always)]
    pub(super) fn write_by(&mut self, interned: u32, count: u64, last: Timestamp) {
        self.interned = interned;
        self.write(count, last);
    }
}

impl Hashed for Slot {
    fn hash(&self) -> u64 {
        let salt = interned::by_id(self.interned).map_or(0, Interned::salt);
        self.key().hash(key::hasher()) ^ salt
    }
}

/// A key of any length and a state of any size.
#[derive(Debug)]
pub(super) struct LargeSlot {
    hash: u64,
    pub(super) interned: u32,
    /// It takes the place of its key in the budget.
    pub(super) counted: bool,
    /// The parts, each after its length.
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
        /// From when on it reads as missing.
        fresh_at: Timestamp,
    },
    /// The rates that hits brought.
    Brought(Vec<Brought>),
}

/// The state of a rate that a hit brought.
#[derive(Debug)]
pub(super) struct Brought {
    pub(super) id: PartId,
    pub(super) form: Form,
    /// From when on it reads as missing.
    pub(super) fresh_at: Timestamp,
}

impl LargeSlot {
    pub(super) fn new(key: &Key<'_>, interned: &Interned, body: Body) -> Self {
        let mut parts = Vec::new();
        key.push_parts(&mut parts);
        let hash = hash_of(key, interned);
        Self { hash, interned: interned.id(), counted: false, key: parts.into(), body }
    }

    /// Whether it is of that key, by any writer of the state.
    #[inline(always)]
    pub(super) fn is_of(&self, key: &Key<'_>, interned: &Interned) -> bool {
        self.is_state(interned) && Pieces(&self.key).eq(key.parts().iter().map(KeyPart::as_bytes))
    }

    /// As [`is_of`](Self::is_of), for a key in its stored form.
    pub(super) fn is_encoded(&self, key: &[u8], interned: &Interned) -> bool {
        self.is_state(interned) && *self.key == *key
    }

    fn is_state(&self, interned: &Interned) -> bool {
        self.interned == interned.id() || interned.is_same_state(self.interned)
    }

    /// The key in its stored form.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }
}

impl Hashed for LargeSlot {
    fn hash(&self) -> u64 {
        self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::Rate;
    use crate::strategy::{Limit, TokenBucket};
    use proptest::prelude::*;

    fn parts(pieces: &[Vec<u8>]) -> Vec<KeyPart<'_>> {
        pieces.iter().map(|piece| KeyPart::bytes(piece)).collect()
    }

    fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(0u8..3, 0..18), 1..4)
    }

    proptest! {
        #[test]
        fn f31_a_slot_is_found_by_its_own_key_only(
            a in pieces(),
            b in pieces(),
            period in 1..4u32,
        ) {
            let rate = Rate::per_second(period);
            let limit = Limit::new(rate, TokenBucket::new()).unwrap();
            let interned = interned::intern(&format!("slots{period}"), &limit);
            let id = interned.id();
            let (parts_a, parts_b) = (parts(&a), parts(&b));
            let (key_a, key_b) = (Key::new("t", &parts_a), Key::new("t", &parts_b));
            let body = Body::Packed { count: 7, last: Timestamp::ZERO };
            let large = LargeSlot::new(&key_a, interned, body);
            let other = Limit::new(Rate::per_day(9), TokenBucket::new()).unwrap();
            let other = interned::intern(&format!("slots{period}"), &other);
            prop_assert!(large.is_of(&key_a, interned) && !large.is_of(&key_a, other));
            prop_assert_eq!(large.is_of(&key_b, interned), a == b);
            prop_assert!(large.is_encoded(large.key(), interned));
            prop_assert_eq!(large.hash(), hash_of(&key_a, interned));
            if let Some(short) = key_a.short() {
                let encoded = short.encoded();
                prop_assert_eq!(&*encoded, large.key());
                prop_assert_eq!(Short::of_encoded(&encoded), Some(*short));
                let slot = Slot::new(short, id, 7, Timestamp::MAX);
                prop_assert!(slot.is(short, id) && !slot.is(short, id + 1));
                prop_assert_eq!(key_b.short().is_some_and(|b| slot.is(b, id)), a == b);
                prop_assert_eq!(slot.hash(), hash_of(&key_a, interned));
                prop_assert_eq!((slot.count(), slot.last()), (7, Timestamp::MAX));
            }
        }

        #[test]
        fn a_write_keeps_the_key(count: u64, last in 0..=Timestamp::MAX.as_micros()) {
            let parts = [KeyPart::bytes(b"alice")];
            let key = Key::new("t", &parts);
            let short = key.short().unwrap();
            let mut slot = Slot::new(short, 3, 0, Timestamp::ZERO);
            slot.write(count, Timestamp::from_micros(last));
            prop_assert!(slot.is(short, 3) && !slot.is_counted());
            slot.count_it();
            prop_assert!(slot.is(short, 3) && slot.is_counted());
            slot.write(count, Timestamp::from_micros(last));
            prop_assert!(slot.is_counted());
            prop_assert_eq!((slot.count(), slot.last().as_micros()), (count, last));
        }
    }
}
