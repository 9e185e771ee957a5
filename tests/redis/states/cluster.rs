//! A cluster whose slots move.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use traffik::{Backend, Effect, ErrorKind, Key, LockOptions, Locks, Redis, Throttle, Values};

use super::world::{CAPACITY, LONG, eventually, hasty, heals_for, patient, refused, throttle};
use test_support::servers::RedisCluster;

/// The slot of the state of [`throttle`] for a plain key.
pub(crate) fn slot_of(cluster: &RedisCluster, key: &str) -> u16 {
    cluster.slot_of(&format!("states|t|states|{key}"))
}

/// The stored name of a plain value.
fn stored(name: &str) -> String {
    format!("states|v|{name}")
}

/// The slot of a plain value, as a cluster computes it: CRC16 of the XMODEM kind.
fn crc_slot(name: &str) -> u16 {
    let crc = stored(name).bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| {
            crc << 1 ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 }
        })
    });
    crc % 16_384
}

/// How many units the key's state holds.
pub(crate) async fn used(throttle: &Throttle, key: &str) -> u32 {
    CAPACITY - throttle.peek(key).await.unwrap().remaining()
}

/// Where the slot can go.
fn other_master(cluster: &RedisCluster, slot: u16) -> usize {
    (cluster.master_of_slot(slot) + 1) % 3
}

