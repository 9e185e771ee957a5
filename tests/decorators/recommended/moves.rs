//! The stack on a cluster whose slots move under load.

use test_support::servers::wait;
use traffik::decorator::Resilience;
use traffik::{DecidedBy, InMemory, LifespanExt};

use super::load::Seen;
use super::places::{Cluster, Place};
use super::{LIMIT, OFTEN, Running, Targets, WIDE, ends_in_time, is_counted_once, throttle};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_the_stack_does_not_see_that_slots_move() {
    let place = Cluster::start();
    let targets = Targets::of(&place);
    let mut slots: Vec<u16> = targets.wide.iter().map(|key| place.slot_of("wide", key)).collect();
    slots.push(place.slot_of("tight", &targets.tight[0]));
    let stack = Resilience::recommended().fallback(InMemory::new());
    let stack = stack.around(place.store()).unwrap();
    let life = stack.lifespan().await.unwrap();
    let Running { load, .. } = targets.load(&stack, 0);
    load.each_is_decided(DecidedBy::Backend, OFTEN, WIDE, wait::now()).await;
    let cluster = &place.cluster;
    // Each once, and then on: a node never takes a slot over twice.
    for to in [1, 2] {
        for &slot in &slots {
            cluster.begin_migration(slot, to);
            load.each_is_decided(DecidedBy::Backend, 1, WIDE, wait::now()).await;
            assert_eq!(cluster.move_keys(slot, to), 1);
            load.each_is_decided(DecidedBy::Backend, 1, WIDE, wait::now()).await;
            cluster.end_migration(slot, to);
        }
    }
    load.each_is_decided(DecidedBy::Backend, OFTEN, WIDE, wait::now()).await;
    let seen = load.stop().await;

    let redirections = |error: &str| {
        let told = |node: usize| cluster.nodes()[node].cmd("INFO errorstats").field(error);
        (0..2).all(|node| told(node).is_some())
    };
    assert!(redirections("errorstat_ASK") && redirections("errorstat_MOVED"));
    let (longest, stall) = ends_in_time("slots move", &seen);
    let by_store = seen.iter().filter(|seen| seen.is_by(DecidedBy::Backend)).count();
    let of_store = |seen: &&Seen| seen.target == WIDE && seen.is_admitted_by(DecidedBy::Backend);
    let admitted = seen.iter().filter(of_store).count();
    println!(
        "slots move: {} hits, {by_store} by the store, the longest {longest:?} (stall {stall:?}), admitted of {LIMIT} \
         {admitted}",
        seen.len()
    );
    // The machine may keep one waiting for longer than the store has.
    assert!(by_store * 100 >= seen.len() * 95, "{by_store} of {}", seen.len());
    assert!(admitted <= LIMIT as usize, "{admitted}");
    let of_store = throttle("wide", 1_000_000, &place.store());
    is_counted_once(&of_store, &targets, &seen, seen.len() - by_store).await;
    life.close().await.unwrap();
}
