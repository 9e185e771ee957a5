//! Decisions: `gets`, the pure function, `cas`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::coalesce::Pending;
use super::pace::Pace;
use super::store::{Change, ItemRef, MAX_STORED};
use super::{Inner, NAME, errors, keys};
use crate::backend::{Counter, Result, cas};
use crate::decision::Decision;
use crate::error::{BackendError, ErrorKind};
use crate::key::Key;
use crate::strategy::{Corrupt, Step, Tag, Write};

pub(super) const OPERATION: &str = "apply";

impl Inner {
    pub(super) async fn apply(
        self: &Arc<Self>,
        key: &Key<'_>,
        step: &Step<'_>,
    ) -> Result<Decision> {
        check_size(step)?;
        self.decide(keys::of_key(self.settings.namespace(), key), step).await
    }
}

/// Refuses a log that does not fit an item when it is full: not on that day, but at its first hit.
fn check_size(step: &Step<'_>) -> Result<()> {
    /// Bytes of an entry, and of all that is not one.
    const ENTRY: u64 = 16;
    const REST: u64 = 1024;
    let logs = step.limits().iter().filter(|limit| limit.tag() == Tag::SLIDING_WINDOW_LOG);
    let entries: u64 = logs.map(|limit| u64::from(limit.rate().limit())).sum();
    let most = (MAX_STORED as u64 - REST) / ENTRY;
    if entries <= most {
        return Ok(());
    }
    Err(BackendError::new(NAME, OPERATION, ErrorKind::Misconfigured).with_message(format!(
        "a sliding window log of {entries} entries does not fit an item of 1 MB; \
         use a limit of at most {most}, or a sliding window counter"
    )))
}

/// Decides all that is asked: for one name by one read and one write.
pub(super) async fn batch(inner: &Arc<Inner>, mut batch: Vec<Pending>, pace: &mut Pace) {
    while let Some(first) = batch.first() {
        let name = first.name.clone();
        // Two names of the same hash are as good as never seen.
        let (same, others) = batch.into_iter().partition(|pending| pending.name == name);
        batch = others;
        together(inner, &name, same, pace).await;
    }
}

async fn together(inner: &Arc<Inner>, name: &str, mut batch: Vec<Pending>, pace: &mut Pace) {
    let item = ItemRef::new(inner, OPERATION, name);
    for _ in 0..cas::MAX_ATTEMPTS {
        batch.retain(Pending::is_wanted);
        if batch.is_empty() {
            return;
        }
        match attempt(inner, item, &mut batch).await {
            Ok(None) => pace.lost(),
            Ok(Some(decided)) => {
                for (pending, (decision, corrupt)) in batch.into_iter().zip(decided) {
                    pending.answer(Ok(match corrupt {
                        None => Ok(decision),
                        Some(corrupt) => Err(cas::corrupted(&inner.settings, corrupt)),
                    }));
                }
                return pace.won().await;
            }
            Err(error) => return fail(batch, &error),
        }
    }
    inner.settings.increase(Counter::Contended);
    fail(batch, &errors::contended(OPERATION));
}

fn fail(batch: Vec<Pending>, error: &BackendError) {
    for pending in batch {
        pending.answer(Ok(Err(error.shared())));
    }
}

/// Each one on what the one before it left; `None` if somebody came between. Whose strategy panics is told
/// so, and is no longer there.
async fn attempt(
    inner: &Inner,
    item: ItemRef<'_>,
    batch: &mut Vec<Pending>,
) -> Result<Option<Vec<(Decision, Option<Corrupt>)>>> {
    let loaded = item.load().await?;
    let now = inner.settings.clock().now();
    let mut decided = Vec::with_capacity(batch.len());
    let mut last = None;
    for pending in std::mem::take(batch) {
        let stored = match &last {
            None => loaded.item.as_ref().map(|item| &item.value[..]),
            Some(Write::Put { value, .. }) => Some(&value[..]),
            Some(Write::Delete) => None,
        };
        match catch_unwind(AssertUnwindSafe(|| pending.step().decide(stored, now))) {
            Ok(outcome) => {
                last = outcome.write.or(last);
                decided.push((outcome.decision, outcome.corrupt));
                batch.push(pending);
            }
            Err(panic) => pending.answer(Err(panic)),
        }
    }
    let change = match last {
        None => Change::Keep,
        Some(Write::Put { value, keep_for }) => {
            Change::Put { value, ends_at: Some(now.after(keep_for)) }
        }
        Some(Write::Delete) => Change::Remove,
    };
    let written = item.store(&loaded, change, now).await?;
    Ok(written.then_some(decided))
}
