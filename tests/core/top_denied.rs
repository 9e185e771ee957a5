//! Who is denied most: found by digest, in bounded memory.

use std::time::Duration;

use test_support::{Failing, Mode as Failure};
use traffik::observe::{DeniedKey, TrackDenied};
use traffik::{ErrorKind, Exempt, HitOptions, InMemory, Mode, Throttle, ThrottleBuilder, all};

fn tracking(track: TrackDenied) -> ThrottleBuilder {
    Throttle::builder("api").rate("1/h").track_denied(track).backend(InMemory::new())
}

/// How often each of these is said to have been denied.
fn counts(api: &Throttle, keys: &[&str]) -> Vec<Option<u64>> {
    let top = api.top_denied(usize::MAX);
    let count = |key: &&str| {
        let digest = api.denied_digest(*key).unwrap();
        top.iter().find(|one| one.digest() == digest).map(DeniedKey::denials)
    };
    keys.iter().map(count).collect()
}

#[tokio::test]
async fn the_digests_of_those_who_are_denied_most_come_first() {
    let api = tracking(TrackDenied::new(100)).build().unwrap();
    for (key, hits) in [("alice", 2), ("mallory", 9), ("bob", 1), ("eve", 5)] {
        for _ in 0..hits {
            let _ = api.hit(key).await.unwrap();
        }
    }
    let top = api.top_denied(2);
    let told: Vec<_> = top.iter().map(|one| (one.denials(), one.max_overestimate())).collect();
    assert_eq!(told, [(8, 0), (4, 0)]);
    assert_eq!(Some(top[0].digest()), api.denied_digest("mallory"));
    assert_eq!(Some(top[1].digest()), api.denied_digest("eve"));
    assert!(top.iter().all(|one| one.key().is_none() && one.shadowed() == 0));
    assert_eq!(counts(&api, &["alice", "bob"]), [Some(1), None], "bob was never denied");
    assert_eq!(api.top_denied(0), []);
    api.reset_top_denied();
    assert_eq!(api.top_denied(9), []);
}

#[tokio::test]
async fn every_verb_counts_what_limits_and_blocks_deny() {
    let api = tracking(TrackDenied::new(10)).build().unwrap();
    api.enforce("a").await.unwrap();
    let _ = api.hit("a").await.unwrap();
    let _ = api.hit_with("a", HitOptions::new().cost(2)).await.unwrap(); // never
    let _ = api.take_up_to("a", 1).await.unwrap();
    let _ = api.hit_many(["a", "a"]).await;
    let _ = all().hit(&api, "a").await.unwrap();
    assert!(api.try_acquire("a", 1).is_err());
    assert!(api.acquire("a").timeout(Duration::ZERO).await.is_err());
    assert!(api.reserve("a", 1).await.is_err());
    assert_eq!(counts(&api, &["a"]), [Some(9)]);
    api.block("b", Duration::from_secs(9)).await.unwrap();
    let _ = api.hit("b").await.unwrap();
    let _ = api.peek("b").await.unwrap();
    let _ = api.hit(Exempt).await.unwrap();
    assert_eq!(counts(&api, &["b"]), [Some(1)]);
    api.set_mode(Mode::Shadow);
    for _ in 0..3 {
        let _ = api.hit("a").await.unwrap();
    }
    let top = api.top_denied(1).remove(0);
    assert_eq!((top.denials(), top.shadowed()), (12, 3));
}

#[tokio::test]
async fn what_a_store_that_is_down_or_full_denies_is_nobodys_doing() {
    let down = Failing::new(Failure::Fail(ErrorKind::Unavailable));
    let api = tracking(TrackDenied::new(10)).backend(down).build().unwrap();
    let _ = api.hit("a").await.unwrap();
    assert_eq!(api.top_denied(9), []);
    let full = InMemory::builder().max_keys(Some(1)).number_of_shards(1).build().unwrap();
    let api = tracking(TrackDenied::new(10)).backend(full).build().unwrap();
    for key in ["a", "b", "c"] {
        let _ = api.hit(key).await.unwrap();
    }
    assert_eq!(api.top_denied(9), []);
}

#[tokio::test]
async fn raw_keys_are_kept_only_when_asked_for_by_name() {
    let api = tracking(TrackDenied::new(10).raw_keys()).build().unwrap();
    let long = "x".repeat(5_000);
    for key in [("tenant", "alice"), ("tenant", long.as_str())] {
        for _ in 0..2 {
            let _ = api.hit(key).await.unwrap();
        }
    }
    let top = api.top_denied(9);
    let of = |key| {
        let digest = api.denied_digest(key).unwrap();
        top.iter().find(|one| one.digest() == digest).unwrap()
    };
    let alice = of(("tenant", "alice"));
    assert_eq!(alice.key().unwrap().parts(), [&b"tenant"[..], b"alice"]);
    assert!(!format!("{alice:?}").contains("alice"), "{alice:?}");
    let stored = of(("tenant", long.as_str())).key().unwrap();
    assert!(stored.parts().concat().len() < 100, "{stored:?}");
}

#[tokio::test]
async fn memory_is_bounded_and_the_frequent_are_found() {
    let api = tracking(TrackDenied::new(20)).build().unwrap();
    let zero = HitOptions::new().cost(2); // never
    for number in 0..2_000u32 {
        let _ = api.hit_with(("flood", number), zero.clone()).await.unwrap();
        if number % 4 == 0 {
            let _ = api.hit_with("mallory", zero.clone()).await.unwrap();
        }
    }
    let top = api.top_denied(usize::MAX);
    assert_eq!(top.len(), 20);
    let first = &top[0];
    assert_eq!(Some(first.digest()), api.denied_digest("mallory"));
    let (count, error) = (first.denials(), first.max_overestimate());
    assert!(count - error <= 500 && 500 <= count, "{first:?}");
}

#[test]
fn digests_are_of_one_throttle_alone() {
    let (one, other) = (tracking(TrackDenied::new(1)), tracking(TrackDenied::new(1)));
    let (one, other) = (one.build().unwrap(), other.build().unwrap());
    assert_eq!(one.denied_digest("a"), one.clone().denied_digest("a"));
    assert_ne!(one.denied_digest("a"), other.denied_digest("a"));
    assert_ne!(one.denied_digest("ab"), one.denied_digest(("a", "b")));
    assert_eq!(one.denied_digest(Exempt), None);
    let digest = one.denied_digest("a").unwrap().to_string();
    assert!(digest.len() == 32 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let untracked = Throttle::builder("api").rate("1/s").backend(InMemory::new()).build().unwrap();
    assert_eq!((untracked.denied_digest("a"), untracked.top_denied(9).len()), (None, 0));
}

#[test]
fn a_number_of_keys_out_of_range_is_refused() {
    for capacity in [0, 65_537] {
        let error = tracking(TrackDenied::new(capacity)).build().unwrap_err().to_string();
        let said = format!("track_denied of throttle \"api\" is {capacity}; it must be 1 to 65536");
        assert_eq!(error, said);
    }
}
