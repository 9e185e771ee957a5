//! Calls outside of a tokio runtime.

use traffik::lifespan::{LifespanOptions, Start};
use traffik::{
    Backend, BackendError, Effect, Error, ErrorKind, Key, LifespanExt, Memcached, OnError, Throttle,
};

use crate::plain::without_timer;
use crate::servers::MemcachedServer;
use crate::world::{PATIENCE, builder};

fn throttle(backend: &Memcached, policy: OnError) -> Throttle {
    let builder = Throttle::builder("plain").rate("5/30d").backend(backend.clone());
    builder.deadline(PATIENCE).on_error(policy).build().unwrap()
}

fn is_clear(error: &BackendError) {
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Misconfigured, Effect::NotApplied));
    assert!(error.to_string().contains("a tokio runtime with its time driver"), "{error}");
}

#[test]
fn every_call_outside_of_a_runtime_is_a_clear_error() {
    let server = MemcachedServer::start();
    let backend = builder(&server).track_keys(true).build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let degraded = LifespanOptions::new().start(Start::Degraded);
    // Also on a backend that is connected, by a runtime that is not this one.
    for connected in [false, true] {
        let taken = connected.then(|| {
            runtime.block_on(async {
                backend.initialize().await.unwrap();
                throttle(&backend, OnError::Raise).hit("a").await.unwrap().receipt().unwrap()
            })
        });
        for throttle in [OnError::Raise, OnError::Allow].map(|policy| throttle(&backend, policy)) {
            let all = |throttle: Throttle| async move {
                let failed = [
                    throttle.hit("a").await.map(drop),
                    throttle.peek("a").await.map(drop),
                    throttle.reset("a").await,
                ];
                failed.map(|outcome| match outcome {
                    Err(Error::Backend(error)) => error,
                    other => panic!("{other:?}"),
                })
            };
            let errors = without_timer(async || all(throttle.clone()).await);
            errors.iter().flatten().for_each(is_clear);
        }
        if let Some(receipt) = taken {
            let refunded =
                crate::plain::block_on(throttle(&backend, OnError::Raise).refund("a", receipt));
            let Err(Error::Backend(error)) = refunded else { panic!("{refunded:?}") };
            is_clear(&error);
        }
        let errors = without_timer(async || {
            [
                backend.initialize().await.unwrap_err(),
                backend.ready().await.unwrap_err(),
                backend.get(&Key::value("a")).await.unwrap_err(),
                backend.clear().await.unwrap_err(),
                backend.lifespan().await.map(drop).unwrap_err(),
                backend.lifespan_with(degraded).await.map(drop).unwrap_err(),
            ]
        });
        errors.iter().flatten().for_each(is_clear);
    }
    let _ = runtime.block_on(throttle(&backend, OnError::Raise).hit("a")).unwrap();
}
