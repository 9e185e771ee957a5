//! Model checks of the shards' insert, expire and full paths and of a lock's queue, under a scheduler
//! that chooses the interleaving: see `scripts/test`.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use shuttle::{future, thread};

use super::all::KeyedHit;
use super::builder::{LockKind, Overflow};
use super::grace::Grace;
use super::locks::MemoryLocks;
use super::store::{Ruling, Store};
use super::stored_key::KeyHasher;
use crate::clock::Timestamp;
use crate::decision::{Decision, Denial};
use crate::key::KeyPart;
use crate::lock::{LockOptions, LockRequest};
use crate::rate::Rate;
use crate::step::Step;
use crate::strategy::{Limit, Op, SlidingWindowLog, TokenBucket};

/// Interleavings that are tried of each model, half of them at random and half with few preemptions,
/// which find most bugs.
const SCHEDULES: usize = 2_000;

const START: Timestamp = Timestamp::from_micros(1_000_000_000_000);

fn check(model: impl Fn() + Clone + Send + Sync + 'static) {
    shuttle::check_random(model.clone(), SCHEDULES);
    shuttle::check_pct(model, SCHEDULES, 3);
}

fn hit(store: &Store, key: &str, limits: &[Limit], at: Timestamp) -> Decision {
    let parts = [KeyPart::bytes(key.as_bytes())];
    let key = store.ids.hasher().key(&parts);
    let infos: Vec<_> = limits.iter().map(|limit| store.ids.of("model", limit)).collect();
    let states: Vec<_> = infos.iter().map(|info| Some(&**info)).collect();
    match store.apply(&key, &Step::new(limits, 1, Op::Take), &states, at) {
        Ruling::Decided(decision) | Ruling::Overflowed(decision) => decision,
        other => panic!("{other:?}"),
    }
}

fn request(options: LockOptions) -> LockRequest {
    options.resolve("a", LockOptions::new()).expect("valid options")
}

fn after(seconds: u64) -> Timestamp {
    START.saturating_add(Duration::from_secs(seconds))
}

/// One unit a minute, with a packed count and with words.
fn both_forms() -> [Limit; 2] {
    let rate = Rate::per_minute(1);
    [
        Limit::new(rate, TokenBucket::new()).expect("a valid limit"),
        Limit::new(rate, SlidingWindowLog::new()).expect("a valid limit"),
    ]
}

#[test]
fn model_insert_and_sweep_lose_no_live_key_and_count_right() {
    check(|| {
        let store =
            Arc::new(Store::new(1, Some(100), Overflow::Deny, Grace::MONOTONIC, KeyHasher::new()));
        let limits = both_forms();
        let expired = Arc::new(limits.clone());
        for key in ["old1", "old2", "old3"] {
            assert!(hit(&store, key, &expired[..1], START).is_allowed());
        }
        let threads: Vec<_> = ["a", "b"]
            .into_iter()
            .map(|key| {
                let (store, limits) = (Arc::clone(&store), limits.clone());
                thread::spawn(move || {
                    assert!(hit(&store, key, &limits, after(200)).is_allowed());
                    let again = hit(&store, key, &limits, after(200));
                    assert_eq!(again.denial(), Some(Denial::Limited), "a live key is kept");
                })
            })
            .collect();
        let sweeper = {
            let store = Arc::clone(&store);
            thread::spawn(move || while !store.clean(0, 2, after(200)) {})
        };
        for thread in threads.into_iter().chain([sweeper]) {
            thread.join().expect("no panic");
        }
        while !store.clean(0, 64, after(200)) {}
        assert_eq!(store.budget.used(), store.keys(), "places taken and keys stored");
        assert_eq!((store.keys(), store.len()), (2, 4), "two keys with two limits each");
    });
}

#[test]
fn model_no_more_keys_than_the_bound_and_none_forgotten() {
    check(|| {
        let store =
            Arc::new(Store::new(2, Some(2), Overflow::Deny, Grace::MONOTONIC, KeyHasher::new()));
        let threads: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .map(|key| {
                let store = Arc::clone(&store);
                thread::spawn(move || {
                    let limits = &both_forms()[..1];
                    let first = hit(&store, key, limits, START);
                    let second = hit(&store, key, limits, START);
                    assert!(second.is_denied(), "used up, or no room");
                    assert!(store.budget.used() <= 2 + 2, "takes are undone at once");
                    assert!(first.is_allowed() || first.denial() == Some(Denial::Full));
                    u32::from(first.is_allowed())
                })
            })
            .collect();
        let admitted: u32 = threads.into_iter().map(|t| t.join().expect("no panic")).sum();
        assert!((1..=2).contains(&admitted), "{admitted} admitted");
        assert_eq!(store.budget.used(), store.keys());
        assert_eq!(store.keys(), admitted as usize, "those that were admitted are there");
        // When their time is over, they make room.
        assert!(hit(&store, "d", &both_forms()[..1], after(3600)).is_allowed());
    });
}

