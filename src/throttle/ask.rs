//! How a throttle asks its backend: the key, the deadline, and the error policy.

use std::borrow::Cow;
use std::sync::Arc;

use super::{HitOptions, Throttle};
use crate::backend::Backend;
use crate::decision::Decision;
use crate::error::{BackendError, Error};
use crate::key::{self, Key, KeyPart, OwnedKey};
use crate::lifespan;
use crate::on_error::{self, Failure};
use crate::strategy::Step;
use crate::timer::Deadline;

impl Throttle {
    /// The key of those parts; `room` is for the digest of long ones.
    #[inline(always)]
    pub(super) fn key<'a>(
        &'a self,
        parts: &'a [KeyPart<'a>],
        room: &'a mut Option<key::Digest>,
    ) -> Key<'a> {
        Key::hashed(&self.inner.hasher, &self.inner.name, key::bounded(parts, room))
    }

    /// What a receipt of the key is bound to, where `backend` is the one that was asked.
    pub(super) fn fingerprint(&self, key: &Key<'_>, backend: &dyn Backend) -> u64 {
        let current = self.inner.backend.is_none().then(|| backend.settings().store_id());
        self.own_fingerprint(key) ^ current.unwrap_or_default()
    }

    /// The same for a throttle that has a backend of its own.
    #[inline(always)]
    pub(super) fn own_fingerprint(&self, key: &Key<'_>) -> u64 {
        key.hash() ^ self.inner.seed
    }

    #[inline(always)]
    pub(super) fn backend(&self) -> Result<Cow<'_, Arc<dyn Backend>>, Error> {
        match &self.inner.backend {
            Some(backend) => Ok(Cow::Borrowed(backend)),
            None => lifespan::current()
                .map(Cow::Owned)
                .ok_or_else(|| Error::NoBackend { throttle: self.inner.name.to_string() }),
        }
    }

    /// Asks at once or by waiting, without a policy.
    pub(super) async fn ask(
        &self,
        backend: &dyn Backend,
        key: &Key<'_>,
        step: &Step<'_>,
    ) -> Result<Decision, BackendError> {
        if let Some(answer) = backend.try_apply(key, step) {
            return answer;
        }
        let name = backend.settings().name();
        self.within_deadline(name, "apply", backend.apply(key, step)).await
    }

    /// The deadline is kept out here, whatever the backend waits for inside.
    pub(super) async fn within_deadline<T>(
        &self,
        backend: &'static str,
        operation: &'static str,
        work: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        Deadline::after(self.inner.deadline).bound(backend, operation, work).await
    }

    #[cold]
    pub(super) async fn decide_by_policy(
        &self,
        backend: &dyn Backend,
        key: &[KeyPart<'_>],
        step: &Step<'_>,
        error: BackendError,
    ) -> Result<Decision, Error> {
        let inner = &*self.inner;
        let policy = inner.on_error.as_ref().unwrap_or_else(|| backend.error_policy());
        let failure = |error| {
            let options = HitOptions::of(step);
            Failure::new(Arc::clone(&inner.name), OwnedKey::of(key), options, step, error)
        };
        let never = step.never_passes().map(|index| Decision::never(step, index, inner.id));
        on_error::decide(policy, never, &inner.name, failure, error, &inner.log).await
    }
}
