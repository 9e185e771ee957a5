//! [`Interned`]: one small number for a throttle, strategy, period and, for a bucket, limit.
//!
//! A table slot in memory must say whose state it holds, in few bytes. The combination is given a
//! number when a throttle is built, and keeps it for the life of the process, so a number never
//! changes its meaning under a slot. The registry thus grows with the throttles of a program, not with
//! its keys or with the rates that hits bring.
//!
//! A strategy and a period name one *state* of a key. Throttles of one name whose buckets differ in
//! their limits share it; each has a number of its own, so that a slot also says who wrote it last.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

use parking_lot::RwLock;

use super::{Core, Limit, Meter, PartId, Tag};
use crate::clock::Timestamp;

/// The states of all throttles of one name.
#[derive(Debug)]
struct Family {
    throttle: Arc<str>,
    /// The first of its members; each has the next.
    first: OnceLock<&'static Interned>,
    states: AtomicU32,
    /// The list of the rates that hits brought.
    brought: OnceLock<&'static Interned>,
}

/// One state of the keys of a throttle, as one of its writers knows it.
#[derive(Debug)]
pub(crate) struct Interned {
    id: u32,
    /// Places the state in a table, together with the hash of the key.
    salt: u64,
    family: &'static Family,
    next: OnceLock<&'static Self>,
    /// The number of the state in the family.
    state: u32,
    tag: Tag,
    period: u64,
    /// Of a bucket; it says how the count of this writer fades.
    limit: u32,
    /// How its packed counts fade.
    meter: Option<Meter>,
    /// A limit that shares the state does not fit a packed count.
    wide: AtomicBool,
}

/// Every number's meaning, in chunks that double in size and never move: reading takes no lock.
static BY_ID: [OnceLock<Box<[OnceLock<&'static Interned>]>>; 27] = [const { OnceLock::new() }; 27];
const FIRST_CHUNK: u32 = 64;

static BY_THROTTLE: LazyLock<RwLock<Index>> = LazyLock::new(RwLock::default);

#[derive(Default)]
struct Index {
    throttles: HashMap<Arc<str>, &'static Family>,
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

    /// How packed counts of this writer fade.
    pub(crate) fn meter(&self) -> Option<&Meter> {
        self.meter.as_ref()
    }

    /// Whether it is of that throttle. Asked at each hit, so by the place of the name where that is
    /// enough.
    #[inline(always)]
    pub(crate) fn is_of(&self, throttle: &str) -> bool {
        let name = &*self.family.throttle;
        std::ptr::eq(name, throttle) || *name == *throttle
    }

    /// Whether the number is of the same state, perhaps by another writer.
    #[cold]
    pub(crate) fn is_same_state(&self, id: u32) -> bool {
        by_id(id).is_some_and(|other| {
            std::ptr::eq(other.family, self.family) && other.state == self.state
        })
    }

    /// Whether its keys can have other states too.
    #[inline(always)]
    pub(crate) fn has_siblings(&self) -> bool {
        self.family.states.load(Ordering::Relaxed) > 1
    }

    /// All of its throttle, itself among them.
    pub(crate) fn family(&self) -> impl Iterator<Item = &'static Self> + use<> {
        std::iter::successors(self.family.first.get().copied(), |member| member.next.get().copied())
    }

    /// The list of the rates that hits brought to keys of this throttle.
    pub(crate) fn brought(&self) -> &'static Self {
        self.family.brought()
    }

    /// From when on a packed count of this writer reads as missing.
    pub(crate) fn fresh_at(&self, count: u64, last: Timestamp) -> Timestamp {
        self.meter.as_ref().map_or(Timestamp::MAX, |meter| meter.fresh_at(count, last))
    }
}

impl Family {
    fn brought(&'static self) -> &'static Interned {
        self.brought.get_or_init(|| {
            let list = Writer { tag: Tag::BROUGHT, period: 0, limit: 0, meter: None };
            let interned = BY_THROTTLE.write().add(self, list);
            interned.wide.store(true, Ordering::Relaxed);
            interned
        })
    }
}

/// What tells a writer from the others of its throttle.
struct Writer {
    tag: Tag,
    period: u64,
    limit: u32,
    meter: Option<Meter>,
}

impl Writer {
    fn of(limit: &Limit) -> Self {
        let PartId { tag, period, .. } = limit.part();
        let meter = match limit.core() {
            Core::Packed(meter) => Some(*meter),
            Core::Unlimited | Core::DenyAll | Core::Wide(_) | Core::Words { .. } => None,
        };
        let limit = match meter {
            Some(Meter::Bucket(_)) => limit.rate().limit(),
            _ => 0,
        };
        Self { tag, period, limit, meter }
    }

    fn is(&self, interned: &Interned) -> bool {
        self.is_state_of(interned)
            && self.limit == interned.limit
            && self.meter.is_some() == interned.meter.is_some()
    }

