//! Hits on many keys at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use test_support::{Failing, Mode};
use traffik::key::{KeyPart, KeyParts};
use traffik::{
    DecidedBy, Decision, Denial, Effect, Error, ErrorKind, Exempt, ExemptIfNone, HitOptions,
    InMemory, OnError, Outcome, Rate, Throttle, ThrottleBuilder, ToKey,
};

/// A key of so many parts.
struct Parts(usize);

impl ToKey for Parts {
    fn to_key(&self) -> KeyParts<'_> {
        KeyParts::several(&vec![KeyPart::bytes(b"x"); self.0])
    }
}

fn builder(rate: &str) -> ThrottleBuilder {
    Throttle::builder("many").rate(rate)
}

#[tokio::test]
async fn each_key_is_hit_for_itself_and_as_often_as_it_comes() {
    let throttle = builder("2/h").backend(InMemory::new()).build().unwrap();
    let decisions = throttle.hit_many(["a", "b", "a", "a"]).await;
    let passed: Vec<bool> = decisions.into_iter().map(|one| one.unwrap().is_allowed()).collect();
    assert_eq!(passed, [true, true, true, false]);
    let none: [&str; 0] = [];
    assert!(throttle.hit_many(none).await.is_empty());
    let keys = (0..1_000u32).map(|number| ("user", number));
    for decision in throttle.hit_many_with(keys, HitOptions::new().cost(2)).await {
        assert_eq!(decision.unwrap().remaining(), 0);
    }
}

#[tokio::test]
async fn what_is_exempt_or_refused_does_so_alone() {
    let throttle = builder("1/h").backend(InMemory::new()).build().unwrap();
    let decisions = throttle.hit_many([ExemptIfNone(Some("a")), ExemptIfNone(None)]).await;
    let by: Vec<_> = decisions.into_iter().map(|one| one.unwrap().decided_by()).collect();
    assert_eq!(by, [DecidedBy::Backend, DecidedBy::Exempt]);
    // Also where the backend is asked for all at once.
    let failing = Failing::new(Mode::Fail(ErrorKind::Unavailable));
    let throttle = builder("1/h").backend(failing).build().unwrap();
    let decisions = throttle.hit_many([Parts(5), Parts(1)]).await;
    assert!(matches!(decisions[0], Err(Error::Key(_))), "{decisions:?}");
    assert_eq!(decisions[1].as_ref().unwrap().denial(), Some(Denial::Policy));

    let unlimited = Throttle::builder("u").rate(Rate::UNLIMITED).backend(InMemory::new());
    let decision = unlimited.build().unwrap().hit_many(["a"]).await.pop().unwrap().unwrap();
    assert_eq!(decision.decided_by(), DecidedBy::Unlimited);

    let homeless = builder("1/h").build().unwrap();
    assert!(homeless.hit_many([Exempt]).await.pop().unwrap().is_ok());
    let error = homeless.hit_many(["a"]).await.pop().unwrap().unwrap_err();
    assert!(matches!(error, Error::NoBackend { .. }), "{error}");
}

#[tokio::test]
async fn rates_that_hits_bring_are_in_each_decision() {
    let throttle = builder("5/h").backend(InMemory::new()).build().unwrap();
    let plan = HitOptions::new().replace_rates([Rate::per_hour(1)]);
    for decision in throttle.hit_many_with(["a", "b"], plan.clone()).await {
        let receipt = decision.unwrap().receipt().unwrap();
        assert_eq!(receipt.cost(), 1);
    }
    for decision in throttle.hit_many_with(["a", "b"], plan).await {
        let decision = decision.unwrap();
        assert_eq!(throttle.denied_by(&decision).unwrap().rate().limit(), 1);
    }
    let none = HitOptions::new().replace_rates([]);
    for error in throttle.hit_many_with(["a", "b"], none).await {
        assert!(matches!(error, Err(Error::HitOptions { .. })));
    }
}

#[tokio::test]
async fn a_receipt_of_one_gives_that_one_back() {
    let throttle = builder("1/h").backend(InMemory::new()).build().unwrap();
    let mut decisions = throttle.hit_many(["a", "b"]).await.into_iter();
    let receipt = decisions.next().unwrap().unwrap().receipt().unwrap();
    throttle.refund("a", receipt).await.unwrap();
    assert!(throttle.hit("a").await.unwrap().is_allowed());
    assert!(throttle.hit("b").await.unwrap().is_denied());
    let receipt = decisions.next().unwrap().unwrap().receipt().unwrap();
    assert!(matches!(throttle.refund("a", receipt).await, Err(Error::WrongReceipt)));
}

