//! [`DenyCache`]: answers hits on a key that is denied, without the store.

mod asked;
mod digest;
mod options;
mod table;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use self::asked::Asked;
use self::digest::{Digests, KeyDigest};
pub use self::options::DenyCacheOptions;
use self::table::{Moment, OpenQuestion, Table};
use super::forward::pass_values_and_locks;
use crate::backend::{self, Answers, Backend, Prepared, Result};
use crate::clock::monotonic_now;
use crate::decision::{DecidedBy, Decision, Outcome};
use crate::error::BuildError;
use crate::key::Key;
use crate::on_drop::OnDrop;
use crate::step::{BlockChange, KeyState, Step};
use crate::strategy::{Limit, Op};

/// Remembers who is denied, and until when: further hits on that key are answered here and cost the store nothing,
/// however many there are.
///
/// ```
/// use std::time::Duration;
///
/// use traffik::decorator::{DenyCache, DenyCacheOptions};
/// use traffik::{InMemory, Throttle};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let redis = InMemory::new();
/// let options = DenyCacheOptions::new().max_age(Duration::from_millis(500));
/// let backend = DenyCache::with_options(redis, options)?;
/// let throttle = Throttle::builder("login").rate("5/min").backend(backend.clone()).build()?;
/// for _ in 0..100 {
///     let _ = throttle.hit("mallory").await?;
/// }
/// println!("{} hits did not reach the store", backend.info().hits());
/// # Ok(())
/// # }
/// ```
///
/// # What is remembered
///
/// A denial by the limits or by a block, of a hit or a peek, until the wait that it says is over, and for
/// [`max_age`](DenyCacheOptions::max_age) at most; both count from before the store was asked, in monotonic time and by
/// the clock of the backend, which a test may move. That a hit can never
/// pass is remembered where the limits alone say so. Denials by an error policy, a fallback, a full memory and in advance
/// ([`Throttle::acquire`](crate::Throttle::acquire)) are not.
///
/// It answers hits and peeks that are equal: on the same key, of the same limits, cost and
/// [`leave`](crate::HitOptions::leave). All else reaches the store. The waits of an answer are as much shorter as time
/// has passed; [`remaining`](Decision::remaining) is as of the denial. A [penalty](crate::Penalty) counts these
/// denials too.
///
/// # What makes it forget
///
/// Whatever goes through this decorator and changes what is counted of the key: a hit that passes, of another cost
/// perhaps, a refund or settlement, a charge, a drain, a reset, a change of its block, and [`clear`](Backend::clear) and
/// [`close`](Backend::close) for all keys. A denial that is under way while its key may come to pass is not remembered. What another process, or another decorator around the same store, gives back
/// is seen after `max_age`. So it denies at most until then what the store would let pass, and admits nothing that the
/// store would not.
///
/// # Bounds
///
/// It remembers a [fixed number of keys](DenyCacheOptions::max_keys), by a keyed hash of 128 bits that nobody
/// outside can aim at: distinct keys push out what is remembered of others, which then costs a question to the store, and
/// deny nobody. Each key lies in a set of eight with others. When a set is full, a denial that the store was asked for
/// pushes out one that is over, else the one that was used longest ago: so a key stays that is hit more often than there
/// come seven denials of others in its set, and a flood of keys that come once or twice pushes out itself. Where more
/// than eight keys of a set are denied in turn, each may ask each time: raise the number.
///
/// When what is remembered of a key ends or is pushed out, the hits that come before the next answer ask the store, each
/// by itself: as many questions as there are such hits, once in each [`max_age`](DenyCacheOptions::max_age). With a
/// [`Coalesce`](super::Coalesce) inside, as in [`Resilience::recommended`](super::Resilience::recommended), these are
/// four at most on a runtime of one thread, however many hits come: one by itself, two for those who come meanwhile, and
/// one for those who come after them.
///
/// # In memory
///
/// A throttle on an [`InMemory`](crate::InMemory) backend asks it directly, past this decorator: a denial there takes
/// no longer than one that is remembered.
///
/// # Cancel safety
///
/// As that of the inner backend. A refund that is dropped is taken for one that was made.
#[derive(Clone)]
pub struct DenyCache {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Arc<dyn Backend>,
    max_age: Duration,
    digests: Digests,
    table: Table,
    /// How many questions were answered here.
    hits: AtomicU64,
    closed: AtomicBool,
}

/// What a [`DenyCache`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DenyCacheInfo {
    remembered: usize,
    hits: u64,
}

