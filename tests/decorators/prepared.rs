//! The fast path of memory, through each decorator: one that lost it would only be slower, and no other test would fail.

use std::sync::Arc;

use test_support::Counting;
use traffik::decorator::{CircuitBreaker, Coalesce, DenyCache, Failover, Resilience, Retry};
use traffik::{Backend, DecidedBy, InMemory};

use super::support::{Decorate, five, left, raising};

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
        let memory = InMemory::new();
        let counting = Counting::prepared(memory.clone());
        let backend = decorate(Arc::new(counting.clone()));
        assert!(backend.prepare("decorated", &five()).is_some(), "{name} prepares nothing");
        use_up(backend).await;
        assert_eq!(counting.asked(), 0, "{name} asks where nobody need be asked");
        assert_eq!(left(&memory, "a").await, 0, "{name}: they were counted");
    }
}

/// None has a fast path of its own, by which it would not see what goes to a store that has none.
#[tokio::test]
async fn no_decorator_has_a_fast_path_where_its_backend_has_none() {
    for (name, decorate) in DECORATORS {
        let counting = Counting::new(InMemory::new());
        let backend = decorate(Arc::new(counting.clone()));
        assert!(backend.prepare("decorated", &five()).is_none(), "{name}");
        use_up(backend).await;
        assert!(counting.asked() >= 5, "{name} asked {} times", counting.asked());
    }
}
