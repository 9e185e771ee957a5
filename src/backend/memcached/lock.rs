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
use super::protocol::{Answer, Command};
use super::{Inner, NAME, errors, keys};
use crate::backend::{Result, cas};
use crate::background;
use crate::clock::monotonic_now;
use crate::error::{BackendError, Effect, ErrorKind};
use crate::lock::{Attempt, HeldLock, Lease, LockError, LockGuard, LockOptions};
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
        self.releaser.start();
        self.turns.take(name, options, || self.acquire(name, options.get_ttl())).await
    }

    /// One try. It runs to its end also if nobody waits for it any more; the guard that it makes then
    /// lets go at once. Else an `add` that is under way could take a lock for nobody.
    async fn acquire(
        self: &Arc<Self>,
        name: &str,
        ttl: Option<Duration>,
    ) -> Result<Attempt<LockGuard>, LockError> {
        let hold = Hold::new(self, name);
        let leased = ttl.is_none();
        let (done, outcome) = oneshot::channel();
        background::start_detached(async move {
            let _ = done.send(hold.take(ttl.unwrap_or(hold.inner.lease_ttl), leased).await);
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
#[derive(Debug)]
struct Hold {
    inner: Arc<Inner>,
    /// As the user calls it.
    name: String,
    item: String,
    node: usize,
    owner: String,
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
    fn new(inner: &Arc<Inner>, name: &str) -> Arc<Self> {
        let item = keys::of_lock(inner.settings.namespace(), name);
        Arc::new(Self {
            inner: Arc::clone(inner),
            name: name.into(),
            node: inner.nodes.index_of(&item),
            item,
            owner: random::id(),
            until: Mutex::new(monotonic_now()),
        })
    }

    async fn take(
        self: &Arc<Self>,
        ttl: Duration,
        leased: bool,
    ) -> Result<Attempt<LockGuard>, LockError> {
        let asked = monotonic_now();
        let ttl = ttl.min(LONGEST);
        let exptime = expiry::exptime(ttl);
        let add = Command::Add { key: &self.item, value: self.owner.as_bytes(), exptime };
        match self.inner.nodes.call(self.node, OPERATION, add).await {
            Ok(Answer::Done) => {}
            Ok(Answer::Changed) => return Ok(Attempt::Held(None)),
            Ok(_) => return Err(errors::unexpected(OPERATION).into()),
            Err(error) => {
                if error.effect() == Effect::Ambiguous {
                    self.abandon();
                }
                return Err(error.into());
            }
        }
        *self.until.lock() = asked + ttl;
        let lease = leased.then(|| {
            let hold = Arc::clone(self);
            Lease::start(NAME, ttl, move || {
                let hold = Arc::clone(&hold);
                async move { hold.extend(ttl).await }
            })
        });
        Ok(Attempt::Taken(LockGuard::new(Held {
            hold: Arc::clone(self),
            lease: Mutex::new(lease),
        })))
    }

    /// Writes the item again with this expiry, if it is still ours.
    async fn rewrite(&self, operation: &'static str, exptime: u32) -> Result<Changed> {
        let nodes = &self.inner.nodes;
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
        let longest = (asked + ttl.min(LONGEST)).max(*self.until.lock());
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
        self.inner.turns.freed(&self.name);
        Ok(matches!(changed?, Changed::Yes))
    }

    /// Hands the release over to a task.
    fn abandon(self: &Arc<Self>) {
        let hold = Arc::clone(self);
        self.inner.releaser.send(async move {
            // The TTL is the backstop.
            let _ = hold.release().await;
        });
    }
}

#[derive(Debug)]
struct Held {
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
        self.hold.abandon();
    }
}
