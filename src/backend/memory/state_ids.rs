//! [`StateIds`]: numbers the states that the keys of a backend can have, and the writers of each state.
//!
//! A table slot must tell whose state it holds, in few bytes. A throttle's name, a strategy and a period
//! make a *state*. Throttles of one name whose buckets have different limits share it; each is a *writer*
//! with a number of its own, so that a slot also tells by which limit its count drains. A number keeps
//! its meaning for the life of the backend, and dies with it. Their count grows with the throttles that
//! are built on the backend, not with its keys or with the rates that hits bring: these are one more
//! state, a list.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;

use super::stored_key::KeyHasher;
use crate::clock::Timestamp;
use crate::strategy::{AnyMeter, CompiledLimit, Limit, PartId, StrategyId};

/// The numbers of one backend.
#[derive(Debug, Default)]
pub(super) struct StateIds {
    hasher: KeyHasher,
    throttles: RwLock<HashMap<Arc<str>, Arc<Throttled>, ahash::RandomState>>,
    /// The meaning of each number, in chunks that double in size and never move: reading takes no lock.
    by_id: [OnceLock<Chunk>; CHUNKS],
    next: AtomicU32,
}

type Chunk = Box<[OnceLock<Arc<StateInfo>>]>;

const CHUNKS: usize = 27;
const FIRST_CHUNK: u32 = 64;

/// The states of all throttles of one name.
#[derive(Debug)]
struct Throttled {
    name: Arc<str>,
    /// Random bits, so that the same key of many throttles spreads over a table.
    salt: u64,
    /// Their numbers.
    writers: RwLock<HashMap<Writer, u32, ahash::RandomState>>,
    /// The number of one writer of the first state, which has that of the next.
    first_state: OnceLock<u32>,
    states: AtomicU32,
    /// The number of the blocks, once a key was blocked.
    block: OnceLock<u32>,
    /// Keys that are blocked, also those whose block is over and not swept yet. Changed while `writers` is
    /// locked.
    blocks: AtomicUsize,
}

/// What tells a writer from the others of its throttle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Writer {
    strategy: StrategyId,
    period: u64,
    /// Of a bucket with a packed count, which drains by it.
    limit: u32,
    is_packed: bool,
}

/// One state of the keys of a throttle, as one of its writers knows it.
#[derive(Debug)]
pub(super) struct StateInfo {
    id: u32,
    writer: Writer,
    /// Places the state in a table, together with the hash of the key.
    salt: u64,
    /// The number of the state among those of the throttle.
    state: u32,
    throttled: Arc<Throttled>,
    /// How its packed counts change with time.
    meter: Option<AnyMeter>,
    /// Why a hit may not be a matter of a packed count alone: [`WORDS`], [`BLOCKS`].
    flags: AtomicU8,
    /// Of the first writer of a state: the number of that of the next state.
    next_state: OnceLock<u32>,
}

/// A limit that shares the state does not fit a packed count.
const WORDS: u8 = 1;
/// Keys of the throttle are blocked. While none is, no hit looks for a block.
const BLOCKS: u8 = 2;

impl StateInfo {
    #[inline]
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Returns whether the limit is the writer of that number.
    pub(super) fn is_written_by(&self, limit: &Limit) -> bool {
        self.writer == Writer::of(limit).0
    }

    /// Returns what is mixed into the hash of a key, to place this state of it in a table.
    ///
    /// The seven highest bits, by which a table tells apart what is in one group of buckets, hold the
    /// number of the state within its throttle. So all limits of one key lie close together.
    #[inline]
    pub(super) fn salt(&self) -> u64 {
        self.salt
    }

    /// Returns whether the state may need more than a packed count.
    #[inline]
    pub(super) fn needs_words(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & WORDS != 0
    }

    /// Returns whether any key of the throttle may be blocked.
    #[inline]
    pub(super) fn may_be_blocked(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & BLOCKS != 0
    }

