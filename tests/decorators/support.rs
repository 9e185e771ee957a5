//! What the tests here share.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use test_support::Distant;
use test_support::servers::{RedisServer, pause};
use traffik::backend::Result;
use traffik::conformance::Harness;
use traffik::key::KeyPart;
use traffik::step::Step;
use traffik::strategy::{Limit, Op};
use traffik::{
    Backend, BackendError, Decision, Error, ErrorKind, FixedWindow, InMemory, Key, ManualClock,
    OnError, Rate, Redis, Throttle,
};

pub(crate) const MS: Duration = Duration::from_millis(1);

/// A throttle of five hits a day that tells its errors.
pub(crate) fn raising(backend: impl Backend) -> Throttle {
    let builder = Throttle::builder("decorated").limit("5/day", FixedWindow::new());
    builder.backend(backend).on_error(OnError::Raise).build().unwrap()
}

/// The backend's error of a call.
#[track_caller]
pub(crate) fn error<T: std::fmt::Debug>(result: std::result::Result<T, Error>) -> BackendError {
    match result {
        Err(Error::Backend(error)) => error,
        other => panic!("not an error of the backend: {other:?}"),
    }
}

/// Five units a day.
pub(crate) fn five() -> [Limit; 1] {
    [Limit::new(Rate::per_day(5), FixedWindow::new()).unwrap()]
}

/// One hit, asked of a backend itself.
pub(crate) async fn take(backend: &impl Backend, key: &str) -> Result<Decision> {
    let (limits, parts) = (five(), [KeyPart::bytes(key.as_bytes())]);
    backend.apply(&Key::new("decorated", &parts), &Step::new(&limits, 1, Op::Take)).await
}

/// How many of the five units a key has left there, by what the store itself says.
pub(crate) async fn left(backend: &InMemory, key: &str) -> u32 {
    raising(backend.clone()).peek(key).await.unwrap().remaining()
}

/// Drops a future after that time, as a caller does who gives up.
pub(crate) async fn given_up_after<F: Future>(time: Duration, call: F) {
    assert!(tokio::time::timeout(time, call).await.is_err(), "it was answered");
}

pub(crate) fn is_open_error(error: &BackendError) -> bool {
    let kind = error.kind() == ErrorKind::Unavailable;
    kind && error.to_string().contains("the circuit is open")
}

/// Puts what is tested around a backend.
pub(crate) type Decorate = fn(Arc<dyn Backend>) -> Arc<dyn Backend>;

/// The suite around a memory that is as far away as a server, and so without a fast path.
pub(crate) struct OnMemory(pub(crate) Decorate);

#[async_trait]
impl Harness for OnMemory {
    async fn backend(&self, namespace: &str, clock: ManualClock) -> Arc<dyn Backend> {
        let memory = InMemory::builder().namespace(namespace).clock(clock).build().unwrap();
        (self.0)(Arc::new(Distant::new(memory)))
    }
}

/// The suite around a Redis.
pub(crate) struct OnRedis(pub(crate) RedisServer, pub(crate) Decorate);

#[async_trait]
impl Harness for OnRedis {
    async fn backend(&self, namespace: &str, clock: ManualClock) -> Arc<dyn Backend> {
        let redis = Redis::builder().url(self.0.url()).namespace(namespace).clock(clock);
        let redis = redis.command_timeout(Duration::from_secs(10)).build().unwrap();
        (self.1)(Arc::new(redis))
    }

    async fn peer(&self, namespace: &str, clock: ManualClock) -> Option<Arc<dyn Backend>> {
        Some(self.backend(namespace, clock).await)
    }

    async fn elapse(&self, _clock: &ManualClock, ttl: Duration) {
        // The server itself lets them expire.
        pause::expires(ttl + Duration::from_millis(50)).await;
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(400)
    }
}
