//! [`Coalesce`]: equal hits on one key that come at the same time share a question to the store.

mod asker;
mod batch;
mod lanes;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use self::asker::Progress;
use self::lanes::{Join, Lanes};
use super::forward::pass_values_and_locks;
use crate::backend::{self, Answers, Backend, Prepared, Result};
use crate::decision::Decision;
use crate::key::Key;
use crate::step::{BlockChange, KeyState, Step};
use crate::strategy::{Limit, Op};

/// Lets equal hits on one key that come at the same time share a question to the store: for keys that many tasks of a
/// process hit at once, such as one limit for a whole service.
///
/// ```
/// use traffik::decorator::Coalesce;
/// use traffik::{InMemory, Throttle};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let redis = InMemory::new();
/// let backend = Coalesce::new(redis);
/// let throttle = Throttle::builder("exports").rate("5000/s").backend(backend).build()?;
/// assert!(throttle.hit("everybody").await?.is_allowed());
/// # Ok(())
/// # }
/// ```
///
/// # What is shared
///
/// Hits of equal limits, cost and [`leave`](crate::HitOptions::leave) on one key. While such a hit waits for the store,
/// those that come are gathered, and asked for by one [`apply_many`](Backend::apply_many). Each gets its own exact
/// decision, as if they had come one after the other: of ten hits where there is room for three, three pass. On
/// [`Redis`](crate::guide::redis) one script decides up to 256 of them; 16, if they have several limits or a log, or if the
/// key was hit with other rates too. A hit that is alone with its key is passed on as it is.
///
/// All else is passed on at once: other hits, peeks, refunds. What begins when a hit is over counts after it; of what
/// goes on at the same time the order is left open, as it is without this decorator. Nothing is shared around a store that
/// does not [decide equal hits at once](Backend::decides_equal_hits_at_once), nor of a strategy of your own: Redis does,
/// the Memcached backend shares the questions about a key by itself, and a throttle on an
/// [`InMemory`](crate::InMemory) backend asks it directly, past this decorator.
///
/// # Failure
///
/// A question that fails is the same error for all who share it. Each hit has its own deadline. While the store is silent,
/// a hit may wait for the question that is on its way and then for its own: around a [`Failover`](super::Failover) for
/// twice the [time of the primary](super::FailoverOptions::primary_timeout). One that is dropped before
/// its question is sent is not counted. At most 65,536 wait for one question; who comes then is
/// [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded), with nothing done.
///
/// # Cancel safety
///
/// A hit that is dropped may have been counted, as on the store itself. It takes nobody's answer with it: the questions
/// are asked by tasks of their own, which end when nobody waits for an answer. They belong to the
/// runtime in which the hits are made, and one runtime does not wait for the tasks of another.
#[derive(Clone)]
pub struct Coalesce {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Arc<dyn Backend>,
    lanes: Lanes,
    progress: Progress,
}

/// What a [`Coalesce`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoalesceInfo {
    questions: u64,
    hits: u64,
}

impl CoalesceInfo {
    /// Returns how many questions were asked for hits that came while others waited.
    #[must_use]
    pub const fn questions(&self) -> u64 {
        self.questions
    }

    /// Returns how many hits these were.
    #[must_use]
    pub const fn hits(&self) -> u64 {
        self.hits
    }
}

impl Coalesce {
    /// Wraps a backend, which may be an `Arc<dyn Backend>`.
    #[must_use]
    pub fn new(inner: impl Backend) -> Self {
        let (backend, lanes) = (backend::erase(inner), Lanes::new());
        Self { inner: Arc::new(Inner { backend, lanes, progress: Progress::default() }) }
    }

    /// Returns what it has done.
    #[must_use]
    pub fn info(&self) -> CoalesceInfo {
        let (questions, hits) = self.inner.progress.read();
        CoalesceInfo { questions, hits }
    }

    fn inner(&self) -> &Arc<dyn Backend> {
        &self.inner.backend
    }

    fn address(&self) -> usize {
        Arc::as_ptr(&self.inner).addr()
    }
}

pass_values_and_locks!(Coalesce);

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Backend for Coalesce {
    async fn initialize(&self) -> Result<()> {
        self.inner().initialize().await
    }

    async fn ready(&self) -> Result<()> {
        self.inner().ready().await
    }

    async fn clear(&self) -> Result<()> {
        self.inner().clear().await
    }

    async fn close(&self) -> Result<()> {
        self.inner().close().await
    }

    fn stop(&self) {
        self.inner().stop();
    }

    fn prepare(&self, throttle: &str, limits: &[Limit]) -> Option<Prepared> {
        self.inner().prepare(throttle, limits)
    }

    fn try_apply(&self, key: &Key<'_>, step: &Step<'_>) -> Option<Result<Decision>> {
        self.inner().try_apply(key, step)
    }

    async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        let is_shared = step.op() == Op::Take
            && step.cost() > 0
            && self.inner().decides_equal_hits_at_once()
            // A user's own strategy is asked for each.
            && !step.limits().iter().any(|limit| limit.compiled().is_custom());
        if !is_shared {
            return self.inner().apply(key, step).await;
        }
        match lanes::join(&self.inner, key, step) {
            Join::Shares(hit) => hit.await,
            Join::Refused(error) => Err(error),
            Join::Alone(_others_gather) => self.inner().apply(key, step).await,
        }
    }

    async fn apply_many(&self, steps: &[(Key<'_>, Step<'_>)], answers: &Answers) {
        self.inner().apply_many(steps, answers).await;
    }

    fn decides_equal_hits_at_once(&self) -> bool {
        self.inner().decides_equal_hits_at_once()
    }

    fn fallback_after(&self) -> Option<Duration> {
        let questions = if self.decides_equal_hits_at_once() { 2 } else { 1 };
        self.inner().fallback_after().map(|each| each.saturating_mul(questions))
    }

    async fn apply_all(&self, hits: &[(Key<'_>, Step<'_>)]) -> Option<Result<Vec<Decision>>> {
        self.inner().apply_all(hits).await
    }

    async fn change_block(&self, key: &Key<'_>, change: BlockChange) -> Result<bool> {
        self.inner().change_block(key, change).await
    }

    async fn inspect(&self, key: &Key<'_>) -> Result<KeyState> {
        self.inner().inspect(key).await
    }

    async fn forget(&self, key: &Key<'_>) -> Result<()> {
        self.inner().forget(key).await
    }
}

impl fmt::Debug for Coalesce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coalesce").field("inner", &self.inner.backend).finish_non_exhaustive()
    }
}
