//! Locks: on one server, or on several masters by Redlock.
//!
//! A lock is a key with a TTL that holds a random owner; its fence is a counter beside it that outlives
//! it. See <https://redis.io/docs/latest/develop/use/patterns/distributed-locks/>, and for fencing tokens
//! Martin Kleppmann, "How to do distributed locking", 2016.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::keys::Keys;
use super::master::{self, Acquired, Acquisition, Freed, Master, Place, Traces, Wanted};
use super::node::{Grant, LockNode};
use super::redlock::Quorum;
use super::{NAME, failed};
use crate::backend::Result;
use crate::background::Home;
use crate::clock::monotonic_now;
use crate::error::{Effect, ErrorKind};
use crate::lock::{
    Attempt, InUse, LockError, LockGuard, LockRequest, ServerHolding, ServerLock, User, WaitQueue,
    server_ttl,
};
use crate::random;

/// The TTL of a lease where nothing else is said.
pub(super) const DEFAULT_LEASE: Duration = Duration::from_secs(10);

/// Consecutive attempts without a majority after which a wait for several masters ends: about a second.
const MOST_FAILED: usize = 6;

/// The locks of a backend.
#[derive(Debug)]
pub(super) struct RedisLocks {
    keeper: Keeper,
    waiting: Arc<WaitQueue>,
    /// The TTL of a lease that is renewed while its guard lives.
    lease: Duration,
    in_use: Arc<InUse>,
}

/// Who keeps the locks.
#[derive(Debug)]
pub(super) enum Keeper {
    Single(Master),
    Redlock(Quorum),
}

impl RedisLocks {
    pub(super) fn new(keeper: Keeper, lease: Duration) -> Self {
        let waiting = Arc::new(WaitQueue::new(NAME));
        Self { keeper, waiting, lease, in_use: Arc::default() }
    }

    pub(super) async fn lock(
        self: &Arc<Self>,
        name: &str,
        request: LockRequest,
    ) -> Result<LockGuard, LockError> {
        let ttl = server_ttl(&request, self.lease)?;
        for master in self.keeper.masters() {
            master.releaser.start();
        }
        let user = self.in_use.enter();
        let name: Arc<str> = name.into();
        let failed_in_a_row = AtomicUsize::new(0);
        let attempt = || async {
            let outcome = self.attempt(&name, ttl, &user).await;
            if request.waits() && self.keeper.may_pass(&outcome, &failed_in_a_row) {
                return Ok(Attempt::Held(None));
            }
            outcome
        };
        let (wanted, taken) = self.waiting.acquire(&name, request, attempt).await?;
        let holding = RedisHolding {
            locks: Arc::clone(self),
            wanted,
            fence: taken.fence,
            taken_at: monotonic_now(),
            valid_until: Mutex::new(taken.valid_until),
            places: Mutex::new(taken.places),
        };
        Ok(ServerLock::guard(holding, request.ttl().is_none().then_some(ttl)))
    }

    async fn attempt(
        &self,
        name: &Arc<str>,
        ttl: Duration,
        user: &User,
    ) -> Result<Attempt<(Wanted, Acquisition)>, LockError> {
        // A new owner for each try: the late release of one must not release what the next has taken.
        let (name, owner) = (Arc::clone(name), random::id().into());
        let wanted = Wanted { name, owner, ttl, _user: user.clone() };
        match self.keeper.acquire(&wanted, &self.waiting).await? {
            Acquired::Taken(taken) => Ok(Attempt::Taken((wanted, taken))),
            Acquired::Held(left) => Ok(Attempt::Held(left)),
        }
    }

    /// Waits until what was dropped is released, for at most that time; then calls `close` as soon as no
    /// lock is held or waited for, which [`open`](Self::open) takes back.
    pub(super) async fn close(&self, time: Duration, close: impl FnOnce() + Send + 'static) {
        let released = self.keeper.masters().iter().map(|master| master.releaser.drained(time));
        futures_util::future::join_all(released).await;
        self.in_use.when_free(close);
    }

    pub(super) fn open(&self) {
        self.in_use.stay();
    }

    /// Writes a value if the lock is still the owner's.
    pub(super) async fn write(
        &self,
        guard: &LockGuard,
        keys: &Keys,
        name: &[u8],
        value: Option<&[u8]>,
        ttl: Option<Duration>,
    ) -> Result<bool> {
        let foreign = || {
            failed("set_fenced", ErrorKind::Unsupported)
                .with_message("the guard is not of a lock of this backend on a single server")
        };
        let held = guard.held_as::<ServerLock<RedisHolding>>().ok_or_else(foreign)?.holding();
        match &self.keeper {
            Keeper::Single(master) if std::ptr::eq(&*held.locks, self) => {
                let Wanted { name: lock, owner, .. } = &held.wanted;
                master.node.write(lock, owner, &keys.guarded(lock, name), value, ttl).await
            }
            _ => Err(foreign()),
        }
    }
}

impl Keeper {
    pub(super) fn single(node: LockNode) -> Self {
        Self::Single(Master::new(node))
    }

    fn masters(&self) -> &[Master] {
        match self {
            Self::Single(master) => std::slice::from_ref(master),
            Self::Redlock(quorum) => quorum.masters(),
        }
    }

