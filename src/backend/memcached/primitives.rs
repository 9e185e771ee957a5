//! The user's own values, by `gets` and `cas`.
//!
//! The server's own `incr` and `decr` are of no use here. They take `" 1"` and `"1 "` for numbers, wrap at
//! 2^64, leave spaces behind, and nobody can tell whether the item has an expiry. So a count is read,
//! checked, and written by `cas`; its end stands in the item and stays.

use std::collections::HashMap;

use super::item::Item;
use super::protocol::MAX_KEYS;
use super::store::{ItemChange, ItemRef};
use super::{MemcachedInner, keys};
use crate::backend::change::{Change, Changed};
use crate::backend::{Result, optimistic};
use crate::key::Key;

impl MemcachedInner {
    pub(super) async fn value(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        let name = keys::of_key(self.core.namespace(), key);
        let loaded = ItemRef::new(self, "get", &name).load().await?;
        Ok(loaded.item.and_then(|item| self.live(item)))
    }

    /// The values of several keys, by one command for each node and some 60 keys.
    pub(super) async fn values(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Vec<u8>>>> {
        let namespace = self.core.namespace();
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
        (!item.is_over(self.core.clock().now())).then_some(item.value)
    }

    /// Reads a value, asks what becomes of it, and writes that, until nobody wrote in between. One attempt
    /// at a time on a key in this runtime.
    pub(super) async fn update<T: Send>(
        &self,
        operation: &'static str,
        key: &Key<'_>,
        change: impl Fn(Option<&[u8]>) -> Changed<T> + Send + Sync,
    ) -> Result<T> {
        let name = keys::of_key(self.core.namespace(), key);
        let place = ItemRef::new(self, operation, &name);
        let local = self.nodes.here(operation)?;
        let _turn = local.turn_of(&name, self.command_timeout).await;
        let change = &change;
        optimistic::retry(&self.core, operation, || async move {
            let loaded = place.load().await?;
            let now = self.core.clock().now();
            let live = loaded.item.as_ref().filter(|item| !item.is_over(now));
            let (outcome, change) = change(live.map(|item| &item.value[..]))?;
            let change = match change {
                Change::Keep => ItemChange::Keep,
                Change::Remove => ItemChange::Remove,
                Change::Put(value, ttl) => {
                    let ends_at = ttl.expires_at(live.and_then(|item| item.ends_at), now);
                    ItemChange::Put { value, ends_at }
                }
            };
            Ok(place.store(&loaded, change, now).await?.then_some(outcome))
        })
        .await
    }
}
