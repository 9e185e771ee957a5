//! Locks: on one server, or on several masters by Redlock.
//!
//! A lock is a key with a TTL that holds a random owner; its fence is a counter beside it that outlives
//! it. See <https://redis.io/docs/latest/develop/use/patterns/distributed-locks/>, and for fencing tokens
//! Martin Kleppmann, "How to do distributed locking", 2016.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::NAME;
use super::keys::Keys;
use super::node::LockNode;
use super::redlock::Quorum;
use crate::backend::Result;
use crate::background::Home;
use crate::clock::monotonic_now;
use crate::error::{BackendError, Effect};
use crate::lock::{Attempt, HeldLock, Lease, LockError, LockGuard, LockOptions, Releaser, Turns};
use crate::random;

/// The TTL of a lock where nothing else is said.
pub(super) const DEFAULT_TTL: Duration = Duration::from_secs(10);

/// The shortest TTL: what is left of it by our clock must be above zero.
const SHORTEST_TTL: Duration = Duration::from_millis(5);
/// After each try to let go of a lock in the background.
const RELEASE_PAUSES: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::ZERO,
];

/// All locks of a backend.
#[derive(Debug)]
pub(super) struct Locks {
    keeper: Keeper,
    turns: Turns,
    releaser: Releaser,
    /// The TTL of a lease that is renewed while its guard lives.
    lease: Duration,
}

/// Who keeps the locks.
#[derive(Debug)]
pub(super) enum Keeper {
    Single(LockNode),
    Redlock(Quorum),
}

/// A lock that was taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) fence: Option<u64>,
    pub(super) valid_until: Instant,
}

/// What asking for a lock came to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Taken(Taken),
    /// Held by another, for that long.
    Held(Duration),
    /// Not had, but it may be held in our name somewhere.
    Unsettled,
}

/// What letting go of a lock came to.
#[derive(Debug)]
pub(super) struct Released {
    /// Whether it was still ours.
    pub(super) was_ours: Result<bool>,
    /// Whether nobody holds it in our name any more.
    pub(super) everywhere: bool,
}

/// When a lock must be taken for lost that was asked for at `sent` and lasts `ttl`: before the server
/// frees it, for clocks may differ by a hundredth, and expiry has a granularity.
pub(super) fn valid_until(sent: Instant, ttl: Duration) -> Instant {
    // A lock of centuries is one of a year here.
    const MOST: Duration = Duration::from_secs(366 * 24 * 3600);
    let ttl = ttl.min(MOST);
    sent + ttl.saturating_sub(ttl / 100 + Duration::from_millis(2))
}

impl Locks {
    pub(super) fn new(keeper: Keeper, lease: Duration) -> Self {
        Self { keeper, turns: Turns::new(NAME), releaser: Releaser::on(Home::Steady), lease }
    }

    pub(super) async fn lock(
        self: &Arc<Self>,
        name: &str,
        options: LockOptions,
    ) -> Result<LockGuard, LockError> {
        options.check(name)?;
        let ttl = options.get_ttl().unwrap_or(self.lease);
        if ttl < SHORTEST_TTL {
            return Err(LockError::Invalid {
                problem: "a lock's ttl on a server must be 5 ms or more",
            });
        }
        self.releaser.start();
        let (owner, taken) = self.turns.take(name, options, || self.attempt(name, ttl)).await?;
        let held = Arc::new(Holding {
            locks: Arc::clone(self),
            name: name.into(),
            owner,
            fence: taken.fence,
            valid_until: Mutex::new(taken.valid_until),
        });
        let lease = options.get_ttl().is_none().then(|| {
            let held = Arc::clone(&held);
            Lease::start_on(Home::Steady, NAME, ttl, move || {
                let held = Arc::clone(&held);
                async move { held.extend(ttl).await }
            })
        });
        Ok(LockGuard::new(Guarded { held, lease: Mutex::new(lease) }))
    }

    async fn attempt(
        self: &Arc<Self>,
        name: &str,
        ttl: Duration,
    ) -> Result<Attempt<(Arc<str>, Taken)>, LockError> {
        // A new one for each try: the late release of one must not let go of what the next has taken.
        let owner: Arc<str> = random::id().into();
        // Whatever becomes of this try: if it may have taken the lock and does not say so, let go.
        let cleanup = Cleanup { locks: self, name, owner: &owner, armed: true };
        let answer = self.keeper.acquire(name, &owner, ttl).await;
        match answer {
            Ok(Answer::Taken(taken)) if monotonic_now() < taken.valid_until => {
                cleanup.defuse();
                Ok(Attempt::Taken((Arc::clone(&owner), taken)))
            }
            // Or it took longer than the lock lasts.
            Ok(Answer::Taken(_) | Answer::Unsettled) => Ok(Attempt::Held(None)),
            Ok(Answer::Held(left)) => {
                cleanup.defuse();
                Ok(Attempt::Held(Some(left)))
            }
            Err(error) => {
                if error.effect() == Effect::NotApplied {
                    cleanup.defuse();
                }
                Err(error.into())
            }
        }
    }

