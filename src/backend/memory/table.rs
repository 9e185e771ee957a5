//! A hash table that grows incrementally, over many inserts.
//!
//! A plain table that is full moves all its items at once, and the one insert that hits it waits.
//! Here a full table is put aside and emptied a few buckets at a time into a new one; meanwhile a
//! lookup asks both. The same way it gets smaller after a flood, and gets rid of the marks that
//! removed items leave behind. So no call takes longer because there are more items, but for clearing
//! the new table's control bytes, one byte a bucket.

use std::ops::Range;

use hashbrown::HashTable;

/// Buckets that each insert moves, while the old table is emptied. By the sizes in
/// [`Table::replace`] it is empty before the new one can be full.
const MOVED_PER_INSERT: usize = 32;
/// A table of this many buckets is not made smaller.
const SMALL: usize = 64;

/// An item whose hash can be told from it.
pub(super) trait Hashed {
    /// What is needed to tell it.
    type By: ?Sized;

    fn hash(&self, by: &Self::By) -> u64;
}

/// An item on which a walk can leave a mark.
pub(super) trait Marked {
    fn mark(&mut self, is_marked: bool);
}

#[derive(Debug)]
pub(super) struct Table<T> {
    main: HashTable<T>,
    /// The table before, while it is emptied. Boxed, as it is cold: so what every hit needs, the lock
    /// of the shard included, fits one cache line.
    old: Option<Box<Old<T>>>,
    /// The bucket of `main` that the next sweep begins with.
    swept: u32,
    /// How many times `main` was replaced by another.
    replaced: u32,
}

/// A sweep over a whole table, in steps: see [`Table::sweep_pass`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pass {
    /// Buckets until it is through.
    left: usize,
    /// Of which of the tables that replaced each other.
    of: u32,
}

/// A walk over all items of a table, in steps between which others change it: see [`Table::walk`].
#[derive(Debug, Default)]
pub(super) struct Walk {
    next: usize,
    /// Of which of the tables that replaced each other.
    of: Option<u32>,
}

impl Walk {
    /// Stops short of what was given last: goes on with this bucket.
    pub(super) fn go_on_with(&mut self, bucket: usize) {
        self.next = bucket;
    }
}

#[derive(Debug)]
struct Old<T> {
    table: HashTable<T>,
    /// Buckets before this one are empty.
    moved: usize,
}

impl<T> Old<T> {
    fn is_empty(&self) -> bool {
        self.moved == self.table.num_buckets()
    }
}

/// An old table without items; to be dropped outside of a lock.
#[derive(Debug)]
pub(super) struct Emptied<T>(#[expect(dead_code, reason = "kept to be dropped")] Box<Old<T>>);

/// Where an item of a table is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    index: usize,
    old: bool,
}

