//! The path from a throttle to its backend: the key, the deadline, and the error policy.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use super::begun::BegunHit;
use super::{Mode, Throttle};
use crate::ambient;
use crate::backend::Backend;
use crate::decision::{DecidedBy, Decision};
use crate::error::{BackendError, Error};
use crate::hit_options::HitOptions;
use crate::key::{self, Digest, Key, KeyError, KeyPart, KeyParts, OwnedKey};
use crate::on_error::{self, FailureContext, OnError};
use crate::random;
use crate::step::Step;
use crate::timer::{self, Deadline};

/// A key that the backend is asked about.
#[derive(Clone, Copy)]
pub(super) struct AskedKey<'k> {
    /// As it was given.
    pub(super) own: &'k [KeyPart<'k>],
    /// As it is stored: that, or its digest.
    pub(super) stored: &'k [KeyPart<'k>],
}

/// Why the backend is not asked about a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unasked {
    Passes(DecidedBy),
    Refused(KeyError),
}

impl Unasked {
    /// Returns the decision without the backend.
    pub(super) fn into_decision(self) -> Result<Decision, Error> {
        match self {
            Self::Passes(decided_by) => Ok(Decision::pass(decided_by)),
            Self::Refused(error) => Err(error.into()),
        }
    }
}

impl<'k> AskedKey<'k> {
    /// Returns what the backend is asked about for that key and step, or why it is not.
    #[inline]
    pub(super) fn new(
        parts: &'k KeyParts<'k>,
        room: &'k mut Option<Digest>,
        step: &Step<'_>,
    ) -> Result<Self, Unasked> {
        let own = match parts.as_slice() {
            Ok(Some(own)) => own,
            Ok(None) => return Err(Unasked::Passes(DecidedBy::Exempt)),
            Err(error) => return Err(Unasked::Refused(error)),
        };
        if step.limits().iter().all(|limit| limit.rate().is_unlimited()) {
            return Err(Unasked::Passes(DecidedBy::Unlimited));
        }
        Ok(Self { own, stored: key::bounded(own, room) })
    }
}

impl Throttle {
    /// Returns what a receipt of the key is bound to, where `backend` is the one that was asked.
    pub(super) fn fingerprint(&self, key: &[KeyPart<'_>], backend: &dyn Backend) -> u64 {
        let inner = &*self.inner;
        let current = inner.backend.is_none().then(|| backend.core().store_id());
        let hash = match &inner.prepared {
            Some(prepared) => prepared.hash_of(key),
            None => {
                let mut hasher = random::hasher().build_hasher();
                // Each with its length, so that they do not meet.
                key.iter().for_each(|part| part.as_bytes().hash(&mut hasher));
                hasher.finish()
            }
        };
        hash ^ inner.seed ^ current.unwrap_or_default()
    }

    #[inline]
    pub(super) fn backend(&self) -> Result<Cow<'_, Arc<dyn Backend>>, Error> {
        match &self.inner.backend {
            Some(backend) => Ok(Cow::Borrowed(backend)),
            None => ambient::current_backend()
                .map(Cow::Owned)
                .ok_or_else(|| Error::NoBackend { throttle: self.inner.name.to_string() }),
        }
    }

    /// Applies a step: on the fast path if there is one, else within the deadline. No policy decides.
    pub(super) async fn apply(
        &self,
        backend: &dyn Backend,
        key: &[KeyPart<'_>],
        step: &Step<'_>,
    ) -> Result<Decision, BackendError> {
        match &self.inner.prepared {
            Some(prepared) => prepared.apply(key, step),
            None => Box::pin(self.apply_by(backend, key, step, None)).await,
        }
    }

    /// Applies a step by that deadline, or by one that begins now.
    pub(super) async fn apply_by(
        &self,
        backend: &dyn Backend,
        key: &[KeyPart<'_>],
        step: &Step<'_>,
        deadline: Option<Deadline>,
    ) -> Result<Decision, BackendError> {
        if let Some(prepared) = &self.inner.prepared {
            return prepared.apply(key, step);
        }
        let key = Key::new(&self.inner.name, key);
        if let Some(answer) = backend.try_apply(&key, step) {
            return answer;
        }
        let name = backend.core().name();
        let deadline = match deadline {
            Some(deadline) if deadline.is_over() => return Err(timer::too_late(name, "apply")),
            Some(deadline) => deadline,
            None => self.deadline(),
        };
        self.call_to_decide((name, "apply"), deadline, backend.apply(&key, step)).await
    }

    /// Returns the deadline of a call that begins now.
    pub(super) fn deadline(&self) -> Deadline {
        Deadline::after(self.inner.deadline)
    }

    /// The deadline is kept out here, whatever the backend waits for inside.
    pub(super) async fn within_deadline<T>(
        &self,
        backend: &'static str,
        operation: &'static str,
        work: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let answer = Box::pin(self.call((backend, operation), self.deadline(), work)).await;
        answer.inspect_err(|error| self.tell_failure(error))
    }

    #[cold]
    pub(super) async fn decide_by_policy(
        &self,
        backend: &dyn Backend,
        key: &[KeyPart<'_>],
        step: &Step<'_>,
        error: BackendError,
        hit: BegunHit,
    ) -> Result<Decision, Error> {
        let inner = &*self.inner;
        let policy = inner.on_error.as_ref().unwrap_or_else(|| backend.core().error_policy());
        let policy = match (policy, hit.mode) {
            // A shadow turns nobody away, by an error neither.
            (OnError::Raise, Mode::Shadow) => {
                &const { OnError::throttle(OnError::DEFAULT_RETRY_AFTER) }
            }
            (policy, _) => policy,
        };
        let failure = |error| {
            let options = HitOptions::of(step);
            FailureContext::new(Arc::clone(&inner.name), OwnedKey::of(key), options, step, error)
        };
        let never =
            step.never_passes().map(|index| Decision::never(step.limits(), index, inner.id));
        on_error::decide(policy, never, &inner.name, failure, error, &inner.log).await
    }
}
