//! What the tests share.

use std::time::Duration;

use traffik::backend::MemcachedBuilder;
use traffik::step::Step;
use traffik::strategy::Op;
use traffik::{Backend, Decision, Key, Limit, Memcached, Rate, Strategy};

use test_support::servers::MemcachedServer;

/// Long, so that a busy machine changes no result.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn url(server: &MemcachedServer) -> String {
    format!("memcached://{}", server.address())
}

pub(crate) fn builder(server: &MemcachedServer) -> MemcachedBuilder {
    Memcached::builder().url(url(server)).namespace("test").command_timeout(PATIENCE)
}

pub(crate) fn backend(server: &MemcachedServer) -> Memcached {
    builder(server).build().unwrap()
}

pub(crate) fn limit(rate: &str, strategy: impl Strategy) -> Limit {
    Limit::new(rate.parse::<Rate>().unwrap(), strategy).unwrap()
}

/// A hit of cost 1 on a throttle's key of one part.
pub(crate) async fn hit(
    backend: &dyn Backend,
    key: &str,
    limits: &[Limit],
) -> Result<Decision, traffik::BackendError> {
    take(backend, key, limits, 1).await
}

pub(crate) async fn take(
    backend: &dyn Backend,
    key: &str,
    limits: &[Limit],
    cost: u32,
) -> Result<Decision, traffik::BackendError> {
    act(backend, key, limits, cost, Op::Take).await
}

pub(crate) async fn act(
    backend: &dyn Backend,
    key: &str,
    limits: &[Limit],
    cost: u32,
    op: Op,
) -> Result<Decision, traffik::BackendError> {
    let parts = [traffik::key::KeyPart::bytes(key.as_bytes())];
    backend.apply(&Key::new("t", &parts), &Step::new(limits, cost, op)).await
}