impl<T: Hashed> Table<T> {
    pub(super) const fn new() -> Self {
        Self { main: HashTable::new(), old: None, swept: 0, replaced: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.main.len() + self.old.as_ref().map_or(0, |old| old.table.len())
    }

    #[inline]
    pub(super) fn find(&self, hash: u64, mut eq: impl FnMut(&T) -> bool) -> Option<&T> {
        match self.main.find(hash, &mut eq) {
            Some(found) => Some(found),
            None => self.old.as_ref()?.table.find(hash, eq),
        }
    }

    #[inline]
    pub(super) fn find_mut(&mut self, hash: u64, mut eq: impl FnMut(&T) -> bool) -> Option<&mut T> {
        match self.main.find_mut(hash, &mut eq) {
            Some(found) => Some(found),
            None => self.old.as_mut()?.table.find_mut(hash, eq),
        }
    }

    /// Returns where an item is. Good until the next call that inserts, removes or sweeps.
    #[inline]
    pub(super) fn locate(&self, hash: u64, mut eq: impl FnMut(&T) -> bool) -> Option<Spot> {
        match self.main.find_bucket_index(hash, &mut eq) {
            Some(index) => Some(Spot { index, old: false }),
            None => {
                let index = self.old.as_ref()?.table.find_bucket_index(hash, eq)?;
                Some(Spot { index, old: true })
            }
        }
    }

    /// The item at a spot.
    #[inline]
    pub(super) fn at(&mut self, spot: Spot) -> Option<&mut T> {
        let table = if spot.old { &mut self.old.as_mut()?.table } else { &mut self.main };
        table.get_bucket_mut(spot.index)
    }

    pub(super) fn remove(&mut self, hash: u64, mut eq: impl FnMut(&T) -> bool) -> Option<T> {
        if let Ok(entry) = self.main.find_entry(hash, &mut eq) {
            return Some(entry.remove().0);
        }
        let entry = self.old.as_mut()?.table.find_entry(hash, eq).ok()?;
        Some(entry.remove().0)
    }

    /// Inserts an item that is not in the table.
    pub(super) fn insert(&mut self, hash: u64, item: T, by: &T::By) -> &mut T {
        if self.main.len() == self.main.capacity() {
            self.replace(by);
        }
        self.move_some(MOVED_PER_INSERT, by);
        self.main.insert_unique(hash, item, |item| item.hash(by)).into_mut()
    }

    /// Goes on with the move to another size, if there is one; gives the old table once it is empty, to
    /// be freed where nobody waits: a large one takes the system a while.
    pub(super) fn move_on(&mut self, buckets: usize, by: &T::By) -> Option<Emptied<T>> {
        self.move_buckets(buckets, by);
        self.old.take_if(|old| old.is_empty()).map(Emptied)
    }

    /// Looks at the next `buckets` buckets, each at most once, and removes the items that are spent; or
    /// goes on with a move, and [`move_on`](Self::move_on) is to be called then. Returns how many
    /// buckets it looked at or moved.
    pub(super) fn sweep(
        &mut self,
        buckets: usize,
        by: &T::By,
        mut spent: impl FnMut(&T) -> bool,
    ) -> usize {
        if self.is_moving() {
            // Not freed here: see `move_on`.
            return self.move_buckets(buckets, by);
        }
        let all = self.main.num_buckets();
        let looked = buckets.min(all);
        let start = usize::try_from(self.swept).unwrap_or(0).min(all);
        let end = start + looked;
        for bucket in (start..end.min(all)).chain(0..end.saturating_sub(all)) {
            if self.main.get_bucket(bucket).is_some_and(&mut spent)
                && let Ok(entry) = self.main.get_bucket_entry(bucket)
            {
                entry.remove();
            }
        }
        // A table of more than 2^32 buckets is swept in its first part only.
        self.swept = u32::try_from(if end < all { end } else { end - all }).unwrap_or(0);
        if end >= all && all > SMALL && self.main.len() < all / 8 && self.old.is_none() {
            self.replace(by);
        }
        looked
    }

    /// Sweeps in passes over the whole table. Returns at how many buckets it looked, and whether the pass
    /// is over; it is not while a move is under way.
    pub(super) fn sweep_pass(
        &mut self,
        pass: &mut Pass,
        buckets: usize,
        by: &T::By,
        spent: impl FnMut(&T) -> bool,
    ) -> (usize, bool) {
        if self.is_moving() {
            return (self.move_buckets(buckets, by), false);
        }
        if pass.left == 0 || pass.of != self.replaced {
            *pass = Pass { left: self.main.num_buckets(), of: self.replaced };
        }
        let looked = self.sweep(buckets.min(pass.left), by, spent);
        pass.left = pass.left.saturating_sub(looked);
        (looked, pass.left == 0)
    }

    /// Goes on with a walk: returns the next buckets, `most` of them at most, or `None` at its end. Where a move is under
    /// way it goes on with that, and there are none to look at in this step.
    ///
    /// An item that is there all the time is met at least once. It is met again when the table is replaced meanwhile, for
    /// that begins the walk anew: so what was met is to be marked.
    pub(super) fn walk(
        &mut self,
        walk: &mut Walk,
        most: usize,
        by: &T::By,
    ) -> Option<Range<usize>> {
        if self.is_moving() {
            // Which takes longer than to look.
            self.move_buckets(most.div_ceil(4), by);
            return Some(0..0);
        }
        if walk.of != Some(self.replaced) {
            *walk = Walk { next: 0, of: Some(self.replaced) };
        }
        let start = walk.next;
        walk.next = self.main.num_buckets().min(start.saturating_add(most));
        (start < walk.next).then_some(start..walk.next)
    }

    /// Goes on with a walk that takes the marks off all items; returns whether it is through.
    pub(super) fn unmark(&mut self, walk: &mut Walk, most: usize, by: &T::By) -> bool
    where
        T: Marked,
    {
        let Some(buckets) = self.walk(walk, most, by) else { return true };
        for bucket in buckets {
            if let Some(item) = self.bucket(bucket) {
                item.mark(false);
            }
        }
        false
    }

    /// The item of a bucket that [`walk`](Self::walk) gave, until the next call that inserts, removes or sweeps.
    pub(super) fn bucket(&mut self, bucket: usize) -> Option<&mut T> {
        self.main.get_bucket_mut(bucket)
    }

    /// Returns whether items are still in the table before.
    pub(super) fn is_moving(&self) -> bool {
        self.old.as_ref().is_some_and(|old| !old.is_empty())
    }

    /// Looks at each item.
    pub(super) fn for_each(&self, look: impl FnMut(&T)) {
        let old = self.old.iter().flat_map(|old| old.table.iter());
        self.main.iter().chain(old).for_each(look);
    }

    /// Counts the items for which `counts` holds.
    pub(super) fn count(&self, mut counts: impl FnMut(&T) -> bool) -> usize {
        let mut count = 0;
        self.for_each(|item| count += usize::from(counts(item)));
        count
    }

    /// Buckets that a whole sweep looks at.
    pub(super) fn buckets(&self) -> usize {
        self.main.num_buckets() + self.old.as_ref().map_or(0, |old| old.table.num_buckets())
    }

    /// Puts the table aside and begins a new one: twice as large if it is full of items, smaller if it
    /// is full of marks.
    ///
    /// The new one has room for as many new items as the old one has buckets / 32, or more, so the old
    /// one is empty before the new one is full.
    fn replace(&mut self, by: &T::By) {
        self.move_some(usize::MAX, by);
        let room = (self.main.len() * 2).max(self.main.num_buckets() / 8).max(3);
        let table = std::mem::replace(&mut self.main, HashTable::with_capacity(room));
        self.old = Some(Box::new(Old { table, moved: 0 }));
        self.swept = 0;
        self.replaced = self.replaced.wrapping_add(1);
    }

    fn move_some(&mut self, buckets: usize, by: &T::By) {
        drop(self.move_on(buckets, by));
    }

    /// Returns how many buckets were moved.
    fn move_buckets(&mut self, buckets: usize, by: &T::By) -> usize {
        let Some(old) = &mut self.old else { return 0 };
        let (start, all) = (old.moved, old.table.num_buckets());
        let end = all.min(start.saturating_add(buckets));
        for bucket in old.moved..end {
            if let Ok(entry) = old.table.get_bucket_entry(bucket) {
                let (item, _) = entry.remove();
                self.main.insert_unique(item.hash(by), item, |item| item.hash(by));
            }
        }
        old.moved = end;
        end - start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Debug)]
    struct Entry(u64, u32);

