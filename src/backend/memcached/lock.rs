//! Locks: an item that only one client can add, with its owner's name in it.
//!
//! Released and extended by `cas`, so never another's. Best effort: a server that is short of memory may
//! evict the item, and one that restarts has forgotten it; then a second holder gets the lock while the
//! first still thinks it has it. For the same reason there is no fencing token to promise.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::exptime::{self, LONG_PAST};
use super::nodes::Nodes;
use super::protocol::{Command, Reply};
use super::{MemcachedInner, NAME, errors, keys};
use crate::backend::{Result, optimistic};
use crate::background::{self, Home};
use crate::clock::monotonic_now;
use crate::error::{Effect, ErrorKind};
use crate::lock::{
    Attempt, Lane, LockError, LockGuard, LockRequest, ReleaseOutcome, ServerHolding, ServerLock,
    ToRelease, WaitQueue, later, server_ttl, valid_until,
};
use crate::on_drop::OnDrop;
use crate::random;

const OPERATION: &str = "lock";
/// No lock is held for longer: some 10 years.
const LONGEST: Duration = Duration::from_secs(3660 * 24 * 60 * 60);

impl MemcachedInner {
    pub(super) async fn lock(
        self: &Arc<Self>,
        name: &str,
        request: LockRequest,
    ) -> Result<LockGuard, LockError> {
        for releaser in &self.releasers {
            releaser.start();
        }
        let (ttl, leased) =
            (server_ttl(&request, self.lease)?.min(LONGEST), request.ttl().is_none());
        self.waiting.acquire(name, request, || self.acquire(name, ttl, leased)).await
    }

