//! Hostile keys through a throttle: any bytes, any parts, and no two that meet.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::Config;
use test_support::{Failing, Mode};
use traffik::key::{ExemptIfNone, KeyPart, KeyParts, MAX_KEY_BYTES};
use traffik::{
    DecidedBy, Error, ErrorKind, InMemory, KeyError, ManualClock, OnError, Rate, Throttle, ToKey,
};

fn once() -> Throttle {
    let backend = InMemory::builder().clock(ManualClock::new()).build().unwrap();
    Throttle::builder("keys").rate(Rate::per_day(1)).backend(backend).build().unwrap()
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("in memory every hit is ready at once"),
    }
}

/// A key made of given parts.
struct Raw(Vec<Vec<u8>>);

impl ToKey for Raw {
    fn to_key(&self) -> KeyParts<'_> {
        let parts: Vec<_> = self.0.iter().map(|part| KeyPart::bytes(part)).collect();
        KeyParts::several(&parts)
    }
}

proptest! {
    #![proptest_config(Config { cases: 300, failure_persistence: None, ..Config::default() })]
    #[test]
    fn f31_each_key_has_its_own_count(
        keys in prop::collection::hash_set(
            prop::collection::vec(prop::collection::vec(0u8..3, 0..20), 1..=4),
            1..40,
        ),
    ) {
        let throttle = once();
        for key in &keys {
            let decision = ready(throttle.hit(Raw(key.clone()))).unwrap();
            prop_assert!(decision.is_allowed(), "the first hit of {:?}", key);
        }
        for key in &keys {
            let decision = ready(throttle.hit(Raw(key.clone()))).unwrap();
            prop_assert!(decision.is_denied(), "the second hit of {:?}", key);
        }
    }

    #[test]
    fn f31_random_bytes_are_only_a_key(key: Vec<u8>, other: Vec<u8>) {
        let throttle = once();
        prop_assert!(ready(throttle.hit(key.as_slice())).unwrap().is_allowed());
        let canary = ready(throttle.hit(other.as_slice())).unwrap();
        prop_assert_eq!(canary.is_allowed(), key != other);
    }
}

#[tokio::test]
async fn f31_a_corpus_of_bad_keys() {
    let throttle = once();
    let long = "k".repeat(MAX_KEY_BYTES);
    let corpus = [
        "",
        " ",
        "a b",
        "a\0",
        "a\r\nflush_all\r\n",
        "*",
        "?",
        "[a-z]",
        "{a}",
        "a:b",
        "\u{202e}",
        "../../etc/passwd",
        "%00",
        &long[..16],
        &long[..17],
        &long[..250],
        &long[..251],
        &long,
    ];
    for key in corpus {
        assert!(throttle.hit(key).await.unwrap().is_allowed(), "{key:.20?}");
    }
    for key in corpus {
        assert!(throttle.hit(key).await.unwrap().is_denied(), "{key:.20?}");
    }
}

#[tokio::test]
async fn f31_a_long_key_is_limited_as_any_other_and_is_never_an_error() {
    let throttle = once();
    let long = "k".repeat(MAX_KEY_BYTES);
    let keys = [
        (long.clone(), String::from("k")),
        (long.clone(), String::from("l")),
        (String::from("k"), long.clone()),
        (format!("{long}k"), String::new()),
        (String::new(), format!("{long}k")),
        (long.repeat(256), String::from("k")),
    ];
    for key in &keys {
        let decision = throttle.hit((&key.0, &key.1)).await.unwrap();
        assert!(decision.is_allowed(), "the first hit");
        assert!(throttle.hit((&key.0, &key.1)).await.unwrap().is_denied(), "the second hit");
        // All that is asked of a key works on it.
        let receipt = decision.receipt().unwrap();
        throttle.refund((&key.0, &key.1), receipt).await.unwrap();
        assert!(throttle.peek((&key.0, &key.1)).await.unwrap().is_allowed());
        assert!(throttle.hit((&key.0, &key.1)).await.unwrap().is_allowed());
    }
    throttle.reset((&keys[0].0, &keys[0].1)).await.unwrap();
    for (number, key) in keys.iter().enumerate() {
        let decision = throttle.peek((&key.0, &key.1)).await.unwrap();
        assert_eq!(decision.is_allowed(), number == 0, "key {number}");
    }
}

