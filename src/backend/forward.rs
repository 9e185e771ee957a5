//! Forwarding implementations: `Arc<B>` and `Box<B>` are backends if `B` is, trait objects too.

// A default that is not forwarded would replace what the inner backend does.
#![deny(clippy::missing_trait_methods)]

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Answers, Backend, BackendCore, HasCore, Locks, Prepared, Result, Ttl, Values};
use crate::decision::Decision;
use crate::key::Key;
use crate::lock::{LockError, LockGuard, LockOptions};
use crate::step::{BlockChange, KeyState, Step};
use crate::strategy::Limit;

macro_rules! forward {
    ($pointer:ident) => {
        impl<B: HasCore + ?Sized> HasCore for $pointer<B> {
            fn core(&self) -> &BackendCore {
                (**self).core()
            }
            fn id(&self) -> usize {
                (**self).id()
            }
        }

        #[async_trait]
        impl<B: Values + ?Sized> Values for $pointer<B> {
            async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
                (**self).get(key).await
            }
            async fn compare_and_set(
                &self,
                key: &Key<'_>,
                expected: Option<&[u8]>,
                new: Option<&[u8]>,
                ttl: Ttl,
            ) -> Result<bool> {
                (**self).compare_and_set(key, expected, new, ttl).await
            }
            async fn set(&self, key: &Key<'_>, value: &[u8], ttl: Option<Duration>) -> Result<()> {
                (**self).set(key, value, ttl).await
            }
            async fn delete(&self, key: &Key<'_>) -> Result<bool> {
                (**self).delete(key).await
            }
            async fn increment(&self, key: &Key<'_>, by: u64) -> Result<u64> {
                (**self).increment(key, by).await
            }
            async fn increment_with_ttl(
                &self,
                key: &Key<'_>,
                by: u64,
                ttl: Duration,
            ) -> Result<u64> {
                (**self).increment_with_ttl(key, by, ttl).await
            }
            async fn decrement(&self, key: &Key<'_>, by: u64) -> Result<u64> {
                (**self).decrement(key, by).await
            }
            async fn expire(&self, key: &Key<'_>, ttl: Duration) -> Result<bool> {
                (**self).expire(key, ttl).await
            }
            async fn multi_get(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Vec<u8>>>> {
                (**self).multi_get(keys).await
            }
            async fn multi_set(
                &self,
                pairs: &[(Key<'_>, &[u8])],
                ttl: Option<Duration>,
            ) -> Result<()> {
                (**self).multi_set(pairs, ttl).await
            }
        }

        #[async_trait]
        impl<B: Locks + ?Sized> Locks for $pointer<B> {
            async fn lock(&self, name: &str, options: LockOptions) -> Result<LockGuard, LockError> {
                (**self).lock(name, options).await
            }
        }

        #[async_trait]
        impl<B: Backend + ?Sized> Backend for $pointer<B> {
            async fn initialize(&self) -> Result<()> {
                (**self).initialize().await
            }
            async fn ready(&self) -> Result<()> {
                (**self).ready().await
            }
            async fn clear(&self) -> Result<()> {
                (**self).clear().await
            }
            async fn close(&self) -> Result<()> {
                (**self).close().await
            }
            fn stop(&self) {
                (**self).stop();
            }
            fn prepare(&self, throttle: &str, limits: &[Limit]) -> Option<Prepared> {
                (**self).prepare(throttle, limits)
            }
            fn try_apply(&self, key: &Key<'_>, step: &Step<'_>) -> Option<Result<Decision>> {
                (**self).try_apply(key, step)
            }
            async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
                (**self).apply(key, step).await
            }
            async fn apply_many(&self, steps: &[(Key<'_>, Step<'_>)], answers: &Answers) {
                (**self).apply_many(steps, answers).await
            }
            fn decides_equal_hits_at_once(&self) -> bool {
                (**self).decides_equal_hits_at_once()
            }
            fn fallback_after(&self) -> Option<Duration> {
                (**self).fallback_after()
            }
            async fn apply_all(
                &self,
                hits: &[(Key<'_>, Step<'_>)],
            ) -> Option<Result<Vec<Decision>>> {
                (**self).apply_all(hits).await
            }
            async fn change_block(&self, key: &Key<'_>, change: BlockChange) -> Result<bool> {
                (**self).change_block(key, change).await
            }
            async fn inspect(&self, key: &Key<'_>) -> Result<KeyState> {
                (**self).inspect(key).await
            }
            async fn forget(&self, key: &Key<'_>) -> Result<()> {
                (**self).forget(key).await
            }
        }
    };
}

/// Returns the backend as a trait object; one that is, as itself.
pub(crate) fn erase(backend: impl Backend) -> Arc<dyn Backend> {
    let any: &dyn Any = &backend;
    match any.downcast_ref::<Arc<dyn Backend>>() {
        Some(erased) => Arc::clone(erased),
        None => Arc::new(backend),
    }
}

forward!(Arc);
forward!(Box);
