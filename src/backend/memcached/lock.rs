//! Locks: an item that only one can add, with its owner's name in it.
//!
//! Released and extended by `cas`, so never another's. Best effort: a server that is short of memory may
//! evict the item, and one that restarts has forgotten it; then a second holder gets the lock while the
//! first still thinks it has it. For the same reason there is no fencing token to promise.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::expiry::{self, LONG_PAST};
use super::nodes::Nodes;
use super::protocol::{Answer, Command};
use super::{Inner, NAME, errors, keys};
use crate::backend::{Result, cas};
use crate::background::{self, Home};
use crate::clock::monotonic_now;
use crate::error::{BackendError, Effect, ErrorKind};
use crate::lock::{
    Asked, Attempt, HeldLock, Lane, Lease, LockError, LockGuard, LockOptions, Outcome, WaitQueue,
    later,
};
use crate::random;

const OPERATION: &str = "lock";
/// No lock is held for longer: some 10 years.
const LONGEST: Duration = Duration::from_secs(3660 * 24 * 60 * 60);

impl Inner {
    pub(super) async fn lock(
        self: &Arc<Self>,
        name: &str,
        options: LockOptions,
    ) -> Result<LockGuard, LockError> {
        options.check(name)?;
        for releaser in &self.releasers {
            releaser.start();
        }
        self.waiting.acquire(name, options, || self.acquire(name, options.get_ttl())).await
    }

    /// One try. It runs to its end also if nobody waits for it any more; the guard that it makes then
    /// lets go at once. Else an `add` that is under way could take a lock for nobody.
    async fn acquire(
        self: &Arc<Self>,
        name: &str,
        ttl: Option<Duration>,
    ) -> Result<Attempt<LockGuard>, LockError> {
        let hold = Hold::new(self, name);
        let (lease, inner) = (self.lease, Arc::clone(self));
        let (done, outcome) = oneshot::channel();
        background::start_detached_on(Home::Own, async move {
            let _ = done.send(hold.take(&inner, ttl.unwrap_or(lease), ttl.is_none()).await);
        });
        outcome.await.unwrap_or_else(|_gone| {
            Err(BackendError::new(NAME, OPERATION, ErrorKind::Unavailable)
                .with_effect(Effect::Ambiguous)
                .with_message("the runtime was shut down")
                .into())
        })
    }
}

/// A lock that is held or about to be.
///
/// It has what a release needs and no more, so that one which waits for its server does not keep the whole
/// backend alive.
#[derive(Debug)]
struct Hold {
    nodes: Arc<Nodes>,
    waiting: Arc<WaitQueue>,
    /// As the user calls it.
    name: String,
    item: String,
    node: usize,
    owner: String,
    /// When the server was asked for it.
    asked: Instant,
    /// By a clock that was read before the server was asked.
    until: Mutex<Instant>,
}

/// What became of an attempt to change the item.
enum Changed {
    Yes,
    /// It is not ours, or not there.
    Lost,
}

impl Hold {
    fn new(inner: &Inner, name: &str) -> Arc<Self> {
        let item = keys::of_lock(inner.settings.namespace(), name);
        let now = monotonic_now();
        Arc::new(Self {
            nodes: Arc::clone(&inner.nodes),
            waiting: Arc::clone(&inner.waiting),
            name: name.into(),
            node: inner.nodes.index_of(&item),
            item,
            owner: random::id(),
            asked: now,
            until: Mutex::new(now),
        })
    }

    async fn take(
        self: &Arc<Self>,
        inner: &Arc<Inner>,
        ttl: Duration,
        leased: bool,
    ) -> Result<Attempt<LockGuard>, LockError> {
        let ttl = ttl.min(LONGEST);
        let exptime = expiry::exptime(ttl);
        let add = Command::Add { key: &self.item, value: self.owner.as_bytes(), exptime };
        match self.nodes.call(self.node, OPERATION, add).await {
            Ok(Answer::Done) => {}
            Ok(Answer::Changed) => return Ok(Attempt::Held(None)),
            Ok(_) => return Err(errors::unexpected(OPERATION).into()),
            Err(error) => {
                if error.effect() == Effect::Ambiguous {
                    self.release_later(inner, Asked::in_vain(self.asked, ttl));
                }
                return Err(error.into());
            }
        }
        *self.until.lock() = later(self.asked, ttl);
        let lease = leased.then(|| {
            let hold = Arc::clone(self);
            Lease::start(Home::Own, NAME, ttl, move || {
                let hold = Arc::clone(&hold);
                async move { hold.extend(ttl).await }
            })
        });
        Ok(Attempt::Taken(LockGuard::new(Held {
            inner: Arc::clone(inner),
            hold: Arc::clone(self),
            lease: Mutex::new(lease),
        })))
    }

