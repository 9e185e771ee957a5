//! The fast path of a backend: asked for through the trait, so every form of a backend has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use traffik::backend::{BackendCore, Prepared, Result};
use traffik::step::Step;
use traffik::strategy::Limit;
use traffik::{Backend, Decision, HasCore, InMemory, Key, Locks, Throttle, Ttl, Values};

/// Forwards to another backend, and counts the steps that it sees.
#[derive(Debug)]
struct Seeing {
    inner: Arc<dyn Backend>,
    /// It hands on the fast path of the other, which it then does not see.
    is_transparent: bool,
    seen: Arc<AtomicU32>,
}

impl HasCore for Seeing {
    fn core(&self) -> &BackendCore {
        self.inner.core()
    }
}

#[async_trait]
impl Values for Seeing {
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

impl Locks for Seeing {}

#[async_trait]
impl Backend for Seeing {
    async fn clear(&self) -> Result<()> {
        self.inner.clear().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }

    fn prepare(&self, throttle: &str, limits: &[Limit]) -> Option<Prepared> {
        self.inner.prepare(throttle, limits).filter(|_| self.is_transparent)
    }

    async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        self.inner.apply(key, step).await
    }
}

/// A wrapper around a backend in memory, and the steps that it sees.
fn seeing(is_transparent: bool) -> (Seeing, Arc<AtomicU32>) {
    let seen = Arc::new(AtomicU32::new(0));
    let inner = Arc::new(InMemory::new());
    (Seeing { inner, is_transparent, seen: Arc::clone(&seen) }, seen)
}

async fn admits_five(backend: impl Backend, form: &str) {
    let throttle = Throttle::builder("t").rate("5/day").backend(backend).build().unwrap();
    for hit in 0..7 {
        let decision = throttle.hit("a").await.unwrap();
        assert_eq!(decision.is_allowed(), hit < 5, "hit {hit} on {form}");
    }
    let receipt = throttle.hit("b").await.unwrap().receipt().expect("a receipt");
    throttle.refund("b", receipt).await.unwrap();
    assert_eq!(throttle.peek("b").await.unwrap().remaining(), 5, "{form}");
}

#[tokio::test]
async fn c12_each_form_of_a_backend_has_the_fast_path() {
    let erased: Arc<dyn Backend> = Arc::new(InMemory::new());
    let boxed: Box<dyn Backend> = Box::new(InMemory::new());
    let twice = Arc::new(Arc::new(InMemory::new()));
    for (form, backend) in [
        ("Arc<InMemory>", Arc::new(InMemory::new()) as Arc<dyn Backend>),
        ("Arc<dyn Backend>", erased),
        ("Box<dyn Backend>", Arc::new(boxed)),
        ("Arc<Arc<InMemory>>", twice),
    ] {
        assert!(backend.prepare("t", &[]).is_some(), "{form}");
        admits_five(backend, form).await;
    }
    admits_five(InMemory::new(), "InMemory").await;

    let (transparent, seen) = seeing(true);
    admits_five(Arc::new(transparent), "a transparent wrapper").await;
    assert_eq!(seen.load(Ordering::SeqCst), 0, "it need not see a hit");
}

#[tokio::test]
async fn a_wrapper_that_has_to_see_the_hits_sees_each() {
    let (opaque, seen) = seeing(false);
    admits_five(opaque, "a wrapper that hands on nothing").await;
    assert_eq!(seen.load(Ordering::SeqCst), 7 + 3);
}
