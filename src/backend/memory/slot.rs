//! The slots of a table: [`Slot`] for short keys, [`LargeSlot`] for long keys and long states.

use super::hashed_key::HashedKey;
use super::short_key::ShortKey;
use super::state_ids::{StateIds, StateInfo};
use super::table::Hashed;
use crate::clock::Timestamp;
use crate::key::{KeyPart, PrefixedParts};
use crate::step::Form;
use crate::strategy::{PartId, State};

/// The lowest bits of a slot's `meta`: the shape of its key.
const SHAPE: u64 = 0b11_1111;
/// The bit above: the slot takes the place of its key in the budget.
const COUNTED: u64 = 0b100_0000;
/// Above these the instant.
const FLAG_BITS: u32 = 7;
const FLAGS: u64 = (1 << FLAG_BITS) - 1;

/// The state of one limit of one key.
#[derive(Clone, Copy)]
pub(super) struct StateRef<'t> {
    pub(super) key: &'t HashedKey<'t>,
    pub(super) info: &'t StateInfo,
    pub(super) ids: &'t StateIds,
}

impl StateRef<'_> {
    /// Returns the hash under which it is stored.
    #[inline]
    pub(super) fn hash(&self) -> u64 {
        self.key.hash() ^ self.info.salt()
    }

    pub(super) fn is_small(&self, slot: &Slot) -> bool {
        self.key.short().is_some_and(|short| self.is_in(short, slot))
    }

    /// Returns whether the slot holds this state, for the short form of the key. Any writer may have
    /// written it.
    #[inline]
    pub(super) fn is_in(&self, short: &ShortKey, slot: &Slot) -> bool {
        slot.is(short, self.info.id()) || self.is_by_another(short, slot)
    }

    #[inline]
    fn is_by_another(&self, short: &ShortKey, slot: &Slot) -> bool {
        slot.state_id != self.info.id()
            && slot.key() == *short
            && self.ids.is_same_state(self.info, slot.state_id)
    }

    pub(super) fn is_large(&self, slot: &LargeSlot) -> bool {
        self.is_state_of(slot)
            && PrefixedParts::new(&slot.key).eq(self.key.parts().iter().map(KeyPart::as_bytes))
    }

    fn is_state_of(&self, slot: &LargeSlot) -> bool {
        is_state(self.ids, self.info, slot)
    }
}

/// Returns whether a large slot holds that state, of any key.
fn is_state(ids: &StateIds, info: &StateInfo, slot: &LargeSlot) -> bool {
    slot.state_id == info.id() || ids.is_same_state(info, slot.state_id)
}

/// The packed count of a short key: 36 bytes, aligned to 4.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// The packed count, in two halves.
    count: [u32; 2],
    /// The shape of the key, whether it is counted, and the instant of the last change; in two halves.
    meta: [u32; 2],
    state_id: u32,
    /// The words of the key, each in two halves.
    key: [[u32; 2]; 2],
}

const _: () = assert!(size_of::<Slot>() == 36);
const _: () = assert!(Timestamp::MAX.as_micros() < u64::MAX >> FLAG_BITS);

