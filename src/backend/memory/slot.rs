//! The slots of a table: [`Slot`] for packed counts, [`LargeSlot`] for all other states.

use super::state_ids::{StateIds, StateInfo};
use super::stored_key::{HashedKey, StoredKey};
use super::table::{Hashed, Marked};
use crate::clock::Timestamp;
use crate::step::Form;
use crate::strategy::{PartId, State};

/// The lowest bits of a slot's `meta`: the shape of its key.
const SHAPE: u64 = 0b11_1111;
/// The bit above: the slot takes the place of its key in the budget.
const COUNTED: u64 = 0b100_0000;
/// The bit above: the snapshot that is being taken has it.
const MARKED: u64 = 0b1000_0000;
/// Above these the instant.
const FLAG_BITS: u32 = 8;
const FLAGS: u64 = (1 << FLAG_BITS) - 1;

/// The state of one limit of one key.
#[derive(Clone, Copy)]
pub(super) struct StateRef<'t> {
    pub(super) key: &'t HashedKey,
    pub(super) info: &'t StateInfo,
    pub(super) ids: &'t StateIds,
}

impl StateRef<'_> {
    /// Returns the hash under which it is stored.
    #[inline]
    pub(super) fn hash(&self) -> u64 {
        self.key.hash ^ self.info.salt()
    }

    /// Returns whether the slot holds this state. Any writer may have written it.
    #[inline]
    pub(super) fn is_small(&self, slot: &Slot) -> bool {
        slot.is(&self.key.stored, self.info.id()) || self.is_by_another(slot)
    }

    #[inline]
    fn is_by_another(&self, slot: &Slot) -> bool {
        slot.state_id != self.info.id()
            && slot.key() == self.key.stored
            && self.ids.is_same_state(self.info, slot.state_id)
    }

    /// As [`is_small`](Self::is_small).
    pub(super) fn is_large(&self, slot: &LargeSlot) -> bool {
        slot.key == self.key.stored
            && (slot.state_id == self.info.id() || self.ids.is_same_state(self.info, slot.state_id))
    }
}

