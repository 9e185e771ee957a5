//! The stack when connections go dead without a word: only the calls themselves can find out.

use std::time::Instant;

use test_support::servers::wait;
use traffik::decorator::Resilience;
use traffik::{DecidedBy, InMemory, LifespanExt};

use super::load::{Seen, TASKS};
use super::places::{OneMemcached, OneRedis, Place};
use super::{BACK, LIMIT, OFTEN, Running, Targets, WIDE, ends_in_time, is_counted_once, throttle};

const TIMES: usize = 3;

/// From just before the connections went dead until the store decided for each task again.
type Dead = (Instant, Instant);

async fn finds_its_connections_dead(place: impl Place) {
    let targets = Targets::of(&place);
    let stack = Resilience::recommended().fallback(InMemory::new());
    let stack = stack.around(place.store()).unwrap();
    let life = stack.lifespan().await.unwrap();
    let Running { load, .. } = targets.load(&stack, 0);
    let mut times: Vec<Dead> = Vec::new();
    for _ in 0..TIMES {
        load.each_is_decided(DecidedBy::Backend, OFTEN, WIDE, wait::now()).await;
        let begun = wait::now();
        place.strand();
        let stranded = wait::now();
        let back = load.each_is_decided(DecidedBy::Backend, 1, WIDE, stranded).await;
        println!("back after {:?}", back - stranded);
        assert!(back - stranded < BACK, "back after {:?}", back - stranded);
        times.push((begun, back));
    }
    load.each_is_decided(DecidedBy::Backend, OFTEN, WIDE, wait::now()).await;
    let seen = load.stop().await;

    ends_in_time("half open", &seen);
    for (begun, back) in times {
        let is_then = |seen: &&Seen| seen.end >= begun && seen.start <= back;
        let mut then = seen.iter().filter(is_then);
        assert!(then.any(|seen| seen.is_by(DecidedBy::Fallback)), "nobody waited in vain");
    }
    let tight: Vec<&Seen> = seen.iter().filter(|seen| seen.target == WIDE).collect();
    for by in [DecidedBy::Backend, DecidedBy::Fallback] {
        let admitted = tight.iter().filter(|seen| seen.is_admitted_by(by)).count();
        assert!(admitted <= LIMIT as usize, "{admitted} admitted by {by:?}");
    }
    let of_store = throttle("wide", 1_000_000, &place.store());
    // Of each task what was under way when they went dead, and what a new one took when its time was almost over.
    is_counted_once(&of_store, &targets, &seen, TIMES * 2 * TASKS).await;
    life.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_the_stack_finds_a_half_open_connection_of_redis() {
    finds_its_connections_dead(OneRedis::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_the_stack_finds_the_half_open_connections_of_memcached() {
    finds_its_connections_dead(OneMemcached::start()).await;
}
