//! The values and counters that a backend has by default, from `get` and `compare_and_set`.

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use traffik::backend::{BackendCore, Result};
use traffik::{BackendError, Effect, ErrorKind, HasCore, InMemory, Key, Ttl, Values};

use test_support::plain::without_timer;

/// A store in memory whose writes go wrong now and then.
#[derive(Debug)]
struct Flawed {
    inner: InMemory,
    writes: AtomicU32,
    /// What becomes of the write of that number.
    write: fn(u32) -> Result<()>,
}

impl Flawed {
    fn new(write: fn(u32) -> Result<()>) -> Self {
        Self { inner: InMemory::new(), writes: AtomicU32::new(0), write }
    }
}

impl HasCore for Flawed {
    fn core(&self) -> &BackendCore {
        self.inner.core()
    }
}

#[async_trait]
impl Values for Flawed {
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
        match (self.write)(self.writes.fetch_add(1, Ordering::SeqCst)) {
            // Another was faster.
            Err(error) if error.kind() == ErrorKind::Contended => Ok(false),
            Err(error) => Err(error),
            Ok(()) => self.inner.compare_and_set(key, expected, new, ttl).await,
        }
    }
}

fn failed(kind: ErrorKind) -> BackendError {
    BackendError::new("flawed", "compare_and_set", kind)
}

#[test]
fn a_write_that_was_lost_to_another_is_repeated_without_a_runtime_too() {
    let counts = without_timer(async || {
        let store =
            Flawed::new(|write| if write < 3 { Err(failed(ErrorKind::Contended)) } else { Ok(()) });
        store.increment(&Key::value("a"), 2).await.unwrap()
    });
    assert_eq!(counts, [2, 2]);
}

#[tokio::test]
async fn many_values_of_which_some_are_set_may_have_been_set() {
    let pairs = [(Key::value("a"), &b"1"[..]), (Key::value("b"), b"2"), (Key::value("c"), b"3")];
    for (fails, effect) in [(0, Effect::NotApplied), (1, Effect::Ambiguous)] {
        let store = match fails {
            0 => Flawed::new(|_| Err(failed(ErrorKind::Unavailable))),
            _ => Flawed::new(|write| match write {
                1 => Err(failed(ErrorKind::Unavailable)),
                _ => Ok(()),
            }),
        };
        let error = store.multi_set(&pairs, None).await.unwrap_err();
        assert_eq!(error.effect(), effect, "write {fails} fails");
        let first = store.get(&pairs[0].0).await.unwrap();
        assert_eq!(first.is_some(), fails > 0, "the first is set");
    }
}
