//! The user's own values: read the item, change it, write it if nobody came between.
//!
//! The server's own `incr` and `decr` are of no use here. They take `" 1"` and `"1 "` for numbers, wrap at
//! 2^64, leave spaces behind, and nobody can tell whether the item has an expiry. So a count is read,
//! checked, and written by `cas`; its end stands in the item and stays.

use std::collections::HashMap;
use std::time::Duration;

use super::item::Item;
use super::protocol::MAX_KEYS;
use super::store::{Change, ItemRef};
use super::{Inner, errors, keys};
use crate::backend::{Counter, Result, cas};
use crate::clock::Timestamp;
use crate::key::Key;

/// The end of a value that is written now.
pub(super) fn ends_at(ttl: Option<Duration>, now: Timestamp) -> Option<Timestamp> {
    ttl.map(|ttl| now.after(ttl))
}

impl Inner {
    pub(super) async fn value(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        let name = keys::of_key(self.settings.namespace(), key);
        let loaded = ItemRef::new(self, "get", &name).load().await?;
        Ok(loaded.item.and_then(|item| self.live(item)))
    }

    /// The values of several keys, by one command for each node and some 60 keys.
    pub(super) async fn values(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Vec<u8>>>> {
        let namespace = self.settings.namespace();
        let names: Vec<String> = keys.iter().map(|key| keys::of_key(namespace, key)).collect();
        let mut by_node = vec![Vec::new(); self.nodes.len()];
        for name in &names {
            by_node[self.nodes.index_of(name)].push(name.as_str());
        }
        let mut found: HashMap<&str, Vec<u8>> = HashMap::new();
        for (node, mut names) in by_node.into_iter().enumerate() {
            names.sort_unstable();
            names.dedup();
            // One is left for the generation.
            for names in names.chunks(MAX_KEYS - 1) {
                let items = self.load_many("multi_get", node, names).await?;
                let values = names.iter().zip(items).filter_map(|(name, item)| {
                    item.and_then(|item| self.live(item)).map(|value| (*name, value))
                });
                found.extend(values);
            }
        }
        Ok(names.iter().map(|name| found.get(name.as_str()).cloned()).collect())
    }

    fn live(&self, item: Item) -> Option<Vec<u8>> {
        (!item.is_over(self.settings.clock().now())).then_some(item.value)
    }

    /// Reads a value, asks what becomes of it, and writes that, until nobody came between. One attempt
    /// at a time on a key in this runtime.
    pub(super) async fn update<T: Send>(
        &self,
        operation: &'static str,
        key: &Key<'_>,
        mut change: impl FnMut(Option<&Item>, Timestamp) -> Result<(T, Change)> + Send,
    ) -> Result<T> {
        let name = keys::of_key(self.settings.namespace(), key);
        let place = ItemRef::new(self, operation, &name);
        let local = self.nodes.here(operation)?;
        let _turn = local.turn_of(&name, self.call_timeout).await;
        for attempt in 0..cas::MAX_ATTEMPTS {
            cas::pause(attempt).await;
            let loaded = place.load().await?;
            let now = self.settings.clock().now();
            let live = loaded.item.as_ref().filter(|item| !item.is_over(now));
            let (outcome, change) = change(live, now)?;
            if place.store(&loaded, change, now).await? {
                return Ok(outcome);
            }
        }
        self.settings.increase(Counter::Contended);
        Err(errors::contended(operation))
    }
}