    /// Returns whether a packed count is all that there is to any key.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.flags.load(Ordering::Relaxed) == 0
    }

    fn set(&self, flag: u8) {
        self.flags.fetch_or(flag, Ordering::Relaxed);
    }

    fn unset(&self, flag: u8) {
        self.flags.fetch_and(!flag, Ordering::Relaxed);
    }

    /// Returns how packed counts of this writer change with time.
    pub(super) fn meter(&self) -> Option<&AnyMeter> {
        self.meter.as_ref()
    }

    /// Returns whether the keys of the throttle can have other states too.
    #[inline]
    pub(super) fn has_siblings(&self) -> bool {
        self.throttled.states.load(Ordering::Relaxed) > 1
    }

    /// Returns from when on a packed count of this writer reads as missing.
    pub(super) fn reset_at(&self, count: u64, last: Timestamp) -> Timestamp {
        self.meter.as_ref().map_or(Timestamp::MAX, |meter| meter.reset_at(count, last))
    }

    /// Returns the name of its throttles.
    pub(super) fn throttle(&self) -> &Arc<str> {
        &self.throttled.name
    }

    /// Returns the limit by which packed counts of this writer drain; 1 where it does not matter, and 0 if its states are
    /// words.
    pub(super) fn drain(&self) -> u32 {
        if self.writer.is_packed { self.writer.limit.max(1) } else { 0 }
    }

    /// Returns which part of a key's stored value it would be, but for the list of the rates that hits brought.
    pub(super) const fn part(&self) -> PartId {
        PartId { strategy: self.writer.strategy, period: self.writer.period, limit: 0, burst: 0 }
    }

    fn is_state_of(&self, other: &Self) -> bool {
        self.state == other.state && Arc::ptr_eq(&self.throttled, &other.throttled)
    }
}

impl Writer {
    /// Returns the writer of a limit; of a rate that a hit brought, the list of these.
    fn of(limit: &Limit) -> (Self, Option<AnyMeter>) {
        if limit.is_per_hit() {
            return (Self::BROUGHT, None);
        }
        let meter = match limit.compiled() {
            CompiledLimit::Packed(meter) => Some(*meter),
            _ => None,
        };
        let writer = Self {
            strategy: limit.strategy_id(),
            period: limit.rate().period_micros(),
            limit: match meter {
                Some(AnyMeter::Bucket(_)) => limit.rate().limit(),
                _ => 0,
            },
            is_packed: meter.is_some(),
        };
        (writer, meter)
    }

    /// The list of the rates that hits brought.
    const BROUGHT: Self =
        Self { strategy: StrategyId::BROUGHT, period: 0, limit: 0, is_packed: false };

    /// A block, which concerns all limits of the key.
    const BLOCK: Self = Self { strategy: StrategyId::BLOCK, ..Self::BROUGHT };

    fn is_state_of(&self, other: &Self) -> bool {
        self.strategy == other.strategy && self.period == other.period
    }
}

impl StateIds {
    pub(super) fn new(hasher: KeyHasher) -> Self {
        Self { hasher, ..Self::default() }
    }