    /// Writes the item again with this expiry, if it is still ours.
    async fn rewrite(&self, operation: &'static str, exptime: u32) -> Result<Changed> {
        let nodes = &self.nodes;
        for attempt in 0..cas::MAX_ATTEMPTS {
            cas::pause(attempt).await;
            let found = nodes.call(self.node, operation, Command::Gets(&self.item)).await?;
            let version = match found {
                Answer::Value(owner, version) if owner == self.owner.as_bytes() => version,
                Answer::Value(..) | Answer::Missing => return Ok(Changed::Lost),
                _ => return Err(errors::unexpected(operation)),
            };
            let (key, value) = (&self.item, self.owner.as_bytes());
            let cas = Command::Cas { key, value, version, exptime };
            match nodes.call(self.node, operation, cas).await? {
                Answer::Done => return Ok(Changed::Yes),
                // Extended at the same time by the lease, or gone: look again.
                Answer::Changed | Answer::Missing => {}
                _ => return Err(errors::unexpected(operation)),
            }
        }
        Err(errors::contended(operation))
    }

    async fn extend(&self, ttl: Duration) -> Result<bool> {
        let asked = monotonic_now();
        // Never shorter than it is; but whether it is still ours is asked in any case.
        let longest = later(asked, ttl.min(LONGEST)).max(*self.until.lock());
        let exptime = expiry::exptime(longest.saturating_duration_since(asked));
        let changed = self.rewrite("extend", exptime).await?;
        let mut until = self.until.lock();
        *until = match changed {
            Changed::Yes => longest.max(*until),
            Changed::Lost => monotonic_now(),
        };
        Ok(matches!(changed, Changed::Yes))
    }

    async fn release(&self) -> Result<bool> {
        let changed = self.rewrite("release", LONG_PAST).await;
        self.waiting.released(&self.name);
        Ok(matches!(changed?, Changed::Yes))
    }

    /// Releases it in the background.
    fn release_later(self: &Arc<Self>, inner: &Inner, asked: Asked) {
        let hold = Arc::clone(self);
        inner.releasers[self.node].send(asked, move || {
            let hold = Arc::clone(&hold);
            async move {
                match hold.rewrite("release", LONG_PAST).await {
                    Ok(Changed::Yes) => {
                        hold.waiting.released(&hold.name);
                        Outcome::Released
                    }
                    Ok(Changed::Lost) => Outcome::NotOurs,
                    Err(error) => match error.kind() {
                        ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Overloaded => {
                            Outcome::NoAnswer
                        }
                        _ => Outcome::Refused,
                    },
                }
            }
        });
    }
}

#[derive(Debug)]
struct Held {
    inner: Arc<Inner>,
    hold: Arc<Hold>,
    lease: Mutex<Option<Lease>>,
}

impl Held {
    fn end_lease(&self) {
        let lease = self.lease.lock().take();
        drop(lease);
    }
}

#[async_trait]
impl HeldLock for Held {
    fn fence(&self) -> Option<u64> {
        None
    }

    fn valid_until(&self) -> Option<Instant> {
        Some(*self.hold.until.lock())
    }

    async fn extend(&self, ttl: Duration) -> Result<bool> {
        self.hold.extend(ttl).await
    }

    async fn release(&self) -> Result<bool> {
        self.end_lease();
        self.hold.release().await
    }

    fn abandon(&self) {
        self.end_lease();
        // A server keeps an item for some seconds more.
        let until = later(*self.hold.until.lock(), Duration::from_secs(3));
        let asked = Asked { lane: Lane::Guard, granted: true, at: self.hold.asked, until };
        self.hold.release_later(&self.inner, asked);
    }
}