/// A packed count: 36 bytes, aligned to 4.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// The packed count, in two halves.
    count: [u32; 2],
    /// The shape of the key, whether it is counted and marked, and the instant of the last change; in two halves.
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
    pub(super) fn new(key: &StoredKey, state_id: u32, count: u64, last: Timestamp) -> Self {
        let meta = last.as_micros() << FLAG_BITS | u64::from(key.shape);
        Self { count: halves(count), meta: halves(meta), state_id, key: key.words.map(halves) }
    }

    #[inline]
    pub(super) fn is(&self, key: &StoredKey, state_id: u32) -> bool {
        self.state_id == state_id && self.key() == *key
    }

    #[inline]
    pub(super) fn key(&self) -> StoredKey {
        let shape = (joined(self.meta) & SHAPE) as u8;
        StoredKey { words: self.key.map(joined), shape }
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

    /// Returns whether the snapshot that is being taken has it.
    pub(super) fn is_marked(&self) -> bool {
        joined(self.meta) & MARKED != 0
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

impl Marked for Slot {
    fn mark(&mut self, is_marked: bool) {
        let others = joined(self.meta) & !MARKED;
        self.meta = halves(if is_marked { others | MARKED } else { others });
    }
}

impl Hashed for Slot {
    type By = StateIds;

    fn hash(&self, ids: &StateIds) -> u64 {
        hash_of(&self.key(), self.state_id, ids)
    }
}

/// A state of any size.
#[derive(Debug)]
pub(super) struct LargeSlot {
    pub(super) key: StoredKey,
    pub(super) state_id: u32,
    /// It takes the place of its key in the budget.
    pub(super) counted: bool,
    /// The snapshot that is being taken has it.
    pub(super) marked: bool,
    /// It was written since a snapshot began to copy its words, some under each lock. Without this, words can only go, and
    /// then there are fewer: what is forgotten, and a state that could not be read.
    pub(super) changed: bool,
    pub(super) body: Body,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    Words {
        state: State,
        /// From when on it reads as missing.
        reset_at: Timestamp,
    },
    /// The rates that hits brought.
    Brought(Vec<Brought>),
}

/// The state of a rate that a hit brought.
#[derive(Clone, Debug)]
pub(super) struct Brought {
    pub(super) id: PartId,
    pub(super) form: Form,
    /// From when on it reads as missing.
    pub(super) reset_at: Timestamp,
}

impl Brought {
    /// The instant of its last change.
    pub(super) fn last(&self) -> Timestamp {
        match &self.form {
            Form::Packed { last, .. } => *last,
            Form::Words(state) => state.last(),
        }
    }
}

impl LargeSlot {
    pub(super) fn new(state: StateRef<'_>, body: Body) -> Self {
        Self {
            key: state.key.stored,
            state_id: state.info.id(),
            counted: false,
            marked: false,
            changed: true,
            body,
        }
    }
}

impl Body {
    /// The words of each state that has some, in an order that no hit changes without writing.
    pub(super) fn words(&self) -> impl Iterator<Item = &[u64]> {
        let (own, brought) = match self {
            Self::Words { state, .. } => (Some(state), &[][..]),
            Self::Brought(parts) => (None, &parts[..]),
        };
        let brought = brought.iter().filter_map(|part| match &part.form {
            Form::Words(state) => Some(state),
            Form::Packed { .. } => None,
        });
        own.into_iter().chain(brought).map(State::words)
    }
}

impl Marked for LargeSlot {
    fn mark(&mut self, is_marked: bool) {
        self.marked = is_marked;
    }
}

impl Hashed for LargeSlot {
    type By = StateIds;

    fn hash(&self, ids: &StateIds) -> u64 {
        hash_of(&self.key, self.state_id, ids)
    }
}

/// Returns the hash under which a state is stored.
fn hash_of(key: &StoredKey, state_id: u32, ids: &StateIds) -> u64 {
    let salt = ids.get(state_id).map_or(0, StateInfo::salt);
    ids.hasher().hash(key) ^ salt
}

#[cfg(all(test, not(traffik_model)))]
mod tests {
    use super::*;
    use crate::key::KeyPart;
    use crate::rate::Rate;
    use crate::strategy::{Limit, TokenBucket};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn f31_a_slot_is_found_by_its_own_key_only(
            a in prop::collection::vec(prop::collection::vec(0u8..3, 0..18), 1..4),
            b in prop::collection::vec(prop::collection::vec(0u8..3, 0..18), 1..4),
        ) {
            let ids = StateIds::default();
            let info = |rate| ids.of("t", &Limit::new(rate, TokenBucket::new()).unwrap());
            let (info, other) = (info(Rate::per_second(1)), info(Rate::per_day(9)));
            let key = |pieces: &[Vec<u8>]| {
                let parts: Vec<_> = pieces.iter().map(|piece| KeyPart::bytes(piece)).collect();
                ids.hasher().key(&parts)
            };
            let (key_a, key_b) = (key(&a), key(&b));
            let of_a = StateRef { key: &key_a, info: &info, ids: &ids };
            let of_b = StateRef { key: &key_b, ..of_a };
            let of_other = StateRef { info: &other, ..of_a };
            let large = LargeSlot::new(of_a, Body::Brought(Vec::new()));
            prop_assert!(of_a.is_large(&large) && !of_other.is_large(&large));
            prop_assert_eq!(of_b.is_large(&large), a == b);
            prop_assert_eq!(large.hash(&ids), of_a.hash());
            let slot = Slot::new(&key_a.stored, info.id(), 7, Timestamp::MAX);
            prop_assert!(of_a.is_small(&slot) && !of_other.is_small(&slot));
            prop_assert_eq!(of_b.is_small(&slot), a == b);
            prop_assert_eq!(slot.hash(&ids), of_a.hash());
            prop_assert_eq!((slot.count(), slot.last()), (7, Timestamp::MAX));
        }

        #[test]
        fn a_write_keeps_the_key(count: u64, last in 0..=Timestamp::MAX.as_micros()) {
            let key = StateIds::default().hasher().key(&[KeyPart::bytes(b"alice")]).stored;
            let mut slot = Slot::new(&key, 3, 0, Timestamp::ZERO);
            slot.write(count, Timestamp::from_micros(last));
            prop_assert!(slot.is(&key, 3) && !slot.is_counted());
            slot.count_it();
            prop_assert!(slot.is(&key, 3) && slot.is_counted() && !slot.is_marked());
            slot.mark(true);
            slot.write(count, Timestamp::from_micros(last));
            prop_assert!(slot.is_counted() && slot.is_marked());
            slot.mark(false);
            prop_assert!(slot.is(&key, 3) && slot.is_counted() && !slot.is_marked());
            prop_assert_eq!((slot.count(), slot.last().as_micros()), (count, last));
        }
    }
}
