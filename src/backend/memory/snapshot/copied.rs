//! What a walk has copied since the last keys were written, into room that was made before: memory that is new to the
//! process costs far more than the copy itself.

use std::ops::Range;

use super::super::slot::{Body, Brought, LargeSlot, Slot};
use super::super::stored_key::StoredKey;
use crate::clock::Timestamp;
use crate::step::{Form, MAX_PARTS};
use crate::strategy::{PartId, State};

/// States that are looked for under one lock, or some more: those that one key can have stay together.
const STATES: usize = 256;
/// Words of keys that are copied whole under one lock, or those of one key more.
const WORDS: usize = 4096;
/// Words of one key that are copied under one lock. A key with more has its words copied ahead.
const KEY_WORDS: usize = 8192;
/// What a rate that a hit brought weighs beside its words, in words.
const PART: usize = 16;
/// How often the words of a key are begun, if somebody writes them each time. Then all are copied under one lock.
const TRIES: usize = 64;

/// What was copied under one lock; of a key with many words, under all of its locks.
#[derive(Debug)]
pub(super) struct Copied {
    /// Each with the number of its states.
    pub(super) keys: Vec<(StoredKey, usize)>,
    /// By key, with the number of its writer.
    states: Vec<(u32, Kept)>,
    parts: Vec<KeptPart>,
    words: Vec<u64>,
    looked_for: usize,
    /// What the next key needs, if there is no room for it.
    missing: Option<Size>,
    begun: Option<Begun>,
}

/// A key whose words are copied ahead, and how far they are. No others are there meanwhile.
#[derive(Clone, Copy, Debug)]
struct Begun {
    /// The key, and the number of its throttle's first state.
    of: (StoredKey, u32),
    /// Words of the key.
    all: usize,
    tries: usize,
    /// Words whose states are copied.
    given: usize,
}

/// What is to be done with the words of a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ahead {
    /// They are copied with its states.
    NotNeeded,
    /// The first are copied now.
    Begins,
    /// The next are copied now.
    GoesOn,
    /// None can be under this lock.
    NoRoom,
}

/// A state, whose words and parts lie beside it.
#[derive(Debug)]
enum Kept {
    Packed { count: u64, last: Timestamp },
    Words { last: Timestamp, words: Range<usize>, reset_at: Timestamp },
    Brought(Range<usize>),
}

#[derive(Debug)]
struct KeptPart {
    id: PartId,
    form: KeptForm,
    reset_at: Timestamp,
}

#[derive(Debug)]
enum KeptForm {
    Packed { count: u64, last: Timestamp },
    Words { last: Timestamp, words: Range<usize> },
}

/// A state that was copied.
#[derive(Debug)]
pub(super) enum CopiedState {
    Packed { count: u64, last: Timestamp },
    Large(Body),
}

/// The room that the states of a key take.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    parts: usize,
    words: usize,
}

/// What there is of a key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    size: Size,
    /// One of its states is marked.
    pub(super) is_marked: bool,
    /// Some words were written since they began to be copied.
    is_changed: bool,
}

impl Found {
    pub(super) fn add(&mut self, slot: &LargeSlot) {
        self.is_marked |= slot.marked;
        self.is_changed |= slot.changed;
        self.size.words += slot.body.words().map(<[u64]>::len).sum::<usize>();
        if let Body::Brought(parts) = &slot.body {
            self.size.parts += parts.len();
        }
    }
}

impl Copied {
    pub(super) fn new() -> Self {
        let mut new = Self {
            keys: Vec::with_capacity(STATES),
            states: Vec::with_capacity(STATES * 2),
            parts: Vec::new(),
            words: Vec::new(),
            looked_for: 0,
            missing: None,
            begun: None,
        };
        // For a key more than what is enough.
        new.make_room(Size { parts: WORDS / PART + MAX_PARTS, words: WORDS + KEY_WORDS });
        new
    }

    /// Forgets what was copied, but for words that are ahead of their key, and makes room for the next key. To be called
    /// outside of the lock.
    pub(super) fn clear(&mut self) {
        self.keys.clear();
        self.states.clear();
        self.parts.clear();
        if self.begun.is_none() {
            self.words.clear();
        }
        self.looked_for = 0;
        if let Some(Size { parts, words }) = self.missing.take() {
            // It may have grown by then.
            self.make_room(Size { parts: parts + parts / 4, words: words + words / 4 });
        }
    }

    fn make_room(&mut self, Size { parts, words }: Size) {
        self.parts.reserve(parts);
        if words > self.words.capacity() {
            // Written to, or the system would give each page when the copy comes to it.
            self.words.resize(words, 0);
            self.words.clear();
        }
    }

    /// Drops the words that are ahead of another key than that: the other is gone, or comes later.
    pub(super) fn turn_to(&mut self, key: (StoredKey, u32)) {
        if self.begun.is_some_and(|begun| begun.of != key) {
            self.drop_ahead();
        }
    }

    /// Drops the words that are ahead of a key, if there are any.
    pub(super) fn drop_ahead(&mut self) {
        if self.begun.take().is_some() {
            self.words.clear();
        }
    }

