//! The user's own values: read the item, change it, write it if nobody came between.
//!
//! The server's own `incr` and `decr` are of no use here. They take `" 1"` and `"1 "` for numbers, wrap at
//! 2^64, leave spaces behind, and nobody can tell whether the item has an expiry. So a count is read,
//! checked, and written by `cas`; its end stands in the item and stays.

use std::collections::HashMap;
use std::time::Duration;

use super::connection::{Answer, Command};
use super::expiry::LONG_PAST;
use super::item::Item;
use super::wire::MAX_VALUE;
use super::{Inner, NAME, errors, keys};
use crate::backend::{Counter, Result, cas};
use crate::clock::Timestamp;
use crate::error::{BackendError, ErrorKind};
use crate::key::{self, Key};

/// Keys of one command. A longer line is an attack to some servers.
const KEYS_AT_ONCE: usize = 64;
/// What the server needs of an item besides the value.
const OVERHEAD: usize = 1024;

/// What becomes of an item.
pub(super) enum Change {
    Keep,
    Put { value: Vec<u8>, ends_at: Option<Timestamp> },
    Remove,
}

/// The end of a value that is written now.
pub(super) fn ends_at(ttl: Option<Duration>, now: Timestamp) -> Option<Timestamp> {
    ttl.map(|ttl| now.after(ttl))
}

impl Inner {
    pub(super) async fn value(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        let name = keys::of_key(self.settings.namespace(), key);
        let node = self.nodes.index_of(&name);
        let found = self.nodes.call(node, "get", Command::Gets(&name)).await?;
        let Answer::Value(item, _) = found else { return Ok(None) };
        Ok(self.live(item))
    }

    /// The values of several keys, by one command for each node and 64 keys.
    pub(super) async fn values(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Vec<u8>>>> {
        let namespace = self.settings.namespace();
        let names: Vec<String> = keys.iter().map(|key| keys::of_key(namespace, key)).collect();
        let mut by_node = vec![Vec::new(); self.nodes.len()];
        for name in &names {
            by_node[self.nodes.index_of(name)].push(name.clone());
        }
        let mut found = HashMap::new();
        for (node, mut names) in by_node.into_iter().enumerate() {
            names.sort_unstable();
            names.dedup();
            for names in names.chunks(KEYS_AT_ONCE) {
                found.extend(self.get_many(node, "multi_get", names).await?);
            }
        }
        let found: HashMap<String, Vec<u8>> = found
            .into_iter()
            .filter_map(|(name, item)| self.live(item).map(|value| (name, value)))
            .collect();
        Ok(names.iter().map(|name| found.get(name).cloned()).collect())
    }

    /// At most 64 items of one node.
    pub(super) async fn get_many(
        &self,
        node: usize,
        operation: &'static str,
        names: &[String],
    ) -> Result<HashMap<String, Vec<u8>>> {
        match self.nodes.call(node, operation, Command::GetMany(names)).await? {
            Answer::Values(found) => Ok(found),
            _ => Err(errors::unexpected(operation)),
        }
    }

    fn live(&self, item: Vec<u8>) -> Option<Vec<u8>> {
        let item = Item::decode(item);
        (!item.is_over(self.settings.clock().now())).then_some(item.value)
    }

    /// Reads a value, asks what becomes of it, and writes that, until nobody came between. One attempt
    /// at a time on a key in this process.
    pub(super) async fn update<T: Send>(
        &self,
        operation: &'static str,
        key: &Key<'_>,
        mut change: impl FnMut(Option<&Item>, Timestamp) -> Result<(T, Change)> + Send,
    ) -> Result<T> {
        let name = keys::of_key(self.settings.namespace(), key);
        let node = self.nodes.index_of(&name);
        let _turn = self.turn_of(&name).lock().await;
        for attempt in 0..cas::MAX_ATTEMPTS {
            cas::pause(attempt).await;
            let (found, version) =
                match self.nodes.call(node, operation, Command::Gets(&name)).await? {
                    Answer::Value(item, version) => (Some(Item::decode(item)), Some(version)),
                    Answer::Missing => (None, None),
                    _ => return Err(errors::unexpected(operation)),
                };
            let now = self.settings.clock().now();
            let live = found.as_ref().filter(|item| !item.is_over(now));
            let (outcome, change) = change(live, now)?;
            if self.write((node, &name), operation, version, change, now).await? {
                return Ok(outcome);
            }
        }
        self.settings.increase(Counter::Contended);
        Err(errors::contended(operation))
    }

    async fn write(
        &self,
        (node, key): (usize, &str),
        operation: &'static str,
        version: Option<u64>,
        change: Change,
        now: Timestamp,
    ) -> Result<bool> {
        let (item, exptime) = match (change, version) {
            (Change::Keep, _) | (Change::Remove, None) => return Ok(true),
            (Change::Remove, Some(_)) => (Vec::new(), LONG_PAST),
            (Change::Put { ends_at: Some(end), .. }, None) if end <= now => return Ok(true),
            (Change::Put { ends_at: Some(end), .. }, Some(_)) if end <= now => {
                (Vec::new(), LONG_PAST)
            }
            (Change::Put { value, ends_at }, _) => {
                if value.len() > MAX_VALUE - OVERHEAD {
                    return Err(too_large(operation, value.len()));
                }
                self.track(key).await;
                (Item::encode(&value, ends_at), self.keeping.exptime(ends_at, now))
            }
        };
        let value = &item[..];
        let command = match version {
            Some(version) => Command::Cas { key, value, version, exptime },
            None => Command::Add { key, value, exptime },
        };
        match self.nodes.call(node, operation, command).await? {
            Answer::Done => Ok(true),
            Answer::Changed | Answer::Missing => Ok(false),
            _ => Err(errors::unexpected(operation)),
        }
    }

    /// Whose turn it is on a key. A few keys share one, which costs them a wait at most.
    #[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
    fn turn_of(&self, name: &str) -> &tokio::sync::Mutex<()> {
        let hash = key::hasher().hash_one(name) as usize;
        &self.turns_of_values[hash % self.turns_of_values.len()]
    }
}

fn too_large(operation: &'static str, length: usize) -> BackendError {
    BackendError::new(NAME, operation, ErrorKind::OutOfRange).with_message(format!(
        "a value of {length} bytes is too large; the most is {}",
        MAX_VALUE - OVERHEAD
    ))
}