    /// One try. It runs to its end also if nobody waits for it any more; the guard that it makes then
    /// lets go at once. Else an `add` that is under way could take a lock for nobody.
    async fn acquire(
        self: &Arc<Self>,
        name: &str,
        ttl: Duration,
        leased: bool,
    ) -> Result<Attempt<LockGuard>, LockError> {
        let hold = Hold::new(self, name, ttl);
        let inner = Arc::clone(self);
        let (done, outcome) = oneshot::channel();
        background::start_detached_on(Home::Own, async move {
            let _ = done.send(hold.take(&inner, leased).await);
        });
        outcome.await.unwrap_or_else(|_gone| {
            Err(errors::failed(OPERATION, ErrorKind::Unavailable)
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
    /// Of the acquisition.
    first: Term,
    /// As it was extended.
    term: Mutex<Term>,
    /// The ends of the extensions that are under way: of two at once neither writes less than the other.
    wanted: Mutex<Vec<Instant>>,
}

/// For how long a lock was asked for, and since when: by a clock that was read before the server was asked.
#[derive(Clone, Copy, Debug)]
struct Term {
    asked: Instant,
    ttl: Duration,
}

impl Term {
    fn end(self) -> Instant {
        later(self.asked, self.ttl)
    }

    fn valid_until(self) -> Instant {
        valid_until(self.asked, self.ttl)
    }

    fn until(end: Instant, asked: Instant) -> Self {
        Self { asked, ttl: end.saturating_duration_since(asked) }
    }
}

/// What became of an attempt to change the item.
enum Rewritten {
    Yes,
    /// It is not ours, or not there.
    Lost,
}

impl Hold {
    fn new(inner: &MemcachedInner, name: &str, ttl: Duration) -> Arc<Self> {
        let item = keys::of_lock(inner.core.namespace(), name);
        let first = Term { asked: monotonic_now(), ttl };
        Arc::new(Self {
            nodes: Arc::clone(&inner.nodes),
            waiting: Arc::clone(&inner.waiting),
            name: name.into(),
            node: inner.nodes.index_of(&item),
            item,
            owner: random::id(),
            first,
            term: Mutex::new(first),
            wanted: Mutex::default(),
        })
    }

    async fn take(
        self: &Arc<Self>,
        inner: &Arc<MemcachedInner>,
        leased: bool,
    ) -> Result<Attempt<LockGuard>, LockError> {
        let Term { asked, ttl } = self.first;
        let exptime = exptime::of(ttl);
        let add = Command::Add { key: &self.item, value: self.owner.as_bytes(), exptime };
        match self.nodes.call(self.node, OPERATION, add).await {
            Ok(Reply::Done) => {}
            Ok(Reply::Changed) => return Ok(Attempt::Held(None)),
            Ok(_) => return Err(errors::unexpected(OPERATION).into()),
            Err(error) => {
                if error.effect() == Effect::Ambiguous {
                    self.release_later(inner, ToRelease::in_vain(asked, ttl));
                }
                return Err(error.into());
            }
        }
        if self.first.valid_until() <= monotonic_now() {
            // It took longer than the lock lasts: another may have it by now, or will before the caller knows.
            self.release_later(
                inner,
                ToRelease { granted: true, ..ToRelease::in_vain(asked, ttl) },
            );
            return Ok(Attempt::Held(None));
        }
        let holding = MemcachedHolding { inner: Arc::clone(inner), hold: Arc::clone(self) };
        Ok(Attempt::Taken(ServerLock::guard(holding, leased.then_some(ttl))))
    }

    /// Writes the item again with the expiry that it is to have by then, if it is still ours.
    async fn rewrite(
        &self,
        operation: &'static str,
        exptime: impl Fn() -> u32,
    ) -> Result<Rewritten> {
        let (nodes, exptime) = (&self.nodes, &exptime);
        let attempt = || async move {
            let found = nodes.call(self.node, operation, Command::Gets(&self.item)).await?;
            let version = match found {
                Reply::Value(owner, version) if owner == self.owner.as_bytes() => version,
                Reply::Value(..) | Reply::Missing => return Ok(Some(Rewritten::Lost)),
                _ => return Err(errors::unexpected(operation)),
            };
            let (key, value) = (&self.item, self.owner.as_bytes());
            let cas = Command::Cas { key, value, version, exptime: exptime() };
            match nodes.call(self.node, operation, cas).await? {
                Reply::Done => Ok(Some(Rewritten::Yes)),
                // Extended at the same time by the lease, or gone: look again.
                Reply::Changed | Reply::Missing => Ok(None),
                _ => Err(errors::unexpected(operation)),
            }
        };
        let contended = || errors::contended(operation);
        optimistic::attempt(attempt).await?.ok_or_else(contended)
    }

    async fn extend(&self, ttl: Duration) -> Result<bool> {
        let asked = monotonic_now();
        let own = later(asked, ttl.min(LONGEST));
        self.wanted.lock().push(own);
        // Also if it fails or is dropped: else a later one would write what this one did not get.
        let _over = OnDrop::new(|| {
            let mut wanted = self.wanted.lock();
            if let Some(place) = wanted.iter().position(|end| *end == own) {
                wanted.swap_remove(place);
            }
        });
        // Never shorter than it is; but whether it is still ours is asked in any case. It is not said to last as long
        // as the others want: they may be given up before it is written.
        let wanted = Term::until(own.max(self.term.lock().end()), asked);
        let exptime = || exptime::of(Term::until(self.wanted_until(), asked).ttl);
        let changed = self.rewrite("extend", exptime).await?;
        let mut term = self.term.lock();
        match changed {
            Rewritten::Yes if wanted.end() < term.end() => {}
            Rewritten::Yes => *term = wanted,
            Rewritten::Lost => *term = Term { asked: monotonic_now(), ttl: Duration::ZERO },
        }
        Ok(matches!(changed, Rewritten::Yes))
    }

    /// Until when it is to last, by what is known and what is under way.
    fn wanted_until(&self) -> Instant {
        let known = self.term.lock().end();
        self.wanted.lock().iter().copied().fold(known, Instant::max)
    }

    async fn release(&self) -> Result<bool> {
        let changed = self.rewrite("release", || LONG_PAST).await;
        self.waiting.released(&self.name);
        Ok(matches!(changed?, Rewritten::Yes))
    }

    /// Releases it in the background.
    fn release_later(self: &Arc<Self>, inner: &MemcachedInner, asked: ToRelease) {
        let hold = Arc::clone(self);
        inner.releasers[self.node].send(asked, move || {
            let hold = Arc::clone(&hold);
            async move {
                match hold.rewrite("release", || LONG_PAST).await {
                    Ok(Rewritten::Yes) => {
                        hold.waiting.released(&hold.name);
                        ReleaseOutcome::Released
                    }
                    Ok(Rewritten::Lost) => ReleaseOutcome::NotOurs,
                    Err(error) => ReleaseOutcome::of_error(&error),
                }
            }
        });
    }
}

/// A lock that is held.
#[derive(Debug)]
struct MemcachedHolding {
    inner: Arc<MemcachedInner>,
    hold: Arc<Hold>,
}

impl ServerHolding for MemcachedHolding {
    const HOME: Home = Home::Own;
    const BACKEND: &'static str = NAME;

    fn fencing_token(&self) -> Option<u64> {
        None
    }

    fn valid_until(&self) -> Instant {
        self.hold.term.lock().valid_until()
    }

    async fn extend(&self, ttl: Duration) -> Result<bool> {
        self.hold.extend(ttl).await
    }

    async fn release(&self) -> Result<bool> {
        self.hold.release().await
    }

    fn release_later(&self) {
        // A server keeps an item for some seconds more.
        let until = later(self.hold.term.lock().end(), Duration::from_secs(3));
        let asked =
            ToRelease { lane: Lane::Guard, granted: true, at: self.hold.first.asked, until };
        self.hold.release_later(&self.inner, asked);
    }
}
