//! What builders refuse, and what they say.

use std::time::Duration;

use traffik::{
    BuildError, FixedWindow, HasCore, InMemory, Rate, SlidingWindowCounter, SlidingWindowLog,
    Strategy, Throttle, TokenBucket,
};

fn refused(rate: impl traffik::IntoRate, strategy: impl Strategy) -> String {
    let built = Throttle::builder("t").limit(rate, strategy).build();
    built.expect_err("a build error").to_string()
}

#[test]
fn a_throttle_whose_hits_would_not_count() {
    let built = Throttle::builder("t").rate("5/s").cost(0).build();
    let error = built.expect_err("a build error").to_string();
    assert!(error.starts_with("cost of throttle \"t\" is 0, so no hit would count"), "{error}");
}

#[test]
fn a_rate_that_its_strategy_cannot_keep() {
    let bucket = TokenBucket::new;
    for (error, expected) in [
        (refused("5/fortnight", bucket()), "at byte 2: unknown unit \"fortnight\""),
        (
            refused("5/s burst 9", FixedWindow::new()),
            "rate 5/s burst 9: a window strategy takes no burst",
        ),
        (refused("5/s burst 9", SlidingWindowCounter::new()), "takes no burst"),
        (refused("5/s burst 9", SlidingWindowLog::new()), "takes no burst"),
        (refused("0/s burst 9", bucket()), "a limit of 0 denies all and takes no burst"),
        (refused("5/s burst 0", bucket()), "a burst must be at least 1"),
        (
            refused(Rate::UNLIMITED.burst(5), bucket()),
            "unlimited burst 5: an unlimited rate takes no",
        ),
        (refused("1/366d burst 101", bucket()), "more than 100 years to fill"),
        (refused("1/366d", bucket().max_debt(100)), "more than 100 years to fill"),
        (refused("1001/s", SlidingWindowLog::new()), "above the log's 1000 entries; raise it"),
    ] {
        assert!(error.contains(expected), "{error}");
    }
    assert!(Throttle::builder("t").limit("1/365d burst 100", bucket()).build().is_ok());
    let long = SlidingWindowLog::new().max_entries(2_000);
    assert!(Throttle::builder("t").limit("2000/s", long).build().is_ok());
}

#[test]
fn a_throttle_that_makes_no_sense() {
    let named = |name: &str| Throttle::builder(name).rate("5/s").build().map(drop);
    for name in ["", "a\nb", &"n".repeat(129)] {
        let error = named(name).expect_err("a bad name").to_string();
        assert!(error.contains("1 to 128 bytes without control characters"), "{error}");
    }
    assert!(named("api:items é").is_ok());
    let none = Throttle::builder("t").build().expect_err("no rate");
    assert!(matches!(none, BuildError::NoRate { .. }), "{none}");
    let many = Throttle::builder("t").rates((1..=9).map(|n| format!("5/{n}s"))).build();
    let many = many.expect_err("nine rates").to_string();
    assert!(many.contains("are 9; the most is 8"), "{many}");
    let zero = Throttle::builder("t").rate("5/s").deadline(Duration::ZERO).build();
    assert!(zero.expect_err("a zero deadline").to_string().starts_with("deadline"));
}

#[test]
fn limits_that_would_share_their_state() {
    let error = Throttle::builder("t").rates(["5/s", "9/min", "20/s"]).build();
    let error = error.expect_err("the same period twice");
    assert!(matches!(error, BuildError::SameState { first: 0, second: 2, .. }), "{error}");
    assert!(error.to_string().contains("write one with another period"), "{error}");
    // The same period by another strategy has a state of its own.
    let mixed = Throttle::builder("t").rate("5/s").limit("9/s", FixedWindow::new()).build();
    assert!(mixed.is_ok());
}

#[test]
fn an_in_memory_backend_that_makes_no_sense() {
    let builder = InMemory::builder;
    for (built, setting) in [
        (builder().number_of_shards(0).build(), "number_of_shards is 0; use 1 to 65536"),
        (builder().number_of_shards(65_537).build(), "number_of_shards is 65537"),
        (builder().cleanup_frequency(Some(Duration::ZERO)).build(), "cleanup_frequency is zero"),
        (builder().max_keys(Some(0)).build(), "max_keys is 0"),
        (builder().lock_ttl(Some(Duration::ZERO)).build(), "lock_ttl is zero"),
        (builder().namespace("").build(), "namespace \"\""),
        (builder().namespace("a b").build(), "namespace \"a b\" is not 1 to 64 bytes"),
        (builder().namespace("n".repeat(65)).build(), "namespace"),
    ] {
        let error = built.expect_err(setting).to_string();
        assert!(error.starts_with(setting), "{error}");
    }
    assert!(builder().number_of_shards(1).namespace("App_1.eu:x-y").build().is_ok());
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let backend = InMemory::new();
    assert_eq!(backend.core().namespace(), ":memory:");
    assert!(!backend.core().is_persistent());
    assert_eq!(format!("{:?}", backend.core().error_policy()), "Throttle(1s)");
    let throttle = Throttle::builder("t").rate("5/s").build().unwrap();
    assert_eq!(throttle.name(), "t");
    assert_eq!(throttle.limits().len(), 1);
    assert_eq!(format!("{:?}", throttle.limits()[0]), "Limit(5/s by TokenBucket { max_debt: 0 })");
}

/// What sits in application state must be shareable.
#[test]
fn handles_are_send_sync_and_clone() {
    fn shareable<T: Send + Sync + Clone + 'static>() {}
    shareable::<Throttle>();
    shareable::<InMemory>();
    shareable::<traffik::Limit>();
    shareable::<traffik::OnError>();
    fn sendable<T: Send>(_: &T) {}
    let throttle = Throttle::builder("t").rate("5/s").build().unwrap();
    sendable(&throttle.hit("a"));
    sendable(&throttle.peek(String::new()));
}
