//! What only a look inside shows: walks step by step, frames that no writer makes, and how long a lock is held.

#![allow(clippy::unwrap_used, reason = "tests, which clippy does not know as such by this cfg")]

mod large_keys;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::copied::Copied;
use super::format::{Counts, Kind};
use super::frame_reader::FrameReader;
use super::frame_writer::FrameWriter;
use super::restore::Snapshot;
use super::walk::ShardWalk;
use super::write::copy_next;
use super::*;
use crate::clock::Timestamp;
use crate::error::RestoreError;
use crate::key::KeyPart;
use crate::rate::Rate;
use crate::step::Step;
use crate::strategy::{FixedWindow, Limit, Op, SlidingWindowLog};

use super::super::builder::Overflow;
use super::super::grace::Grace;
use super::super::store::{Ruling, Store};
use super::super::stored_key::{HashedKey, KeyHasher, StoredKey};

const NOW: Timestamp = Timestamp::from_micros(1_704_067_200_000_000);

fn store(shards: usize) -> Store {
    Store::new(shards, None, Overflow::Deny, Grace::MONOTONIC, KeyHasher::new())
}

/// Two with packed counts, and one with words.
fn limits() -> [Limit; 3] {
    [
        Limit::new(Rate::per_hour(1_000_000), FixedWindow::new()).unwrap(),
        Limit::new(Rate::per_day(1_000_000), FixedWindow::new()).unwrap(),
        Limit::new(Rate::per_hour(900), SlidingWindowLog::new()).unwrap(),
    ]
}

fn hashed(store: &Store, key: u64) -> HashedKey {
    store.ids.hasher().key(&[KeyPart::bytes(&key.to_le_bytes())])
}

fn hit(store: &Store, key: u64, limits: &[Limit]) {
    hit_at(store, key, limits, NOW);
}

fn hit_at(store: &Store, key: u64, limits: &[Limit], now: Timestamp) {
    let ruling = ask(store, key, &Step::new(limits, 1, Op::Take), now);
    assert!(matches!(&ruling, Ruling::Decided(decision) if decision.is_allowed()), "{ruling:?}");
}

fn ask(store: &Store, key: u64, step: &Step<'_>, now: Timestamp) -> Ruling {
    let infos: Vec<_> = step.limits().iter().map(|limit| store.ids.of("t", limit)).collect();
    let states: Vec<_> = infos.iter().map(|info| Some(&**info)).collect();
    store.apply(&hashed(store, key), step, &states, now)
}

fn forget(store: &Store, key: u64) {
    store.forget("t", &hashed(store, key));
}

fn key_of(key: &StoredKey) -> u64 {
    key.words[0]
}

/// How many limits a key has: one to three.
fn limits_of(key: u64) -> usize {
    1 + usize::try_from(key % 3).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Keys come, go, and get further limits between the steps of a walk, and tables are replaced by it.
    #[test]
    fn a_key_that_stays_is_copied_once_with_all_its_limits(
        stay in 1..2000u64,
        steps in prop::collection::vec((0..400u64, 0..400u64, 0..50u64), 1..60),
    ) {
        let (store, limits) = (store(1), limits());
        for key in 0..stay {
            hit(&store, key, &limits[..limits_of(key)]);
        }
        let (mut come, mut gone) = (stay, stay);
        let (mut walk, mut copied) = (ShardWalk::default(), Copied::new());
        let mut found = BTreeMap::new();
        let mut steps = steps.into_iter();
        while copy_next(&store, 0, &mut walk, &mut copied) {
            for (key, states) in &copied.keys {
                let (times, of) = found.entry(key_of(key)).or_insert((0, 0));
                (*times, *of) = (*times + 1, *states);
            }
            let Some((coming, going, further)) = steps.next() else { continue };
            for key in come..come + coming {
                hit(&store, key, &limits[..1]);
            }
            come += coming;
            for key in gone..(gone + going).min(come) {
                forget(&store, key);
            }
            gone = (gone + going).min(come);
            // Further limits, of which one makes words: these slots are new.
            for key in 0..further.min(stay) {
                hit(&store, key, &limits);
            }
        }
        for key in 0..stay {
            let (times, states) = found.get(&key).copied().unwrap_or_default();
            prop_assert_eq!(times, 1, "key {}", key);
            prop_assert!((limits_of(key)..=3).contains(&states), "key {}: {} states", key, states);
        }
        // And the next walk has them all again.
        let (mut walk, mut again) = (ShardWalk::default(), 0);
        while copy_next(&store, 0, &mut walk, &mut copied) {
            again += copied.keys.len();
        }
        prop_assert_eq!(again, store.budget.used());
    }

    /// Frames whose checksums are right and whose contents are anything: an error with a place, or a memory that works.
    #[test]
    fn f30_no_frames_make_it_panic(
        frames in prop::collection::vec((1..5u8, prop::collection::vec(any::<u8>(), 0..200)), 0..6),
    ) {
        let _ = restored(&frames);
    }

    /// As before, of what a writer wrote but for some bytes.
    #[test]
    fn f30_no_changed_frame_makes_it_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut payload = keys_payload();
        for (at, byte) in changes {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        let frames = [(1, b"t".to_vec()), (2, payload), (4, counts(1, 3, 0))];
        if let Ok(store) = restored(&frames) {
            prop_assert!(store.budget.used() <= 3);
            // It works, whatever it holds.
            for (key, limits) in [(0, 1), (1, 2), (2, 3)] {
                let limits = &self::limits()[..limits];
                for op in [Op::Peek, Op::Take, Op::Refund { taken_at: NOW }] {
                    let _ = ask(&store, key, &Step::new(limits, 1, op), NOW);
                }
                let _ = store.inspect("t", &hashed(&store, key), NOW);
            }
        }
    }
}

