//! Names of items, written down so that `clear` finds them: a server has no way to list its keys.
//!
//! Each namespace has 64 lists, each an item of lines `<minute> <name>`. A process writes a name down
//! before it first writes the item, and again after an hour: only a name that nobody wrote down for three
//! hours, and whose item is gone, is left out when a list is full. Clearing leaves the names: other
//! processes rely on their being there.
//!
//! What does not fit is counted ([`Counter::Untracked`]) and said once; `clear` will not find it. A
//! list that the server evicted is written anew within the hour.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tracing::warn;

use super::connection::{Answer, Command};
use super::expiry::{LONG_PAST, NEVER};
use super::{Inner, errors, keys};
use crate::backend::{Counter, Result, cas};
use crate::clock::{Clock, WallClock};

pub(super) const SHARDS: usize = 64;
/// Some 2,500 names of 50 bytes; over all lists 160,000.
const MAX_LIST: usize = 128 * 1024;
/// Names that a process remembers to have written down, for each list.
const MAX_KNOWN: usize = 8192;
const MAX_ATTEMPTS: u32 = 32;
/// Minutes.
const WRITE_AGAIN: u64 = 60;
const FORGET: u64 = 180;
const DELETIONS_AT_ONCE: usize = 16;

#[derive(Debug)]
pub(super) struct Tracker {
    lists: Vec<List>,
    warned: AtomicBool,
}

#[derive(Debug, Default)]
struct List {
    turn: tokio::sync::Mutex<()>,
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    /// When this process wrote each down.
    known: HashMap<Box<str>, u64, ahash::RandomState>,
    /// To be written down by whoever has the turn.
    waiting: Vec<Box<str>>,
}

/// The names of a list and when each was last written down.
#[derive(Debug, Default, PartialEq, Eq)]
struct Written(BTreeMap<Box<str>, u64>);

impl Tracker {
    pub(super) fn new() -> Self {
        Self {
            lists: (0..SHARDS).map(|_| List::default()).collect(),
            warned: AtomicBool::new(false),
        }
    }
}

impl List {
    fn knows(&self, name: &str, now: u64) -> bool {
        let names = self.names.lock();
        names.known.get(name).is_some_and(|minute| now < minute + WRITE_AGAIN)
    }

    /// All that wait, and `name`.
    fn batch(&self, name: &str) -> Vec<Box<str>> {
        let mut batch = std::mem::take(&mut self.names.lock().waiting);
        if !batch.iter().any(|waiting| **waiting == *name) {
            batch.push(name.into());
        }
        batch
    }

    fn learn(&self, batch: Vec<Box<str>>, now: u64) {
        let mut names = self.names.lock();
        if names.known.len() + batch.len() > MAX_KNOWN {
            names.known.clear();
        }
        names.known.extend(batch.into_iter().map(|name| (name, now)));
    }
}

impl Written {
    fn parse(bytes: &[u8]) -> Self {
        let line = |line: &[u8]| {
            let (minute, name) = std::str::from_utf8(line).ok()?.split_once(' ')?;
            keys::is_plain_rest(name).then_some((name.into(), minute.parse().ok()?))
        };
        Self(bytes.split(|byte| *byte == b'\n').filter_map(line).collect())
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        for (name, minute) in &self.0 {
            let _ = writeln!(text, "{minute} {name}");
        }
        text
    }

    /// Adds names as far as they fit; says whether anything changed, and how many did not fit.
    fn add(&mut self, batch: &[Box<str>], now: u64) -> (bool, u64) {
        let mut room = MAX_LIST.saturating_sub(self.to_text().len());
        let (mut changed, mut left_out) = (false, 0);
        for name in batch {
            let needed = name.len() + 22;
            match self.0.get_mut(name) {
                Some(minute) if now < *minute + WRITE_AGAIN => {}
                Some(minute) => (*minute, changed) = (now, true),
                None if needed <= room => {
                    room -= needed;
                    changed = true;
                    self.0.insert(name.clone(), now);
                }
                None => left_out += 1,
            }
        }
        (changed, left_out)
    }
}

fn minute() -> u64 {
    WallClock::new().now().as_micros() / 60_000_000
}

impl Inner {
    /// Writes a name down, if names are tracked. What goes wrong is counted and said, and does not stop
    /// the hit.
    pub(super) async fn track(&self, name: &str) {
        if let Some(tracker) = &self.tracker {
            Box::pin(self.track_by(tracker, name)).await;
        }
    }

    async fn track_by(&self, tracker: &Tracker, name: &str) {
        let name = keys::without_namespace(self.settings.namespace(), name);
        let now = minute();
        let shard = list_of(name);
        let list = &tracker.lists[shard];
        if list.knows(name, now) {
            return;
        }
        list.names.lock().waiting.push(name.into());
        let _turn = list.turn.lock().await;
        // Whoever had the turn before may have taken it along.
        if list.knows(name, now) {
            return;
        }
        let batch = list.batch(name);
        match self.write_down(shard, &batch, now).await {
            Ok(0) => {}
            Ok(left_out) => self.untracked(tracker, left_out, "its list is full"),
            Err(error) => {
                let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
                self.untracked(tracker, count, &error.to_string());
                return;
            }
        }
        list.learn(batch, now);
    }

    fn untracked(&self, tracker: &Tracker, count: u64, why: &str) {
        (0..count).for_each(|_| self.settings.increase(Counter::Untracked));
        if !tracker.warned.swap(true, Ordering::Relaxed) {
            let namespace = self.settings.namespace();
            warn!(
                backend = super::NAME,
                namespace, why, "a key is not tracked, so that a clear will not find it; said once"
            );
        }
    }