#[tokio::test]
async fn the_error_handler_is_told_a_long_key_as_it_was_given() {
    let told = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let policy = OnError::handler({
        let told = Arc::clone(&told);
        move |failure| {
            told.lock().push(failure.key().parts().to_vec());
            async { traffik::Decision::allow() }
        }
    });
    let backend = Failing::new(Mode::Fail(ErrorKind::Unavailable)).with_policy(policy);
    let throttle = Throttle::builder("told").rate("1/s").backend(backend).build().unwrap();
    let long = "k".repeat(MAX_KEY_BYTES + 1);
    assert!(throttle.hit(("a", &long)).await.unwrap().is_allowed());
    assert_eq!(*told.lock(), [vec![b"a".to_vec(), long.into_bytes()]]);
}

#[tokio::test]
async fn too_many_parts_are_a_clear_error() {
    let error = once().hit((("a", "b"), ("c", "d"), "e")).await.unwrap_err();
    assert!(matches!(error, Error::Key(KeyError::TooManyParts)));
    assert_eq!(error.to_string(), "the key has too many parts; the most is 4");
}

#[tokio::test]
async fn each_kind_of_key_is_one() {
    let throttle = once();
    let address: IpAddr = "2001:db8::1".parse().unwrap();
    assert!(throttle.hit("alice").await.unwrap().is_allowed());
    assert!(throttle.hit(String::from("alice")).await.unwrap().is_denied(), "the same bytes");
    assert!(throttle.hit(b"alice").await.unwrap().is_denied(), "the same bytes");
    assert!(throttle.hit(7u64).await.unwrap().is_allowed());
    assert!(throttle.hit(7u32).await.unwrap().is_allowed(), "other bytes");
    assert!(throttle.hit(address).await.unwrap().is_allowed());
    assert!(throttle.hit((address, "alice")).await.unwrap().is_allowed());
    assert!(throttle.hit(("alice", address)).await.unwrap().is_allowed(), "the order matters");
    assert!(throttle.hit(ExemptIfNone(Some("bob"))).await.unwrap().is_allowed());
    assert!(throttle.hit("bob").await.unwrap().is_denied());
}

#[tokio::test]
async fn an_absent_key_is_exempt_only_where_that_is_written_out() {
    let throttle = once();
    let headers = HashMap::from([("accept", "*")]);
    let absent = headers.get("x-api-key").copied();
    for _ in 0..2 {
        let exempt = throttle.hit(ExemptIfNone(absent)).await.unwrap();
        assert_eq!((exempt.is_allowed(), exempt.decided_by()), (true, DecidedBy::Exempt));
        let exempt = throttle.hit(("tenant", ExemptIfNone(absent))).await.unwrap();
        assert_eq!(exempt.decided_by(), DecidedBy::Exempt);
    }
    // What `unwrap_or_default` gives is a key as any other.
    assert!(throttle.hit(absent.unwrap_or_default()).await.unwrap().is_allowed());
    assert!(throttle.hit(absent.unwrap_or_default()).await.unwrap().is_denied());
}

#[tokio::test]
async fn reset_forgets_one_key_of_one_throttle() {
    let backend = InMemory::new();
    let named =
        |name: &str| Throttle::builder(name).rate("1/h").backend(backend.clone()).build().unwrap();
    let (first, second) = (named("first"), named("second"));
    for throttle in [&first, &second] {
        for key in ["a", "b"] {
            assert!(throttle.hit(key).await.unwrap().is_allowed());
        }
    }
    first.reset("a").await.unwrap();
    let mut left = HashSet::new();
    for (name, throttle) in [("first", &first), ("second", &second)] {
        for key in ["a", "b"] {
            if throttle.peek(key).await.unwrap().is_denied() {
                left.insert((name, key));
            }
        }
    }
    assert_eq!(left, HashSet::from([("first", "b"), ("second", "a"), ("second", "b")]));
}

#[tokio::test]
async fn a_receipt_is_good_for_its_own_key_and_throttle_only() {
    let backend = InMemory::new();
    let named =
        |name: &str| Throttle::builder(name).rate("5/h").backend(backend.clone()).build().unwrap();
    let (first, second) = (named("receipts"), named("others"));
    let receipt = async || first.hit("a").await.unwrap().receipt().unwrap();
    let wrong_key = first.refund("b", receipt().await).await;
    assert!(matches!(wrong_key, Err(Error::WrongReceipt)));
    let wrong_throttle = second.refund("a", receipt().await).await;
    assert!(matches!(wrong_throttle, Err(Error::WrongReceipt)));
    assert_eq!(first.peek("a").await.unwrap().remaining(), 3);
    first.refund("a", receipt().await).await.unwrap();
    assert_eq!(first.peek("a").await.unwrap().remaining(), 3);
}
