//! The builder.

use std::time::Duration;

use traffik::{HasCore, LifespanExt, Memcached};

use crate::world::{PATIENCE, builder};
use test_support::servers::{MemcachedServer, wait_until};

#[test]
fn wrong_settings_are_refused() {
    let refused = |builder: traffik::backend::MemcachedBuilder| {
        builder.build().map(drop).unwrap_err().to_string()
    };
    let url = "memcached://127.0.0.1";
    for (message, expected) in [
        (refused(Memcached::builder().url(url).host("a")), "url was given together"),
        (refused(Memcached::builder().url(url).port(1)), "url was given together"),
        (refused(Memcached::builder().url(url).url("memcached://127.0.0.1:11211")), "twice"),
        (refused(Memcached::builder().url("http://a")), "url is not"),
        (refused(Memcached::builder().host("a b")), "host is not"),
        (refused(Memcached::builder().host("")), "host is not"),
        (refused(Memcached::builder().pool_size(0)), "pool_size is 0"),
        (refused(Memcached::builder().pool_size(2).pool_minsize(3)), "pool_minsize is 3"),
        (refused(Memcached::builder().command_timeout(Duration::ZERO)), "command_timeout is 0"),
        (refused(Memcached::builder().lock_lease(Duration::ZERO)), "lock_lease is 0"),
        (refused(Memcached::builder().lock_ttl(Some(Duration::ZERO))), "lock_ttl is 0"),
        (refused(Memcached::builder().namespace("a b")), "namespace"),
    ] {
        assert!(message.contains(expected), "{message}");
    }
    let secret = Memcached::builder().url("memcached://me:hunter2@a");
    assert!(!format!("{secret:?}").contains("hunter2"));
    assert!(!refused(secret).contains("hunter2"));
}

#[test]
fn the_defaults_are_as_documented() {
    let backend = Memcached::builder().build().unwrap();
    assert_eq!(backend.core().namespace(), ":memcached:");
    assert!(backend.core().is_persistent(), "others count there too");
    assert!(backend.core().is_shared());
    assert!(format!("{backend:?}").contains("127.0.0.1:11211"), "{backend:?}");
}

#[tokio::test]
async fn a_lifespan_opens_the_least_connections_and_closes_all() {
    let server = MemcachedServer::start();
    let backend = builder(&server).pool_minsize(5).build().unwrap();
    // Each look is a connection of its own, which the server may not have forgotten yet.
    let connections = || (0..20).map(|_| server.stat("curr_connections")).min().unwrap_or_default();
    let before = connections();
    let life = backend.lifespan().await.unwrap();
    wait_until("five are open", PATIENCE, || connections() == before + 5);
    life.close().await.unwrap();
    wait_until("the connections are closed", PATIENCE, || connections() == before);
}