const SECRET: [u64; 2] = [3, 5];

/// Frames as they are given, each with the right checksum.
fn sealed(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut writer = FrameWriter::new(Vec::new(), SECRET, NOW).unwrap();
    for (kind, payload) in frames {
        writer.frame(Kind::from_raw(*kind).unwrap(), payload).unwrap();
    }
    writer.into_inner()
}

fn restored(frames: &[(u8, Vec<u8>)]) -> Result<Store, RestoreError> {
    let bytes = sealed(frames);
    let snapshot = Snapshot::open(&*bytes)?;
    assert_eq!(snapshot.secret(), SECRET);
    let store =
        Store::new(4, None, Overflow::Deny, Grace::MONOTONIC, KeyHasher::with_secret(SECRET));
    snapshot.restore(&store, NOW)?;
    Ok(store)
}

fn counts(throttles: u64, keys: u64, values: u64) -> Vec<u8> {
    [throttles, keys, values].map(u64::to_le_bytes).concat()
}

/// Three keys, with one limit, two and three.
fn keys_payload() -> Vec<u8> {
    let (store, limits) = (store(1), limits());
    (0..3).for_each(|key| hit(&store, key, &limits[..limits_of(key)]));
    let (mut walk, mut copied, mut payload) = (ShardWalk::default(), Copied::new(), Vec::new());
    while copy_next(&store, 0, &mut walk, &mut copied) {
        let encode = |key: &StoredKey, states| {
            record::encode(&mut payload, 0, key, record::parts_of(states, &store.ids, NOW));
            io::Result::Ok(())
        };
        copied.for_each(encode).unwrap();
    }
    payload
}