impl DenyCacheInfo {
    /// Returns how many denials are remembered now.
    #[must_use]
    pub const fn remembered(&self) -> usize {
        self.remembered
    }

    /// Returns how many hits and peeks were answered without the store since the cache was made.
    #[must_use]
    pub const fn hits(&self) -> u64 {
        self.hits
    }
}

impl DenyCache {
    /// Wraps a backend, with the default options.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the default options are valid")]
    pub fn new(inner: impl Backend) -> Self {
        Self::with_options(inner, DenyCacheOptions::new()).expect("the default options are valid")
    }

    /// Wraps a backend, which may be an `Arc<dyn Backend>`.
    ///
    /// # Errors
    ///
    /// When an option is out of its range.
    pub fn with_options(
        inner: impl Backend,
        options: DenyCacheOptions,
    ) -> Result<Self, BuildError> {
        options.check()?;
        let inner = Inner {
            backend: backend::erase(inner),
            max_age: options.max_age,
            digests: Digests::new(),
            table: Table::new(options.max_keys),
            hits: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns what it remembers and has answered. Looks at all that is remembered, so it is for reports.
    #[must_use]
    pub fn info(&self) -> DenyCacheInfo {
        let remembered = self.inner.table.count(self.inner.now());
        DenyCacheInfo { remembered, hits: self.inner.hits.load(Ordering::Relaxed) }
    }

    fn inner(&self) -> &Arc<dyn Backend> {
        &self.inner.backend
    }

    fn address(&self) -> usize {
        Arc::as_ptr(&self.inner).addr()
    }
}

/// What a step has to do with denials that are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bearing {
    /// It is answered by one, and its own is remembered.
    Asks,
    /// It takes what is left.
    Takes,
    /// After it the key may pass.
    Changes,
}

impl Bearing {
    const fn of(op: Op) -> Self {
        match op {
            Op::Take | Op::Peek => Self::Asks,
            Op::Refund { .. } | Op::Charge | Op::Drain => Self::Changes,
            Op::TakeUpTo | Op::Reserve { .. } => Self::Takes,
        }
    }
}

impl Inner {
    fn now(&self) -> Moment {
        Moment { monotonic: monotonic_now(), clock: self.backend.core().clock().now() }
    }

    /// Returns the denial of that question that is remembered, or else the question, to remember its answer.
    fn recall(
        &self,
        key: KeyDigest,
        step: &Step<'_>,
    ) -> std::result::Result<Decision, OpenQuestion> {
        let question = OpenQuestion::new(key, self.digests.of_step(key, step), self.now());
        self.table.recall(question, !self.closed.load(Ordering::Acquire))
    }

    /// Counts questions that were answered here.
    fn answered(&self, questions: usize) {
        self.hits.fetch_add(questions as u64, Ordering::Relaxed);
    }

    /// Notes the answer to a question: a denial that lasts is remembered, and after a hit that takes something what was
    /// said before is out of date.
    fn note(
        &self,
        key: KeyDigest,
        question: Option<&OpenQuestion>,
        step: &Step<'_>,
        answer: &Decision,
    ) {
        let takes = step.cost() > 0 && step.op() != Op::Peek;
        if takes && (answer.is_allowed() || answer.is_reserved()) {
            self.table.outdate(key);
        } else if let (Some(question), Some(time)) = (question, lasts(answer, step)) {
            self.table.remember(question, step, answer, time.min(self.max_age));
        }
    }

