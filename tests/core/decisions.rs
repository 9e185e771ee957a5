//! What a decision says, and what it does not let happen.

use std::time::Duration;

use traffik::step::Step;
use traffik::strategy::{Answer, Op, Verdict};
use traffik::{
    BuildError, DecidedBy, Decision, Denial, Error, FixedWindow, HitOptions, InMemory, LeakyBucket,
    Limit, Outcome, Rate, Throttle, ThrottleBuilder, Timestamp, TokenBucket,
};

fn builder(name: &str) -> ThrottleBuilder {
    Throttle::builder(name).backend(InMemory::new())
}

async fn hit(throttle: &Throttle) -> Decision {
    throttle.hit("alice").await.unwrap()
}

#[tokio::test]
async fn what_never_passes_is_denied_by_the_short_way() {
    let closed = builder("closed").rate("0/day").build().unwrap();
    assert_eq!(hit(&closed).await.outcome(), Outcome::Never);
    let small = builder("small").rate("5/min burst 8").build().unwrap();
    let large = small.hit_with("alice", HitOptions::new().cost(9)).await.unwrap();
    assert_eq!((large.outcome(), large.denial()), (Outcome::Never, Some(Denial::Never)));
    assert!(closed.enforce("alice").await.is_err());
}

#[tokio::test]
async fn a_clone_has_no_receipt() {
    let throttle = builder("cloned").rate("10/min").build().unwrap();
    let five = HitOptions::new().cost(5);
    let decision = throttle.hit_with("alice", five).await.unwrap();
    let clone = decision.clone();
    assert_eq!(clone, decision, "it says the same");
    assert!(clone.receipt().is_none());
    assert!(throttle.hit("alice").await.unwrap().is_allowed());
    throttle.refund("alice", decision.receipt().unwrap()).await.unwrap();
    assert_eq!(throttle.peek("alice").await.unwrap().remaining(), 9, "five came back once");
}

#[tokio::test]
async fn a_hit_that_was_enforced_has_passed_and_may_be_ignored() {
    let throttle = builder("enforced").rate("9/min").build().unwrap();
    throttle.enforce("alice").await.unwrap();
    let five = HitOptions::new().cost(5);
    let allowed = throttle.enforce_with("alice", five.clone()).await.unwrap();
    assert_eq!((allowed.remaining(), allowed.outcome()), (3, Outcome::Allowed));
    assert!(matches!(throttle.enforce_with("alice", five).await, Err(Error::Denied(_))));
    assert!(allowed.clone().receipt().is_none(), "as with a decision, a clone has none");
    throttle.refund("alice", allowed.receipt().unwrap()).await.unwrap();
    assert_eq!(throttle.enforce("alice").await.unwrap().into_decision().remaining(), 7);
}

#[tokio::test]
async fn text_counts_from_the_burst_and_says_whether_it_was_counted() {
    let burst = builder("burst").rate("100/min burst 150").build().unwrap();
    assert_eq!(hit(&burst).await.to_string(), "allowed, 149 of 150 remaining");
    let most = builder("most").limit("4294967295/day", FixedWindow::new()).build().unwrap();
    let text = hit(&most).await.to_string();
    assert_eq!(text, "allowed, 4294967294 of 4294967295 remaining");
    let free = builder("free").rate(Rate::UNLIMITED).build().unwrap();
    assert_eq!(hit(&free).await.to_string(), "allowed, not counted");
    assert_eq!(Decision::allow().to_string(), "allowed by the error policy");
    let closed = builder("closed").rate("0/day").build().unwrap();
    assert_eq!(hit(&closed).await.to_string(), "denied, the limit is 0");
    let small = builder("small").rate("5/min").build().unwrap();
    let large = small.hit_with("alice", HitOptions::new().cost(6)).await.unwrap();
    assert_eq!(large.to_string(), "denied, asks for more than can ever pass at once");
    assert!(format!("{large:?}").contains("outcome: Never"), "{large:?}");
    let wait = Decision::deny(Duration::from_secs(3)).to_string();
    assert_eq!(wait, "denied, retry after 3s");
}

#[tokio::test]
async fn each_limit_answers_for_itself() {
    let rates = ["10/min burst 20", "7/h", "100/day"];
    for count in 1..=rates.len() {
        let throttle = builder("each").rates(&rates[..count]).build().unwrap();
        let decision = hit(&throttle).await;
        let said: Vec<_> =
            decision.answers().map(|a| (a.limit(), a.burst(), a.remaining())).collect();
        assert_eq!(said, [(10, 20, 19), (7, 7, 6), (100, 100, 99)][..count]);
        let named = decision.answers().find(|answer| answer.limit() == decision.limit()).unwrap();
        assert_eq!(named.remaining(), decision.remaining());
        assert_eq!(named.reset_after(), decision.reset_after());
        assert_eq!(named.outcome(), decision.outcome());
    }
}

#[tokio::test]
async fn a_least_wait_is_the_throttles_and_each_limit_keeps_its_own() {
    let rates = ["1/s", "7/h", "100/day"];
    for count in 1..=rates.len() {
        let minute = Duration::from_secs(60);
        let throttle =
            builder("waits").rates(&rates[..count]).min_retry_after(minute).build().unwrap();
        assert!(hit(&throttle).await.is_allowed());
        let denied = hit(&throttle).await;
        assert_eq!(denied.outcome(), Outcome::Denied { retry_after: minute });
        let own = denied.answers().next().unwrap().outcome();
        let Outcome::Denied { retry_after } = own else { panic!("{own:?}") };
        assert!(retry_after <= Duration::from_secs(1), "{count} limits: {retry_after:?}");
    }
}

