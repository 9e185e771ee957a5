//! The user's own values: bytes under a key, with or without a TTL.

use std::time::Duration;

use parking_lot::Mutex;

use super::NAME;
use super::budget::Budget;
use super::table::{Hashed, Table};
use crate::backend::{Result, counter};
use crate::clock::Timestamp;
use crate::error::{BackendError, ErrorKind};
use crate::key::{self, Key};

/// Buckets that are swept for each new value.
const SWEPT_PER_INSERT: usize = 4;

/// One table under one lock: so setting several values is atomic, and reading them too.
#[derive(Debug)]
pub(super) struct Values {
    table: Mutex<Table<Value>>,
}

#[derive(Debug)]
struct Value {
    key: Box<[u8]>,
    bytes: Vec<u8>,
    expires: Option<Timestamp>,
}

impl Value {
    fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

impl Hashed for Value {
    fn hash(&self) -> u64 {
        hash(&self.key)
    }
}

fn hash(encoded: &[u8]) -> u64 {
    key::hasher().hash_one(encoded)
}

impl Values {
    pub(super) const fn new() -> Self {
        Self { table: Mutex::new(Table::new()) }
    }

    pub(super) fn get(&self, key: &Key<'_>, now: Timestamp) -> Option<Vec<u8>> {
        Open { table: &mut self.table.lock(), now }.find(&key.encode()).map(|v| v.bytes.clone())
    }

    pub(super) fn multi_get(&self, keys: &[Key<'_>], now: Timestamp) -> Vec<Option<Vec<u8>>> {
        let mut open = Open { table: &mut self.table.lock(), now };
        keys.iter().map(|key| open.find(&key.encode()).map(|value| value.bytes.clone())).collect()
    }

    /// Sets all values or none.
    pub(super) fn multi_set(
        &self,
        pairs: &[(Key<'_>, &[u8])],
        ttl: Option<Duration>,
        now: Timestamp,
        budget: &Budget,
    ) -> Result<()> {
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
        new.retain(|encoded| open.find(encoded).is_none());
        let taken = new.len();
        open.take(taken, "set", budget)?;
        let mut inserted = 0;
        for (key, value) in pairs {
            inserted += usize::from(open.put(key.encode(), value.to_vec(), expiry(ttl, now)));
        }
        budget.give_back(taken.saturating_sub(inserted));
        Ok(())
    }

    pub(super) fn delete(&self, key: &Key<'_>, now: Timestamp, budget: &Budget) -> bool {
        Open { table: &mut self.table.lock(), now }.delete(&key.encode(), budget)
    }

    /// Changes a counter by `change`; a missing one counts as `missing`, or is an error if that is
    /// `None`. `ttl` is for a counter that has none.
    pub(super) fn count(
        &self,
        (key, operation): (&Key<'_>, &'static str),
        missing: Option<u64>,
        change: impl FnOnce(u64) -> Result<u64>,
        ttl: Option<Duration>,
        now: Timestamp,
        budget: &Budget,
    ) -> Result<u64> {
        let encoded = key.encode();
        let mut table = self.table.lock();
        let mut open = Open { table: &mut table, now };
        if let Some(value) = open.find(&encoded) {
            let number = change(counter::parse(NAME, operation, &value.bytes)?)?;
            value.bytes = number.to_string().into_bytes();
            value.expires = value.expires.or(expiry(ttl, now));
            return Ok(number);
        }
        let missing =
            missing.ok_or_else(|| BackendError::new(NAME, operation, ErrorKind::NotFound))?;
        let number = change(missing)?;
        open.take(1, operation, budget)?;
        let inserted = open.put(encoded, number.to_string().into_bytes(), expiry(ttl, now));
        budget.give_back(usize::from(!inserted));
        Ok(number)
    }

    pub(super) fn expire(
        &self,
        key: &Key<'_>,
        ttl: Duration,
        now: Timestamp,
        budget: &Budget,
    ) -> bool {
        let encoded = key.encode();
        let mut table = self.table.lock();
        let mut open = Open { table: &mut table, now };
        if ttl.is_zero() {
            return open.delete(&encoded, budget);
        }
        let found = open.find(&encoded);
        found.map(|value| value.expires = expiry(Some(ttl), now)).is_some()
    }

    pub(super) fn compare_and_set(
        &self,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        ttl: Option<Duration>,
        now: Timestamp,
        budget: &Budget,
    ) -> Result<bool> {
        let encoded = key.encode();
        let mut table = self.table.lock();
        let mut open = Open { table: &mut table, now };
        if open.find(&encoded).map(|value| &*value.bytes) != expected {
            return Ok(false);
        }
        match new {
            Some(new) if ttl != Some(Duration::ZERO) => {
                let taken = usize::from(expected.is_none());
                open.take(taken, "compare_and_set", budget)?;
                let inserted = open.put(encoded, new.to_vec(), expiry(ttl, now));
                budget.give_back(taken.saturating_sub(usize::from(inserted)));
            }
            _ => {
                open.delete(&encoded, budget);
            }
        }
        Ok(true)
    }

    pub(super) fn clear(&self, budget: &Budget) {
        let cleared = std::mem::replace(&mut *self.table.lock(), Table::new());
        budget.give_back(cleared.len());
    }

    /// Looks at up to that many buckets and removes what has expired. Returns at how many it looked.
    pub(super) fn sweep(&self, buckets: usize, now: Timestamp, budget: &Budget) -> usize {
        Open { table: &mut self.table.lock(), now }.sweep(buckets, budget)
    }

    /// Sweeps the next buckets; returns how many there are.
    pub(super) fn clean(&self, buckets: usize, now: Timestamp, budget: &Budget) -> usize {
        let mut table = self.table.lock();
        let _looked = Open { table: &mut table, now }.sweep(buckets, budget);
        let emptied = table.move_on(0);
        let left = table.buckets();
        drop(table);
        drop(emptied);
        left
    }
}

fn expiry(ttl: Option<Duration>, now: Timestamp) -> Option<Timestamp> {
    ttl.map(|ttl| now.after(ttl))
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

    /// Says whether that is one value more, an expired one counted in.
    fn put(&mut self, encoded: Vec<u8>, bytes: Vec<u8>, expires: Option<Timestamp>) -> bool {
        let hash = hash(&encoded);
        if let Some(value) = self.table.find_mut(hash, |value| *value.key == *encoded) {
            value.bytes = bytes;
            value.expires = expires;
            return false;
        }
        self.table.insert(hash, Value { key: encoded.into(), bytes, expires });
        true
    }

    /// Says whether there was one that had not expired.
    fn delete(&mut self, encoded: &[u8], budget: &Budget) -> bool {
        let removed = self.table.remove(hash(encoded), |value| *value.key == *encoded);
        budget.give_back(usize::from(removed.is_some()));
        removed.is_some_and(|value| !value.is_expired(self.now))
    }

    fn take(&mut self, count: usize, operation: &'static str, budget: &Budget) -> Result<()> {
        let _looked = self.sweep(SWEPT_PER_INSERT * count, budget);
        if budget.take(count) {
            return Ok(());
        }
        Err(BackendError::new(NAME, operation, ErrorKind::Full))
    }

    fn sweep(&mut self, buckets: usize, budget: &Budget) -> usize {
        let (now, before) = (self.now, self.table.len());
        let looked = self.table.sweep(buckets, |value| value.is_expired(now));
        budget.give_back(before - self.table.len());
        looked
    }
}
