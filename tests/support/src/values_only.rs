//! A backend that has values, and all else by the defaults of the trait.

use std::sync::Arc;

use async_trait::async_trait;
use traffik::backend::{BackendCore, Result};
use traffik::{Backend, HasCore, InMemory, Key, Locks, ManualClock, Ttl, Values};

/// Keeps states as bytes, and decides by reads and writes.
#[derive(Clone, Debug)]
pub struct ValuesOnly {
    core: Arc<BackendCore>,
    inner: InMemory,
}

impl ValuesOnly {
    pub fn new(clock: &ManualClock) -> Self {
        let core = BackendCore::new("values", "tests", Arc::new(clock.clone())).unwrap();
        let inner = InMemory::builder().clock(clock.clone()).build().unwrap();
        Self { core: Arc::new(core), inner }
    }
}

impl HasCore for ValuesOnly {
    fn core(&self) -> &BackendCore {
        &self.core
    }
}

#[async_trait]
impl Values for ValuesOnly {
    async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        self.inner.get(key).await
    }
    async fn compare_and_set(
        &self,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        ttl: Ttl,
    ) -> Result<bool> {
        self.inner.compare_and_set(key, expected, new, ttl).await
    }
}

impl Locks for ValuesOnly {}

#[async_trait]
impl Backend for ValuesOnly {
    async fn clear(&self) -> Result<()> {
        self.inner.clear().await
    }
    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
