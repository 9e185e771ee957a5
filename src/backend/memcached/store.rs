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

/// A write that goes with others.
#[derive(Debug)]
pub(super) enum PreparedWrite {
    /// Nothing has to be written.
    None,
    /// The node has no generation yet.
    Unseeded,
    Item {
        bytes: Vec<u8>,
        exptime: u32,
        version: Option<u64>,
    },
}

/// What has to be written.
enum ItemWrite {
    None,
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
        let (item, exptime) = match self.write_of(loaded, change, now)? {
            ItemWrite::None => return Ok(true),
            ItemWrite::Remove => (Vec::new(), LONG_PAST),
            ItemWrite::Put { value, ends_at } => {
                let Some(generation) = self.stamp(loaded).await? else { return Ok(false) };
                self.encode(generation, value, ends_at, now)
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

    /// Returns what has to be written so that a change holds.
    fn write_of(&self, loaded: &Loaded, change: ItemChange, now: Timestamp) -> Result<ItemWrite> {
        let (value, ends_at) = match change {
            ItemChange::Keep => return Ok(ItemWrite::None),
            ItemChange::Put { value, ends_at } if ends_at.is_none_or(|end| end > now) => {
                (value, ends_at)
            }
            ItemChange::Put { .. } | ItemChange::Remove => {
                let is_there = loaded.version.is_some();
                return Ok(if is_there { ItemWrite::Remove } else { ItemWrite::None });
            }
        };
        match value.len() {
            ..=MAX_STORED => Ok(ItemWrite::Put { value, ends_at }),
            length => Err(errors::too_large(self.operation, length, MAX_STORED)),
        }
    }

    /// Prepares a write beside others. Not where the first generation has to be begun.
    pub(super) fn prepare(
        &self,
        loaded: &Loaded,
        change: ItemChange,
        now: Timestamp,
    ) -> Result<PreparedWrite> {
        let (bytes, exptime) = match self.write_of(loaded, change, now)? {
            ItemWrite::None => return Ok(PreparedWrite::None),
            ItemWrite::Put { .. } if matches!(loaded.generation, Generation::Missing { .. }) => {
                return Ok(PreparedWrite::Unseeded);
            }
            ItemWrite::Put { value, ends_at } => {
                self.encode(loaded.generation.stamp(), value, ends_at, now)
            }
            ItemWrite::Remove => (Vec::new(), LONG_PAST),
        };
        Ok(PreparedWrite::Item { bytes, exptime, version: loaded.version })
    }

    /// Returns the bytes of a new item and its expiry.
    fn encode(
        &self,
        generation: Option<u64>,
        value: Vec<u8>,
        ends_at: Option<Timestamp>,
        now: Timestamp,
    ) -> (Vec<u8>, u32) {
        let item = Item { generation, ends_at, value };
        (item.encode(), self.inner.exptime_policy.exptime(ends_at, now))
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
    /// As [`ItemRef::load`], of some items of one node, fewer than the keys of a command.
    pub(super) async fn load_each(
        &self,
        operation: &'static str,
        node: usize,
        names: &[&str],
    ) -> Result<Vec<Loaded>> {
        let mut keys = names.to_vec();
        keys.extend(self.generation_key.as_deref());
        let found = self.nodes.call(node, operation, Command::GetsMany(&keys)).await?;
        let Reply::Values(mut found) = found else { return Err(errors::unexpected(operation)) };
        let generation = match &self.generation_key {
            None => Generation::Untracked,
            Some(_) => Generation::of(found.pop().flatten()),
        };
        let loaded = found.into_iter().map(|found| {
            let (item, version) = found.unzip();
            let item = item.map(Item::decode).filter(|item| generation.has(item.generation));
            Loaded { item, version, generation }
        });
        Ok(loaded.collect())
    }

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