#[inline]
fn joined(halves: [u32; 2]) -> u64 {
    u64::from(halves[0]) | u64::from(halves[1]) << 32
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the two halves are meant")]
fn halves(whole: u64) -> [u32; 2] {
    [whole as u32, (whole >> 32) as u32]
}

impl Slot {
    #[inline]
    pub(super) fn new(key: &ShortKey, state_id: u32, count: u64, last: Timestamp) -> Self {
        let meta = last.as_micros() << FLAG_BITS | u64::from(key.shape);
        Self { count: halves(count), meta: halves(meta), state_id, key: key.words.map(halves) }
    }

    #[inline]
    pub(super) fn is(&self, key: &ShortKey, state_id: u32) -> bool {
        self.state_id == state_id && self.key() == *key
    }

    #[inline]
    pub(super) fn key(&self) -> ShortKey {
        let shape = (joined(self.meta) & SHAPE) as u8;
        ShortKey { words: self.key.map(joined), shape }
    }

    #[inline]
    pub(super) fn state_id(&self) -> u32 {
        self.state_id
    }

    #[inline]
    pub(super) fn count(&self) -> u64 {
        joined(self.count)
    }

    #[inline]
    pub(super) fn last(&self) -> Timestamp {
        Timestamp::from_micros(joined(self.meta) >> FLAG_BITS)
    }

    /// Returns whether it takes the place of its key in the budget.
    pub(super) fn is_counted(&self) -> bool {
        joined(self.meta) & COUNTED != 0
    }

    /// Makes it take the place of its key in the budget.
    pub(super) fn count_it(&mut self) {
        self.meta = halves(joined(self.meta) | COUNTED);
    }

    #[inline]
    pub(super) fn write(&mut self, count: u64, last: Timestamp) {
        let flags = joined(self.meta) & FLAGS;
        self.count = halves(count);
        self.meta = halves(last.as_micros() << FLAG_BITS | flags);
    }

    /// As [`write`](Self::write), by another writer of the state.
    #[inline]
    pub(super) fn write_by(&mut self, state_id: u32, count: u64, last: Timestamp) {
        self.state_id = state_id;
        self.write(count, last);
    }
}

impl Hashed for Slot {
    type By = StateIds;

    fn hash(&self, ids: &StateIds) -> u64 {
        let salt = ids.get(self.state_id).map_or(0, StateInfo::salt);
        self.key().hash(ids.hasher()) ^ salt
    }
}

/// A key of any length and a state of any size.
#[derive(Debug)]
pub(super) struct LargeSlot {
    hash: u64,
    pub(super) state_id: u32,
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
        reset_at: Timestamp,
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
    pub(super) reset_at: Timestamp,
}

impl LargeSlot {
    pub(super) fn new(state: StateRef<'_>, body: Body) -> Self {
        let key = state.key.encoded().into();
        Self { hash: state.hash(), state_id: state.info.id(), counted: false, key, body }
    }

    /// Returns whether it holds that state of a key in its stored form. Any writer may have written it.
    pub(super) fn is_encoded(&self, key: &[u8], info: &StateInfo, ids: &StateIds) -> bool {
        is_state(ids, info, self) && *self.key == *key
    }

    /// Returns the key in its stored form.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }
}

impl Hashed for LargeSlot {
    type By = StateIds;

    fn hash(&self, _ids: &StateIds) -> u64 {
        self.hash
    }
}

#[cfg(all(test, not(traffik_model)))]
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
        fn f31_a_slot_is_found_by_its_own_key_only(a in pieces(), b in pieces()) {
            let ids = StateIds::default();
            let info = |rate| ids.of("t", &Limit::new(rate, TokenBucket::new()).unwrap());
            let (info, other) = (info(Rate::per_second(1)), info(Rate::per_day(9)));
            let (parts_a, parts_b) = (parts(&a), parts(&b));
            let key_a = HashedKey::new(ids.hasher(), &parts_a);
            let key_b = HashedKey::new(ids.hasher(), &parts_b);
            let of_a = StateRef { key: &key_a, info: &info, ids: &ids };
            let of_b = StateRef { key: &key_b, ..of_a };
            let of_other = StateRef { info: &other, ..of_a };
            let body = Body::Packed { count: 7, last: Timestamp::ZERO };
            let large = LargeSlot::new(of_a, body);
            prop_assert!(of_a.is_large(&large));
            prop_assert!(!of_other.is_large(&large));
            prop_assert_eq!(of_b.is_large(&large), a == b);
            prop_assert!(large.is_encoded(large.key(), &info, &ids));
            prop_assert_eq!(large.hash(&ids), of_a.hash());
            if let Some(short) = key_a.short() {
                let encoded = short.encoded();
                prop_assert_eq!(&*encoded, large.key());
                prop_assert_eq!(ShortKey::of_encoded(&encoded), Some(*short));
                let slot = Slot::new(short, info.id(), 7, Timestamp::MAX);
                prop_assert!(of_a.is_small(&slot));
                prop_assert!(!of_other.is_small(&slot));
                prop_assert_eq!(of_b.is_small(&slot), a == b);
                prop_assert_eq!(slot.hash(&ids), of_a.hash());
                prop_assert_eq!((slot.count(), slot.last()), (7, Timestamp::MAX));
            }
        }

        #[test]
        fn a_write_keeps_the_key(count: u64, last in 0..=Timestamp::MAX.as_micros()) {
            let short = ShortKey::of(&[KeyPart::bytes(b"alice")]).unwrap();
            let mut slot = Slot::new(&short, 3, 0, Timestamp::ZERO);
            slot.write(count, Timestamp::from_micros(last));
            prop_assert!(slot.is(&short, 3) && !slot.is_counted());
            slot.count_it();
            prop_assert!(slot.is(&short, 3) && slot.is_counted());
            slot.write(count, Timestamp::from_micros(last));
            prop_assert!(slot.is_counted());
            prop_assert_eq!((slot.count(), slot.last().as_micros()), (count, last));
        }
    }
}