fn problem(frames: &[(u8, Vec<u8>)]) -> String {
    restored(frames).err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn f30_what_a_frame_may_not_hold_is_refused_with_its_place() {
    let (throttle, keys) = ((1, b"t".to_vec()), keys_payload());
    let whole = [throttle.clone(), (2, keys.clone()), (4, counts(1, 3, 0))];
    assert_eq!(problem(&whole), "");
    let key_of_another = [throttle.clone(), (2, [&[1, 0, 0, 0], &keys[4..]].concat())];
    assert_eq!(
        problem(&key_of_another),
        "damaged at byte 71: a key of throttle 1; below 1, for so many came, would be right"
    );
    let shape = [throttle.clone(), (2, [&keys[..4], &[17], &keys[5..]].concat())];
    assert!(problem(&shape).contains("damaged at byte 71: a key of the shape 17"));
    let long = [throttle.clone(), (2, [&keys[..21], &[0xff; 4], &keys[25..]].concat())];
    assert!(problem(&long).contains("damaged at byte 96: a field of 4294967295 bytes"));
    let version = [throttle.clone(), (2, [&keys[..25], &[9], &keys[26..]].concat())];
    assert!(problem(&version).contains("damaged at byte 96: the state of a key: "));
    let name = [(1, vec![0xff])];
    assert!(problem(&name).contains("damaged at byte 53: a throttle's name: invalid utf-8"));
    let value = [(3, vec![200, 0, 0, 0, 0, 0, 0, 0, 1])];
    assert!(
        problem(&value).contains("damaged at byte 61: a field of 200 bytes, where its frame has 1")
    );
    let counted = [throttle.clone(), (2, keys.clone()), (4, counts(1, 2, 0))];
    assert!(problem(&counted).contains("keys: 3, values: 0 }, and no more, would be right"));
    let no_end = [throttle, (2, keys)];
    assert!(problem(&no_end).contains("it ends where another frame, or the end, would be right"));
    assert!(
        problem(&[(4, counts(0, 0, 0)), (4, counts(0, 0, 0))]).contains("bytes follow the end")
    );
}

#[test]
fn f30_a_stored_length_allocates_nothing() {
    let mut bytes = sealed(&[]);
    bytes.push(2);
    bytes.extend_from_slice(&u64::MAX.to_le_bytes());
    bytes.extend_from_slice(b"four");
    let error = FrameReader::new(&*bytes).unwrap().next().unwrap_err().to_string();
    assert!(error.contains("it ends here; 18446744073709551611 bytes more"), "{error}");
}

/// A key that comes twice, since it was forgotten and hit again while the snapshot was taken: the later counts, and
/// neither takes a place of its own.
#[test]
fn a_key_that_comes_twice_is_one_key() {
    let keys = keys_payload();
    let frames = [(1, b"t".to_vec()), (2, keys.clone()), (2, keys), (4, counts(1, 6, 0))];
    let store = restored(&frames).unwrap();
    assert_eq!(store.budget.used(), 3);
}

#[test]
fn the_counts_of_the_end_are_those_of_what_was_written() {
    let counts = Counts { throttles: 1, keys: 2, values: 3 };
    let bytes = FrameWriter::new(Vec::new(), SECRET, NOW).unwrap().end(counts).unwrap();
    assert_eq!(bytes.len(), 44 + 9 + 24 + 8);
    assert_eq!(bytes[44..54], [4, 24, 0, 0, 0, 0, 0, 0, 0, 1]);
}

/// The header and a frame as a program in another language made them, and never to change within a version.
#[test]
fn the_bytes_do_not_change_between_releases() {
    let hex: String = sealed(&[(1, b"api".to_vec()), (4, counts(1, 0, 0))])
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        hex,
        "897472616666696b010000000300000000000000050000000000000000202110d70d0600cb1f6054\
         65784c150103000000000000006170698d6b281a766ed87c04180000000000000001000000000000\
         00000000000000000000000000000000005d85a4a52e4f888b"
    );
}

/// A walk, step by step: calls that with what is copied, how many words each step has, and how long it had the lock.
fn walk(store: &Store, mut step: impl FnMut(&Copied, usize, Duration)) {
    let mut copied = Copied::new();
    for shard in 0..store.shard_count() {
        let mut walk = ShardWalk::default();
        for lock in 0.. {
            assert!(lock < 100_000, "it goes on for ever");
            copied.clear();
            let (room, words) = (copied.room(), copied.word_count());
            let mut shard = store.shard_at(shard).lock();
            let ((goes_on, emptied), took) =
                timed(|| shard.copy_next(&mut walk, &store.ids, &mut copied));
            drop(shard);
            drop(emptied);
            assert_eq!(copied.room(), room, "none is made under the lock");
            // Fewer, if what was ahead was begun anew.
            step(&copied, copied.word_count().saturating_sub(words), took);
            if !goes_on {
                break;
            }
        }
    }
}

/// Many small states, some thousand words, and states that are larger than that.
fn stores() -> Vec<(&'static str, Store)> {
    let is_soak = std::env::var_os("TRAFFIK_SOAK").is_some();
    let keys = if is_soak { 1_000_000 } else { 10_000 };
    let counts = |several, shards, keys| {
        let (store, limits) = (store(shards), limits());
        (0..keys).for_each(|key| hit(&store, key, &limits[..several]));
        store
    };
    let logs = |keys, entries: u32| {
        let store = store(1);
        let log = SlidingWindowLog::new().max_entries(entries);
        let limits = [Limit::new(Rate::per_hour(entries), log).unwrap()];
        for key in 0..keys {
            fill_log(&store, key, &limits, entries);
        }
        store
    };
    vec![
        ("counts in one shard", counts(1, 1, 10_000)),
        ("counts of one limit", counts(1, 64, keys)),
        ("counts of two limits", counts(2, 64, keys)),
        ("logs of 1,000 entries", logs(200, 1_000)),
        ("logs of 50,000 entries", logs(if is_soak { 20 } else { 3 }, 50_000)),
        ("28 brought logs of 800 entries", brought_logs(10, 28, 800)),
    ]
}