    fn spread(key: u64) -> u64 {
        (key ^ key >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    impl Hashed for Entry {
        type By = ();

        fn hash(&self, (): &()) -> u64 {
            spread(self.0)
        }
    }

    #[derive(Clone, Debug)]
    enum Do {
        Put(u64, u32),
        Remove(u64),
        Sweep(usize, u32),
    }

    fn doing() -> impl Strategy<Value = Do> {
        prop_oneof![
            6 => (0..2000u64, any::<u32>()).prop_map(|(key, value)| Do::Put(key, value)),
            2 => (0..2000u64).prop_map(Do::Remove),
            1 => (1..200usize, any::<u32>()).prop_map(|(buckets, below)| Do::Sweep(buckets, below)),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in prop::collection::vec(doing(), 1..1500)) {
            let mut table = Table::new();
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Do::Put(key, value) => {
                        match table.find_mut(spread(key), |item: &Entry| item.0 == key) {
                            Some(item) => item.1 = value,
                            None => { table.insert(spread(key), Entry(key, value), &()); }
                        }
                        model.insert(key, value);
                    }
                    Do::Remove(key) => {
                        let removed = table.remove(spread(key), |item| item.0 == key);
                        prop_assert_eq!(removed.map(|item| item.1), model.remove(&key));
                    }
                    Do::Sweep(buckets, below) => {
                        let mut swept = Vec::new();
                        let looked = table.sweep(buckets, &(), |item| {
                            let spent = item.1 < below;
                            if spent { swept.push(item.0); }
                            spent
                        });
                        prop_assert!((swept.len()..=buckets).contains(&looked));
                        for key in swept {
                            model.remove(&key);
                        }
                    }
                }
                prop_assert_eq!(table.len(), model.len());
            }
            for (key, value) in model {
                let found = table.find(spread(key), |item| item.0 == key);
                prop_assert_eq!(found.map(|item| item.1), Some(value));
            }
        }
    }

