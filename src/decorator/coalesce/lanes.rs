//! [`Lanes`]: which keys are being hit, and who gathers for the next question about them.
//!
//! A hit that is alone with its key leaves a mark, which costs it no allocation. The first that comes meanwhile makes
//! the one copy of the key and the limits, a lane, for all that come until the key is at rest again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::Inner;
use super::asker::{self, Asker};
use super::batch::{Batch, SharedHit};
use crate::error::{BackendError, ErrorKind};
use crate::key::{Key, KeyPart};
use crate::random;
use crate::step::Step;
use crate::strategy::{Limit, Op};

/// The most hits that wait for one question.
const MOST_WAITING: usize = 65_536;
/// The most questions about one key that are under way: while one is, the hits for the next are made.
pub(super) const MOST_ASKERS: usize = 2;
const SHARDS: usize = 64;

/// The keys that are being hit, by the hash of their runtime and their hits.
#[derive(Debug)]
pub(super) struct Lanes(Box<[Mutex<Shard>]>);

type Shard = HashMap<u64, Traffic, ahash::RandomState>;

/// The hits on one key.
#[derive(Debug, Default)]
struct Traffic {
    /// How many were passed on as they are.
    alone: usize,
    lane: Option<Lane>,
}

#[derive(Debug)]
struct Lane {
    hit: Arc<HitCopy>,
    /// Those who wait for the next question.
    gathering: Option<Arc<Batch>>,
    askers: usize,
}

/// A hit, as all that share a lane are.
#[derive(Debug)]
pub(super) struct HitCopy {
    throttle: Box<str>,
    parts: Box<[Box<[u8]>]>,
    limits: Box<[Limit]>,
    cost: u32,
    leave: u32,
}

/// How a hit is made.
pub(super) enum Join<'a> {
    /// Together with others.
    Shares(SharedHit),
    /// By itself; others may come meanwhile.
    Alone(Option<Alone<'a>>),
    /// Not at all.
    Refused(BackendError),
}

/// Marks that a hit is under way.
pub(super) struct Alone<'a> {
    lanes: &'a Lanes,
    hash: u64,
}

impl HitCopy {
    fn of(throttle: &str, key: &Key<'_>, step: &Step<'_>) -> Self {
        Self {
            throttle: throttle.into(),
            parts: key.parts().iter().map(|part| part.as_bytes().into()).collect(),
            limits: step.limits().into(),
            cost: step.cost(),
            leave: step.units_to_leave(),
        }
    }

    fn is_same(&self, throttle: &str, key: &Key<'_>, step: &Step<'_>) -> bool {
        let parts = key.parts().iter().map(KeyPart::as_bytes);
        self.cost == step.cost()
            && self.leave == step.units_to_leave()
            && *self.throttle == *throttle
            && parts.eq(self.parts.iter().map(|part| &**part))
            && step.has_limits(&self.limits)
    }

    pub(super) fn throttle(&self) -> &str {
        &self.throttle
    }

    pub(super) fn parts(&self) -> Vec<KeyPart<'_>> {
        self.parts.iter().map(|part| KeyPart::bytes(part)).collect()
    }

    pub(super) fn step(&self) -> Step<'_> {
        Step::of_apart(&self.limits, self.cost, Op::Take).leave(self.leave)
    }
}

/// Lets a hit share a question with others, or tells how else it is made.
pub(super) fn join<'a>(inner: &'a Arc<Inner>, key: &Key<'_>, step: &Step<'_>) -> Join<'a> {
    let lanes = &inner.lanes;
    let (Some(throttle), Ok(runtime)) = (key.throttle(), Handle::try_current()) else {
        return Join::Alone(None);
    };
    let hash = hash_of(&runtime, throttle, key, step);
    let mut shard = lanes.shard(hash).lock();
    let traffic = match shard.entry(hash) {
        Entry::Vacant(free) => {
            free.insert(Traffic { alone: 1, lane: None });
            return Join::Alone(Some(Alone { lanes, hash }));
        }
        Entry::Occupied(traffic) => traffic.into_mut(),
    };
    let lane = traffic.lane.get_or_insert_with(|| Lane {
        hit: Arc::new(HitCopy::of(throttle, key, step)),
        gathering: None,
        askers: 0,
    });
    if !lane.hit.is_same(throttle, key, step) {
        // Two hits of the same hash are almost never seen.
        return Join::Alone(None);
    }
    let batch = lane.gathering.get_or_insert_default();
    let Some(hit) = batch.join(MOST_WAITING) else {
        let name = inner.backend.core().name();
        return Join::Refused(BackendError::new(name, "apply", ErrorKind::Overloaded));
    };
    if hit.is_first() && lane.askers < MOST_ASKERS {
        lane.askers += 1;
        let asker = Asker::new(inner, hash, Arc::clone(&lane.hit));
        // It ends at once, and takes the lock for that, if the runtime is being shut down.
        drop(shard);
        asker::start(asker);
    }
    Join::Shares(hit)
}

fn hash_of(runtime: &Handle, throttle: &str, key: &Key<'_>, step: &Step<'_>) -> u64 {
    let mut hasher = random::hasher().build_hasher();
    (runtime.id(), throttle, step.cost(), step.units_to_leave()).hash(&mut hasher);
    for part in key.parts() {
        part.as_bytes().hash(&mut hasher);
    }
    for limit in step.limits() {
        let rate = limit.rate();
        (limit.strategy_id(), rate.limit(), rate.period_micros()).hash(&mut hasher);
    }
    hasher.finish()
}

impl Lanes {
    pub(super) fn new() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }

    #[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.0[hash as usize % SHARDS]
    }

    /// Returns those who have gathered. If nobody has, one asker less is there.
    pub(super) fn next(&self, hash: u64) -> Option<Arc<Batch>> {
        let mut shard = self.shard(hash).lock();
        let lane = shard.get_mut(&hash)?.lane.as_mut()?;
        let batch = lane.gathering.take();
        if batch.is_none() {
            lane.askers -= 1;
            clear_away(&mut shard, hash);
        }
        batch
    }

    /// Takes an asker away that goes before its time. Returns those who have gathered, if no other will ask for them.
    pub(super) fn leave(&self, hash: u64) -> Option<Arc<Batch>> {
        let mut shard = self.shard(hash).lock();
        let lane = shard.get_mut(&hash)?.lane.as_mut()?;
        lane.askers -= 1;
        let left = if lane.askers == 0 { lane.gathering.take() } else { None };
        clear_away(&mut shard, hash);
        left
    }
}

/// Forgets a key that is at rest.
fn clear_away(shard: &mut Shard, hash: u64) {
    let is_at_rest = |traffic: &Traffic| {
        let works = |lane: &Lane| lane.askers > 0 || lane.gathering.is_some();
        traffic.alone == 0 && !traffic.lane.as_ref().is_some_and(works)
    };
    if shard.get(&hash).is_some_and(is_at_rest) {
        shard.remove(&hash);
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let mut shard = self.lanes.shard(self.hash).lock();
        if let Some(traffic) = shard.get_mut(&self.hash) {
            traffic.alone -= 1;
        }
        clear_away(&mut shard, self.hash);
    }
}