fn brought_logs(keys: u64, rates: u32, entries: u32) -> Store {
    let (store, [_, _, own]) = (store(1), limits());
    for key in 0..keys {
        for rate in 0..rates {
            let rate = Rate::per_hour(entries + rate);
            let limit = Limit::new(rate, SlidingWindowLog::new()).unwrap();
            fill_log(&store, key, &[limit.brought_beside(&own)], entries);
        }
    }
    store
}

/// Each at an instant of its own, for those of the same one are one entry.
fn fill_log(store: &Store, key: u64, limits: &[Limit], entries: u32) {
    for entry in 0..entries {
        hit_at(store, key, limits, NOW.saturating_add_micros(entry.into()));
    }
}

/// By what is done under each, not by time.
#[test]
fn a_lock_is_held_for_a_fixed_number_of_states_and_words() {
    for (what, store) in stores() {
        let (mut keys, mut idle, mut most) = (0, 0, 0);
        walk(&store, |copied, words, _took| {
            keys += copied.keys.len();
            idle += usize::from(copied.keys.is_empty());
            let states = copied.state_count();
            assert!(states <= 512, "{what}: {states} states");
            // Those of a key more than what is enough.
            assert!(words < 4096 + 8192, "{what}: {words} words");
            most = most.max(words);
        });
        assert_eq!(keys, store.budget.used(), "{what}");
        let buckets = store.shard_at(0).lock().small.buckets();
        // The marks are taken off a part at a time too.
        assert!(idle > buckets / 1024, "{what}: {idle} idle steps for {buckets} buckets");
        assert!(most > 800 || what.starts_with("counts"), "{what}: {most} words");
    }
}

/// `TRAFFIK_SOAK=1 cargo test --release --lib soak_how_long -- --ignored --nocapture` prints how long one step holds a
/// lock, and beside it how long a loop takes that touches no memory: what makes that one slow at times is the machine.
#[test]
#[ignore = "a soak, which scripts/test --soak runs"]
fn soak_how_long_a_shard_is_locked() {
    for (what, store) in stores() {
        let (mut held, mut bare, mut found) = (Vec::new(), Vec::new(), 0);
        walk(&store, |copied, _words, took| {
            held.push(took);
            bare.push(timed(touch_no_memory).1);
            found += copied.keys.len();
        });
        let keys = store.budget.used();
        println!("{keys} keys, {what}: a lock {}", summary(&mut held));
        println!("{keys} keys, {what}: a loop {}", summary(&mut bare));
        assert_eq!(found, keys);
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    #[expect(clippy::disallowed_methods, reason = "measures real time")]
    let start = Instant::now();
    let done = work();
    (done, start.elapsed())
}

/// Takes about as long as a step.
fn touch_no_memory() {
    let mut product = 1_u64;
    for _ in 0..5_000 {
        product = std::hint::black_box(product.wrapping_mul(6_364_136_223_846_793_005));
    }
}

fn summary(took: &mut [Duration]) -> String {
    took.sort_unstable();
    let over = |limit| took.iter().filter(|took| **took > Duration::from_micros(limit)).count();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    format!(
        "{median:?} in the median and {worst:?} at worst, {} over 50 us and {} over 100 us, of {}",
        over(50),
        over(100),
        took.len()
    )
}

/// Also within a tick of the clock by which the system dates its files.
#[cfg(unix)]
#[test]
fn a_file_that_took_the_place_of_another_is_told_from_it() {
    let folder = std::env::temp_dir().join(format!("traffik-version-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("limits");
    let versions: Vec<_> = (0..50)
        .map(|_| {
            file::replace(&file, |new| new.write_all(b"of the same length"), || Ok(())).unwrap();
            file::version(&file).unwrap()
        })
        .collect();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(versions.windows(2).all(|two| two[0] != two[1]), "{versions:?}");
}

#[test]
fn a_snapshot_is_taken_without_a_runtime() {
    let backend = InMemory::new();
    let mut taken = Box::pin(backend.snapshot(Vec::new()));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(bytes) = Future::poll(taken.as_mut(), &mut context) else {
        panic!("it waits for nobody");
    };
    assert_eq!(bytes.unwrap().len(), 44 + 9 + 24 + 8);
}
