//! The user's own values: bytes under a key, with or without a TTL.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::budget::Budget;
use super::failed;
use super::shard::NoRoom;
use super::table::{Hashed, Marked, Table, Walk};
use crate::backend::Result;
use crate::backend::change::{Change, Changed};
use crate::clock::Timestamp;
use crate::error::ErrorKind;
use crate::key::Key;
use crate::random;

/// Buckets that are swept for each new value.
const SWEPT_PER_INSERT: usize = 4;
/// Buckets that a snapshot looks at under one lock, and bytes that it takes from them.
const COPIED_BUCKETS: usize = 256;
const COPIED_BYTES: usize = 32 * 1024;

/// One table under one lock: so setting several values is atomic, and reading them too.
#[derive(Debug)]
pub(super) struct ValueTable {
    table: Mutex<Table<Value>>,
}

#[derive(Debug)]
struct Value {
    key: Box<[u8]>,
    /// Shared, so that nobody copies them under the lock.
    bytes: Arc<Vec<u8>>,
    expires: Option<Timestamp>,
    /// The snapshot that is being taken has it.
    marked: bool,
}

impl Marked for Value {
    fn mark(&mut self, is_marked: bool) {
        self.marked = is_marked;
    }
}

/// How far a snapshot is with the values.
#[derive(Debug, Default)]
pub(super) struct ValueWalk {
    is_unmarked: bool,
    walk: Walk,
}

/// A value's key, its bytes, and when it expires.
pub(super) type CopiedValue = (Box<[u8]>, Arc<Vec<u8>>, Option<Timestamp>);

impl Value {
    fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

impl Hashed for Value {
    type By = ();

    fn hash(&self, (): &()) -> u64 {
        hash(&self.key)
    }
}

fn hash(encoded: &[u8]) -> u64 {
    random::hasher().hash_one(encoded)
}

impl ValueTable {
    pub(super) const fn new() -> Self {
        Self { table: Mutex::new(Table::new()) }
    }

    pub(super) fn get(&self, key: &Key<'_>, now: Timestamp) -> Option<Vec<u8>> {
        let found = {
            let mut open = Open { table: &mut self.table.lock(), now };
            open.find(&key.encode()).map(|value| Arc::clone(&value.bytes))
        };
        found.map(Arc::unwrap_or_clone)
    }

