//! Checks the lifecycle: initialize, ready, clear, close.

use super::{Harness, Subject};
use crate::backend::Ttl;
use crate::error::ErrorKind;
use crate::key::{Key, KeyPart};
use crate::lifespan::LifespanExt;
use crate::lock::LockOptions;
use crate::rate::Rate;
use crate::step::Step;
use crate::strategy::{Limit, Op, TokenBucket};

pub(super) async fn run(harness: &dyn Harness) {
    each_step_may_be_repeated(harness).await;
    nothing_works_after_close(harness).await;
    lifespans_overlap(harness).await;
    if harness.clears() {
        clear_takes_all(harness).await;
        clear_stays_in_its_namespace(harness).await;
    }
}

fn limits() -> [Limit; 1] {
    [Limit::new(Rate::per_hour(1), TokenBucket::new()).expect("a valid limit")]
}

async fn each_step_may_be_repeated(harness: &dyn Harness) {
    let Subject { backend, namespace, .. } = Subject::fresh(harness).await;
    assert_eq!(
        backend.core().namespace(),
        namespace,
        "the namespace is the one that was asked for"
    );
    backend.initialize().await.expect("initialize again");
    backend.ready().await.expect("ready");
    if harness.clears() {
        backend.clear().await.expect("clear");
    }
    backend.close().await.expect("close");
    backend.close().await.expect("close again");
    backend.initialize().await.expect("initialize after close");
    backend.set(&Key::value("a"), b"1", None).await.expect("set after it was opened again");
    backend.stop();
    backend.close().await.expect("close after stop");
}

async fn nothing_works_after_close(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    backend.close().await.expect("close");
    let limits = limits();
    let parts = [KeyPart::bytes(b"a")];
    let step = Step::new(&limits, 1, Op::Take);
    let key = Key::value("a");
    let ttl = harness.ttl();
    let kinds = [
        backend.get(&key).await.map(drop),
        backend.set(&key, b"", None).await,
        backend.delete(&key).await.map(drop),
        backend.increment(&key, 1).await.map(drop),
        backend.decrement(&key, 1).await.map(drop),
        backend.increment_with_ttl(&key, 1, ttl).await.map(drop),
        backend.expire(&key, ttl).await.map(drop),
        backend.compare_and_set(&key, None, None, Ttl::Never).await.map(drop),
        backend.multi_get(&[key]).await.map(drop),
        backend.multi_set(&[(key, b"")], None).await,
        backend.apply(&Key::new("t", &parts), &step).await.map(drop),
        backend.forget(&Key::new("t", &parts)).await,
        backend.ready().await,
        backend.clear().await,
    ]
    .map(|result| result.map_err(|error| error.kind()));
    for (index, kind) in kinds.into_iter().enumerate() {
        assert_eq!(kind, Err(ErrorKind::Closed), "operation {index} after close");
    }
    if let Some(answer) = backend.try_apply(&Key::new("t", &parts), &step) {
        assert_eq!(answer.map_err(|e| e.kind()).err(), Some(ErrorKind::Closed), "try_apply");
    }
    assert!(backend.lock("a", LockOptions::new()).await.is_err(), "lock after close");
}

/// A reload begins the new lifespan before it ends the old one, or while the old one ends.
async fn lifespans_overlap(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let key = Key::value("a");
    let old = backend.lifespan().await.expect("lifespan");
    drop(backend.lifespan().await.expect("a second lifespan"));
    let new = backend.lifespan().await.expect("a third lifespan");
    old.close().await.expect("close the first");
    backend.get(&key).await.expect("get, for a lifespan is left");
    let (ended, begun) = tokio::join!(new.close(), backend.lifespan());
    ended.expect("close beside a lifespan that begins");
    let last = begun.expect("a lifespan beside one that ends");
    backend.get(&key).await.expect("get, for the last lifespan began");
    last.close().await.expect("close the last");
    let closed = backend.get(&key).await.map_err(|error| error.kind());
    assert_eq!(closed, Err(ErrorKind::Closed), "get after the last lifespan");
}

async fn clear_takes_all(harness: &dyn Harness) {
    let Subject { backend, .. } = Subject::fresh(harness).await;
    let limits = limits();
    let parts = [KeyPart::bytes(b"a")];
    let key = Key::new("t", &parts);
    let step = Step::new(&limits, 1, Op::Take);
    backend.set(&Key::value("a"), b"1", None).await.expect("set");
    assert!(backend.apply(&key, &step).await.expect("apply").is_allowed());
    assert!(backend.apply(&key, &step).await.expect("apply").is_denied());
    backend.clear().await.expect("clear");
    assert_eq!(backend.get(&Key::value("a")).await.expect("get"), None, "a value was cleared");
    assert!(backend.apply(&key, &step).await.expect("apply").is_allowed(), "a limit was cleared");
}

async fn clear_stays_in_its_namespace(harness: &dyn Harness) {
    let Subject { backend, namespace, clock } = Subject::fresh(harness).await;
    // One that begins alike, one that a glob would match.
    for other in [format!("{namespace}:eu"), format!("{namespace}-")] {
        let other = harness.backend(&other, clock.clone()).await;
        other.initialize().await.expect("initialize");
        other.set(&Key::value("a"), b"kept", None).await.expect("set");
        backend.clear().await.expect("clear");
        let kept = other.get(&Key::value("a")).await.expect("get");
        assert_eq!(kept.as_deref(), Some(&b"kept"[..]), "another namespace is not cleared");
        other.clear().await.expect("clear");
        other.close().await.expect("close");
    }
}
