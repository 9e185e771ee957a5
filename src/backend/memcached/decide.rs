//! Decisions: `gets`, the pure function, `cas`; for a unit hit on a lone fixed window, `incr`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::timeout;

use super::connection::{Answer, Command};
use super::expiry::LONG_PAST;
use super::fixed::{Form, Tally};
use super::item::Item;
use super::lines::{Entered, Note};
use super::{Inner, NAME, errors, keys};
use crate::backend::cas::{self, Optimistic, Seen};
use crate::backend::{Counter, Result};
use crate::clock::Timestamp;
use crate::decision::Decision;
use crate::error::{BackendError, Effect, ErrorKind};
use crate::key::{self, Key};
use crate::strategy::{Cell, Corrupt, Op, Step, Write, apply_healing};

const OPERATION: &str = "apply";

impl Inner {
    pub(super) async fn apply(
        self: &Arc<Self>,
        key: &Key<'_>,
        step: &Step<'_>,
    ) -> Result<Decision> {
        let name = keys::of_key(self.settings.namespace(), key);
        let hash = key::hasher().hash_one(&name);
        let slot = Slot {
            inner: self,
            node: self.nodes.index_of(&name),
            name: &name,
            form: Form::of(step),
        };
        if let Some(form) = slot.form
            && step.op() == Op::Take
            && step.cost() == 1
            && let Some(decision) = slot.count(form, hash, key, step).await?
        {
            return Ok(decision);
        }
        // Boxed, like all but the one call above: a small future is moved for less than that costs.
        Box::pin(slot.in_turn(hash, key, step)).await
    }
}

/// The item of one key.
#[derive(Clone, Copy)]
struct Slot<'a> {
    inner: &'a Arc<Inner>,
    node: usize,
    name: &'a str,
    /// In which form a lone fixed window is written.
    form: Option<Form>,
}