    /// Lets go of a lock without waiting. An owner is never used again, so it may be tried again.
    fn release_later(self: &Arc<Self>, name: &str, owner: &Arc<str>) {
        let (locks, name, owner) = (Arc::clone(self), Box::<str>::from(name), Arc::clone(owner));
        self.releaser.send(async move {
            for pause in RELEASE_PAUSES {
                let released = locks.keeper.release(&name, &owner).await;
                locks.turns.freed(&name);
                if released.everywhere {
                    return;
                }
                sleep(pause).await;
            }
            // The TTL frees it.
        });
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
            BackendError::new(NAME, "set_fenced", crate::error::ErrorKind::Unsupported)
                .with_message("the guard is not of a lock of this backend on a single server")
        };
        let guarded = guard.held_as::<Guarded>().ok_or_else(foreign)?;
        match &self.keeper {
            Keeper::Single(node) if std::ptr::eq(&*guarded.held.locks, self) => {
                let Holding { name: lock, owner, .. } = &*guarded.held;
                node.write(lock, owner, &keys.guarded(lock, name), value, ttl).await
            }
            _ => Err(foreign()),
        }
    }
}

impl Keeper {
    async fn acquire(&self, name: &str, owner: &str, ttl: Duration) -> Result<Answer> {
        match self {
            Self::Single(node) => node.acquire(name, owner, ttl).await,
            Self::Redlock(quorum) => quorum.acquire(name, owner, ttl).await,
        }
    }

    async fn extend(&self, name: &str, owner: &str, ttl: Duration) -> Result<Option<Instant>> {
        match self {
            Self::Single(node) => node.extend(name, owner, ttl).await,
            Self::Redlock(quorum) => quorum.extend(name, owner, ttl).await,
        }
    }

    async fn release(&self, name: &str, owner: &str) -> Released {
        match self {
            Self::Single(node) => {
                let was_ours = node.release(name, owner).await;
                Released { everywhere: was_ours.is_ok(), was_ours }
            }
            Self::Redlock(quorum) => quorum.release(name, owner).await,
        }
    }
}

/// Lets go of what a try may have taken, if it ends without saying so.
struct Cleanup<'a> {
    locks: &'a Arc<Locks>,
    name: &'a str,
    owner: &'a Arc<str>,
    armed: bool,
}

impl Cleanup<'_> {
    fn defuse(mut self) {
        self.armed = false;
    }
}

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.locks.release_later(self.name, self.owner);
        }
    }
}

/// A lock that is held, as its guard and its lease see it.
#[derive(Debug)]
struct Holding {
    locks: Arc<Locks>,
    name: Box<str>,
    owner: Arc<str>,
    fence: Option<u64>,
    valid_until: Mutex<Instant>,
}

impl Holding {
    async fn extend(&self, ttl: Duration) -> Result<bool> {
        let extended = self.locks.keeper.extend(&self.name, &self.owner, ttl).await?;
        let mut valid_until = self.valid_until.lock();
        match extended {
            Some(until) => *valid_until = until.max(*valid_until),
            // Known to be another's: no need to wait for our own clock to say so.
            None => *valid_until = monotonic_now().min(*valid_until),
        }
        Ok(extended.is_some())
    }
}

/// What a guard holds: the lock, and its lease if it has one.
#[derive(Debug)]
struct Guarded {
    held: Arc<Holding>,
    lease: Mutex<Option<Lease>>,
}

#[async_trait]
impl HeldLock for Guarded {
    fn fence(&self) -> Option<u64> {
        self.held.fence
    }

    fn valid_until(&self) -> Option<Instant> {
        Some(*self.held.valid_until.lock())
    }

    async fn extend(&self, ttl: Duration) -> Result<bool> {
        self.held.extend(ttl).await
    }

    async fn release(&self) -> Result<bool> {
        drop(self.lease.lock().take());
        let Holding { locks, name, owner, .. } = &*self.held;
        let Released { was_ours, everywhere } = locks.keeper.release(name, owner).await;
        locks.turns.freed(name);
        // After an error the guard abandons it.
        if was_ours.is_ok() && !everywhere {
            locks.release_later(name, owner);
        }
        was_ours
    }

    fn abandon(&self) {
        drop(self.lease.lock().take());
        self.held.locks.release_later(&self.held.name, &self.held.owner);
    }
}