async fn started() -> (RedisCluster, Redis) {
    let cluster = RedisCluster::start(3, 0);
    let backend = patient().cluster(cluster.urls()).build().unwrap();
    backend.initialize().await.unwrap();
    (cluster, backend)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_hits_follow_a_slot_that_moves() {
    let (cluster, backend) = started().await;
    let throttle = throttle(&backend);
    let slot = slot_of(&cluster, "a");
    for count in 1..=6 {
        assert_eq!(throttle.hit("a").await.unwrap().remaining(), CAPACITY - count);
        // MOVED, with the key there already.
        cluster.migrate(slot, other_master(&cluster, slot));
    }
    assert_eq!(used(&throttle, "a").await, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_hits_under_load_while_slots_move() {
    let (cluster, backend) = started().await;
    let throttle = throttle(&backend);
    let keys = ["a", "b", "c", "d"];
    let done = Arc::new(AtomicBool::new(false));
    let load = keys.map(|key| {
        let (throttle, done) = (throttle.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            let mut hits = 0;
            while !done.load(Ordering::Relaxed) {
                assert!(throttle.hit(key).await.unwrap().is_allowed());
                hits += 1;
            }
            hits
        })
    });
    tokio::task::block_in_place(|| {
        // Once around and no more: a node never takes a slot over twice, so that who follows an old
        // ASK late is sent on.
        for _ in 0..3 {
            for key in keys {
                let slot = slot_of(&cluster, key);
                cluster.migrate(slot, other_master(&cluster, slot));
            }
        }
    });
    done.store(true, Ordering::Relaxed);
    for (key, task) in keys.iter().zip(load) {
        // First the last hit of the task, then what was counted.
        let hits = task.await.unwrap();
        assert_eq!(used(&throttle, key).await, hits, "each exactly once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_hits_in_the_middle_of_a_migration() {
    let (cluster, backend) = started().await;
    let throttle = throttle(&backend);
    let slot = slot_of(&cluster, "a");
    let to = other_master(&cluster, slot);

    // The key is still at the old master.
    assert_eq!(throttle.hit("a").await.unwrap().remaining(), CAPACITY - 1);
    cluster.begin_migration(slot, to);
    assert_eq!(throttle.hit("a").await.unwrap().remaining(), CAPACITY - 2);
    assert_eq!(cluster.nodes()[to].calls("asking"), 0);
    // It is at the new one already.
    assert_eq!(cluster.move_keys(slot, to), 1);
    assert_eq!(throttle.hit("a").await.unwrap().remaining(), CAPACITY - 3);
    assert!(cluster.nodes()[to].calls("asking") > 0, "ASK was followed");
    // It is nowhere: it is made at the new one.
    throttle.reset("a").await.unwrap();
    assert_eq!(throttle.hit("a").await.unwrap().remaining(), CAPACITY - 1);
    assert_eq!(cluster.nodes()[to].cmd("DBSIZE").int(), 1);
    cluster.end_migration(slot, to);
    assert_eq!(throttle.hit("a").await.unwrap().remaining(), CAPACITY - 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_keys_that_are_apart_for_a_while_are_waited_for() {
    let (cluster, backend) = started().await;
    let brief = hasty().cluster(cluster.urls()).build().unwrap();
    // No key chooses its slot, so they are searched for.
    let slot = cluster.slot_of("x");
    let mut names =
        (0..).map(|number: u32| number.to_string()).filter(|name| crc_slot(name) == slot);
    let names = [names.next().unwrap(), names.next().unwrap()];
    let keys = [Key::value(&names[0]), Key::value(&names[1])];
    backend.multi_set(&[(keys[0], b"1"), (keys[1], b"2")], None).await.unwrap();
    // A lock whose fence is there and the lock is not.
    let options = LockOptions::new().ttl(Some(LONG)).blocking(false);
    let first = backend.lock("x", options).await.unwrap();
    let token = first.fencing_token();
    assert!(first.release().await.unwrap());

    let from = cluster.master_of_slot(slot);
    let to = other_master(&cluster, slot);
    cluster.begin_migration(slot, to);
    let port = cluster.nodes()[to].port().to_string();
    let stored = stored(&names[0]);
    let migrate: [&[u8]; 6] =
        [b"MIGRATE", b"127.0.0.1", port.as_bytes(), stored.as_bytes(), b"0", b"5000"];
    assert_eq!(cluster.nodes()[from].command(&migrate).unwrap().text(), "OK");
    let error = brief.multi_get(&keys).await.unwrap_err();
    if error.kind() != ErrorKind::Timeout {
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::NotApplied));
    }
    let waiting = tokio::spawn({
        let backend = patient().command_timeout(LONG).cluster(cluster.urls()).build().unwrap();
        async move {
            let keys = [Key::value(&names[0]), Key::value(&names[1])];
            (backend.multi_get(&keys).await, backend.multi_set(&[(keys[0], b"3")], None).await)
        }
    });
    tokio::task::block_in_place(|| {
        cluster.move_keys(slot, to);
        cluster.end_migration(slot, to);
    });
    let (values, written) = waiting.await.unwrap();
    assert_eq!(values.unwrap(), [Some(b"1".to_vec()), Some(b"2".to_vec())]);
    written.unwrap();
    let tagged = LockOptions::new().ttl(Some(LONG));
    assert!(backend.lock("x", tagged).await.unwrap().fencing_token() > token);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_lock_is_taken_and_let_go_of_in_the_middle_of_a_migration() {
    let (cluster, backend) = started().await;
    let slot = cluster.slot_of("job");
    let to = other_master(&cluster, slot);
    let options = LockOptions::new().ttl(Some(LONG));
    let before = backend.lock("job", options).await.unwrap();
    cluster.begin_migration(slot, to);
    assert_eq!(cluster.move_keys(slot, to), 2, "the lock and its fence");
    assert!(backend.lock("job", options.blocking(false)).await.is_err(), "it is held");
    let token = before.fencing_token();
    assert!(before.release().await.unwrap());
    // Its fence is at the new master and the lock nowhere: TRYAGAIN, until the slot has moved.
    let waiting = tokio::spawn({
        let backend = patient().command_timeout(LONG).cluster(cluster.urls()).build().unwrap();
        async move { backend.lock("job", options).await.map(|guard| guard.fencing_token()) }
    });
    let refused = || cluster.nodes()[to].cmd("INFO errorstats").field("errorstat_TRYAGAIN");
    eventually("it is told to try again", async || refused().is_some()).await;
    tokio::task::block_in_place(|| cluster.end_migration(slot, to));
    assert!(waiting.await.unwrap().unwrap() > token);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_a_slot_that_nobody_serves() {
    let (cluster, _) = started().await;
    let backend = hasty().cluster(cluster.urls()).build().unwrap();
    let throttle = throttle(&backend);
    let _ = throttle.hit("a").await.unwrap();
    let slot = slot_of(&cluster, "a");
    let node = &cluster.nodes()[cluster.master_of_slot(slot)];
    node.cmd(&format!("CLUSTER DELSLOTS {slot}"));
    let error = refused(&throttle, "Hash slot not served").await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    node.cmd(&format!("CLUSTER ADDSLOTS {slot}"));
    let _ = heals_for(&throttle, "a").await;
}
