//! [`SpaceSaving`]: who comes most often, of any number, in bounded memory.
//!
//! The algorithm of Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data
//! Streams" (ICDT 2005): a table of `capacity` counters. One that is not in the table takes the place of the one with
//! the least count, and goes on from that count, which is then the most that its own may be too high by. So of `n`
//! counts in all, whoever has more than `n / capacity` is in the table, and no count is too low.

use std::collections::HashMap;
use std::hash::Hash;

/// The counters, which are a heap by their counts: the least is the first.
#[derive(Debug)]
pub(super) struct SpaceSaving<K, T> {
    capacity: usize,
    heap: Vec<Counter<K, T>>,
    places: HashMap<K, usize, ahash::RandomState>,
}

/// One of those that came most often.
#[derive(Clone, Debug)]
pub(super) struct Counter<K, T> {
    pub(super) key: K,
    /// At least the true count.
    pub(super) count: u64,
    /// The true count is at least `count - error`.
    pub(super) error: u64,
    /// What else is known of it.
    pub(super) tag: T,
}

impl<K: Copy + Eq + Hash, T> SpaceSaving<K, T> {
    /// Of that many counters, above zero. They take memory when they are used.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), heap: Vec::new(), places: HashMap::default() }
    }

    /// Counts one, and returns its tag, which `new` makes when it comes into the table.
    pub(super) fn count(&mut self, key: K, new: impl FnOnce() -> T) -> &mut T {
        let place = match self.places.get(&key) {
            Some(&place) => {
                let counter = &mut self.heap[place];
                counter.count = counter.count.saturating_add(1);
                self.sink(place)
            }
            None if self.heap.len() < self.capacity => {
                self.heap.push(Counter { key, count: 1, error: 0, tag: new() });
                let place = self.heap.len() - 1;
                self.places.insert(key, place);
                self.rise(place)
            }
            None => {
                let least = &mut self.heap[0];
                let (forgotten, error) = (least.key, least.count);
                *least = Counter { key, count: error.saturating_add(1), error, tag: new() };
                self.places.remove(&forgotten);
                self.places.insert(key, 0);
                self.sink(0)
            }
        };
        &mut self.heap[place].tag
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.capacity);
    }

    /// Returns the counters, in no order.
    pub(super) fn counters(&self) -> &[Counter<K, T>] {
        &self.heap
    }

    /// Moves a counter that grew down to its place.
    fn sink(&mut self, mut place: usize) -> usize {
        loop {
            let children = 2 * place + 1..(2 * place + 3).min(self.heap.len());
            let Some(child) = children.min_by_key(|&child| self.heap[child].count) else {
                return place;
            };
            if self.heap[child].count >= self.heap[place].count {
                return place;
            }
            self.swap(place, child);
            place = child;
        }
    }

    /// Moves a counter that is new up to its place.
    fn rise(&mut self, mut place: usize) -> usize {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent].count <= self.heap[place].count {
                break;
            }
            self.swap(place, parent);
            place = parent;
        }
        place
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        for place in [one, other] {
            self.places.insert(self.heap[place].key, place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn check(capacity: usize, stream: &[u16]) -> Result<(), TestCaseError> {
        let mut sketch = SpaceSaving::new(capacity);
        let mut exact: HashMap<u16, u64> = HashMap::new();
        for key in stream {
            *sketch.count(*key, || 0u64) += 1;
            *exact.entry(*key).or_default() += 1;
        }
        let counters = sketch.counters();
        prop_assert!(counters.len() <= capacity);
        prop_assert_eq!(counters.len(), sketch.places.len());
        for (place, counter) in counters.iter().enumerate() {
            let truth = exact[&counter.key];
            prop_assert!(counter.count - counter.error <= truth && truth <= counter.count);
            prop_assert!(counter.tag <= truth && counter.tag == counter.count - counter.error);
            prop_assert_eq!(sketch.places[&counter.key], place);
            let least = counters[0].count;
            prop_assert!(counter.count >= least && counter.error <= least);
        }
        // None is lost who has more than their share.
        let all = stream.len() as u64;
        for (key, count) in &exact {
            if count * capacity as u64 > all {
                prop_assert!(sketch.places.contains_key(key), "{} of {}", count, all);
            }
        }
        let sum: u64 = counters.iter().map(|counter| counter.count).sum();
        prop_assert_eq!(sum, all, "each is counted once");
        Ok(())
    }

    proptest! {
        #[test]
        fn counts_are_right_within_their_error(
            capacity in 1usize..12,
            stream in prop::collection::vec(0u16..40, 0..600),
        ) {
            check(capacity, &stream)?;
        }

        #[test]
        fn the_frequent_are_found_in_a_flood_of_others(
            capacity in 1usize..40,
            stream in prop::collection::vec(prop_oneof![0u16..4, 0u16..2000], 0..1500),
        ) {
            check(capacity, &stream)?;
        }
    }

    #[test]
    fn as_long_as_all_fit_the_counts_are_exact() {
        let mut sketch = SpaceSaving::new(8);
        for number in 0..100u32 {
            sketch.count(number % 8, || ());
        }
        assert!(sketch.counters().iter().all(|it| it.error == 0 && (12..=13).contains(&it.count)));
        sketch.clear();
        assert!(sketch.counters().is_empty());
    }
}