#[tokio::test]
async fn a_backend_of_ones_own_makes_decisions_from_answers() {
    let limits = ["5/s", "50/min"]
        .map(|rate| Limit::new(rate.parse().unwrap(), TokenBucket::new()).unwrap());
    let step = Step::new(&limits, 1, Op::Take);
    let at = |seconds: u64| Timestamp::from_micros(seconds * 1_000_000);
    let passes = Answer { verdict: Verdict::Allowed, remaining: 4, reset_at: at(11) };
    let later = Verdict::Denied { retry_at: at(13) };
    let waits = Answer { verdict: later, remaining: 0, reset_at: at(60) };
    let allowed = step.decision(&[passes, passes], at(10), at(10));
    assert_eq!((allowed.outcome(), allowed.decided_by()), (Outcome::Allowed, DecidedBy::Backend));
    assert_eq!(allowed.receipt().unwrap().cost(), 1);
    let denied = step.decision(&[passes, waits], at(10), at(10));
    assert_eq!(denied.outcome(), Outcome::Denied { retry_after: Duration::from_secs(3) });
    assert_eq!((denied.denied_by(), denied.limit()), (Some(1), 50));
    assert!(denied.receipt().is_none());
    let peek = Step::new(&limits, 1, Op::Peek);
    let peeked = peek.decision(&[passes, passes], at(10), at(10));
    assert!(peeked.receipt().is_none(), "a peek took nothing");
}

#[test]
#[should_panic(expected = "shares its state")]
fn a_step_refuses_two_limits_of_one_state() {
    let rate = Rate::per_day(2);
    let bucket = Limit::new(rate, TokenBucket::new()).unwrap();
    let meter = Limit::new(Rate::per_day(1000), LeakyBucket::new()).unwrap();
    let _ = Step::new(&[bucket, meter], 1, Op::Take);
}

#[test]
fn limits_have_names() {
    let names = |throttle: &Throttle| {
        throttle.limits().iter().map(|limit| limit.name().into_owned()).collect::<Vec<_>>()
    };
    let both = builder("api:items").rates(["20/s", "100/30s"]).build().unwrap();
    assert_eq!(names(&both), ["api:items/s", "api:items/30s"]);
    let own = builder("api").rate("20/s").named("burst").rate("5000/day").named("per day");
    assert_eq!(names(&own.build().unwrap()), ["burst", "per day"]);
    let alike = builder("api").rate("20/s").limit("9/s", FixedWindow::new()).build().unwrap();
    assert_eq!(names(&alike), ["api/s", "api/s#2"], "no two are the same");
    let foreign = builder("prüfung").rate("20/s").build().unwrap();
    assert_eq!(names(&foreign), ["pr?fung/s"], "a report can carry it");
    let throttle = builder("x").limit("1/s", FixedWindow::new()).named("fixed").build().unwrap();
    assert_eq!(throttle.limits()[0].name(), "fixed");
    let limit = Limit::new(Rate::per_day(3), TokenBucket::new()).unwrap().named("daily");
    assert_eq!(limit.name(), "daily");
}

#[test]
fn names_that_no_report_could_carry_are_refused() {
    for name in ["", "zwölf", "a\nb", "a\u{7f}", &"n".repeat(129)] {
        let refused = builder("api").rate("20/s").named(name).build();
        assert!(matches!(refused, Err(BuildError::Setting { .. })), "{name:?}: {refused:?}");
    }
    let twice = builder("api").rate("20/s").named("n").rate("5/min").named("n").build();
    assert!(matches!(twice, Err(BuildError::SameName { .. })), "{twice:?}");
    let of_other = builder("api").rate("20/s").rate("5/min").named("api/s").build();
    assert!(matches!(of_other, Err(BuildError::SameName { .. })), "{of_other:?}");
    let early = builder("api").named("n").rate("20/s").build();
    let text = early.unwrap_err().to_string();
    assert!(text.contains("after the rate"), "{text}");
}

/// Who peeks, checks and then hits is one of many that saw room.
#[tokio::test]
async fn fifty_attempts_at_once_take_five_units_when_they_hit_first() {
    let throttle = builder("attempts").limit("5/min", FixedWindow::new()).build().unwrap();
    let attempts = (0..50).map(|_| {
        let throttle = throttle.clone();
        tokio::spawn(async move {
            let decision = throttle.hit("alice").await.unwrap();
            // The password is looked at only now.
            tokio::task::yield_now().await;
            decision.is_allowed()
        })
    });
    let mut looked_at = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        looked_at += u32::from(attempt.await.unwrap());
    }
    assert_eq!(looked_at, 5);
}

#[tokio::test]
async fn a_peek_in_debt_answers_as_a_hit_would() {
    let debt = TokenBucket::new().max_debt(3);
    let throttle = builder("debt").limit("5/min", debt).build().unwrap();
    for used in 1..=10u32 {
        let cost = HitOptions::new().cost(1 + used % 2);
        let peek = throttle.peek_with("alice", cost.clone()).await.unwrap();
        let hit = throttle.hit_with("alice", cost).await.unwrap();
        assert_eq!(peek.is_allowed(), hit.is_allowed(), "{used}: {peek} and {hit}");
        assert_eq!(peek.denial(), hit.denial());
    }
}