    pub(super) fn multi_get(&self, keys: &[Key<'_>], now: Timestamp) -> Vec<Option<Vec<u8>>> {
        let found: Vec<_> = {
            let mut open = Open { table: &mut self.table.lock(), now };
            let find =
                |key: &Key<'_>| open.find(&key.encode()).map(|value| Arc::clone(&value.bytes));
            keys.iter().map(find).collect()
        };
        found.into_iter().map(|bytes| bytes.map(Arc::unwrap_or_clone)).collect()
    }

    /// Sets all values or none.
    pub(super) fn multi_set(
        &self,
        pairs: &[(Key<'_>, &[u8])],
        ttl: Option<Duration>,
        now: Timestamp,
        budget: &Budget,
    ) -> Result<()> {
        let bytes: Vec<_> = pairs.iter().map(|(_, value)| Arc::new(value.to_vec())).collect();
        let mut open = Open { table: &mut self.table.lock(), now };
        if ttl == Some(Duration::ZERO) {
            for (key, _) in pairs {
                open.delete(&key.encode(), budget);
            }
            return Ok(());
        }
        let mut new: Vec<Vec<u8>> = pairs.iter().map(|(key, _)| key.encode()).collect();
        new.sort_unstable();
        new.dedup();
        // Those that have expired give their places to the new ones.
        new.retain(|encoded| open.find(encoded).is_none());
        for encoded in &new {
            open.delete(encoded, budget);
        }
        let taken = new.len();
        open.take(taken, "multi_set", budget)?;
        let mut inserted = 0;
        let expires = ttl.map(|ttl| now.saturating_add(ttl));
        for ((key, _), bytes) in pairs.iter().zip(bytes) {
            inserted += usize::from(open.put(key.encode(), bytes, expires));
        }
        budget.give_back(taken.saturating_sub(inserted));
        Ok(())
    }

    /// Does to a value what `change` says.
    pub(super) fn update<T>(
        &self,
        (key, operation): (&Key<'_>, &'static str),
        change: impl FnOnce(Option<&[u8]>) -> Changed<T>,
        now: Timestamp,
        budget: &Budget,
    ) -> Result<T> {
        let encoded = key.encode();
        let mut table = self.table.lock();
        let mut open = Open { table: &mut table, now };
        let found = open.find(&encoded);
        let (is_new, old) = (found.is_none(), found.as_ref().and_then(|value| value.expires));
        let (outcome, change) = change(found.map(|value| &**value.bytes))?;
        match change {
            Change::Keep => {}
            Change::Remove => open.delete(&encoded, budget),
            Change::Put(bytes, ttl) => match ttl.expires_at(old, now) {
                Some(expires) if expires <= now => open.delete(&encoded, budget),
                expires => {
                    let taken = usize::from(is_new);
                    if is_new {
                        // One that has expired gives its place to the new one.
                        open.delete(&encoded, budget);
                    }
                    open.take(taken, operation, budget)?;
                    let inserted = open.put(encoded, Arc::new(bytes), expires);
                    budget.give_back(taken.saturating_sub(usize::from(inserted)));
                }
            },
        }
        Ok(outcome)
    }

    pub(super) fn clear(&self, budget: &Budget) {
        let cleared = std::mem::replace(&mut *self.table.lock(), Table::new());
        budget.give_back(cleared.len());
    }

    /// Sweeps up to `buckets` buckets: removes what has expired. Returns how many it looked at.
    pub(super) fn sweep(&self, buckets: usize, now: Timestamp, budget: &Budget) -> usize {
        Open { table: &mut self.table.lock(), now }.sweep(buckets, budget)
    }

    /// Takes the next values for a snapshot, some tens of kilobytes or the one that is larger; returns whether there are
    /// more. None is copied: only keys are.
    pub(super) fn copy_next(&self, walk: &mut ValueWalk, copied: &mut Vec<CopiedValue>) -> bool {
        let mut table = self.table.lock();
        let goes_on = if walk.is_unmarked {
            copy_some(&mut table, &mut walk.walk, copied)
        } else {
            let is_through = table.unmark(&mut walk.walk, COPIED_BUCKETS, &());
            if is_through {
                *walk = ValueWalk { is_unmarked: true, walk: Walk::default() };
            }
            true
        };
        let emptied = table.move_on(0, &());
        MutexGuard::unlock_fair(table);
        drop(emptied);
        goes_on
    }

    /// Puts in a value of a snapshot, in place of what is there. Returns whether it is one that is not over.
    pub(super) fn restore(
        &self,
        key: &[u8],
        bytes: &[u8],
        expires: Option<Timestamp>,
        now: Timestamp,
        budget: &Budget,
    ) -> Result<bool, NoRoom> {
        let mut open = Open { table: &mut self.table.lock(), now };
        open.delete(key, budget);
        if expires.is_some_and(|expires| expires <= now) {
            return Ok(false);
        }
        if !budget.take(1) {
            return Err(NoRoom);
        }
        open.put(key.to_vec(), Arc::new(bytes.to_vec()), expires);
        Ok(true)
    }

    /// Sweeps the next buckets; returns how many there are.
    pub(super) fn clean(&self, buckets: usize, now: Timestamp, budget: &Budget) -> usize {
        let mut table = self.table.lock();
        let _looked = Open { table: &mut table, now }.sweep(buckets, budget);
        let emptied = table.move_on(0, &());
        let left = table.buckets();
        // As for the shards: to who waits.
        MutexGuard::unlock_fair(table);
        drop(emptied);
        left
    }
}

fn copy_some(table: &mut Table<Value>, walk: &mut Walk, copied: &mut Vec<CopiedValue>) -> bool {
    let Some(buckets) = table.walk(walk, COPIED_BUCKETS, &()) else { return false };
    let mut length = 0;
    for bucket in buckets {
        let Some(value) = table.bucket(bucket).filter(|value| !value.marked) else { continue };
        value.marked = true;
        copied.push((value.key.clone(), Arc::clone(&value.bytes), value.expires));
        length += value.key.len() + value.bytes.len();
        if length >= COPIED_BYTES {
            walk.go_on_with(bucket + 1);
            break;
        }
    }
    true
}

/// The table while its lock is held.
struct Open<'a> {
    table: &'a mut Table<Value>,
    now: Timestamp,
}

impl Open<'_> {
    fn find(&mut self, encoded: &[u8]) -> Option<&mut Value> {
        let now = self.now;
        self.table
            .find_mut(hash(encoded), |value| *value.key == *encoded)
            .filter(|value| !value.is_expired(now))
    }

    /// Returns `true` if that is one value more, counting an expired one.
    fn put(&mut self, encoded: Vec<u8>, bytes: Arc<Vec<u8>>, expires: Option<Timestamp>) -> bool {
        let hash = hash(&encoded);
        if let Some(value) = self.table.find_mut(hash, |value| *value.key == *encoded) {
            value.bytes = bytes;
            value.expires = expires;
            return false;
        }
        self.table.insert(hash, Value { key: encoded.into(), bytes, expires, marked: false }, &());
        true
    }

    fn delete(&mut self, encoded: &[u8], budget: &Budget) {
        let removed = self.table.remove(hash(encoded), |value| *value.key == *encoded);
        budget.give_back(usize::from(removed.is_some()));
    }

    fn take(&mut self, count: usize, operation: &'static str, budget: &Budget) -> Result<()> {
        let _looked = self.sweep(SWEPT_PER_INSERT * count, budget);
        if budget.take(count) {
            return Ok(());
        }
        let message = "max_keys is reached; raise it, or let values expire";
        Err(failed(operation, ErrorKind::Full).with_message(message))
    }

    fn sweep(&mut self, buckets: usize, budget: &Budget) -> usize {
        let (now, before) = (self.now, self.table.len());
        let looked = self.table.sweep(buckets, &(), |value| value.is_expired(now));
        budget.give_back(before - self.table.len());
        looked
    }
}
