//! [`Interned`]: one small number for a throttle, strategy and period.
//!
//! A table slot in memory must say whose state it holds, in few bytes. The triple is given a number
//! when a throttle is built, and keeps it for the life of the process, so a number never changes its
//! meaning under a slot. The registry thus grows with the throttles of a program, not with its keys.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

use parking_lot::RwLock;

use super::packed::Packed;
use super::{Core, Limit, State, Tag};
use crate::clock::Timestamp;

/// The state of one strategy with one period, of one throttle.
#[derive(Debug)]
pub(crate) struct Interned {
    id: u32,
    /// Places the state in a table, together with the hash of the key.
    salt: u64,
    throttle: Arc<str>,
    tag: Tag,
    period: u64,
    /// How its packed counts fade; set by the first limit that has any.
    packed: OnceLock<Core>,
    /// The slowest refill of any limit that shares the state. A bucket that is full again even at that
    /// pace says no more than a missing one.
    slowest: AtomicU32,
    /// A limit that shares the state does not fit a packed count.
    wide: AtomicBool,
}

/// Every number's meaning, in chunks that double in size and never move: reading takes no lock.
static BY_ID: [OnceLock<Box<[OnceLock<&'static Interned>]>>; 27] = [const { OnceLock::new() }; 27];
const FIRST_CHUNK: u32 = 64;

static BY_THROTTLE: LazyLock<RwLock<Index>> = LazyLock::new(RwLock::default);

#[derive(Default)]
struct Index {
    throttles: HashMap<Arc<str>, Vec<&'static Interned>>,
    next: u32,
}

impl Interned {
    #[inline(always)]
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// What is mixed into the hash of a key, to place this state of it in a table.
    ///
    /// Random bits for the throttle, so that the same key of many throttles spreads; and in the seven
    /// highest, by which a table tells apart what is in one group of buckets, the number of the state
    /// within its throttle. So all limits of one key lie close together.
    #[inline(always)]
    pub(crate) fn salt(&self) -> u64 {
        self.salt
    }

    /// Whether the state may need more than a packed count.
    #[inline(always)]
    pub(crate) fn is_wide(&self) -> bool {
        self.wide.load(Ordering::Relaxed)
    }

    /// The throttle's name; every throttle of that name should hold this very one.
    pub(crate) fn throttle(&self) -> &Arc<str> {
        &self.throttle
    }

    /// Whether it is of that throttle. Asked at each hit, so by the place of the name where that is
    /// enough.
    #[inline(always)]
    pub(crate) fn is_of(&self, throttle: &str) -> bool {
        std::ptr::eq(&*self.throttle, throttle) || *self.throttle == *throttle
    }

    /// Whether a packed count says no more than a missing one.
    pub(crate) fn is_spent(&self, count: u64, last: Timestamp, now: Timestamp) -> bool {
        fn settled<P: Packed>(meter: &P, count: u64, last: Timestamp, now: Timestamp) -> bool {
            meter.settle(P::unpack(count), last, now) == P::Count::default()
        }
        match self.packed.get() {
            Some(Core::Bucket(meter)) => {
                let slowest = self.slowest.load(Ordering::Relaxed);
                settled(&meter.with_limit(slowest), count, last, now)
            }
            Some(Core::Fixed(meter)) => settled(meter, count, last, now),
            Some(Core::Sliding(meter)) => settled(meter, count, last, now),
            Some(Core::Unlimited | Core::DenyAll | Core::Words { .. }) | None => false,
        }
    }

    /// The words of a packed count.
    pub(crate) fn words(&self, count: u64, last: Timestamp) -> State {
        fn stored<P: Packed>(meter: &P, count: u64, state: &mut State) {
            meter.store(P::unpack(count), state);
        }
        let mut state = State::new(last, Vec::new());
        match self.packed.get() {
            Some(Core::Bucket(meter)) => stored(meter, count, &mut state),
            Some(Core::Fixed(meter)) => stored(meter, count, &mut state),
            Some(Core::Sliding(meter)) => stored(meter, count, &mut state),
            Some(Core::Unlimited | Core::DenyAll | Core::Words { .. }) | None => {}
        }
        state
    }

    /// Takes note of a limit that shares the state.
    fn admit(&self, limit: &Limit) {
        match limit.core() {
            Core::Bucket(_) | Core::Fixed(_) | Core::Sliding(_) => {
                self.slowest.fetch_min(limit.rate().limit(), Ordering::Relaxed);
                let _ = self.packed.set(*limit.core());
            }
            Core::Words { .. } => self.wide.store(true, Ordering::Relaxed),
            Core::Unlimited | Core::DenyAll => {}
        }
    }
}

/// The number of a limit's state in a throttle of that name; made if it is new.
pub(crate) fn intern(throttle: &str, limit: &Limit) -> &'static Interned {
    let period = limit.rate().period_micros();
    let found = |index: &Index| {
        let of_throttle = index.throttles.get(throttle)?;
        of_throttle.iter().copied().find(|i| i.tag == limit.tag() && i.period == period)
    };
    let existing = found(&BY_THROTTLE.read());
    let interned = existing.unwrap_or_else(|| {
        let mut index = BY_THROTTLE.write();
        found(&index).unwrap_or_else(|| index.add(throttle, limit.tag(), period))
    });
    interned.admit(limit);
    interned
}

/// All that were ever interned for a throttle of that name.
pub(crate) fn of_throttle(throttle: &str) -> Vec<&'static Interned> {
    BY_THROTTLE.read().throttles.get(throttle).cloned().unwrap_or_default()
}