    fn is_state_of(&self, interned: &Interned) -> bool {
        self.tag == interned.tag && self.period == interned.period
    }
}

/// The number of a limit's state in a throttle of that name; made if it is new.
pub(crate) fn intern(throttle: &str, limit: &Limit) -> &'static Interned {
    let writer = Writer::of(limit);
    let found = |index: &Index| {
        let first = *index.throttles.get(throttle)?.first.get()?;
        first.family().find(|interned| writer.is(interned))
    };
    let existing = found(&BY_THROTTLE.read());
    let interned = existing.unwrap_or_else(|| {
        let mut index = BY_THROTTLE.write();
        match found(&index) {
            Some(interned) => interned,
            None => {
                let family = index.family(throttle);
                index.add(family, Writer::of(limit))
            }
        }
    });
    if matches!(limit.core(), Core::Wide(_) | Core::Words { .. }) && !interned.is_wide() {
        let states = interned.family().filter(|other| interned.is_same_state(other.id));
        states.for_each(|state| state.wide.store(true, Ordering::Relaxed));
    }
    interned
}

/// The list of the rates that hits brought to keys of a throttle of that name.
pub(crate) fn brought_of(throttle: &str) -> &'static Interned {
    let family = BY_THROTTLE.write().family(throttle);
    family.brought()
}

/// The name as every throttle of that name holds it, at one place.
pub(crate) fn name_of(throttle: &str) -> Arc<str> {
    Arc::clone(&BY_THROTTLE.write().family(throttle).throttle)
}

/// Any state that was ever interned for a throttle of that name.
pub(crate) fn any_of(throttle: &str) -> Option<&'static Interned> {
    BY_THROTTLE.read().throttles.get(throttle)?.first.get().copied()
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
    fn family(&mut self, throttle: &str) -> &'static Family {
        if let Some(family) = self.throttles.get(throttle) {
            return family;
        }
        let throttle: Arc<str> = Arc::from(throttle);
        let family: &'static Family = Box::leak(Box::new(Family {
            throttle: Arc::clone(&throttle),
            first: OnceLock::new(),
            states: AtomicU32::new(0),
            brought: OnceLock::new(),
        }));
        self.throttles.insert(throttle, family);
        family
    }

    fn add(&mut self, family: &'static Family, writer: Writer) -> &'static Interned {
        let members = || family.first.get().into_iter().flat_map(|first| first.family());
        let shared = members().find(|member| writer.is_state_of(member));
        let state = shared
            .map_or_else(|| family.states.fetch_add(1, Ordering::Relaxed), |shared| shared.state);
        let interned: &'static Interned = Box::leak(Box::new(Interned {
            id: self.next,
            salt: (crate::key::hasher().hash_one(&*family.throttle) >> 7)
                ^ (u64::from(state) << 57),
            family,
            next: OnceLock::new(),
            state,
            tag: writer.tag,
            period: writer.period,
            limit: writer.limit,
            meter: writer.meter,
            wide: AtomicBool::new(shared.is_some_and(Interned::is_wide)),
        }));
        let (chunk, offset) = place(self.next);
        let size = (FIRST_CHUNK as usize) << chunk;
        let chunk = BY_ID[chunk].get_or_init(|| (0..size).map(|_| OnceLock::new()).collect());
        let _ = chunk[offset].set(interned);
        self.next = self.next.checked_add(1).expect("fewer than 2^32 limits in a process");
        let last = members().last().map_or(&family.first, |last| &last.next);
        let _ = last.set(interned);
        interned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::Rate;
    use crate::strategy::{FixedWindow, TokenBucket};

    #[test]
    fn a_number_is_of_a_state_and_its_writer() {
        let bucket = |rate| Limit::new(rate, TokenBucket::new()).unwrap();
        let five = intern("interned", &bucket(Rate::per_minute(5)));
        let same = intern("interned", &bucket(Rate::per_minute(5).burst(20)));
        assert_eq!(five.id(), same.id(), "a burst changes nothing that is stored");
        let nine = intern("interned", &bucket(Rate::per_minute(9)));
        assert_ne!(five.id(), nine.id());
        assert!(five.is_same_state(nine.id()) && five.salt() == nine.salt());
        assert!(!five.has_siblings());

        let hour = intern("interned", &bucket(Rate::per_hour(5)));
        assert!(!five.is_same_state(hour.id()) && five.salt() != hour.salt());
        assert!(!five.is_same_state(intern("other", &bucket(Rate::per_minute(5))).id()));
        let window = Limit::new(Rate::per_minute(5), FixedWindow::new()).unwrap();
        assert!(!five.is_same_state(intern("interned", &window).id()));
        assert!(five.has_siblings());
        assert_eq!(five.family().count(), 4);
        assert!(std::ptr::eq(by_id(five.id()).unwrap(), five));
    }

    #[test]
    fn a_state_that_became_wide_is_so_for_all_its_writers() {
        let narrow = |limit| Limit::new(Rate::per_day(limit), TokenBucket::new()).unwrap();
        let first = intern("widened", &narrow(5));
        assert!(!first.is_wide());
        intern("widened", &narrow(4_000_000_000));
        assert!(first.is_wide());
        assert!(intern("widened", &narrow(6)).is_wide(), "also one that comes later");
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
}
