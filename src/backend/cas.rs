//! Decisions by an optimistic loop, for a store that has nothing better.

use std::future::Future;
use std::time::Duration;

use super::{Backend, Counter, Result, Settings};
use crate::clock::Timestamp;
use crate::decision::Decision;
use crate::error::{BackendError, ErrorKind};
use crate::key::Key;
use crate::random;
use crate::strategy::{Evaluation, KEPT_MICROS, Step, StepError, Write};

/// Enough that 64 tasks on one key all get through; the caller's deadline usually ends it before.
pub(crate) const MAX_ATTEMPTS: u32 = 256;
const LONGEST_PAUSE: Duration = Duration::from_millis(5);
/// A store keeps a state for this long after it is over.
pub(crate) const MARGIN: Duration = Duration::from_micros(KEPT_MICROS);

/// A store that can tell whether a value was changed since it was read.
pub(crate) trait Optimistic: Sync {
    /// What it needs to tell that.
    type Version: Send + Sync;

    /// The value and the time.
    fn read(&self, key: &Key<'_>) -> impl Future<Output = Result<Seen<Self::Version>>> + Send;

    /// Writes if the value is still the one that was seen, and says whether it was.
    fn write(
        &self,
        key: &Key<'_>,
        seen: &Seen<Self::Version>,
        write: &Write,
    ) -> impl Future<Output = Result<bool>> + Send;
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Seen<V> {
    pub(crate) stored: Option<Vec<u8>>,
    #[allow(dead_code, reason = "not every store needs one")]
    pub(crate) version: V,
    pub(crate) now: Timestamp,
}

/// Reads, decides and writes, until nobody came between or the attempts are used up.
pub(crate) async fn apply<S: Optimistic>(
    settings: &Settings,
    store: &S,
    key: &Key<'_>,
    step: &Step<'_>,
) -> Result<Decision> {
    for attempt in 0..MAX_ATTEMPTS {
        pause(attempt).await;
        let seen = store.read(key).await?;
        let evaluated = step.decide(seen.stored.as_deref(), seen.now);
        let written = match write_of(&evaluated) {
            None => true,
            Some(write) => store.write(key, &seen, write).await?,
        };
        if written {
            return answer_of(settings, evaluated);
        }
    }
    settings.increase(Counter::Contended);
    Err(BackendError::new(settings.name(), "apply", ErrorKind::Contended))
}

/// Lets others finish before a further attempt.
pub(crate) async fn pause(attempt: u32) {
    if attempt > 0 {
        let most = Duration::from_micros(50 << attempt.min(10)).min(LONGEST_PAUSE);
        tokio::time::sleep(random::up_to(most)).await;
    }
}

/// What must be stored, of a step that was evaluated.
pub(crate) fn write_of(evaluated: &Result<Evaluation, StepError>) -> Option<&Write> {
    match evaluated {
        Ok(evaluation) => evaluation.write.as_ref(),
        Err(error) => error.write(),
    }
}

/// The answer of a step that was evaluated, after its write.
pub(crate) fn answer_of(
    settings: &Settings,
    evaluated: Result<Evaluation, StepError>,
) -> Result<Decision> {
    evaluated.map(|evaluation| evaluation.decision).map_err(|error| match error {
        StepError::Corrupt { cause, .. } => corrupted(settings, cause),
        StepError::TooManyRates => too_many_rates(settings),
    })
}

/// The error of a hit that brings one rate more than its key can count.
pub(crate) fn too_many_rates(settings: &Settings) -> BackendError {
    BackendError::new(settings.name(), "apply", ErrorKind::TooManyRates)
}

/// Counts a state that could not be read, and makes the error of it.
pub(crate) fn corrupted(
    settings: &Settings,
    corrupt: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> BackendError {
    settings.increase(Counter::Corrupt);
    BackendError::new(settings.name(), "apply", ErrorKind::Corrupt).with_cause(corrupt)
}

/// Any backend, by its primitives: a version is the value itself.
pub(super) struct ByPrimitives<'a, B: ?Sized>(pub(super) &'a B);

impl<B: Backend + ?Sized> Optimistic for ByPrimitives<'_, B> {
    type Version = ();

    async fn read(&self, key: &Key<'_>) -> Result<Seen<()>> {
        let stored = self.0.get(key).await?;
        Ok(Seen { stored, version: (), now: self.0.clock().now() })
    }

    async fn write(&self, key: &Key<'_>, seen: &Seen<()>, write: &Write) -> Result<bool> {
        let (new, ttl) = match write {
            // The margin is for a clock that steps back: what was over then counts again.
            Write::Put { value, keep_for } => (Some(&**value), Some(*keep_for + MARGIN)),
            Write::Delete => (None, None),
        };
        self.0.compare_and_set(key, seen.stored.as_deref(), new, ttl).await
    }
}