/// One deadline for each batch; when that failed as a whole, nobody is asked any more.
#[tokio::test(start_paused = true)]
async fn a_silent_backend_costs_one_deadline_however_many_keys_there_are() {
    let calls = Arc::new(AtomicU32::new(0));
    let failing = Failing::new(Mode::Hang).counting(Arc::clone(&calls));
    let throttle = builder("1/h").backend(failing).on_error(OnError::Raise).build().unwrap();
    let start = tokio::time::Instant::now();
    let decisions = throttle.hit_many(0..10_000u32).await;
    assert_eq!(start.elapsed(), Throttle::DEFAULT_DEADLINE);
    assert_eq!(calls.load(Ordering::SeqCst), 120, "as many as are asked at once");
    assert_eq!(decisions.len(), 10_000);
    let effect = |place: usize| match &decisions[place] {
        Err(Error::Backend(error)) => (error.kind(), error.effect()),
        other => panic!("{other:?}"),
    };
    assert_eq!(effect(0), (ErrorKind::Timeout, Effect::Ambiguous));
    assert_eq!(effect(9_999), (ErrorKind::Timeout, Effect::NotApplied), "it was not asked for");
}

#[tokio::test(start_paused = true)]
async fn each_policy_decides_and_handlers_are_asked_at_the_same_time() {
    let failing = || Failing::new(Mode::Fail(ErrorKind::Unavailable));
    let hit = async |policy: OnError| {
        let throttle = builder("1/h").backend(failing()).on_error(policy).build().unwrap();
        throttle.hit_many(["a", "b", "c"]).await
    };
    for decision in hit(OnError::Allow).await {
        assert!(decision.unwrap().is_allowed());
    }
    for decision in hit(OnError::default()).await {
        assert_eq!(decision.unwrap().denial(), Some(Denial::Policy));
    }
    for decision in hit(OnError::Raise).await {
        assert!(matches!(decision, Err(Error::Backend(_))));
    }
    let start = tokio::time::Instant::now();
    let slow = OnError::handler(|failure| async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        match failure.key().parts()[0][..] {
            [b'b'] => Decision::deny(Duration::from_secs(7)),
            _ => Decision::allow(),
        }
    });
    let outcomes: Vec<_> = hit(slow).await.into_iter().map(|one| one.unwrap().outcome()).collect();
    let denied = Outcome::Denied { retry_after: Duration::from_secs(7) };
    assert_eq!(outcomes, [Outcome::Allowed, denied, Outcome::Allowed]);
    assert_eq!(start.elapsed(), Duration::from_millis(200));
}

/// Some fail and others do not: no outage, so all are asked.
#[tokio::test]
async fn a_failure_of_some_keys_is_no_outage() {
    let throttle = builder("1/h").backend(Failing::new(Mode::DownFor("bad")));
    let throttle = throttle.on_error(OnError::Raise).build().unwrap();
    let keys = (0..300u32)
        .map(|number| if number % 2 == 0 { format!("good:{number}") } else { "bad".into() });
    let decisions = throttle.hit_many(keys).await;
    for (number, decision) in decisions.iter().enumerate() {
        match number % 2 {
            0 => assert!(decision.as_ref().unwrap().is_allowed(), "{number}"),
            _ => assert!(decision.is_err(), "{number}"),
        }
    }
}

/// What is answered in time counts, whatever becomes of the others.
#[tokio::test(start_paused = true)]
async fn a_silent_part_of_the_backend_fails_its_own_keys_alone() {
    let throttle = builder("1/h").backend(Failing::new(Mode::SilentFor("silent")));
    let throttle = throttle.on_error(OnError::Raise).build().unwrap();
    let start = tokio::time::Instant::now();
    let decisions = throttle.hit_many(["a", "silent", "b"]).await;
    assert_eq!(start.elapsed(), Throttle::DEFAULT_DEADLINE);
    assert!(decisions[0].as_ref().unwrap().is_allowed());
    assert!(
        matches!(&decisions[1], Err(Error::Backend(error)) if error.kind() == ErrorKind::Timeout)
    );
    assert!(decisions[2].as_ref().unwrap().is_allowed());
}

/// Only a store that cannot be asked is asked no more.
#[tokio::test]
async fn errors_of_the_keys_are_no_outage() {
    for (kind, asked) in [
        (ErrorKind::Unavailable, 120),
        (ErrorKind::Timeout, 120),
        (ErrorKind::Corrupt, 300),
        (ErrorKind::Full, 300),
    ] {
        let calls = Arc::new(AtomicU32::new(0));
        let failing = Failing::new(Mode::Fail(kind)).counting(Arc::clone(&calls));
        let throttle = builder("1/h").backend(failing).on_error(OnError::Raise).build().unwrap();
        assert!(throttle.hit_many(0..300u32).await.iter().all(Result::is_err));
        assert_eq!(calls.load(Ordering::SeqCst), asked, "{kind:?}");
    }
}

/// Many keys in memory are many batches, between which others run.
#[tokio::test]
async fn others_get_through_between_the_batches() {
    let turns = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&turns);
    let other = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
        }
    });
    let throttle = builder("1/h").backend(InMemory::new()).build().unwrap();
    assert_eq!(throttle.hit_many(0..1_200u32).await.len(), 1_200);
    assert!(turns.load(Ordering::SeqCst) >= 9, "{turns:?}");
    other.abort();
}