    /// Returns what is to be done with the words of a key, whose throttle's first state has that number.
    pub(super) fn ahead(&mut self, of: (StoredKey, u32), found: Found) -> Ahead {
        let all = found.size.words;
        let tries = match self.begun {
            Some(begun) if !found.is_changed && begun.all == all => return Ahead::GoesOn,
            Some(begun) => {
                self.words.clear();
                begun.tries + 1
            }
            None => 0,
        };
        self.begun = None;
        let is_ahead = all > KEY_WORDS && tries < TRIES;
        if (is_ahead && !self.words.is_empty()) || !self.has_room(found.size) {
            return Ahead::NoRoom;
        }
        if !is_ahead {
            return Ahead::NotNeeded;
        }
        self.begun = Some(Begun { of, all, tries, given: 0 });
        Ahead::Begins
    }

    /// Copies the next words of a key, from all that it has; returns whether these are the last.
    pub(super) fn copy_ahead<'w>(&mut self, all: impl Iterator<Item = &'w [u64]>) -> bool {
        let (mut copied, mut room) = (self.words.len(), KEY_WORDS);
        for words in all {
            let next = words.get(copied..).unwrap_or_default();
            copied = copied.saturating_sub(words.len());
            let next = &next[..next.len().min(room)];
            self.words.extend_from_slice(next);
            room -= next.len();
        }
        self.begun.is_some_and(|begun| begun.all == self.words.len())
    }

    /// Returns whether a key of that size can be copied; if not, [`clear`](Self::clear) makes room for it.
    fn has_room(&mut self, size: Size) -> bool {
        let has_room = self.parts.len() + size.parts <= self.parts.capacity()
            && self.words.len() + size.words <= self.words.capacity();
        if !has_room {
            self.missing = Some(size);
        }
        has_room
    }

    pub(super) fn is_full(&self) -> bool {
        self.looked_for >= STATES || self.words.len() + self.parts.len() * PART >= WORDS
    }

    pub(super) fn look_for(&mut self) {
        self.looked_for += 1;
    }

    pub(super) fn small(&mut self, slot: &Slot) {
        let kept = Kept::Packed { count: slot.count(), last: slot.last() };
        self.states.push((slot.state_id(), kept));
    }

    pub(super) fn large(&mut self, slot: &LargeSlot) {
        let kept = match &slot.body {
            Body::Words { state, reset_at } => {
                let words = self.keep(state);
                Kept::Words { last: state.last(), words, reset_at: *reset_at }
            }
            Body::Brought(brought) => {
                let start = self.parts.len();
                for Brought { id, form, reset_at } in brought {
                    let form = match form {
                        Form::Packed { count, last } => {
                            KeptForm::Packed { count: *count, last: *last }
                        }
                        Form::Words(state) => {
                            let words = self.keep(state);
                            KeptForm::Words { last: state.last(), words }
                        }
                    };
                    self.parts.push(KeptPart { id: *id, form, reset_at: *reset_at });
                }
                Kept::Brought(start..self.parts.len())
            }
        };
        self.states.push((slot.state_id, kept));
    }

    fn keep(&mut self, state: &State) -> Range<usize> {
        let words = state.words();
        if let Some(Begun { given, .. }) = &mut self.begun {
            *given += words.len();
            return *given - words.len()..*given;
        }
        let start = self.words.len();
        self.words.extend_from_slice(words);
        start..self.words.len()
    }

    /// Ends a key, whose states begin there; drops them if they are not wanted.
    pub(super) fn end_key(&mut self, key: StoredKey, states: usize, is_wanted: bool) {
        if is_wanted {
            self.keys.push((key, self.states.len() - states));
        } else {
            self.states.truncate(states);
        }
        self.begun = None;
    }

    pub(super) fn state_count(&self) -> usize {
        self.states.len()
    }

    #[cfg(all(test, not(traffik_model)))]
    pub(super) fn word_count(&self) -> usize {
        self.words.len()
    }

    /// Returns what fits without more memory.
    #[cfg(all(test, not(traffik_model)))]
    pub(super) fn room(&self) -> [usize; 4] {
        let (keys, states) = (self.keys.capacity(), self.states.capacity());
        [keys, states, self.parts.capacity(), self.words.capacity()]
    }

    /// Calls that with each key and its states.
    pub(super) fn for_each<E>(
        &self,
        mut call: impl FnMut(&StoredKey, Vec<(u32, CopiedState)>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut states = self.states.iter();
        for (key, count) in &self.keys {
            let own = states.by_ref().take(*count);
            call(key, own.map(|(id, kept)| (*id, self.state(kept))).collect())?;
        }
        Ok(())
    }

    fn state(&self, kept: &Kept) -> CopiedState {
        CopiedState::Large(match kept {
            Kept::Packed { count, last } => {
                return CopiedState::Packed { count: *count, last: *last };
            }
            Kept::Words { last, words, reset_at } => {
                Body::Words { state: self.words(*last, words), reset_at: *reset_at }
            }
            Kept::Brought(parts) => {
                let parts = self.parts[parts.clone()].iter();
                Body::Brought(parts.map(|part| self.part(part)).collect())
            }
        })
    }

    fn part(&self, KeptPart { id, form, reset_at }: &KeptPart) -> Brought {
        let form = match form {
            KeptForm::Packed { count, last } => Form::Packed { count: *count, last: *last },
            KeptForm::Words { last, words } => Form::Words(self.words(*last, words)),
        };
        Brought { id: *id, form, reset_at: *reset_at }
    }

    fn words(&self, last: Timestamp, words: &Range<usize>) -> State {
        State::new(last, self.words[words.clone()].to_vec())
    }
}
