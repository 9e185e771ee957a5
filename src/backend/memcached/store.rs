//! Optimistic reads and writes of one item, for decisions and values.

use super::exptime::LONG_PAST;
use super::generation::Generation;
use super::item::Item;
use super::protocol::{Command, MAX_VALUE, Reply};
use super::{MemcachedInner, errors};
use crate::backend::Result;
use crate::clock::Timestamp;

/// What the server needs of an item besides the value.
const OVERHEAD: usize = 1024;
/// The most bytes of a state, or of a user's value.
pub(super) const MAX_STORED: usize = MAX_VALUE - OVERHEAD;

/// Where an item is.
#[derive(Clone, Copy, Debug)]
pub(super) struct ItemRef<'a> {
    inner: &'a MemcachedInner,
    operation: &'static str,
    node: usize,
    name: &'a str,
}

/// What was read of it.
#[derive(Debug)]
pub(super) struct Loaded {
    /// `None` also for one of another generation.
    pub(super) item: Option<Item>,
    version: Option<u64>,
    generation: Generation,
}

/// What becomes of an item.
pub(super) enum ItemChange {
    Keep,
    Put { value: Vec<u8>, ends_at: Option<Timestamp> },
    Remove,
}

impl<'a> ItemRef<'a> {
    pub(super) fn new(inner: &'a MemcachedInner, operation: &'static str, name: &'a str) -> Self {
        Self { inner, operation, node: inner.nodes.index_of(name), name }
    }

    /// Reads the item, and its node's generation, in one round trip.
    pub(super) async fn load(&self) -> Result<Loaded> {
        let Some(generation) = &self.inner.generation_key else {
            let (item, version) = match self.call(Command::Gets(self.name)).await? {
                Reply::Value(item, version) => (Some(Item::decode(item)), Some(version)),
                Reply::Missing => (None, None),
                _ => return Err(errors::unexpected(self.operation)),
            };
            return Ok(Loaded { item, version, generation: Generation::Untracked });
        };
        // The generation last: see `generation`.
        let found = self.call(Command::GetsMany(&[self.name, generation])).await?;
        let Reply::Values(mut found) = found else {
            return Err(errors::unexpected(self.operation));
        };
        let generation = Generation::of(found.pop().flatten());
        let (item, version) = found.pop().flatten().unzip();
        let item = item.map(Item::decode).filter(|item| generation.has(item.generation));
        Ok(Loaded { item, version, generation })
    }

    /// Writes what becomes of it, if it is as it was. Returns `true` if it was.
    pub(super) async fn store(
        &self,
        loaded: &Loaded,
        change: ItemChange,
        now: Timestamp,
    ) -> Result<bool> {
        let (item, exptime) = match (change, loaded.version) {
            (ItemChange::Keep, _) | (ItemChange::Remove, None) => return Ok(true),
            (ItemChange::Put { ends_at: Some(end), .. }, None) if end <= now => return Ok(true),
            (ItemChange::Remove, Some(_)) => (Vec::new(), LONG_PAST),
            (ItemChange::Put { ends_at: Some(end), .. }, Some(_)) if end <= now => {
                (Vec::new(), LONG_PAST)
            }
            (ItemChange::Put { value, ends_at }, _) => {
                if value.len() > MAX_STORED {
                    return Err(errors::too_large(self.operation, value.len(), MAX_STORED));
                }
                let Some(generation) = self.stamp(loaded).await? else { return Ok(false) };
                let item = Item { generation, ends_at, value };
                (item.encode(), self.inner.exptime_policy.exptime(ends_at, now))
            }
        };
        let (key, value) = (self.name, &item[..]);
        let command = match loaded.version {
            Some(version) => Command::Cas { key, value, version, exptime },
            None => Command::Add { key, value, exptime },
        };
        match self.call(command).await? {
            Reply::Done => Ok(true),
            Reply::Changed | Reply::Missing => Ok(false),
            _ => Err(errors::unexpected(self.operation)),
        }
    }

    /// Returns what a new item carries. `None` if somebody has just begun a generation, which was not read.
    async fn stamp(&self, loaded: &Loaded) -> Result<Option<Option<u64>>> {
        let Generation::Missing { version } = loaded.generation else {
            return Ok(Some(loaded.generation.stamp()));
        };
        let seeded = Box::pin(self.inner.seed(self.operation, self.node, version)).await?;
        Ok(seeded.map(Some))
    }

    async fn call(&self, command: Command<'_>) -> Result<Reply> {
        self.inner.nodes.call(self.node, self.operation, command).await
    }
}

impl MemcachedInner {
    /// Some items of one node, fewer than the keys of a command, in the order of their names.
    pub(super) async fn load_many(
        &self,
        operation: &'static str,
        node: usize,
        names: &[&str],
    ) -> Result<Vec<Option<Item>>> {
        let mut keys = names.to_vec();
        keys.extend(self.generation_key.as_deref());
        let found = self.nodes.call(node, operation, Command::GetMany(&keys)).await?;
        let Reply::Found(mut found) = found else { return Err(errors::unexpected(operation)) };
        let generation = match &self.generation_key {
            None => Generation::Untracked,
            // Its version is of no use to who only reads.
            Some(key) => Generation::of(found.remove(key).map(|number| (number, 0))),
        };
        let live = |item: &Item| generation.has(item.generation);
        Ok(names.iter().map(|name| found.remove(*name).map(Item::decode).filter(live)).collect())
    }
}