impl Slot<'_> {
    /// A unit hit by `incr`: one round trip. `None`, with nothing counted, if that cannot decide it.
    async fn count(
        &self,
        form: Form,
        hash: u64,
        key: &Key<'_>,
        step: &Step<'_>,
    ) -> Result<Option<Decision>> {
        let inner = self.inner;
        let now = inner.settings.clock().now();
        let window = form.window_at(now);
        let limit = u64::from(step.limits()[0].rate().limit());
        let fullness = hash ^ limit;
        // Denied without a write; and while others read and write the item, an `incr` would only spoil it.
        if inner.full.says(fullness, window) || inner.lines.is_busy(hash) {
            return Ok(None);
        }
        inner.track(self.name).await;
        let tally = match self.call(Command::Incr(self.name)).await? {
            Answer::Number(number) => Tally::of(number),
            Answer::Missing => {
                return self.first(Tally { form, window, count: 1 }, now, step).await;
            }
            Answer::NotANumber => None,
            _ => return Err(errors::unexpected(OPERATION)),
        };
        // Another form, or garbage: the long way finds out which.
        let Some(tally) = tally.filter(|tally| tally.count > 0) else { return Ok(None) };
        let ours = tally.form == form;
        if ours && tally.window < window {
            // The window is over: what was added to it counts for nobody.
            return Ok(None);
        }
        // A count of none is as good as a missing item, also if it is of a window to come.
        if !ours || (tally.window > window && tally.count == 1) {
            self.give_back(tally, hash, key).await;
            return Ok(None);
        }
        let decision = self.judge(tally, now, step)?;
        if decision.is_denied() {
            inner.full.note(fullness, tally.window);
            self.give_back(tally, hash, key).await;
        }
        Ok(Some(decision))
    }

    /// The first hit of a new item.
    async fn first(
        &self,
        tally: Tally,
        now: Timestamp,
        step: &Step<'_>,
    ) -> Result<Option<Decision>> {
        let exptime = self.inner.keeping.exptime(Some(tally.end()), now);
        let value = tally.number().to_string();
        let add = Command::Add { key: self.name, value: value.as_bytes(), exptime };
        match self.call(add).await? {
            Answer::Done => self.judge(tally, now, step).map(Some),
            Answer::Changed => Ok(None),
            _ => Err(errors::unexpected(OPERATION)),
        }
    }

    /// The pure function's answer to the hit that made this count.
    fn judge(&self, tally: Tally, now: Timestamp, step: &Step<'_>) -> Result<Decision> {
        let before = Tally { count: tally.count - 1, ..tally };
        let last = if before.count > 0 { before.start() } else { Timestamp::ZERO };
        let mut cells = [Cell::Packed { count: before.count().into(), last }];
        let (applied, corrupt) = apply_healing(step, &mut cells, now);
        match (applied, corrupt) {
            (Some(applied), None) => Ok(applied.decision(step, now)),
            (_, corrupt) => Err(self.corrupted(corrupt.unwrap_or(Corrupt("not a count")))),
        }
    }

    /// Takes back what an `incr` added where it counts for nothing: a refund in that window. If it
    /// fails, a unit of the window stays lost; nothing extra is granted.
    async fn give_back(&self, tally: Tally, hash: u64, key: &Key<'_>) {
        let limits = [tally.form.any_limit()];
        let step = Step::new(&limits, 1, Op::Refund { taken_at: tally.start() });
        let slot = Self { form: Form::of(&step).or(Some(tally.form)), ..*self };
        let back = Box::pin(slot.in_turn(hash, key, &step));
        let _ = timeout(self.inner.call_timeout, back).await;
    }

    /// One attempt at a time: by itself if nobody is at it, else together with those who wait.
    async fn in_turn(&self, hash: u64, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        match self.inner.enter(hash, self.name, step) {
            Entered::Now(_turn) => cas::apply(&self.inner.settings, self, key, step).await,
            Entered::Later(answer) => answer.await.unwrap_or_else(|_gone| {
                Err(BackendError::new(NAME, OPERATION, ErrorKind::Unavailable)
                    .with_effect(Effect::Ambiguous)
                    .with_message("the runtime was shut down"))
            }),
            Entered::TooMany => Err(BackendError::new(NAME, OPERATION, ErrorKind::Overloaded)),
        }
    }

    /// Reads the item: the state in the common form, and its version.
    async fn look(&self) -> Result<Seen<Option<u64>>> {
        let (stored, version) = match self.call(Command::Gets(self.name)).await? {
            Answer::Value(item, version) => (common(item), Some(version)),
            Answer::Missing => (None, None),
            _ => return Err(errors::unexpected(OPERATION)),
        };
        Ok(Seen { stored, version, now: self.inner.settings.clock().now() })
    }

    /// Writes what the pure function says, if the item is as it was.
    async fn put(&self, version: Option<u64>, now: Timestamp, write: &Write) -> Result<bool> {
        let (value, exptime) = match (write, version) {
            (Write::Delete, None) => return Ok(true),
            (Write::Delete, Some(_)) => (Vec::new(), LONG_PAST),
            (Write::Put { value, keep_for }, _) => {
                self.inner.track(self.name).await;
                let ends_at = now.after(*keep_for);
                let number = self.form.and_then(|form| Tally::of_common(form, value));
                let item = match number {
                    Some(tally) => tally.number().to_string().into_bytes(),
                    None => Item::encode(value, Some(ends_at)),
                };
                (item, self.inner.keeping.exptime(Some(ends_at), now))
            }
        };
        let (key, value) = (self.name, &value[..]);
        let answer = match version {
            Some(version) => self.call(Command::Cas { key, value, version, exptime }).await?,
            None => self.call(Command::Add { key, value, exptime }).await?,
        };
        match answer {
            Answer::Done => Ok(true),
            Answer::Changed | Answer::Missing => Ok(false),
            _ => Err(errors::unexpected(OPERATION)),
        }
    }

    async fn call(&self, command: Command<'_>) -> Result<Answer> {
        self.inner.nodes.call(self.node, OPERATION, command).await
    }

    fn corrupted(&self, corrupt: Corrupt) -> BackendError {
        cas::corrupted(&self.inner.settings, corrupt)
    }
}