    proptest! {
        #[test]
        fn a_walk_meets_what_stays_though_the_table_is_replaced_meanwhile(
            stay in 1..500u64,
            steps in prop::collection::vec((1..64usize, 0..200u64, 0..200u64), 1..200),
        ) {
            let mut table = Table::new();
            for key in 0..stay {
                table.insert(spread(key), Entry(key, 0), &());
            }
            // Others come and go beside them.
            let (mut come, mut gone) = (stay, stay);
            let (mut walk, mut met) = (Walk::default(), BTreeMap::new());
            let mut steps = steps.into_iter();
            loop {
                let (buckets, coming, going) = steps.next().unwrap_or((64, 0, 0));
                let Some(range) = table.walk(&mut walk, buckets, &()) else { break };
                for bucket in range {
                    if let Some(Entry(key, marked)) = table.bucket(bucket) && *marked == 0 {
                        *marked = 1;
                        *met.entry(*key).or_insert(0) += 1;
                    }
                }
                for key in come..come + coming {
                    table.insert(spread(key), Entry(key, 0), &());
                }
                come += coming;
                for key in gone..(gone + going).min(come) {
                    table.remove(spread(key), |item| item.0 == key);
                }
                gone = (gone + going).min(come);
            }
            for key in 0..stay {
                prop_assert_eq!(met.get(&key), Some(&1), "{}", key);
            }
        }
    }

    #[test]
    fn no_insert_moves_more_than_a_few_buckets() {
        let mut table = Table::new();
        for key in 0..200_000 {
            let left = |table: &Table<Entry>| {
                table.old.as_ref().map(|old| old.table.num_buckets() - old.moved)
            };
            let before = left(&table);
            table.insert(spread(key), Entry(key, 0), &());
            match (before, left(&table)) {
                (None, _) => {}
                (Some(before), None) => assert!(before <= MOVED_PER_INSERT),
                (Some(before), Some(after)) => assert_eq!(before - after, MOVED_PER_INSERT),
            }
        }
    }

    #[test]
    fn gets_small_again_and_forgets_nothing_that_lives() {
        let mut table = Table::new();
        for key in 0..100_000 {
            table.insert(spread(key), Entry(key, u32::from(key % 1000 == 0)), &());
        }
        let large = table.buckets();
        for _ in 0..large {
            table.sweep(64, &(), |item| item.1 == 0);
            drop(table.move_on(0, &()));
        }
        assert_eq!(table.len(), 100);
        assert!(table.buckets() <= 1024, "{} buckets", table.buckets());
        for key in (0..100_000).step_by(1000) {
            assert!(table.find(spread(key), |item| item.0 == key).is_some());
        }
    }

    #[test]
    fn churn_leaves_no_trace() {
        let mut table = Table::new();
        for key in 0..1_000_000u64 {
            table.insert(spread(key), Entry(key, 0), &());
            if key >= 1000 {
                let gone = key - 1000;
                assert!(table.remove(spread(gone), |item| item.0 == gone).is_some());
            }
        }
        assert_eq!(table.len(), 1000);
        assert!(table.buckets() <= 8192, "{} buckets", table.buckets());
    }
}