    /// Returns what hashes the keys of the backend.
    #[inline]
    pub(super) fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }

    /// Returns the number of a limit's state in a throttle called `throttle`; made if it is new.
    pub(super) fn of(&self, throttle: &str, limit: &Limit) -> Arc<StateInfo> {
        let (writer, meter) = Writer::of(limit);
        let info = self.written_by(writer, meter, throttle);
        let uses_words =
            matches!(limit.compiled(), CompiledLimit::Wide(_) | CompiledLimit::Words { .. });
        if uses_words {
            self.require_words(&info);
        }
        info
    }

    /// Returns the number of the state that a part of a stored value is of, in a throttle called `throttle`; made if it is
    /// new. `drain` is that of its writer.
    pub(super) fn of_part(&self, throttle: &str, part: PartId, drain: u32) -> Arc<StateInfo> {
        let PartId { strategy, period, .. } = part;
        if part == PartId::BLOCK {
            return self.block_of(throttle);
        } else if part.is_per_hit() {
            return self.written_by(Writer::BROUGHT, None, throttle);
        }
        let meter = AnyMeter::of_counts(strategy, period, drain);
        let limit = if strategy == StrategyId::BUCKET { drain } else { 0 };
        let writer = Writer { strategy, period, limit, is_packed: meter.is_some() };
        let info = self.written_by(writer, meter, throttle);
        if !writer.is_packed {
            self.require_words(&info);
        }
        info
    }

    fn written_by(
        &self,
        writer: Writer,
        meter: Option<AnyMeter>,
        throttle: &str,
    ) -> Arc<StateInfo> {
        let throttled = self.throttled(throttle);
        let existing = throttled.writers.read().get(&writer).copied();
        let info = existing.and_then(|id| self.shared(id).cloned());
        info.unwrap_or_else(|| self.add(&throttled, writer, meter))
    }

    /// Returns the number of the blocks of a throttle called `throttle`; made if it is new.
    pub(super) fn block_of(&self, throttle: &str) -> Arc<StateInfo> {
        let throttled = self.throttled(throttle);
        let info = self.add(&throttled, Writer::BLOCK, None);
        let _ = throttled.block.set(info.id());
        info
    }

    /// Returns the blocks of the throttle that has this state; `None` if no key of it was ever blocked.
    pub(super) fn block_beside(&self, info: &StateInfo) -> Option<&StateInfo> {
        self.get(*info.throttled.block.get()?)
    }

    /// Counts a key that is blocked, before its block is stored.
    pub(super) fn add_block(&self, block: &StateInfo) {
        let writers = block.throttled.writers.write();
        if block.throttled.blocks.fetch_add(1, Ordering::Relaxed) == 0 {
            let all = writers.values().filter_map(|id| self.get(*id));
            all.for_each(|info| info.set(BLOCKS));
        }
    }

    /// Counts a key that is blocked no more.
    pub(super) fn remove_block(&self, block: &StateInfo) {
        let writers = block.throttled.writers.write();
        if block.throttled.blocks.fetch_sub(1, Ordering::Relaxed) == 1 {
            let all = writers.values().filter_map(|id| self.get(*id));
            all.for_each(|info| info.unset(BLOCKS));
        }
    }

    /// Returns the blocks of that number; `None` if it is of a limit's states.
    pub(super) fn blocks(&self, id: u32) -> Option<&StateInfo> {
        self.get(id).filter(|info| info.writer == Writer::BLOCK)
    }

    /// From now on the state is written as words, whoever writes it.
    pub(super) fn require_words(&self, info: &StateInfo) {
        // All at once: who finds its own flag set may write words, which no other must overlook.
        let writers = info.throttled.writers.write();
        let same = writers.values().filter_map(|id| self.get(*id));
        let same = same.filter(|other| other.is_state_of(info));
        same.for_each(|other| other.set(WORDS));
    }

    /// Returns a writer of each state that any throttle called `throttle` has had.
    pub(super) fn all_of(&self, throttle: &str) -> impl Iterator<Item = &StateInfo> {
        let throttled = self.throttles.read().get(throttle).cloned();
        self.following(throttled.and_then(|throttled| throttled.first_state.get().copied()))
    }

    /// Returns a writer of each state of the throttle that has this one.
    pub(super) fn siblings_of(&self, info: &StateInfo) -> impl Iterator<Item = &StateInfo> {
        self.following(info.throttled.first_state.get().copied())
    }

    fn following(&self, first: Option<u32>) -> impl Iterator<Item = &StateInfo> {
        let first = first.and_then(|id| self.get(id));
        std::iter::successors(first, |state| self.get(*state.next_state.get()?))
    }

    /// Returns the meaning of a number.
    #[inline]
    pub(super) fn get(&self, id: u32) -> Option<&StateInfo> {
        self.shared(id).map(|info| &**info)
    }

    #[inline]
    fn shared(&self, id: u32) -> Option<&Arc<StateInfo>> {
        let (chunk, offset) = place(id);
        self.by_id.get(chunk)?.get()?.get(offset)?.get()
    }

    /// Returns whether the number is of the same state, perhaps by another writer.
    #[cold]
    pub(super) fn is_same_state(&self, info: &StateInfo, id: u32) -> bool {
        self.get(id).is_some_and(|other| info.is_state_of(other))
    }

    fn throttled(&self, throttle: &str) -> Arc<Throttled> {
        if let Some(throttled) = self.throttles.read().get(throttle) {
            return Arc::clone(throttled);
        }
        let mut throttles = self.throttles.write();
        Arc::clone(throttles.entry(throttle.into()).or_insert_with(|| {
            Arc::new(Throttled {
                name: throttle.into(),
                salt: self.hasher.salt(throttle),
                writers: RwLock::default(),
                first_state: OnceLock::new(),
                states: AtomicU32::new(0),
                block: OnceLock::new(),
                blocks: AtomicUsize::new(0),
            })
        }))
    }

    fn add(
        &self,
        throttled: &Arc<Throttled>,
        writer: Writer,
        meter: Option<AnyMeter>,
    ) -> Arc<StateInfo> {
        let mut writers = throttled.writers.write();
        if let Some(info) = writers.get(&writer).and_then(|id| self.shared(*id)) {
            return Arc::clone(info);
        }
        let same = writers.iter().find(|(other, _)| writer.is_state_of(other));
        let same = same.and_then(|(_, id)| self.get(*id));
        let (state, needs_words) = match same {
            Some(info) => (info.state, info.needs_words()),
            None => {
                let uses_words = [Writer::BROUGHT, Writer::BLOCK].contains(&writer);
                (throttled.states.fetch_add(1, Ordering::Relaxed), uses_words)
            }
        };
        let are_blocked = throttled.blocks.load(Ordering::Relaxed) > 0;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        assert!(id < u32::MAX, "a backend has fewer than 2^32 limits");
        let info = Arc::new(StateInfo {
            id,
            writer,
            salt: (throttled.salt >> 7) ^ (u64::from(state) << 57),
            state,
            throttled: Arc::clone(throttled),
            meter,
            flags: AtomicU8::new(u8::from(needs_words) * WORDS + u8::from(are_blocked) * BLOCKS),
            next_state: OnceLock::new(),
        });
        let (chunk, offset) = place(id);
        let size = (FIRST_CHUNK as usize) << chunk;
        let chunk = self.by_id[chunk].get_or_init(|| (0..size).map(|_| OnceLock::new()).collect());
        let _ = chunk[offset].set(Arc::clone(&info));
        if same.is_none() {
            let last = self.siblings_of(&info).last();
            let _ = last.map_or(&throttled.first_state, |last| &last.next_state).set(id);
        }
        writers.insert(writer, id);
        info
    }
}

