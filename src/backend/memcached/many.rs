//! Decisions on many keys at once: `gets` of many, the pure function, and `add` and `cas` of many.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::coalesce::answer_of;
use super::decide::{self, Evaluated, OPERATION};
use super::pending::{HitResult, PendingHit};
use super::protocol::{Command, MAX_KEYS, Reply, StoreOutcome, StoredItem};
use super::store::{ItemRef, PreparedWrite};
use super::{MemcachedInner, errors, keys};
use crate::backend::{Answers, optimistic};
use crate::background;
use crate::join::join_all;
use crate::key::Key;
use crate::step::Step;

/// The most bytes of one write, but for a single item.
const MAX_WRITE: usize = 256 * 1024;

/// The hits on one item, in the order in which they came.
type ItemHits = (String, Vec<PendingHit>);

/// The hits on one node.
#[derive(Default)]
struct NodeHits {
    items: Vec<ItemHits>,
    /// By the place of the question.
    asked: Vec<(usize, oneshot::Receiver<HitResult>)>,
}

/// A write, with what it makes of the hits.
struct Written {
    name: String,
    hits: Vec<PendingHit>,
    evaluated: Vec<Evaluated>,
    bytes: Vec<u8>,
    exptime: u32,
    version: Option<u64>,
}

impl MemcachedInner {
    /// Decides several steps, each by itself. Each node has tasks of its own, and each answer is waited for by
    /// itself, so none holds up another.
    pub(super) async fn apply_many(
        self: &Arc<Self>,
        steps: &[(Key<'_>, Step<'_>)],
        answers: &Answers,
    ) {
        let mut places: HashMap<String, (usize, usize)> = HashMap::new();
        let mut by_node: Vec<NodeHits> =
            (0..self.nodes.len()).map(|_| NodeHits::default()).collect();
        for (index, (key, step)) in steps.iter().enumerate() {
            if let Err(error) = decide::check_size(step) {
                answers.put(index, Err(error));
                continue;
            }
            let name = keys::of_key(self.core.namespace(), key);
            let (pending, receiver) = PendingHit::new(name.clone(), step);
            let (node, place) = *places.entry(name).or_insert_with_key(|name| {
                let node = self.nodes.index_of(name);
                by_node[node].items.push((name.clone(), Vec::new()));
                (node, by_node[node].items.len() - 1)
            });
            by_node[node].items[place].1.push(pending);
            by_node[node].asked.push((index, receiver));
        }
        let mut waiting = Vec::with_capacity(steps.len());
        for (node, NodeHits { mut items, asked }) in by_node.into_iter().enumerate() {
            while !items.is_empty() {
                // One key is left for the generation.
                let rest = items.split_off(items.len().min(MAX_KEYS - 1));
                let items = std::mem::replace(&mut items, rest);
                let inner = Arc::clone(self);
                background::start_detached(async move { inner.decide_items(node, items).await });
            }
            waiting.extend(asked.into_iter().map(|(index, receiver)| async move {
                answers.put(index, answer_of(receiver).await);
            }));
        }
        join_all(waiting.into_iter()).await;
    }

    /// Decides about some items of one node. Those that another process changes meanwhile are left to the task
    /// that decides again and again.
    async fn decide_items(self: &Arc<Self>, node: usize, items: Vec<ItemHits>) {
        let names: Vec<&str> = items.iter().map(|(name, _)| name.as_str()).collect();
        let loaded = match self.load_each(OPERATION, node, &names).await {
            Ok(loaded) => loaded,
            Err(error) => {
                return items.into_iter().for_each(|(_, hits)| decide::fail(hits, &error));
            }
        };
        let now = self.core.clock().now();
        let mut written: Vec<Written> = Vec::new();
        let mut size = 0;
        for ((name, mut hits), loaded) in items.into_iter().zip(loaded) {
            let stored = loaded.item.as_ref().map(|item| &item.value[..]);
            let (evaluated, last) = decide::evaluate(&mut hits, stored, now);
            let write = last.and_then(|last| optimistic::write_of(&evaluated[last]));
            let change = decide::change_of(self, write, now);
            match ItemRef::new(self, OPERATION, &name).prepare(&loaded, change, now) {
                Ok(PreparedWrite::None) => self.answer(hits, evaluated),
                Ok(PreparedWrite::Unseeded) => self.decide_again(hits),
                Ok(PreparedWrite::Item { bytes, exptime, version }) => {
                    if size > 0 && size + bytes.len() > MAX_WRITE {
                        self.write_items(node, std::mem::take(&mut written)).await;
                        size = 0;
                    }
                    size += bytes.len();
                    written.push(Written { name, hits, evaluated, bytes, exptime, version });
                }
                Err(error) => decide::fail(hits, &error),
            }
        }
        if !written.is_empty() {
            self.write_items(node, written).await;
        }
    }

    async fn write_items(self: &Arc<Self>, node: usize, written: Vec<Written>) {
        let items: Vec<StoredItem<'_>> = written
            .iter()
            .map(|Written { name, bytes, exptime, version, .. }| StoredItem {
                key: name,
                value: bytes,
                version: *version,
                exptime: *exptime,
            })
            .collect();
        let outcomes = match self.nodes.call(node, OPERATION, Command::StoreMany(&items)).await {
            Ok(Reply::Stored(outcomes)) if outcomes.len() == items.len() => Ok(outcomes),
            Ok(_) => Err(errors::unexpected(OPERATION)),
            Err(error) => Err(error),
        };
        match outcomes {
            Err(error) => written.into_iter().for_each(|item| decide::fail(item.hits, &error)),
            Ok(outcomes) => {
                for (Written { hits, evaluated, .. }, outcome) in written.into_iter().zip(outcomes)
                {
                    match outcome {
                        StoreOutcome::Done => self.answer(hits, evaluated),
                        StoreOutcome::Changed => self.decide_again(hits),
                        StoreOutcome::Refused(line) => {
                            decide::fail(hits, &errors::refused(OPERATION, &line));
                        }
                    }
                }
            }
        }
    }

    fn answer(&self, hits: Vec<PendingHit>, evaluated: Vec<Evaluated>) {
        for (pending, evaluated) in hits.into_iter().zip(evaluated) {
            pending.answer(Ok(optimistic::decision_of(&self.core, evaluated)));
        }
    }

    fn decide_again(self: &Arc<Self>, hits: Vec<PendingHit>) {
        hits.into_iter().for_each(|pending| self.enqueue(pending));
    }
}