/// The meaning of a number that [`intern`] gave.
#[inline]
pub(crate) fn by_id(id: u32) -> Option<&'static Interned> {
    let (chunk, offset) = place(id);
    BY_ID.get(chunk)?.get()?.get(offset)?.get().copied()
}

/// Where a number is kept: chunk `k` holds `64 << k` of them.
fn place(id: u32) -> (usize, usize) {
    let chunk = (id / FIRST_CHUNK + 1).ilog2();
    let before = FIRST_CHUNK * ((1 << chunk) - 1);
    (chunk as usize, (id - before) as usize)
}

impl Index {
    fn add(&mut self, throttle: &str, tag: Tag, period: u64) -> &'static Interned {
        let name = match self.throttles.get_key_value(throttle) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::from(throttle),
        };
        let within = self.throttles.get(throttle).map_or(0, Vec::len) as u64;
        let interned: &'static Interned = Box::leak(Box::new(Interned {
            id: self.next,
            salt: (crate::key::hasher().hash_one(throttle) >> 7) ^ (within << 57),
            throttle: Arc::clone(&name),
            tag,
            period,
            packed: OnceLock::new(),
            slowest: AtomicU32::new(u32::MAX),
            wide: AtomicBool::new(false),
        }));
        let (chunk, offset) = place(self.next);
        let size = (FIRST_CHUNK as usize) << chunk;
        let chunk = BY_ID[chunk].get_or_init(|| (0..size).map(|_| OnceLock::new()).collect());
        let _ = chunk[offset].set(interned);
        self.next = self.next.checked_add(1).expect("fewer than 2^32 limits in a process");
        self.throttles.entry(name).or_default().push(interned);
        interned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::Rate;
    use crate::strategy::{FixedWindow, TokenBucket};

    #[test]
    fn the_same_triple_has_the_same_number() {
        let bucket = |rate| Limit::new(rate, TokenBucket::new()).unwrap();
        let minute = intern("interned", &bucket(Rate::per_minute(5)));
        assert_eq!(minute.id(), intern("interned", &bucket(Rate::per_minute(9).burst(20))).id());
        assert_ne!(minute.id(), intern("interned", &bucket(Rate::per_hour(5))).id());
        assert_ne!(minute.id(), intern("other", &bucket(Rate::per_minute(5))).id());
        let window = Limit::new(Rate::per_minute(5), FixedWindow::new()).unwrap();
        assert_ne!(minute.id(), intern("interned", &window).id());
        assert_eq!(of_throttle("interned").len(), 3);
        assert!(std::ptr::eq(by_id(minute.id()).unwrap(), minute));
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
        assert!(chunk < BY_ID.len());
    }

    #[test]
    fn a_bucket_is_spent_at_the_slowest_pace_that_shares_it() {
        let fast = Limit::new(Rate::per_second(10), TokenBucket::new()).unwrap();
        let interned = intern("spent", &fast);
        let at = |micros| Timestamp::from_micros(micros);
        assert!(interned.is_spent(1_000_000, at(0), at(100_000)));
        intern("spent", &Limit::new(Rate::per_second(1), TokenBucket::new()).unwrap());
        assert!(!interned.is_spent(1_000_000, at(0), at(999_999)));
        assert!(interned.is_spent(1_000_000, at(0), at(1_000_000)));
    }
}