    /// Returns whether a waiter retries after this failure. Each master of several has a short time for
    /// its answer; so with a minority dead, one of the others that is late once is no reason to give up.
    fn may_pass<T>(&self, outcome: &Result<T, LockError>, failed_in_a_row: &AtomicUsize) -> bool {
        let Err(LockError::Backend(error)) = outcome else {
            failed_in_a_row.store(0, Ordering::Relaxed);
            return false;
        };
        let passes = matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable);
        let failed = failed_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        matches!(self, Self::Redlock(_)) && passes && failed < MOST_FAILED
    }

    async fn acquire(&self, wanted: &Wanted, waiting: &Arc<WaitQueue>) -> Result<Acquired> {
        match self {
            Self::Single(master) => acquire_on(master, wanted, waiting).await,
            Self::Redlock(quorum) => quorum.acquire(wanted).await,
        }
    }

    async fn extend(
        &self,
        wanted: &Wanted,
        places: &[Place],
        ttl: Duration,
    ) -> Result<Option<Instant>> {
        match self {
            Self::Single(master) => master.node.extend(&wanted.name, &wanted.owner, ttl).await,
            Self::Redlock(quorum) => quorum.extend(wanted, places, ttl).await,
        }
    }

    /// Returns `true` if it was still ours. What is surely released is removed from the places.
    async fn release(&self, wanted: &Wanted, places: &mut Vec<Place>) -> Result<bool> {
        match self {
            Self::Single(master) => {
                let was_ours = master.node.release(&wanted.name, &wanted.owner).await?;
                places.clear();
                Ok(was_ours)
            }
            Self::Redlock(quorum) => quorum.release(wanted, places).await,
        }
    }

    /// Wakes those who wait here when a lock of these places is free.
    fn freed(&self, waiting: &Arc<WaitQueue>, name: &Arc<str>, places: usize) -> Arc<Freed> {
        let masters = self.masters().len();
        // Until a majority is free.
        let needed = (masters / 2 + 1 + places).saturating_sub(masters).max(1);
        let (waiting, name) = (Arc::clone(waiting), Arc::clone(name));
        Arc::new(Freed { waiting, name, needed, released: AtomicUsize::new(0) })
    }
}

async fn acquire_on(
    master: &Master,
    wanted: &Wanted,
    waiting: &Arc<WaitQueue>,
) -> Result<Acquired> {
    let Wanted { name, owner, ttl, .. } = wanted;
    let freed = Freed {
        waiting: Arc::clone(waiting),
        name: Arc::clone(name),
        needed: 1,
        released: AtomicUsize::new(0),
    };
    let masters = std::slice::from_ref(master);
    let mut traces = Traces::new(masters, [0], wanted, Some(Arc::new(freed)));
    match master.node.acquire(name, owner, *ttl).await {
        Ok(Grant::Granted { token, valid_until }) => {
            traces.granted(0);
            if valid_until <= monotonic_now() {
                // It took longer than the lock lasts.
                return Ok(Acquired::Held(None));
            }
            Ok(Acquired::Taken(Acquisition {
                fence: Some(token),
                valid_until,
                places: traces.keep(),
            }))
        }
        Ok(Grant::Held(left)) => {
            traces.none_on(0);
            Ok(Acquired::Held(Some(left)))
        }
        Err(error) => {
            if error.effect() == Effect::NotApplied {
                traces.none_on(0);
            }
            Err(error)
        }
    }
}

/// A lock that is held.
#[derive(Debug)]
struct RedisHolding {
    locks: Arc<RedisLocks>,
    wanted: Wanted,
    fence: Option<u64>,
    taken_at: Instant,
    valid_until: Mutex<Instant>,
    /// Where it is to be released.
    places: Mutex<Vec<Place>>,
}

impl ServerHolding for RedisHolding {
    const HOME: Home = Home::Steady;
    const BACKEND: &'static str = NAME;

    fn fencing_token(&self) -> Option<u64> {
        self.fence
    }

    fn valid_until(&self) -> Instant {
        *self.valid_until.lock()
    }

    async fn extend(&self, ttl: Duration) -> Result<bool> {
        let places = self.places.lock().clone();
        let extended = self.locks.keeper.extend(&self.wanted, &places, ttl).await?;
        let mut valid_until = self.valid_until.lock();
        match extended {
            Some(until) => *valid_until = until.max(*valid_until),
            // Known to be another's before our own clock tells.
            None => *valid_until = monotonic_now().min(*valid_until),
        }
        Ok(extended.is_some())
    }

    async fn release(&self) -> Result<bool> {
        let RedisLocks { keeper, waiting, .. } = &*self.locks;
        let mut places = self.places.lock().clone();
        let was_ours = keeper.release(&self.wanted, &mut places).await;
        waiting.released(&self.wanted.name);
        *self.places.lock() = places;
        // After an error the guard abandons it.
        if was_ours.is_ok() {
            self.release_later();
        }
        was_ours
    }

    fn release_later(&self) {
        let places = std::mem::take(&mut *self.places.lock());
        let RedisLocks { keeper, waiting, .. } = &*self.locks;
        let freed = keeper.freed(waiting, &self.wanted.name, places.len());
        let times = (self.taken_at, self.last_end());
        master::release_later(keeper.masters(), &places, &self.wanted, times, &freed);
    }
}

impl RedisHolding {
    /// Returns when the server has surely freed it: its clock may be slower than ours.
    fn last_end(&self) -> Instant {
        let until = *self.valid_until.lock();
        let left = until.saturating_duration_since(monotonic_now());
        until + left / 20 + Duration::from_secs(1)
    }
}