/// Hits on two keys in either order, single hits on both, and a sweep: nobody waits for another in a circle, and
/// neither limit is exceeded by a unit or short of one.
#[test]
fn model_hits_on_two_keys_are_taken_both_or_none_and_never_wait_in_a_circle() {
    check(|| {
        let store =
            Arc::new(Store::new(2, Some(10), Overflow::Deny, Grace::MONOTONIC, KeyHasher::new()));
        let limits = [Limit::new(Rate::per_minute(2), TokenBucket::new()).expect("a valid limit")];
        // One in each shard.
        const KEYS: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
        let keys = || (0..KEYS.len()).map(|at| &KEYS[at..=at]);
        let shard = |key: &str| {
            let parts = [KeyPart::bytes(key.as_bytes())];
            store.shard_of(store.ids.hasher().key(&parts).hash)
        };
        // Their places are random, and all in one shard once in 2^61.
        let first = keys().find(|key| shard(key) == 0).expect("a key in the first");
        let second = keys().find(|key| shard(key) == 1).expect("a key in the second");
        let both = |keys: [&'static str; 2]| {
            let (store, limits) = (Arc::clone(&store), limits.clone());
            thread::spawn(move || {
                let parts = keys.map(|key| [KeyPart::bytes(key.as_bytes())]);
                let step = Step::new(&limits, 1, Op::Take);
                let hit = |parts| {
                    let key = store.ids.hasher().key(parts);
                    KeyedHit::new(&store, "model", key, &step)
                };
                let hits: Vec<_> = parts.iter().map(|parts| hit(parts)).collect();
                let decisions = store.apply_all(&hits, START).expect("there is room");
                let passed: Vec<bool> = decisions.iter().map(Decision::is_allowed).collect();
                u32::from(passed == [true, true])
            })
        };
        let threads = [both([first, second]), both([second, first]), both([first, second])];
        let single = {
            let (store, limits) = (Arc::clone(&store), limits.clone());
            thread::spawn(move || u32::from(hit(&store, second, &limits, START).is_allowed()))
        };
        let sweeper = {
            let store = Arc::clone(&store);
            thread::spawn(move || (0..2).for_each(|shard| drop(store.clean(shard, 8, START))))
        };
        let passed: u32 = threads.into_iter().map(|one| one.join().expect("no panic")).sum();
        let alone = single.join().expect("no panic");
        sweeper.join().expect("no panic");
        assert_eq!(passed + alone, 2, "the second is used up, and not exceeded");
        let left = |key| {
            let used = (0..2).filter(|_| hit(&store, key, &limits, START).is_allowed()).count();
            u32::try_from(used).expect("a small number")
        };
        assert_eq!((left(first), left(second)), (2 - passed, 0), "taken with the other, or not");
        assert_eq!(store.budget.used(), store.keys());
    });
}

#[test]
fn model_a_fair_lock_passes_a_cancelled_waiters_turn_on() {
    for kind in [LockKind::Fair, LockKind::Unfair] {
        check(move || {
            let locks = Arc::new(MemoryLocks::new(kind, 0));
            let inside = Arc::new(shuttle::sync::Mutex::new(0u32));
            let holder =
                future::block_on(locks.lock("a", request(LockOptions::new()))).expect("free");
            let waits = {
                let (locks, inside) = (Arc::clone(&locks), Arc::clone(&inside));
                thread::spawn(move || {
                    let guard = future::block_on(locks.lock("a", request(LockOptions::new())));
                    let guard = guard.expect("its turn comes");
                    *inside.lock().expect("not poisoned") += 1;
                    assert_eq!(*inside.lock().expect("not poisoned"), 1, "alone");
                    *inside.lock().expect("not poisoned") -= 1;
                    drop(guard);
                })
            };
            let gives_up = {
                let locks = Arc::clone(&locks);
                thread::spawn(move || {
                    let mut future = Box::pin(locks.lock("a", request(LockOptions::new())));
                    let mut context = Context::from_waker(Waker::noop());
                    // Waits a while, then is dropped: as a waiter, or with the lock just taken.
                    for _ in 0..2 {
                        if let Poll::Ready(guard) = future.as_mut().poll(&mut context) {
                            drop(guard);
                            return;
                        }
                        thread::yield_now();
                    }
                })
            };
            drop(holder);
            for thread in [waits, gives_up] {
                thread.join().expect("no panic");
            }
            let options = LockOptions::new().blocking(false);
            let last = future::block_on(locks.lock("a", request(options)));
            assert!(last.is_ok(), "nobody holds it");
        });
    }
}
