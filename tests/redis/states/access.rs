//! Wrong credentials, and rights that are taken away.

use std::time::Duration;

use traffik::{
    Backend, BackendError, Effect, ErrorKind, Key, LifespanExt, OnError, Redis, Throttle, Ttl,
    Values,
};

use super::world::{
    LONG, Log, Own, backend_error, eventually, heals, patient, throttle, with_policy,
};
use test_support::servers::{RedisServer, pause};

/// How many connections the server has ever accepted.
fn connections(server: &RedisServer) -> u64 {
    let stats = server.cmd("INFO stats");
    stats.field("total_connections_received").unwrap().parse().unwrap()
}

fn is_misconfigured(error: &BackendError) {
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert_eq!(error.effect(), Effect::NotApplied, "{error}");
}

/// All that could show a secret.
fn shown(backend: &Redis, error: &BackendError) -> String {
    let mut text = format!("{backend:?} {error} {error:?}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(" {cause} {cause:?}");
        source = cause.source();
    }
    text
}

#[tokio::test]
async fn f15_a_wrong_password_fails_at_once_and_shows_no_secret() {
    let log = Log::start();
    let server = RedisServer::with(&["--requirepass", "right"]);
    let address = format!("127.0.0.1:{}", server.port());
    let open = RedisServer::start();
    let urls = [
        (format!("redis://:hunter2@{address}"), "refuses the user and the password of the url"),
        (format!("redis://hunter2:hunter2@{address}"), "refuses the user and the password"),
        (format!("redis://{address}"), "asks for a password; give it in the url"),
        (open.url().replace("redis://", "redis://:hunter2@"), "or wants none"),
    ];
    for (url, remedy) in urls {
        let backend = patient().initialize_timeout(LONG * 90).url(url).build().unwrap();
        // It would wait for an hour if this were a server that is starting.
        let error = tokio::time::timeout(LONG, backend.initialize()).await.unwrap().unwrap_err();
        is_misconfigured(&error);
        assert!(error.to_string().contains(remedy), "{error}");
        assert!(!shown(&backend, &error).contains("hunter2"), "{}", shown(&backend, &error));
        assert!(backend.lifespan().await.is_err());
        for policy in [OnError::Allow, OnError::default(), OnError::Raise] {
            is_misconfigured(&backend_error(with_policy(&backend, policy).hit("a").await));
        }
    }
    let logged = log.anywhere(&address);
    assert!(logged.contains("no connection"), "it does log: {logged}");
    assert_eq!(log.anywhere("hunter2"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_a_wrong_password_makes_no_storm_of_connections() {
    let server = RedisServer::with(&["--requirepass", "right"]);
    let url = format!("redis://:wrong@127.0.0.1:{}", server.port());
    let backend = patient().url(url).build().unwrap();
    let throttle = with_policy(&backend, OnError::Allow);
    let before = connections(&server);
    let mut hits = 0;
    // Pauses of a real client are the subject.
    let end = test_support::servers::wait::now() + Duration::from_secs(2);
    while test_support::servers::wait::now() < end {
        is_misconfigured(&backend_error(throttle.hit("a").await));
        hits += 1;
        pause::pace(Duration::from_millis(1)).await;
    }
    // One more is ours. Pauses of 10, 20, 40 ms and so on make about 9 in that time.
    let tried = connections(&server) - before - 1;
    assert!((1..=20).contains(&tried), "{tried} connections for {hits} hits");

    server.cmd("CONFIG SET requirepass wrong");
    let url_is_right_now = heals(&self::throttle(&backend)).await;
    assert!(url_is_right_now.is_allowed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_rights_that_are_revoked_are_an_error_under_every_policy() {
    let server = RedisServer::start();
    server.cmd("ACL SETUSER app on >secret ~* +@all");
    let url = format!("redis://app:secret@127.0.0.1:{}", server.port());
    let backend = patient().url(url).build().unwrap();
    let raising = throttle(&backend);
    let _ = raising.hit("a").await.unwrap();
    // The script itself, a command in it, and the key.
    for (revoke, grant) in [
        ("-evalsha", "+@all"),
        ("-get", "+@all"),
        ("-set", "+@all"),
        ("-time", "+@all"),
        ("resetkeys", "~*"),
    ] {
        server.cmd(&format!("ACL SETUSER app {revoke}"));
        for policy in [OnError::Allow, OnError::default(), OnError::Raise] {
            let error = backend_error(with_policy(&backend, policy).hit("a").await);
            is_misconfigured(&error);
            assert!(!shown(&backend, &error).contains("secret"), "{error:?}");
        }
        server.cmd(&format!("ACL SETUSER app {grant}"));
        assert!(raising.hit("a").await.unwrap().is_allowed(), "at once: it is the same connection");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_a_user_that_is_deleted_and_made_again() {
    let server = RedisServer::start();
    server.cmd("ACL SETUSER app on >secret ~* +@all");
    let url = format!("redis://app:secret@127.0.0.1:{}", server.port());
    let backend = patient().url(url).build().unwrap();
    let throttle = throttle(&backend);
    let _ = throttle.hit("a").await.unwrap();
    // This closes the user's connections.
    server.cmd("ACL DELUSER app");
    eventually("the hit is refused", async || {
        let Err(traffik::Error::Backend(error)) = throttle.hit("a").await else { return false };
        error.kind() == ErrorKind::Misconfigured
    })
    .await;
    server.cmd("ACL SETUSER app on >secret ~* +@all");
    let _ = heals(&throttle).await;
}

/// What a script cannot read is not an empty value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_a_read_that_is_not_permitted_is_an_error_of_every_operation() {
    let server = RedisServer::start();
    server.cmd("ACL SETUSER app on >secret ~* +@all");
    let url = format!("redis://app:secret@127.0.0.1:{}", server.port());
    let backend = patient().url(url).build().unwrap();
    let key = Key::value("v");
    backend.set(&key, b"1", None).await.unwrap();
    server.cmd("ACL SETUSER app -get");
    is_misconfigured(&backend.get(&key).await.unwrap_err());
    is_misconfigured(&backend.decrement(&key, 1).await.unwrap_err());
    let swapped = backend.compare_and_set(&key, Some(b"1"), Some(b"2"), Ttl::Never).await;
    is_misconfigured(&swapped.unwrap_err());
    let throttle = Throttle::builder("own").limit("5/d", Own).backend(backend.clone());
    let outcome = throttle.on_error(OnError::Allow).build().unwrap().hit("a").await;
    is_misconfigured(&backend_error(outcome));
}
