//! The fast path of memory, through each decorator: one that lost it would only be slower, and no other test would fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use traffik::backend::{Answers, BackendCore, Prepared, Result};
use traffik::decorator::{CircuitBreaker, Coalesce, DenyCache, Failover, Resilience, Retry};
use traffik::step::Step;
use traffik::strategy::Limit;
use traffik::{
    Backend, DecidedBy, Decision, HasCore, InMemory, Key, LockError, LockGuard, LockOptions, Locks,
    Ttl, Values,
};

use super::support::{Decorate, five, left, raising};

/// A memory that counts whatever does not take the fast path.
#[derive(Clone, Debug)]
struct Memory {
    memory: InMemory,
    prepares: bool,
    asked: Arc<AtomicUsize>,
}

impl Memory {
    fn new(prepares: bool) -> Self {
        Self { memory: InMemory::new(), prepares, asked: Arc::default() }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn count(&self) {
        self.asked.fetch_add(1, Ordering::SeqCst);
    }
}

impl HasCore for Memory {
    fn core(&self) -> &BackendCore {
        self.memory.core()
    }
}

#[async_trait]
impl Values for Memory {
    async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        self.memory.get(key).await
    }

    async fn compare_and_set(
        &self,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        ttl: Ttl,
    ) -> Result<bool> {
        self.memory.compare_and_set(key, expected, new, ttl).await
    }
}

#[async_trait]
impl Locks for Memory {
    async fn lock(&self, name: &str, options: LockOptions) -> Result<LockGuard, LockError> {
        self.memory.lock(name, options).await
    }
}

#[async_trait]
impl Backend for Memory {
    async fn clear(&self) -> Result<()> {
        self.memory.clear().await
    }

    async fn close(&self) -> Result<()> {
        self.memory.close().await
    }

    fn prepare(&self, throttle: &str, limits: &[Limit]) -> Option<Prepared> {
        self.memory.prepare(throttle, limits).filter(|_| self.prepares)
    }

    fn try_apply(&self, key: &Key<'_>, step: &Step<'_>) -> Option<Result<Decision>> {
        self.count();
        self.memory.try_apply(key, step)
    }

    async fn apply(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        self.count();
        self.memory.apply(key, step).await
    }

    async fn apply_many(&self, steps: &[(Key<'_>, Step<'_>)], answers: &Answers) {
        self.count();
        self.memory.apply_many(steps, answers).await;
    }
}

const DECORATORS: [(&str, Decorate); 6] = [
    ("a circuit breaker", |inner| Arc::new(CircuitBreaker::new(inner))),
    ("a failover", |inner| Arc::new(Failover::new(inner, InMemory::new()))),
    ("coalesce", |inner| Arc::new(Coalesce::new(inner))),
    ("retries", |inner| Arc::new(Retry::new(inner))),
    ("a deny cache", |inner| Arc::new(DenyCache::new(inner))),
    ("the recommended stack", |inner| {
        Resilience::recommended().fallback(InMemory::new()).around(inner).unwrap()
    }),
];

/// Takes five hits of one key, one more that is denied, and looks at it.
async fn use_up(backend: Arc<dyn Backend>) {
    let throttle = raising(backend);
    for number in 0..6 {
        let decision = throttle.hit("a").await.unwrap();
        assert_eq!(decision.decided_by(), DecidedBy::Backend);
        assert_eq!(decision.is_allowed(), number < 5);
    }
    assert_eq!(throttle.peek("a").await.unwrap().remaining(), 0);
}

#[tokio::test]
async fn each_decorator_hands_the_fast_path_on() {
    for (name, decorate) in DECORATORS {
        let memory = Memory::new(true);
        let backend = decorate(Arc::new(memory.clone()));
        assert!(backend.prepare("decorated", &five()).is_some(), "{name} prepares nothing");
        use_up(backend).await;
        assert_eq!(memory.asked(), 0, "{name} asks where nobody need be asked");
        assert_eq!(left(&memory.memory, "a").await, 0, "{name}: they were counted");
    }
}

/// None has a fast path of its own, by which it would not see what goes to a store that has none.
#[tokio::test]
async fn no_decorator_has_a_fast_path_where_its_backend_has_none() {
    for (name, decorate) in DECORATORS {
        let memory = Memory::new(false);
        let backend = decorate(Arc::new(memory.clone()));
        assert!(backend.prepare("decorated", &five()).is_none(), "{name}");
        use_up(backend).await;
        assert!(memory.asked() >= 5, "{name} asked {} times", memory.asked());
    }
}
