//! [`State`]: the state of one key under one strategy.

use crate::clock::Timestamp;

/// The state of one key under one strategy: a list of 64-bit words, and when it was last written.
///
/// A key that was never seen has no words. The words are stored as they are, little-endian, by every
/// backend that stores bytes.
#[derive(Clone, Debug, Default)]
pub struct State {
    last: Timestamp,
    words: Vec<u64>,
    /// Words before this index were dropped and are not yet reclaimed.
    head: usize,
}

impl State {
    /// Creates a state that was last written at `last`, to test a strategy.
    #[must_use]
    pub fn new(last: Timestamp, words: Vec<u64>) -> Self {
        Self { last, words, head: 0 }
    }

    /// Returns the words; none for a key that was never seen.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words[self.head..]
    }

    /// Replaces the words.
    pub fn set(&mut self, words: &[u64]) {
        self.words.clear();
        self.head = 0;
        self.words.extend_from_slice(words);
    }

    /// Returns the instant of the last hit or refund that was written; [`Timestamp::ZERO`] if there was
    /// none.
    #[must_use]
    pub fn last(&self) -> Timestamp {
        self.last
    }

    /// Returns `true` if the key was never seen.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.words().is_empty()
    }

    pub(crate) fn touch(&mut self, now: Timestamp) {
        self.last = now;
    }

    pub(crate) fn words_mut(&mut self) -> &mut Vec<u64> {
        self.reclaim();
        &mut self.words
    }

    pub(crate) fn push(&mut self, word: u64) {
        self.words.push(word);
    }

    pub(crate) fn first_mut(&mut self) -> Option<&mut u64> {
        self.words.get_mut(self.head)
    }

    pub(crate) fn last_two_mut(&mut self) -> Option<&mut [u64; 2]> {
        self.words[self.head..].last_chunk_mut()
    }

    /// Drops the first `count` words. Their room is reclaimed once it is half of the whole, so a long
    /// list is not moved at each hit.
    pub(crate) fn drop_front(&mut self, count: usize) {
        self.head += count;
        if self.head * 2 > self.words.len() {
            self.reclaim();
        }
    }

    fn reclaim(&mut self) {
        self.words.drain(..self.head);
        self.head = 0;
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.last == other.last && self.words() == other.words()
    }
}

impl Eq for State {}