    /// Runs what changes a key. Its denials are forgotten when it is over or dropped, for it may have happened then.
    async fn change<T>(&self, key: &Key<'_>, change: impl Future<Output = T>) -> T {
        let key = self.digests.of_key(key);
        let _forget = OnDrop::new(|| self.table.forget(key));
        change.await
    }
}

/// Returns for how long a denial holds, counted from the question; `None` for all that is not one of the limits or of
/// a block, or not for sure.
fn lasts(decision: &Decision, step: &Step<'_>) -> Option<Duration> {
    if decision.decided_by() != DecidedBy::Backend || decision.is_reserved() {
        return None;
    }
    let time = match decision.outcome() {
        Outcome::Allowed => return None,
        Outcome::Denied { retry_after } => retry_after,
        // Else the state may have a part in it, as that of a user's own strategy.
        Outcome::Never => step.never_passes().map(|_| Duration::MAX)?,
    };
    // When its block is over a key may still be denied, but for another reason.
    Some(decision.blocked_time().map_or(time, |block| block.min(time)))
}

pass_values_and_locks!(DenyCache);

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Backend for DenyCache {
    async fn initialize(&self) -> Result<()> {
        self.inner.table.forget_all();
        self.inner.closed.store(false, Ordering::Release);
        self.inner().initialize().await
    }

    async fn ready(&self) -> Result<()> {
        self.inner().ready().await
    }

    async fn clear(&self) -> Result<()> {
        let _forget = OnDrop::new(|| self.inner.table.forget_all());
        self.inner().clear().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.closed.store(true, Ordering::Release);
        self.inner.table.forget_all();
        self.inner().close().await
    }

    fn stop(&self) {
        self.inner().stop();
    }

    fn prepare(&self, throttle: &str, limits: &[Limit]) -> Option<Prepared> {
        self.inner().prepare(throttle, limits)
    }

    fn try_apply(&self, key: &Key<'_>, step: &Step<'_>) -> Option<Result<Decision>> {
        let inner = &*self.inner;
        let digest = inner.digests.of_key(key);
        let bearing = Bearing::of(step.op());
        let question = match bearing {
            Bearing::Asks => match inner.recall(digest, step) {
                Ok(denied) => {
                    inner.answered(1);
                    return Some(Ok(denied));
                }
                Err(question) => Some(question),
            },
            Bearing::Takes | Bearing::Changes => None,
        };
        let answer = inner.backend.try_apply(key, step)?;
        match &answer {
            _ if bearing == Bearing::Changes => inner.table.forget(digest),
            Ok(decision) => inner.note(digest, question.as_ref(), step, decision),
            Err(_) => {}
        }
        Some(answer)
    }

    async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        let inner = &*self.inner;
        let digest = inner.digests.of_key(key);
        let question = match Bearing::of(step.op()) {
            Bearing::Asks => match inner.recall(digest, step) {
                Ok(denied) => {
                    inner.answered(1);
                    return Ok(denied);
                }
                Err(question) => Some(question),
            },
            Bearing::Takes => None,
            Bearing::Changes => return inner.change(key, inner.backend.apply(key, step)).await,
        };
        let decision = inner.backend.apply(key, step).await?;
        inner.note(digest, question.as_ref(), step, &decision);
        Ok(decision)
    }

    async fn apply_many(&self, steps: &[(Key<'_>, Step<'_>)], answers: &Answers) {
        let asked = Asked::new(&self.inner, steps, answers);
        if !asked.is_empty() {
            self.inner().apply_many(asked.steps(), asked.answers()).await;
        }
        // What was answered by then is passed on when it is dropped, here or by who waits no longer.
        drop(asked);
    }

    fn decides_equal_hits_at_once(&self) -> bool {
        self.inner().decides_equal_hits_at_once()
    }

    fn fallback_after(&self) -> Option<Duration> {
        self.inner().fallback_after()
    }

    async fn apply_all(&self, hits: &[(Key<'_>, Step<'_>)]) -> Option<Result<Vec<Decision>>> {
        let inner = &*self.inner;
        let recalled: Vec<_> =
            hits.iter().map(|(key, step)| inner.recall(inner.digests.of_key(key), step)).collect();
        // A denial of some says nothing about what the others would be told.
        if !recalled.is_empty() && recalled.iter().all(std::result::Result::is_ok) {
            inner.answered(recalled.len());
            return Some(Ok(recalled.into_iter().flatten().collect()));
        }
        let answer = inner.backend.apply_all(hits).await;
        if let Some(Ok(decisions)) = &answer {
            // If one denies nothing was taken of the others, though they would pass.
            let is_taken = decisions.iter().all(Decision::is_allowed);
            for ((question, (key, step)), decision) in recalled.iter().zip(hits).zip(decisions) {
                if is_taken || decision.is_denied() {
                    let question = question.as_ref().err();
                    inner.note(inner.digests.of_key(key), question, step, decision);
                }
            }
        }
        answer
    }

    async fn change_block(&self, key: &Key<'_>, change: BlockChange) -> Result<bool> {
        self.inner.change(key, self.inner().change_block(key, change)).await
    }

    async fn inspect(&self, key: &Key<'_>) -> Result<KeyState> {
        self.inner().inspect(key).await
    }

    async fn forget(&self, key: &Key<'_>) -> Result<()> {
        self.inner.change(key, self.inner().forget(key)).await
    }
}

impl fmt::Debug for DenyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DenyCache")
            .field("max_age", &self.inner.max_age)
            .field("inner", &self.inner.backend)
            .finish_non_exhaustive()
    }
}
