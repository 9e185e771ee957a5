//! What all decorators do with values and locks: each call goes to the inner backend, by way of the decorator's
//! `around`.
//!
//! A decorator that adds nothing there passes them. What becomes of decisions is written by each of
//! them, for there they differ.

/// Makes a decorator a store of values and locks, by its `inner`, its `id` and its `around`:
///
/// ```text
/// fn inner(&self) -> &Arc<dyn Backend>;
/// fn address(&self) -> usize;
/// async fn around<T: Send, F: Future<Output = Result<T>> + Send>(
///     &self,
///     operation: &'static str,
///     call: impl Fn() -> F + Send + Sync,
/// ) -> Result<T>;
/// async fn around_lock<F: Future<Output = Result<LockGuard, LockError>> + Send>(
///     &self,
///     call: impl Fn() -> F + Send + Sync,
/// ) -> Result<LockGuard, LockError>;
/// ```
macro_rules! decorate_values_and_locks {
    ($decorator:ident) => {
        impl $crate::backend::HasCore for $decorator {
            fn core(&self) -> &$crate::backend::BackendCore {
                self.inner().core()
            }
            fn id(&self) -> usize {
                self.address()
            }
        }

        // A default that is not forwarded would replace what the inner backend does.
        #[deny(clippy::missing_trait_methods)]
        #[async_trait::async_trait]
        impl $crate::backend::Values for $decorator {
            async fn get(
                &self,
                key: &$crate::key::Key<'_>,
            ) -> $crate::backend::Result<Option<Vec<u8>>> {
                self.around("get", || self.inner().get(key)).await
            }
            async fn compare_and_set(
                &self,
                key: &$crate::key::Key<'_>,
                expected: Option<&[u8]>,
                new: Option<&[u8]>,
                ttl: $crate::backend::Ttl,
            ) -> $crate::backend::Result<bool> {
                let call = || self.inner().compare_and_set(key, expected, new, ttl);
                self.around("compare_and_set", call).await
            }
            async fn set(
                &self,
                key: &$crate::key::Key<'_>,
                value: &[u8],
                ttl: Option<std::time::Duration>,
            ) -> $crate::backend::Result<()> {
                self.around("set", || self.inner().set(key, value, ttl)).await
            }
            async fn delete(&self, key: &$crate::key::Key<'_>) -> $crate::backend::Result<bool> {
                self.around("delete", || self.inner().delete(key)).await
            }
            async fn increment(
                &self,
                key: &$crate::key::Key<'_>,
                by: u64,
            ) -> $crate::backend::Result<u64> {
                self.around("increment", || self.inner().increment(key, by)).await
            }
            async fn increment_with_ttl(
                &self,
                key: &$crate::key::Key<'_>,
                by: u64,
                ttl: std::time::Duration,
            ) -> $crate::backend::Result<u64> {
                let call = || self.inner().increment_with_ttl(key, by, ttl);
                self.around("increment_with_ttl", call).await
            }
            async fn decrement(
                &self,
                key: &$crate::key::Key<'_>,
                by: u64,
            ) -> $crate::backend::Result<u64> {
                self.around("decrement", || self.inner().decrement(key, by)).await
            }
            async fn expire(
                &self,
                key: &$crate::key::Key<'_>,
                ttl: std::time::Duration,
            ) -> $crate::backend::Result<bool> {
                self.around("expire", || self.inner().expire(key, ttl)).await
            }
            async fn multi_get(
                &self,
                keys: &[$crate::key::Key<'_>],
            ) -> $crate::backend::Result<Vec<Option<Vec<u8>>>> {
                self.around("multi_get", || self.inner().multi_get(keys)).await
            }
            async fn multi_set(
                &self,
                pairs: &[($crate::key::Key<'_>, &[u8])],
                ttl: Option<std::time::Duration>,
            ) -> $crate::backend::Result<()> {
                self.around("multi_set", || self.inner().multi_set(pairs, ttl)).await
            }
        }

        #[async_trait::async_trait]
        impl $crate::backend::Locks for $decorator {
            async fn lock(
                &self,
                name: &str,
                options: $crate::lock::LockOptions,
            ) -> std::result::Result<$crate::lock::LockGuard, $crate::lock::LockError> {
                self.around_lock(|| self.inner().lock(name, options)).await
            }
        }
    };
}

/// Makes a decorator that adds nothing there a store of values and locks, by its `inner` and its `address`.
macro_rules! pass_values_and_locks {
    ($decorator:ident) => {
        impl $decorator {
            async fn around<T: Send, F: Future<Output = $crate::backend::Result<T>> + Send>(
                &self,
                _operation: &'static str,
                call: impl Fn() -> F + Send + Sync,
            ) -> $crate::backend::Result<T> {
                call().await
            }

            async fn around_lock<F>(
                &self,
                call: impl Fn() -> F + Send + Sync,
            ) -> std::result::Result<$crate::lock::LockGuard, $crate::lock::LockError>
            where
                F: Future<
                        Output = std::result::Result<
                            $crate::lock::LockGuard,
                            $crate::lock::LockError,
                        >,
                    > + Send,
            {
                call().await
            }
        }

        $crate::decorator::forward::decorate_values_and_locks!($decorator);
    };
}

pub(crate) use {decorate_values_and_locks, pass_values_and_locks};
