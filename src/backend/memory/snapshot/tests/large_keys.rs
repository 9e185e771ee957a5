//! Keys whose words take several locks: what is copied of one is what it has under the last of these.

use super::super::super::slot::{Slot, StateRef};
use super::super::copied::CopiedState;
use super::*;
use crate::step::BlockChange;
use crate::strategy::TokenBucket;

/// Packed counts, one of another writer and one that hits bring; a log of many entries, and one that hits bring.
struct Limits {
    packed: Limit,
    /// Another writer of the same state.
    packed_by_another: Limit,
    packed_brought: Limit,
    log: Limit,
    log_brought: Limit,
}

impl Limits {
    fn new() -> Self {
        let packed = Limit::new(Rate::per_day(1_000_000), TokenBucket::new()).unwrap();
        let by_another = Limit::new(Rate::per_day(900_000), TokenBucket::new());
        let log = SlidingWindowLog::new().max_entries(20_000);
        let brought = |limit: Result<Limit, _>| limit.unwrap().brought_beside(&packed);
        Self {
            packed_by_another: by_another.unwrap(),
            packed_brought: brought(Limit::new(Rate::per_day(9_000), FixedWindow::new())),
            log: Limit::new(Rate::per_hour(20_000), log).unwrap(),
            log_brought: brought(Limit::new(Rate::per_hour(800), SlidingWindowLog::new())),
            packed,
        }
    }
}

/// A log from there on drops an entry for each that it takes, and has as many words as before.
const HOUR: u64 = 3_600_000_000;

/// The words of the log that each key has, of 10,000 entries, and the locks that they take.
const LOG: usize = 20_001;
const LOCKS: usize = LOG.div_ceil(8192);

/// Each key has a packed count, a log of many entries at instants of its own, and two rates that hits brought.
fn large(keys: u64, limits: &Limits) -> Store {
    let store = store(1);
    for key in 0..keys {
        for entry in 0..10_000 {
            let now = NOW.saturating_add_micros(2 * entry + key);
            hit_at(&store, key, std::slice::from_ref(&limits.log), now);
        }
        for limit in [&limits.packed, &limits.packed_brought, &limits.log_brought] {
            hit(&store, key, std::slice::from_ref(limit));
        }
    }
    store
}

/// What a snapshot has of a key.
fn encoded(store: &Store, key: &StoredKey, states: Vec<(u32, CopiedState)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    record::encode(&mut bytes, 0, key, record::parts_of(states, &store.ids, NOW));
    bytes
}

/// What the tables have of it.
fn stored(store: &Store, key: &StoredKey) -> Vec<u8> {
    let hashed = HashedKey { stored: *key, hash: store.ids.hasher().hash(key) };
    let shard = store.shard_at(0).lock();
    let mut states = Vec::new();
    for info in store.ids.all_of("t") {
        let state = StateRef { key: &hashed, info, ids: &store.ids };
        if let Some(slot) = shard.small.find(state.hash(), |slot| state.is_small(slot)) {
            let (count, last) = (slot.count(), slot.last());
            states.push((slot.state_id(), CopiedState::Packed { count, last }));
        }
        if let Some(slot) = shard.cold.large.find(state.hash(), |slot| state.is_large(slot)) {
            states.push((slot.state_id, CopiedState::Large(slot.body.clone())));
        }
    }
    encoded(store, key, states)
}

/// One lock after the other, with what others do before each, given how many locks have copied words of the key that is
/// begun; returns how many each key took, in their order.
fn walked(store: &Store, mut between: impl FnMut(usize, usize)) -> Vec<(u64, usize)> {
    let (mut walk, mut copied) = (ShardWalk::default(), Copied::new());
    let (mut keys, mut locks) = (Vec::new(), 0);
    for lock in 0.. {
        assert!(lock < 1000, "it goes on for ever");
        between(lock, locks);
        let goes_on = copy_next(store, 0, &mut walk, &mut copied);
        locks += usize::from(copied.word_count() > 0);
        let compare = |key: &StoredKey, states| {
            assert!(encoded(store, key, states) == stored(store, key), "{key:?} as it is");
            keys.push((key_of(key), std::mem::take(&mut locks)));
            Ok::<_, ()>(())
        };
        copied.for_each(compare).unwrap();
        if !goes_on {
            break;
        }
    }
    keys
}

/// What others do between two locks.
#[derive(Clone, Copy, Debug)]
enum Event {
    Hit(usize),
    Refund(usize),
    Peek,
    Denied,
    /// One limit, or all.
    Forget(Option<usize>),
    Block,
    /// So many others come, and tables are replaced.
    Others(u64),
}

