//! Decisions: `gets`, the pure function, `cas`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::pace::Pace;
use super::pending::PendingHit;
use super::store::{ItemChange, ItemRef, MAX_STORED};
use super::{MemcachedInner, errors, keys};
use crate::backend::{Result, optimistic};
use crate::clock::{Timestamp, monotonic_now};
use crate::decision::Decision;
use crate::error::{BackendError, ErrorKind};
use crate::key::Key;
use crate::step::{BlockChange, Evaluation, KeyState, Step, StepError, Write};
use crate::strategy::StrategyId;

pub(super) const OPERATION: &str = "apply";

pub(super) type Evaluated = std::result::Result<Evaluation, StepError>;

impl MemcachedInner {
    pub(super) async fn apply(
        self: &Arc<Self>,
        key: &Key<'_>,
        step: &Step<'_>,
    ) -> Result<Decision> {
        check_size(step)?;
        self.decide(keys::of_key(self.core.namespace(), key), step).await
    }
}

impl MemcachedInner {
    /// Changes a key's block; tried again while others write.
    pub(super) async fn change_block(&self, key: &Key<'_>, change: BlockChange) -> Result<bool> {
        const OPERATION: &str = "change_block";
        let name = keys::of_key(self.core.namespace(), key);
        let item = ItemRef::new(self, OPERATION, &name);
        optimistic::retry(&self.core, OPERATION, || async move {
            let loaded = item.load().await?;
            let now = self.core.clock().now();
            let stored = loaded.item.as_ref().map(|item| &item.value[..]);
            let (was_blocked, write) = optimistic::block_of(&self.core, change, stored, now)?;
            let written = item.store(&loaded, change_of(self, write.as_ref(), now), now).await?;
            Ok(written.then_some(was_blocked))
        })
        .await
    }

    pub(super) async fn inspect(&self, key: &Key<'_>) -> Result<KeyState> {
        let name = keys::of_key(self.core.namespace(), key);
        let loaded = ItemRef::new(self, "inspect", &name).load().await?;
        let stored = loaded.item.as_ref().map(|item| &item.value[..]);
        optimistic::read_state(&self.core, stored, self.core.clock().now())
    }
}

/// Refuses a log that does not fit an item when it is full: not on that day, but at its first hit.
pub(super) fn check_size(step: &Step<'_>) -> Result<()> {
    /// Bytes of an entry, and of all that is not one.
    const ENTRY: u64 = 16;
    const REST: u64 = 1024;
    let stored = step.limits().iter().filter(|limit| limit.has_state());
    let logs = stored.filter(|limit| limit.strategy_id() == StrategyId::SLIDING_WINDOW_LOG);
    let entries: u64 = logs.map(|limit| u64::from(limit.rate().limit())).sum();
    let most = (MAX_STORED as u64 - REST) / ENTRY;
    if entries <= most {
        return Ok(());
    }
    Err(errors::failed(OPERATION, ErrorKind::Misconfigured).with_message(format!(
        "a sliding window log of {entries} entries does not fit an item of 1 MB; \
         use a limit of at most {most}, or a sliding window counter"
    )))
}

/// Decides all that is asked: for one name by one read and one write.
pub(super) async fn decide_batch(
    inner: &Arc<MemcachedInner>,
    mut batch: Vec<PendingHit>,
    pace: &mut Pace,
) {
    while let Some(first) = batch.first() {
        let name = first.name.clone();
        // Two names of the same hash are almost never seen.
        let (same, others) = batch.into_iter().partition(|pending| pending.name == name);
        batch = others;
        drain(inner, &name, same, pace).await;
    }
}

async fn drain(
    inner: &Arc<MemcachedInner>,
    name: &str,
    mut batch: Vec<PendingHit>,
    pace: &mut Pace,
) {
    let item = ItemRef::new(inner, OPERATION, name);
    for _ in 0..optimistic::MAX_ATTEMPTS {
        batch.retain(PendingHit::is_wanted);
        if batch.is_empty() {
            return;
        }
        let began = monotonic_now();
        match attempt(inner, item, &mut batch).await {
            Ok(None) => pace.lost(),
            Ok(Some(evaluated)) => {
                let took = monotonic_now() - began;
                for (pending, evaluated) in batch.into_iter().zip(evaluated) {
                    pending.answer(Ok(optimistic::decision_of(&inner.core, evaluated)));
                }
                return pace.won(took).await;
            }
            Err(error) => return fail(batch, &error),
        }
    }
    fail(batch, &optimistic::contended(&inner.core, OPERATION));
}

pub(super) fn fail(batch: Vec<PendingHit>, error: &BackendError) {
    for pending in batch {
        pending.fail(error);
    }
}

/// Decides all by one read and one write; `None` if somebody came between.
async fn attempt(
    inner: &MemcachedInner,
    item: ItemRef<'_>,
    batch: &mut Vec<PendingHit>,
) -> Result<Option<Vec<Evaluated>>> {
    let loaded = item.load().await?;
    let now = inner.core.clock().now();
    let stored = loaded.item.as_ref().map(|item| &item.value[..]);
    let (evaluated, last) = evaluate(batch, stored, now);
    let write = last.and_then(|last| optimistic::write_of(&evaluated[last]));
    let written = item.store(&loaded, change_of(inner, write, now), now).await?;
    Ok(written.then_some(evaluated))
}

/// Returns what becomes of an item when its state is written.
pub(super) fn change_of(
    inner: &MemcachedInner,
    write: Option<&Write>,
    now: Timestamp,
) -> ItemChange {
    match write {
        None => ItemChange::Keep,
        Some(Write::Put { value, ttl }) => {
            // A clock that is moved by hand may step back, and find again what was over.
            let ends_at = now.saturating_add(*ttl + inner.exptime_policy.for_at_least);
            ItemChange::Put { value: value.clone(), ends_at: Some(ends_at) }
        }
        Some(Write::Delete) => ItemChange::Remove,
    }
}

/// Evaluates each on what the one before it left, and says which of them wrote last. Whose strategy
/// panics is told so, and is no longer in the batch.
pub(super) fn evaluate(
    batch: &mut Vec<PendingHit>,
    stored: Option<&[u8]>,
    now: Timestamp,
) -> (Vec<Evaluated>, Option<usize>) {
    let mut evaluated: Vec<Evaluated> = Vec::with_capacity(batch.len());
    let mut last: Option<usize> = None;
    for pending in std::mem::take(batch) {
        let stored = match last.and_then(|last| optimistic::write_of(&evaluated[last])) {
            None => stored,
            Some(Write::Put { value, .. }) => Some(&value[..]),
            Some(Write::Delete) => None,
        };
        match catch_unwind(AssertUnwindSafe(|| pending.step().evaluate(stored, now))) {
            Ok(outcome) => {
                last = optimistic::write_of(&outcome).map(|_| evaluated.len()).or(last);
                evaluated.push(outcome);
                batch.push(pending);
            }
            Err(panic) => pending.answer(Err(panic)),
        }
    }
    (evaluated, last)
}