/// The state of an item in the common form.
fn common(item: Vec<u8>) -> Option<Vec<u8>> {
    match Tally::parse(&item) {
        Some(tally) => tally.to_common(),
        None => Some(Item::decode(item).value),
    }
}

impl Optimistic for Slot<'_> {
    type Version = Option<u64>;

    async fn read(&self, _key: &Key<'_>) -> Result<Seen<Option<u64>>> {
        self.look().await
    }

    async fn write(&self, _key: &Key<'_>, seen: &Seen<Option<u64>>, write: &Write) -> Result<bool> {
        self.put(seen.version, seen.now, write).await
    }
}

/// Decides all notes, those of one name by one read and one write.
pub(super) async fn all(inner: &Arc<Inner>, mut notes: Vec<Note>) {
    notes.retain(Note::is_wanted);
    while let Some(first) = notes.first() {
        let name = first.name.clone();
        // Two names of the same hash are as good as never seen.
        let (same, others) = notes.into_iter().partition(|note| note.name == name);
        notes = others;
        together(inner, &name, same).await;
    }
}

async fn together(inner: &Arc<Inner>, name: &str, notes: Vec<Note>) {
    let node = inner.nodes.index_of(name);
    for attempt in 0..cas::MAX_ATTEMPTS {
        cas::pause(attempt).await;
        let slot = Slot { inner, node, name, form: None };
        match try_together(slot, &notes).await {
            Ok(None) => {}
            Ok(Some(outcomes)) => {
                for (note, (decision, corrupt)) in notes.into_iter().zip(outcomes) {
                    note.answer(match corrupt {
                        None => Ok(decision),
                        Some(corrupt) => Err(slot.corrupted(corrupt)),
                    });
                }
                return;
            }
            Err(error) => {
                notes.into_iter().for_each(|note| note.answer(Err(errors::same(&error))));
                return;
            }
        }
    }
    inner.settings.increase(Counter::Contended);
    notes.into_iter().for_each(|note| note.answer(Err(errors::contended(OPERATION))));
}

/// Each note on what the one before it left. `None` if somebody came between.
async fn try_together(
    mut slot: Slot<'_>,
    notes: &[Note],
) -> Result<Option<Vec<(Decision, Option<Corrupt>)>>> {
    let Seen { mut stored, version, now } = slot.look().await?;
    let mut outcomes = Vec::with_capacity(notes.len());
    let mut last_write = None;
    for note in notes {
        let step = note.step();
        let outcome = step.decide(stored.as_deref(), now);
        if let Some(write) = outcome.write {
            stored = match &write {
                Write::Put { value, .. } => Some(value.clone()),
                Write::Delete => None,
            };
            slot.form = Form::of(&step);
            last_write = Some(write);
        }
        outcomes.push((outcome.decision, outcome.corrupt));
    }
    let written = match &last_write {
        None => true,
        Some(write) => slot.put(version, now, write).await?,
    };
    Ok(written.then_some(outcomes))
}

/// Which windows this process saw full: the next hit there looks before it counts. Only a hint; a place
/// is taken over by whoever comes.
#[derive(Debug)]
pub(super) struct Full(Box<[AtomicU64]>);

impl Full {
    const PLACES: usize = 4096;

    pub(super) fn new() -> Self {
        Self((0..Self::PLACES).map(|_| AtomicU64::new(0)).collect())
    }

    fn says(&self, key: u64, window: u64) -> bool {
        self.place(key).load(Ordering::Relaxed) == Self::mark(key, window)
    }

    fn note(&self, key: u64, window: u64) {
        self.place(key).store(Self::mark(key, window), Ordering::Relaxed);
    }

    #[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
    fn place(&self, key: u64) -> &AtomicU64 {
        &self.0[key as usize % Self::PLACES]
    }

    fn mark(key: u64, window: u64) -> u64 {
        (key ^ window.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1
    }
}