    /// Adds names to a list; says how many did not fit.
    async fn write_down(&self, shard: usize, batch: &[Box<str>], now: u64) -> Result<u64> {
        const OPERATION: &str = "track";
        let key = &keys::of_list(self.settings.namespace(), shard);
        let node = self.nodes.index_of(key);
        for attempt in 0..MAX_ATTEMPTS {
            cas::pause(attempt).await;
            let (mut written, version) = self.read_list(OPERATION, shard).await?;
            let (mut changed, mut left_out) = written.add(batch, now);
            if left_out > 0 && self.compact(&mut written, now).await? {
                (_, left_out) = written.add(batch, now);
                changed = true;
            }
            if !changed {
                return Ok(left_out);
            }
            let text = written.to_text();
            let value = text.as_bytes();
            let command = match version {
                Some(version) => Command::Cas { key, value, version, exptime: NEVER },
                None => Command::Add { key, value, exptime: NEVER },
            };
            if let Answer::Done = self.nodes.call(node, OPERATION, command).await? {
                return Ok(left_out);
            }
        }
        Err(errors::contended(OPERATION))
    }

    async fn read_list(
        &self,
        operation: &'static str,
        shard: usize,
    ) -> Result<(Written, Option<u64>)> {
        let key = keys::of_list(self.settings.namespace(), shard);
        let node = self.nodes.index_of(&key);
        match self.nodes.call(node, operation, Command::Gets(&key)).await? {
            Answer::Value(text, version) => Ok((Written::parse(&text), Some(version))),
            Answer::Missing => Ok((Written::default(), None)),
            _ => Err(errors::unexpected(operation)),
        }
    }

    /// Leaves out names that are old and whose items are gone; says whether there were any.
    async fn compact(&self, written: &mut Written, now: u64) -> Result<bool> {
        let namespace = self.settings.namespace();
        let mut by_node = vec![Vec::new(); self.nodes.len()];
        for (name, minute) in &written.0 {
            if minute + FORGET <= now {
                let name = format!("{namespace}{name}");
                by_node[self.nodes.index_of(&name)].push(name);
            }
        }
        let before = written.0.len();
        for (node, names) in by_node.into_iter().enumerate() {
            for names in names.chunks(DELETIONS_AT_ONCE) {
                let found = self.get_many(node, "track", names).await?;
                for gone in names.iter().filter(|name| !found.contains_key(*name)) {
                    written.0.remove(keys::without_namespace(namespace, gone));
                }
            }
        }
        Ok(written.0.len() < before)
    }

    /// Deletes all items whose names are written down.
    pub(super) async fn clear_tracked(self: &Arc<Self>) -> Result<()> {
        let mut deletions = JoinSet::new();
        for shard in 0..SHARDS {
            let (written, _) = self.read_list("clear", shard).await?;
            for name in written.0.into_keys() {
                if deletions.len() >= DELETIONS_AT_ONCE {
                    finished(deletions.join_next().await)?;
                }
                let inner = Arc::clone(self);
                deletions.spawn(async move { inner.delete_item(&name).await });
            }
        }
        while let Some(deleted) = deletions.join_next().await {
            finished(Some(deleted))?;
        }
        Ok(())
    }

    async fn delete_item(&self, rest: &str) -> Result<()> {
        let key = &format!("{}{rest}", self.settings.namespace());
        let node = self.nodes.index_of(key);
        for attempt in 0..cas::MAX_ATTEMPTS {
            cas::pause(attempt).await;
            let found = self.nodes.call(node, "clear", Command::Gets(key)).await?;
            let Answer::Value(_, version) = found else { return Ok(()) };
            let delete = Command::Cas { key, value: b"", version, exptime: LONG_PAST };
            if !matches!(self.nodes.call(node, "clear", delete).await?, Answer::Changed) {
                return Ok(());
            }
        }
        Err(errors::contended("clear"))
    }
}

fn finished(deleted: Option<Result<Result<()>, tokio::task::JoinError>>) -> Result<()> {
    match deleted {
        None => Ok(()),
        Some(Ok(deleted)) => deleted,
        Some(Err(_)) => Err(errors::unexpected("clear")),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
fn list_of(name: &str) -> usize {
    keys::stable_hash(name.as_bytes()) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(number: usize) -> Box<str> {
        format!("/t/api/{number:040}").into()
    }

    #[test]
    fn a_list_is_bounded_without_repeats_and_renewed_in_time() {
        let mut list = Written::default();
        assert_eq!(list.add(&[name(1), name(1)], 100), (true, 0));
        assert_eq!(list.0.len(), 1);
        assert_eq!(list.add(&[name(1)], 159), (false, 0), "still fresh");
        assert_eq!(list.add(&[name(1)], 160), (true, 0), "written again");
        let many: Vec<_> = (0..10_000).map(name).collect();
        let (changed, left_out) = list.add(&many, 160);
        assert!(changed && left_out > 0);
        assert_eq!(list.0.len() + usize::try_from(left_out).unwrap(), 10_000);
        assert!(list.to_text().len() <= MAX_LIST);
        assert_eq!(Written::parse(list.to_text().as_bytes()), list);
    }

    proptest! {
        #[test]
        fn f30_a_list_is_never_trusted(bytes: Vec<u8>, name in "\\PC{0,20}") {
            Written::parse(&bytes);
            let line = format!("1 {name}\n1 /t/a\r\nflush_all\n1 /l/lock\n");
            let parsed = Written::parse(line.as_bytes());
            let harmless = |name: &str| !name.contains(['\r', ' ']) && !name.starts_with("/l/");
            prop_assert!(parsed.0.keys().all(|name| harmless(name)));
        }
    }
}
