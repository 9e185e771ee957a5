//! Optimistic concurrency: read, decide, write if nothing changed, and retry with backoff otherwise.

use std::future::Future;
use std::time::Duration;

use super::{Backend, BackendCore, Result, Stat, Ttl};
use crate::clock::Timestamp;
use crate::decision::Decision;
use crate::error::{BackendError, Effect, ErrorKind};
use crate::key::Key;
use crate::random;
use crate::step::{BlockChange, Evaluation, KEPT_MICROS, KeyState, Step, StepError, Write};
use crate::timer;

/// Enough that 64 tasks on one key all get through; the caller's deadline usually ends it before.
pub(crate) const MAX_ATTEMPTS: u32 = 256;
const LONGEST_BACKOFF: Duration = Duration::from_millis(5);
/// How long a store keeps a state after its reset, for a clock that steps back.
const MARGIN: Duration = Duration::from_micros(KEPT_MICROS);

/// Attempts until one succeeds, at most [`MAX_ATTEMPTS`] times, with jittered backoff in between. `None`
/// if none did.
///
/// # Errors
///
/// The first error of an attempt.
pub(crate) async fn attempt<T, F>(mut attempt: impl FnMut() -> F) -> Result<Option<T>>
where
    F: Future<Output = Result<Option<T>>>,
{
    for number in 0..MAX_ATTEMPTS {
        if number > 0 {
            let longest = Duration::from_micros(50 << number.min(10)).min(LONGEST_BACKOFF);
            if timer::is_there() {
                tokio::time::sleep(random::up_to(longest)).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
        if let Some(done) = attempt().await? {
            return Ok(Some(done));
        }
    }
    Ok(None)
}

/// As [`attempt`]; that none succeeded is counted, and [`ErrorKind::Contended`].
pub(crate) async fn retry<T, F>(
    core: &BackendCore,
    operation: &'static str,
    attempt: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    self::attempt(attempt).await?.ok_or_else(|| contended(core, operation))
}

/// A store of states that can replace a value only if it is still the expected one.
pub(crate) trait StateStore: Sync {
    /// Reads the value and the time.
    fn read(
        &self,
        operation: &'static str,
        key: &Key<'_>,
    ) -> impl Future<Output = Result<(Option<Vec<u8>>, Timestamp)>> + Send;

    /// Writes if the value is still `expected`, and returns whether it was.
    fn write(
        &self,
        operation: &'static str,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        write: &Write,
    ) -> impl Future<Output = Result<bool>> + Send;
}

/// Decides a step by a compare-and-swap loop.
pub(crate) async fn apply<S: StateStore>(
    core: &BackendCore,
    store: &S,
    key: &Key<'_>,
    step: &Step<'_>,
) -> Result<Decision> {
    const OPERATION: &str = "apply";
    let evaluated = retry(core, OPERATION, || async move {
        let (stored, now) = store.read(OPERATION, key).await?;
        let evaluated = step.evaluate(stored.as_deref(), now);
        let is_written = match write_of(&evaluated) {
            None => true,
            Some(write) => store.write(OPERATION, key, stored.as_deref(), write).await?,
        };
        Ok(is_written.then_some(evaluated))
    });
    decision_of(core, evaluated.await?)
}

/// Changes a key's block by a compare-and-swap loop. Returns whether the key was blocked.
pub(crate) async fn change_block<S: StateStore>(
    core: &BackendCore,
    store: &S,
    key: &Key<'_>,
    change: BlockChange,
) -> Result<bool> {
    const OPERATION: &str = "change_block";
    retry(core, OPERATION, || async move {
        let (stored, now) = store.read(OPERATION, key).await?;
        let (was_blocked, write) = block_of(core, change, stored.as_deref(), now)?;
        let is_written = match &write {
            None => true,
            Some(write) => store.write(OPERATION, key, stored.as_deref(), write).await?,
        };
        Ok(is_written.then_some(was_blocked))
    })
    .await
}

/// Evaluates the change of a block. Returns whether the key was blocked, and what must be stored.
pub(crate) fn block_of(
    core: &BackendCore,
    change: BlockChange,
    stored: Option<&[u8]>,
    now: Timestamp,
) -> Result<(bool, Option<Write>)> {
    change.evaluate(stored, now).map_err(|_| no_room_for_block(core))
}

/// The error of a block of a key that counts as many rates as it can.
pub(crate) fn no_room_for_block(core: &BackendCore) -> BackendError {
    BackendError::new(core.name(), "change_block", ErrorKind::Full)
        .with_message("the key's value has no room for a block; reset it")
}

/// Reads a key's state.
pub(crate) async fn inspect<S: StateStore>(
    core: &BackendCore,
    store: &S,
    key: &Key<'_>,
) -> Result<KeyState> {
    let (stored, now) = store.read("inspect", key).await?;
    read_state(core, stored.as_deref(), now)
}

/// Returns what a stored value holds.
pub(crate) fn read_state(
    core: &BackendCore,
    stored: Option<&[u8]>,
    now: Timestamp,
) -> Result<KeyState> {
    KeyState::read(stored, now).map_err(|cause| {
        BackendError::new(core.name(), "inspect", ErrorKind::Corrupt).with_cause(cause)
    })
}

/// Returns what must be stored after a step was evaluated.
pub(crate) fn write_of(evaluated: &Result<Evaluation, StepError>) -> Option<&Write> {
    match evaluated {
        Ok(evaluation) => evaluation.write.as_ref(),
        Err(error) => error.write(),
    }
}

/// Returns the decision of a step that was evaluated, after its write.
pub(crate) fn decision_of(
    core: &BackendCore,
    evaluated: Result<Evaluation, StepError>,
) -> Result<Decision> {
    evaluated.map(|evaluation| evaluation.decision).map_err(|error| match error {
        StepError::Corrupt { cause, write } => corrupt(core, write.is_some()).with_cause(cause),
        StepError::TooManyRates => too_many_rates(core),
    })
}

/// Makes the error of a hit that brings one rate more than its key can count.
pub(crate) fn too_many_rates(core: &BackendCore) -> BackendError {
    BackendError::new(core.name(), "apply", ErrorKind::TooManyRates)
}

/// Counts a state that could not be read, and makes the error of it. One that took its place may hold the hit.
pub(crate) fn corrupt(core: &BackendCore, is_replaced: bool) -> BackendError {
    core.record(Stat::Corrupt);
    let effect = if is_replaced { Effect::Ambiguous } else { Effect::NotApplied };
    BackendError::new(core.name(), "apply", ErrorKind::Corrupt).with_effect(effect)
}

/// Counts an operation that lost every attempt, and makes the error of it.
pub(crate) fn contended(core: &BackendCore, operation: &'static str) -> BackendError {
    core.record(Stat::Contended);
    BackendError::new(core.name(), operation, ErrorKind::Contended)
}

/// The states of any backend, by its values.
pub(super) struct ByValues<'a, B: ?Sized>(pub(super) &'a B);

impl<B: Backend + ?Sized> StateStore for ByValues<'_, B> {
    async fn read(
        &self,
        _operation: &'static str,
        key: &Key<'_>,
    ) -> Result<(Option<Vec<u8>>, Timestamp)> {
        let stored = self.0.get(key).await?;
        Ok((stored, self.0.core().clock().now()))
    }

    async fn write(
        &self,
        _operation: &'static str,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        write: &Write,
    ) -> Result<bool> {
        match write {
            Write::Put { value, ttl } => {
                let ttl = Ttl::After(*ttl + MARGIN);
                self.0.compare_and_set(key, expected, Some(value), ttl).await
            }
            Write::Delete => self.0.compare_and_set(key, expected, None, Ttl::Never).await,
        }
    }
}
