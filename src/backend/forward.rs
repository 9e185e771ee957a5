//! `Arc<B>` and `Box<B>` are backends if `B` is, a trait object too.

// A default that is not forwarded would replace what the inner backend does.
#![deny(clippy::missing_trait_methods)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Backend, Result, Settings};
use crate::clock::Clock;
use crate::decision::Decision;
use crate::key::Key;
use crate::lock::{LockError, LockGuard, LockOptions};
use crate::on_error::OnError;
use crate::strategy::Step;

macro_rules! forward {
    ($pointer:ident) => {
        #[async_trait]
        impl<B: Backend + ?Sized> Backend for $pointer<B> {
            fn settings(&self) -> &Settings {
                (**self).settings()
            }
            async fn initialize(&self) -> Result<()> {
                (**self).initialize().await
            }
            async fn ready(&self) -> Result<()> {
                (**self).ready().await
            }
            async fn clear(&self) -> Result<()> {
                (**self).clear().await
            }
            async fn reset(&self) -> Result<()> {
                (**self).reset().await
            }
            async fn close(&self) -> Result<()> {
                (**self).close().await
            }
            fn abandon(&self) {
                (**self).abandon();
            }
            async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
                (**self).get(key).await
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
            async fn decrement(&self, key: &Key<'_>, by: u64) -> Result<u64> {
                (**self).decrement(key, by).await
            }
            async fn increment_with_ttl(
                &self,
                key: &Key<'_>,
                by: u64,
                ttl: Duration,
            ) -> Result<u64> {
                (**self).increment_with_ttl(key, by, ttl).await
            }
            async fn expire(&self, key: &Key<'_>, ttl: Duration) -> Result<bool> {
                (**self).expire(key, ttl).await
            }
            async fn compare_and_set(
                &self,
                key: &Key<'_>,
                expected: Option<&[u8]>,
                new: Option<&[u8]>,
                ttl: Option<Duration>,
            ) -> Result<bool> {
                (**self).compare_and_set(key, expected, new, ttl).await
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
            async fn lock(&self, name: &str, options: LockOptions) -> Result<LockGuard, LockError> {
                (**self).lock(name, options).await
            }
            fn try_apply(&self, key: &Key<'_>, step: &Step<'_>) -> Option<Result<Decision>> {
                (**self).try_apply(key, step)
            }
            async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
                (**self).apply(key, step).await
            }
            async fn forget(&self, key: &Key<'_>) -> Result<()> {
                (**self).forget(key).await
            }
            fn namespace(&self) -> &str {
                (**self).namespace()
            }
            fn is_persistent(&self) -> bool {
                (**self).is_persistent()
            }
            fn error_policy(&self) -> &OnError {
                (**self).error_policy()
            }
            fn lock_options(&self) -> LockOptions {
                (**self).lock_options()
            }
            fn clock(&self) -> &Arc<dyn Clock> {
                (**self).clock()
            }
        }
    };
}

forward!(Arc);
forward!(Box);