/// Returns where a number is kept: chunk `k` holds `64 << k` of them.
fn place(id: u32) -> (usize, usize) {
    let chunk = (id / FIRST_CHUNK + 1).ilog2();
    let before = FIRST_CHUNK * ((1 << chunk) - 1);
    (chunk as usize, (id - before) as usize)
}

#[cfg(all(test, not(traffik_model)))]
mod tests {
    use super::*;
    use crate::rate::Rate;
    use crate::strategy::{FixedWindow, TokenBucket};

    fn bucket(rate: Rate) -> Limit {
        Limit::new(rate, TokenBucket::new()).expect("a valid limit")
    }

    #[test]
    fn a_number_is_of_a_state_and_its_writer() {
        let ids = StateIds::default();
        let five = ids.of("t", &bucket(Rate::per_minute(5)));
        let same = ids.of("t", &bucket(Rate::per_minute(5).burst(20)));
        assert_eq!(five.id(), same.id(), "a burst changes nothing that is stored");
        let nine = ids.of("t", &bucket(Rate::per_minute(9)));
        assert_ne!(five.id(), nine.id());
        assert!(ids.is_same_state(&five, nine.id()) && five.salt() == nine.salt());
        assert!(!five.has_siblings());

        let hour = ids.of("t", &bucket(Rate::per_hour(5)));
        assert!(!ids.is_same_state(&five, hour.id()) && five.salt() != hour.salt());
        let other = ids.of("other", &bucket(Rate::per_minute(5)));
        assert!(!ids.is_same_state(&five, other.id()));
        let window = Limit::new(Rate::per_minute(5), FixedWindow::new()).unwrap();
        assert!(!ids.is_same_state(&five, ids.of("t", &window).id()));
        assert!(five.has_siblings());
        assert_eq!(ids.siblings_of(&five).count(), 3, "writers of one state are one");
        assert!(std::ptr::eq(ids.get(five.id()).unwrap(), &*five));
        assert_eq!(ids.all_of("t").count(), 3);
        assert_eq!(ids.all_of("none").count(), 0);
    }

    #[test]
    fn a_state_that_needs_words_does_so_for_all_its_writers() {
        let ids = StateIds::default();
        let first = ids.of("t", &bucket(Rate::per_day(5)));
        assert!(!first.needs_words());
        ids.of("t", &bucket(Rate::per_day(4_000_000_000)));
        assert!(first.needs_words());
        assert!(ids.of("t", &bucket(Rate::per_day(6))).needs_words(), "also one that comes later");
    }

    #[test]
    fn c4_the_rates_that_hits_bring_are_one_state_and_slow_no_other() {
        let ids = StateIds::default();
        let own = bucket(Rate::per_day(5));
        let info = ids.of("t", &own);
        let brought = |rate| ids.of("t", &bucket(rate).brought_beside(&own)).id();
        let first = brought(Rate::per_hour(1));
        for number in 2..10_000 {
            assert_eq!(brought(Rate::per_hour(number)), first);
        }
        // One that needs words leaves the throttle's own limit packed.
        assert_eq!(brought(Rate::per_day(4_000_000_000)), first);
        assert!(!info.needs_words());
        assert_eq!(ids.next.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_numbers_end_with_their_backend() {
        let ids = StateIds::default();
        let info = ids.of("t", &bucket(Rate::per_minute(5)));
        let weak = Arc::downgrade(&info);
        drop(info);
        assert!(weak.upgrade().is_some());
        drop(ids);
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn chunks_follow_one_another() {
        let mut expected = (0, 0);
        for id in 0..100_000 {
            assert_eq!(place(id), expected, "{id}");
            expected.1 += 1;
            if expected.1 == (FIRST_CHUNK as usize) << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
        let (chunk, _) = place(u32::MAX);
        assert!(chunk < CHUNKS);
    }
}