impl Event {
    fn happen(self, store: &Store, limits: &Limits, key: u64, now: Timestamp) {
        let all = [
            &limits.packed,
            &limits.packed_brought,
            &limits.log,
            &limits.log_brought,
            &limits.packed_by_another,
        ];
        let step = |limit, cost, op| {
            let limits = std::slice::from_ref(limit);
            let ruling = ask(store, key, &Step::new(limits, cost, op), now);
            assert!(matches!(ruling, Ruling::Decided(_)), "{ruling:?}");
        };
        match self {
            Self::Hit(limit) => step(all[limit], 1, Op::Take),
            Self::Refund(limit) => {
                step(all[limit], 1, Op::Refund { taken_at: NOW.saturating_add_micros(key) });
            }
            Self::Peek => step(&limits.log, 1, Op::Peek),
            Self::Denied => step(&limits.log, 19_000, Op::Take),
            Self::Forget(None) => forget(store, key),
            Self::Forget(Some(limit)) => {
                let info = store.ids.of("t", all[limit]);
                let state = StateRef { key: &hashed(store, key), info: &info, ids: &store.ids };
                store.shard_at(0).lock().remove(state, Some(all[limit]), &store.budget);
            }
            Self::Block => {
                let change = BlockChange::Replace(Duration::from_secs(1));
                store.change_block("t", &hashed(store, key), change, now).unwrap();
            }
            Self::Others(count) => {
                let limits = std::slice::from_ref(&limits.log);
                (0..count).for_each(|other| hit_at(store, 1000 + other, limits, now));
            }
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..5usize).prop_map(Event::Hit),
        2 => (0..5usize).prop_map(Event::Refund),
        1 => Just(Event::Peek),
        1 => Just(Event::Denied),
        1 => prop::sample::select(vec![None, Some(1), Some(2), Some(3)]).prop_map(Event::Forget),
        1 => Just(Event::Block),
        1 => (1..200u64).prop_map(Event::Others),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn what_is_copied_in_parts_is_what_the_key_has(
        events in prop::collection::vec((0..2u64, prop::option::of(event())), 0..24),
        later in prop::sample::select(vec![20_000, HOUR]),
    ) {
        let limits = Limits::new();
        let store = large(2, &limits);
        let keys = walked(&store, |lock, _| {
            if let Some((key, Some(event))) = events.get(lock) {
                event.happen(&store, &limits, *key, NOW.saturating_add_micros(later + lock as u64));
            }
        });
        for key in 0..2 {
            let is_forgotten = |(of, event): &(u64, Option<Event>)| {
                *of == key && matches!(event, Some(Event::Forget(None)))
            };
            let times = keys.iter().filter(|(copied, _)| *copied == key).count();
            prop_assert!(times == 1 || events.iter().any(is_forgotten), "{}: {} times", key, times);
        }
    }
}

/// The first lock sees how many buckets there are, and the others go on, so no more come than the words take.
#[test]
fn each_lock_copies_a_part_of_the_words() {
    let store = large(3, &Limits::new());
    let keys = walked(&store, |_, _| {});
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|(_, locks)| *locks == LOCKS), "{keys:?}");
}

#[test]
fn what_writes_no_words_begins_nothing_anew() {
    let limits = Limits::new();
    let store = large(1, &limits);
    let keys = walked(&store, |lock, _| {
        let now = NOW.saturating_add_micros(20_000 + lock as u64);
        // By one writer and the other in turn.
        let packed = Event::Hit([0, 4][lock % 2]);
        for event in [packed, Event::Peek, Event::Denied] {
            event.happen(&store, &limits, 0, now);
        }
        let (brought, key) = (&limits.packed_brought, hashed(&store, 0));
        let demand = (Step::new(std::slice::from_ref(brought), 1, Op::Take).demand(), Op::Take);
        let info = store.ids.of("t", brought);
        assert!(store.hit_brought(&key, brought, &info, demand, now).is_some());
    });
    assert_eq!(keys, [(0, LOCKS)]);
}

#[test]
fn a_key_that_is_written_once_meanwhile_is_begun_anew() {
    let limits = Limits::new();
    let soon = NOW.saturating_add_micros(20_000);
    for (writes, now, more) in [
        (Event::Hit(2), soon, LOCKS),
        (Event::Hit(2), NOW.saturating_add_micros(HOUR), LOCKS),
        (Event::Hit(3), soon, LOCKS),
        (Event::Refund(2), soon, LOCKS),
        // Which leaves few words.
        (Event::Forget(Some(2)), soon, 1),
        (Event::Forget(Some(3)), soon, LOCKS),
    ] {
        let store = large(1, &limits);
        let mut is_written = false;
        let keys = walked(&store, |_, locks| {
            if locks == 1 && !is_written {
                is_written = true;
                writes.happen(&store, &limits, 0, now);
            }
        });
        assert!(is_written, "{writes:?}");
        assert_eq!(keys, [(0, 1 + more)], "{writes:?}");
    }
}

/// Else it would be in no snapshot.
#[test]
fn a_key_that_is_written_before_each_lock_is_copied_under_one_in_the_end() {
    let limits = Limits::new();
    let store = large(2, &limits);
    let keys = walked(&store, |lock, _| {
        let now = NOW.saturating_add_micros(HOUR + lock as u64);
        (0..2).for_each(|key| Event::Hit(2).happen(&store, &limits, key, now));
    });
    let mut copied: Vec<_> = keys.iter().map(|(key, _)| *key).collect();
    copied.sort_unstable();
    assert_eq!(copied, [0, 1]);
    assert!(keys.iter().all(|(_, locks)| *locks == 64 + 1), "{keys:?}");
}

/// Also where the walk before has left both as if nobody had written them.
#[test]
fn a_key_that_goes_meanwhile_leaves_nothing_to_another() {
    let limits = Limits::new();
    let store = large(2, &limits);
    let first = walked(&store, |_, _| {})[0].0;
    let mut is_forgotten = false;
    let keys = walked(&store, |_, locks| {
        if locks == 1 && !is_forgotten {
            is_forgotten = true;
            forget(&store, first);
        }
    });
    assert_eq!(keys, [(1 - first, 1 + LOCKS)]);
}

#[test]
fn words_that_come_after_their_key_was_copied_are_not() {
    let limits = Limits::new();
    let (store, packed) = (store(1), std::slice::from_ref(&limits.packed));
    hit(&store, 0, packed);
    let mut is_copied = false;
    let keys = walked(&store, |_, locks| {
        assert_eq!(locks, 0);
        let is_marked = |slot: &Slot| slot.is_marked();
        if !is_copied && store.shard_at(0).lock().small.count(is_marked) == 1 {
            is_copied = true;
            fill_log(&store, 0, std::slice::from_ref(&limits.log), 10_000);
        }
    });
    assert!(is_copied);
    assert_eq!(keys, [(0, 0)]);
}
