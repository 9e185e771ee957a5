//! The stack when its user may not do what it must, or gives a wrong password. No fallback hides that: a service would
//! run without its store for as long as nobody looks.

use std::sync::Arc;

use test_support::servers::{RedisServer, wait};
use traffik::decorator::{CircuitBreakerOptions, FailoverOptions, Resilience};
use traffik::lifespan::{LifespanOptions, Start};
use traffik::{
    Backend, DecidedBy, Error, ErrorKind, FixedWindow, InMemory, LifespanExt, OnError, Redis,
    Throttle,
};

use super::load::{Load, Seen, TASKS, Target};
use super::{OFTEN, SOON, WIDE};

/// Around a server, and so patient that no busy machine makes it ask the fallback.
fn patient(url: String, fallback: &InMemory) -> Arc<dyn Backend> {
    let redis = Redis::builder().url(url).command_timeout(SOON).build().unwrap();
    let stack = Resilience::recommended()
        .circuit_breaker(CircuitBreakerOptions::new().silent_after(SOON))
        .fallback_with(fallback.clone(), FailoverOptions::new().primary_timeout(SOON));
    stack.around(redis).unwrap()
}

fn wide(backend: impl Backend) -> Throttle {
    let builder = Throttle::builder("wide").limit("1000000/366d", FixedWindow::new());
    builder.backend(backend).on_error(OnError::Raise).deadline(SOON * 2).build().unwrap()
}

fn targets(throttle: &Throttle) -> Vec<Target> {
    let names = (0..WIDE).map(|number| format!("wide{number}"));
    names.map(|key| Target { throttle: throttle.clone(), key }).collect()
}

/// Whether a hit failed by a mistake of the setup, with nothing of the password in its text.
fn says_that_it_is_a_mistake(seen: &Seen, words: &[&str]) -> bool {
    let Err(error) = &seen.outcome else { return false };
    assert!(!error.contains("hunter2"), "{error}");
    words.iter().any(|word| error.contains(word))
}

async fn nothing_was_taken_from(fallback: &InMemory) {
    let throttle = wide(fallback.clone());
    for target in targets(&throttle) {
        assert_eq!(throttle.peek(&target.key).await.unwrap().remaining(), 1_000_000);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_no_fallback_hides_that_rights_were_revoked() {
    const WORDS: [&str; 3] = ["NoPerm", "user executing the script", "ACL failure in script"];
    let (server, fallback) = (RedisServer::start(), InMemory::new());
    server.cmd("ACL SETUSER app on >hunter2 ~* +@all");
    let url = format!("redis://app:hunter2@127.0.0.1:{}", server.port());
    let stack = patient(url, &fallback);
    let life = stack.lifespan().await.unwrap();
    let throttle = wide(Arc::clone(&stack));
    let load = Load::start(&targets(&throttle), None);
    let mut spans = Vec::new();
    // The script itself, a command in it, and the keys.
    for (revoke, grant) in [("-evalsha", "+@all"), ("-set", "+@all"), ("resetkeys", "~*")] {
        load.each_is_decided(DecidedBy::Backend, OFTEN, WIDE, wait::now()).await;
        server.cmd(&format!("ACL SETUSER app {revoke}"));
        let revoked = wait::now();
        let is = |seen: &Seen| says_that_it_is_a_mistake(seen, &WORDS);
        load.each_is("each task is told", is, OFTEN, WIDE, revoked).await;
        spans.push((revoked, wait::now()));
        // The texts are the server's words, and the kind is what a program can ask for.
        let Err(Error::Backend(error)) = throttle.hit("wide0").await else { panic!("{revoke}") };
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{revoke}: {error}");
        server.cmd(&format!("ACL SETUSER app {grant}"));
    }
    load.each_is_decided(DecidedBy::Backend, OFTEN, WIDE, wait::now()).await;
    for seen in load.stop().await {
        assert!(!seen.is_by(DecidedBy::Fallback), "{seen:?}");
        if spans.iter().any(|&span| seen.is_within(span)) {
            assert!(says_that_it_is_a_mistake(&seen, &WORDS), "{seen:?}");
        }
    }
    nothing_was_taken_from(&fallback).await;
    life.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_no_fallback_hides_a_wrong_password() {
    let server = RedisServer::with(&["--requirepass", "right"]);
    let fallback = InMemory::new();
    let stack = patient(format!("redis://:hunter2@127.0.0.1:{}", server.port()), &fallback);
    // Also one that may begin without its store does not begin.
    let options = LifespanOptions::new().start(Start::Degraded);
    let error = stack.lifespan_with(options).await.expect_err("the start fails").to_string();
    assert!(error.contains("refuses the user and the password") && !error.contains("hunter2"));
    let load = Load::start(&targets(&wide(Arc::clone(&stack))), None);
    let begun = wait::now();
    let is = |seen: &Seen| says_that_it_is_a_mistake(seen, &["refuses the user and the password"]);
    load.each_is("each task is told", is, OFTEN, WIDE, begun).await;
    let seen = load.stop().await;
    assert!(seen.len() >= TASKS * WIDE * OFTEN && seen.iter().all(is), "{seen:?}");
    nothing_was_taken_from(&fallback).await;
    // Without a new start: whoever sets it right finds it used by the next connection.
    server.cmd("CONFIG SET requirepass hunter2");
    let throttle = wide(stack);
    let healed = wait::heals("a hit", SOON, || throttle.hit("wide0")).await;
    assert_eq!(healed.decided_by(), DecidedBy::Backend);
}
