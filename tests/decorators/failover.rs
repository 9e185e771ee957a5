//! A failover between backends that do as they are told.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use test_support::{Log, Play, Scripted, wait_of};
use traffik::backend::Answers;
use traffik::decorator::{
    CircuitBreaker, CircuitBreakerOptions, Coalesce, Failover, FailoverOptions, Resilience, Retry,
};
use traffik::key::KeyPart;
use traffik::step::Step;
use traffik::strategy::Op;
use traffik::{
    Backend, DecidedBy, Denial, Effect, Error, ErrorKind, FixedWindow, HitOptions, InMemory, Key,
    Lifespan, LifespanExt, OnError, Outcome, Penalty, PermitDrop, Rate, SlidingWindowLog, Throttle,
    Values,
};

use super::support::{MS, error, five, given_up_after, left, raising};

const DOWN: Play = Play::Refuse(ErrorKind::Unavailable);

struct Pair {
    primary: Scripted,
    fallback: Scripted,
    failover: Failover,
    throttle: Throttle,
}

fn pair() -> Pair {
    pair_with(FailoverOptions::new())
}

fn pair_with(options: FailoverOptions) -> Pair {
    let [primary, fallback] = [(); 2].map(|()| Scripted::new());
    let failover = Failover::with_options(primary.clone(), fallback.clone(), options).unwrap();
    Pair { throttle: raising(failover.clone()), primary, fallback, failover }
}

impl Pair {
    /// How much of the key is left at each.
    async fn left(&self, key: &str) -> (u32, u32) {
        (left(self.primary.memory(), key).await, left(self.fallback.memory(), key).await)
    }
}

#[tokio::test(start_paused = true)]
async fn the_fallback_decides_and_says_so() {
    let pair = pair();
    let first = pair.throttle.hit("a").await.unwrap();
    assert_eq!((first.decided_by(), first.remaining()), (DecidedBy::Backend, 4));
    assert_eq!(pair.fallback.asked_in_all(), 0);
    for kind in [
        ErrorKind::Unavailable,
        ErrorKind::Timeout,
        ErrorKind::Overloaded,
        ErrorKind::Full,
        ErrorKind::Contended,
        ErrorKind::Other,
    ] {
        pair.primary.plays(Play::Refuse(kind));
        let decision = pair.throttle.hit(format!("{kind:?}")).await.unwrap();
        assert_eq!((decision.decided_by(), decision.remaining()), (DecidedBy::Fallback, 4));
        assert_eq!(
            (decision.to_string().as_str(), decision.burst()),
            ("allowed, 4 of 5 remaining", 5)
        );
    }
    for _ in 0..5 {
        assert!(pair.throttle.hit("a").await.unwrap().is_allowed(), "the fallback begins fresh");
    }
    let denied = pair.throttle.hit("a").await.unwrap();
    assert_eq!(
        (denied.decided_by(), denied.denial()),
        (DecidedBy::Fallback, Some(Denial::Limited))
    );
    assert_eq!(pair.throttle.denied_by(&denied).unwrap().name(), "decorated/day");
    pair.primary.plays(Play::Answer);
    assert_eq!(pair.throttle.hit("a").await.unwrap().remaining(), 3, "as it was left");
}

#[tokio::test(start_paused = true)]
async fn mistakes_and_answers_do_not_fail_over() {
    let pair = pair();
    for kind in [
        ErrorKind::Closed,
        ErrorKind::Misconfigured,
        ErrorKind::TooManyRates,
        ErrorKind::Unsupported,
        ErrorKind::Corrupt,
    ] {
        pair.primary.plays(Play::Refuse(kind));
        assert_eq!(error(pair.throttle.hit("a").await).kind(), kind);
        let decisions = pair.throttle.hit_many(["a", "b"]).await;
        assert!(decisions.into_iter().all(|decision| error(decision).kind() == kind));
    }
    assert_eq!(pair.fallback.asked_in_all(), 0);
}

#[tokio::test(start_paused = true)]
async fn f04_a_silent_primary_costs_its_time_and_counts_as_used() {
    let pair = pair();
    pair.primary.plays(Play::SilenceAfterwards);
    let start = tokio::time::Instant::now();
    let decision = pair.throttle.hit("a").await.unwrap();
    assert_eq!((start.elapsed(), decision.decided_by()), (100 * MS, DecidedBy::Fallback));
    assert_eq!(pair.left("a").await, (4, 4), "used there, and asked here");
    let decisions = pair.throttle.hit_many(["a", "b"]).await;
    assert_eq!(start.elapsed(), 200 * MS);
    assert!(decisions.into_iter().all(|it| it.unwrap().decided_by() == DecidedBy::Fallback));
    assert_eq!((pair.left("a").await, pair.left("b").await), ((3, 3), (4, 4)));
}

#[tokio::test(start_paused = true)]
async fn if_both_fail_the_primary_is_reported_and_the_policy_decides() {
    let pair = pair();
    pair.primary.plays(Play::FailAfterwards(ErrorKind::Unavailable));
    pair.fallback.plays(Play::Refuse(ErrorKind::Full));
    let failed = error(pair.throttle.hit("a").await);
    assert_eq!((failed.kind(), failed.effect()), (ErrorKind::Unavailable, Effect::Ambiguous));
    for failed in pair.throttle.hit_many(["a", "b"]).await {
        assert_eq!(error(failed).kind(), ErrorKind::Unavailable);
    }
    let open = Throttle::builder("open").rate("1/day").backend(pair.failover.clone());
    let open = open.on_error(OnError::Allow).build().unwrap();
    assert_eq!(open.hit("a").await.unwrap().decided_by(), DecidedBy::Policy);
    // The deadline of the hit goes on.
    pair.primary.plays(Play::Silence);
    pair.fallback.plays(Play::Silence);
    let start = tokio::time::Instant::now();
    assert_eq!(error(pair.throttle.hit("a").await).kind(), ErrorKind::Timeout);
    assert_eq!(start.elapsed(), 250 * MS);
}

/// Else nobody would hear of an outage that a fallback covers.
#[tokio::test(start_paused = true)]
async fn a_primary_that_fails_is_told_of_once_a_second_though_the_fallback_decides() {
    let (log, _logging) = Log::of_thread(tracing::Level::WARN);
    for is_at_once in [false, true] {
        let primary = match is_at_once {
            true => Scripted::new().at_once(),
            false => Scripted::new(),
        };
        let failover = Failover::new(primary.clone(), InMemory::new());
        let throttle = raising(failover.clone());
        let told = log.count("the primary failed, the fallback is asked");
        assert!(throttle.hit("a").await.is_ok());
        assert_eq!(log.count("the primary failed") - told, 0, "{}", log.text());
        primary.plays(DOWN);
        for _ in 0..50 {
            assert_eq!(throttle.hit("a").await.unwrap().decided_by(), DecidedBy::Fallback);
            assert!(throttle.hit_many(["a", "b"]).await.iter().all(Result::is_ok));
        }
        assert_eq!(log.count("the primary failed, the fallback is asked") - told, 1);
        assert_eq!(log.count("the fallback failed"), 0, "{}", log.text());
    }
}

#[tokio::test(start_paused = true)]
async fn a_fallback_that_fails_too_is_told_once_a_second() {
    let (log, _logging) = Log::of_thread(tracing::Level::WARN);
    for is_at_once in [false, true] {
        let [primary, fallback] = [(); 2].map(|()| match is_at_once {
            true => Scripted::new().at_once(),
            false => Scripted::new(),
        });
        for scripted in [&primary, &fallback] {
            scripted.plays(DOWN);
        }
        let failover = Failover::new(primary, fallback);
        let throttle = raising(failover.clone());
        let (told, start) = (log.count("the fallback failed too"), tokio::time::Instant::now());
        for _ in 0..100 {
            error(throttle.hit("a").await);
            for failed in throttle.hit_many(["a", "b"]).await {
                error(failed);
            }
            all(&[throttle.clone(), raising(failover.clone())]).await.unwrap_err();
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(log.count("the fallback failed too") - told, 1, "{}", log.text());
        let told_after = |time: Duration| {
            let (log, throttle) = (&log, &throttle);
            async move {
                tokio::time::advance(time).await;
                error(throttle.hit("a").await);
                log.count("the fallback failed too") - told
            }
        };
        assert_eq!(told_after(900 * MS).await, 1, "{}", log.text());
        // Seconds are those since the first line of the process, and other tests are ahead by their own time.
        assert_eq!(told_after(Duration::from_secs(366 * 86_400)).await, 2, "{}", log.text());
        let lines = log.lines();
        let (_, suppressed) = lines.last().unwrap().split_once("suppressed=").unwrap();
        let suppressed: u32 = suppressed.split_whitespace().next().unwrap().parse().unwrap();
        // The other hits, and with them those of many and of all.
        assert!(suppressed > 100, "{suppressed}");
    }
}

#[tokio::test(start_paused = true)]
async fn receipts_return_to_whoever_took_them() {
    let pair = pair();
    let throttle = &pair.throttle;
    let of_primary = throttle.hit("a").await.unwrap().receipt().unwrap();
    let mut part = throttle.hit("a").await.unwrap().receipt().unwrap();
    pair.primary.plays(DOWN);
    let of_fallback = throttle.hit("a").await.unwrap().receipt().unwrap();
    let reserved = throttle.reserve("a", 3).await.unwrap();
    assert_eq!(pair.left("a").await, (3, 1));
    // What the primary took is not given back elsewhere.
    assert_eq!(error(throttle.refund_part("a", &mut part, 1).await).kind(), ErrorKind::Unavailable);
    assert_eq!(pair.left("a").await, (3, 1));
    throttle.refund("a", of_fallback).await.unwrap();
    assert_eq!(pair.left("a").await, (3, 2), "also while the primary is away");
    pair.primary.plays(Play::Answer);
    reserved.settle(1).await.unwrap();
    assert_eq!(pair.left("a").await, (3, 4), "also when it is back");
    throttle.refund("a", of_primary).await.unwrap();
    assert_eq!(pair.left("a").await, (4, 4));
    // More than was estimated is charged where the estimate was taken.
    pair.primary.plays(DOWN);
    let reserved = throttle.reserve("a", 1).await.unwrap();
    pair.primary.plays(Play::Answer);
    reserved.settle(3).await.unwrap();
    assert_eq!(pair.left("a").await, (4, 1));
    // A part of a receipt is of the same.
    pair.primary.plays(DOWN);
    let mut receipt = throttle.hit("a").await.unwrap().receipt().unwrap();
    pair.primary.plays(Play::Answer);
    throttle.refund_part("a", &mut receipt, 1).await.unwrap();
    assert_eq!(pair.left("a").await, (4, 1));
    let permit = throttle.reserve("a", 1).await.unwrap().on_drop(PermitDrop::Refund);
    assert_eq!(pair.left("a").await, (3, 1));
    pair.primary.plays(DOWN);
    permit.refund().await.unwrap_err();
    assert_eq!(pair.left("a").await, (3, 1));
}

#[tokio::test(start_paused = true)]
async fn every_verb_of_a_decision_fails_over() {
    let pair = pair();
    let throttle = &pair.throttle;
    pair.primary.plays(DOWN);
    assert_eq!(throttle.peek("a").await.unwrap().decided_by(), DecidedBy::Fallback);
    let taken = throttle.take_up_to("a", 3).await.unwrap();
    assert_eq!((taken.units(), taken.decision().decided_by()), (3, DecidedBy::Fallback));
    pair.primary.plays(Play::Answer);
    throttle.refund("a", taken.receipt().unwrap()).await.unwrap();
    pair.primary.plays(DOWN);
    assert_eq!(pair.left("a").await, (5, 5));
    assert_eq!(throttle.charge("a", 2).await.unwrap().decided_by(), DecidedBy::Fallback);
    assert_eq!(pair.left("a").await, (5, 3));
    throttle.drain("a").await.unwrap();
    assert_eq!(pair.left("a").await, (5, 0));
    // With its own rates, options and cost.
    let options = HitOptions::new().replace_rates([Rate::per_day(9)]).cost(2).leave(1);
    let own = throttle.hit_with("a", options.clone()).await.unwrap();
    assert_eq!((own.remaining(), own.limit(), own.decided_by()), (7, 9, DecidedBy::Fallback));
    throttle.refund("a", own.receipt().unwrap()).await.unwrap();
    assert_eq!(throttle.peek_with("a", options).await.unwrap().remaining(), 9);
    // A turn that is waited for, and given back by those who go away.
    let bucket = Throttle::builder("bucket").rate("1/s burst 1").backend(pair.failover.clone());
    let bucket = bucket.build().unwrap();
    drop(bucket.acquire("a").await.unwrap());
    given_up_after(100 * MS, async { bucket.acquire("a").await }).await;
    tokio::task::yield_now().await;
    let start = tokio::time::Instant::now();
    drop(bucket.acquire("a").await.unwrap());
    assert!(start.elapsed() <= Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn of_many_only_those_that_failed_are_asked_again() {
    let pair = pair();
    pair.primary.plays_for("down", DOWN);
    pair.primary.plays_for("silent", Play::Silence);
    pair.primary.plays_for("wrong", Play::Refuse(ErrorKind::Misconfigured));
    let decisions = pair.throttle.hit_many(["up", "down", "wrong", "silent", "up"]).await;
    let by: Vec<_> =
        decisions.into_iter().map(|decision| decision.map(|it| it.decided_by()).ok()).collect();
    let (backend, fallback) = (Some(DecidedBy::Backend), Some(DecidedBy::Fallback));
    assert_eq!(by, [backend, fallback, None, fallback, backend]);
    assert_eq!((pair.fallback.asked("apply_many"), pair.fallback.asked("apply")), (1, 2));
    assert_eq!(pair.left("up").await, (3, 5));
    assert_eq!(pair.left("down").await, (5, 4));
    // What a silent fallback has decided by then counts.
    pair.fallback.plays_for("silent", Play::Silence);
    let mut decisions = pair.throttle.hit_many(["up", "down", "silent"]).await.into_iter();
    assert_eq!(decisions.next().unwrap().unwrap().remaining(), 2);
    assert_eq!(decisions.next().unwrap().unwrap().decided_by(), DecidedBy::Fallback);
    assert_eq!(error(decisions.next().unwrap()).kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn a_refund_of_the_primary_among_others_is_not_for_the_fallback() {
    let pair = pair();
    pair.primary.plays(DOWN);
    let limits = five();
    let parts = [KeyPart::bytes(b"a")];
    let key = Key::new("decorated", &parts);
    let refund = Step::new(&limits, 1, Op::Refund { taken_at: traffik::Timestamp::ZERO });
    let steps = [(key, refund), (key, Step::new(&limits, 1, Op::Take))];
    let answers = Answers::new(2);
    pair.failover.apply_many(&steps, &answers).await;
    let mut answers = answers.into_answers().map(Option::unwrap);
    assert_eq!(answers.next().unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(answers.next().unwrap().unwrap().decided_by(), DecidedBy::Fallback);
    assert_eq!(pair.fallback.asked("apply"), 1);
}

async fn all(throttles: &[Throttle]) -> Result<traffik::CombinedDecision, Error> {
    let all = throttles.iter().fold(traffik::all(), |all, throttle| all.hit(throttle, "a"));
    all.await
}

#[tokio::test(start_paused = true)]
async fn all_fail_over_together() {
    let pair = pair();
    let named = |name| {
        let builder = Throttle::builder(name).limit("2/day", FixedWindow::new());
        builder.backend(pair.failover.clone()).on_error(OnError::Raise).build().unwrap()
    };
    let throttles = ["one", "two"].map(named);
    for play in [DOWN, Play::Silence] {
        pair.primary.plays(play);
        let passed = all(&throttles).await.unwrap();
        assert!(passed.is_allowed());
        let by: Vec<_> = passed.decisions().map(|one| one.unwrap().decided_by()).collect();
        assert_eq!(by, [DecidedBy::Fallback; 2]);
        pair.primary.plays(Play::Answer);
        for permit in passed.into_permits().unwrap() {
            permit.refund().await.unwrap();
        }
    }
    assert_eq!((pair.primary.asked("apply_all"), pair.fallback.asked("apply_all")), (2, 2));
    for throttle in &throttles {
        assert_eq!(throttle.peek("a").await.unwrap().remaining(), 2);
        pair.primary.plays(DOWN);
        assert_eq!(throttle.peek("a").await.unwrap().remaining(), 2, "given back");
        pair.primary.plays(Play::Answer);
    }
}

fn share(part: u32, whole: u32) -> FailoverOptions {
    let [part, whole] = [part, whole].map(|it| NonZeroU32::new(it).unwrap());
    FailoverOptions::new().share(part, whole)
}

#[tokio::test(start_paused = true)]
async fn a_share_scales_the_limits_of_the_fallback() {
    let pair = pair_with(share(1, 4));
    let builder = Throttle::builder("shared").limit("100/day", FixedWindow::new());
    let builder = builder.limit("40/h", SlidingWindowLog::new());
    let throttle = builder.backend(pair.failover.clone()).on_error(OnError::Raise).build().unwrap();
    pair.primary.plays(DOWN);
    let decision = throttle.hit("a").await.unwrap();
    assert_eq!((decision.limit(), decision.burst(), decision.remaining()), (10, 10, 9));
    let remaining: Vec<u32> = decision.answers().map(|answer| answer.remaining()).collect();
    assert_eq!(remaining, [24, 9]);
    throttle.refund("a", decision.receipt().unwrap()).await.unwrap();
    assert_eq!(throttle.peek("a").await.unwrap().remaining(), 10);
    // More than the share can ever let pass: denied for now, for the primary may let it pass.
    let costly = throttle.hit_with("a", HitOptions::new().cost(11)).await.unwrap();
    assert_eq!((costly.denial(), wait_of(&costly)), (Some(Denial::Limited), Some(1_000 * MS)));
    assert_eq!(throttle.denied_by(&costly).unwrap().name(), "shared/h");
    let outcomes: Vec<_> = costly.answers().map(|answer| answer.outcome()).collect();
    let retry_after = 1_000 * MS;
    assert_eq!(outcomes, [Outcome::Allowed, Outcome::Denied { retry_after }]);
    // More than the whole lets pass: never.
    let never = throttle.hit_with("a", HitOptions::new().cost(41)).await.unwrap();
    assert_eq!(never.outcome(), Outcome::Never);
    // Rates of a hit too.
    let options = HitOptions::new().replace_rates([Rate::per_day(8)]);
    let own = throttle.hit_with("a", options.clone()).await.unwrap();
    assert_eq!((own.limit(), own.remaining()), (2, 1));
    throttle.refund("a", own.receipt().unwrap()).await.unwrap();
    let decisions = throttle.hit_many_with(["a", "b"], options).await;
    assert!(decisions.into_iter().all(|it| it.unwrap().remaining() == 1));
    let closed = Throttle::builder("closed").rate("0/day").backend(pair.failover.clone());
    let closed = closed.build().unwrap().hit("a").await.unwrap();
    assert_eq!((closed.outcome(), closed.decided_by()), (Outcome::Never, DecidedBy::Fallback));
    let one = Throttle::builder("one").rate("1/day").backend(pair.failover.clone());
    assert!(one.build().unwrap().hit("a").await.unwrap().is_allowed(), "rounded up");
}

#[tokio::test(start_paused = true)]
async fn a_share_scales_the_limits_of_hits_that_count_together() {
    let pair = pair_with(share(1, 4));
    let throttles = ["one", "two"].map(|name| {
        let builder = Throttle::builder(name).limit("8/day", FixedWindow::new());
        builder.backend(pair.failover.clone()).on_error(OnError::Raise).build().unwrap()
    });
    pair.primary.plays(DOWN);
    for hit in 1..=3 {
        let decision = all(&throttles).await.unwrap();
        assert_eq!(decision.is_allowed(), hit <= 2, "hit {hit}");
        for one in decision.decisions().map(Option::unwrap) {
            let expected = (DecidedBy::Fallback, 2, 2 - hit.min(2));
            assert_eq!((one.decided_by(), one.limit(), one.remaining()), expected);
        }
    }
    // More than the share ever lets pass: denied for now.
    let costly = traffik::all().hit(&throttles[0], "b");
    let costly = costly.hit_with(&throttles[1], "b", HitOptions::new().cost(3)).await.unwrap();
    assert_eq!(costly.outcome(), Outcome::Denied { retry_after: Duration::from_secs(1) });
    assert_eq!(pair.fallback.asked("apply_all"), 4, "each in one step");
}

#[tokio::test(start_paused = true)]
async fn shares_of_two_rates_that_a_hit_brings_are_counted_apart() {
    let pair = pair_with(share(1, 4));
    pair.primary.plays(DOWN);
    // In parts 6, 2 and 2 a day.
    let rates = [24, 7, 8].map(Rate::per_day);
    let options = HitOptions::new().replace_rates(rates);
    for hit in 1..=2 {
        let decision = pair.throttle.hit_with("a", options.clone()).await.unwrap();
        let remaining: Vec<u32> = decision.answers().map(|answer| answer.remaining()).collect();
        assert_eq!(remaining, [6, 2, 3].map(|all| all - hit));
    }
    assert!(!pair.throttle.hit_with("a", options).await.unwrap().is_allowed());
}

#[tokio::test(start_paused = true)]
async fn blocks_and_resets_reach_both() {
    let pair = pair();
    let throttle = &pair.throttle;
    let hour = Duration::from_secs(3600);
    throttle.block("a", hour).await.unwrap();
    for play in [Play::Answer, DOWN] {
        pair.primary.plays(play);
        let denied = throttle.hit("a").await.unwrap();
        assert_eq!(denied.denial(), Some(Denial::Blocked), "{play:?}");
    }
    // An error of the primary is reported, and the fallback has it all the same.
    assert_eq!(error(throttle.unblock("a").await).kind(), ErrorKind::Unavailable);
    assert!(throttle.hit("a").await.unwrap().is_allowed());
    pair.primary.plays(Play::Answer);
    assert!(throttle.unblock("a").await.unwrap(), "it was blocked there");
    assert!(throttle.hit("a").await.unwrap().is_allowed());
    assert_eq!(pair.left("a").await, (4, 4));
    throttle.reset("a").await.unwrap();
    assert_eq!(pair.left("a").await, (5, 5));
    // One of the fallback is reported too: it has happened at the primary.
    pair.fallback.plays(Play::Refuse(ErrorKind::Full));
    let failed = error(throttle.block("a", hour).await);
    assert_eq!((failed.kind(), failed.effect()), (ErrorKind::Full, Effect::Ambiguous));
    assert_eq!(throttle.hit("a").await.unwrap().denial(), Some(Denial::Blocked));
    pair.fallback.plays(Play::Answer);
    pair.failover.clear().await.unwrap();
    assert_eq!((pair.primary.asked("clear"), pair.fallback.asked("clear")), (1, 1));
    assert!(throttle.hit("a").await.unwrap().is_allowed());
}

#[tokio::test(start_paused = true)]
async fn a_penalty_blocks_at_both() {
    let pair = pair();
    let penalty =
        Penalty::block_for(Duration::from_secs(60)).after(2).within(Duration::from_secs(60));
    let builder = Throttle::builder("penal").limit("1/day", FixedWindow::new()).penalty(penalty);
    let throttle = builder.backend(pair.failover.clone()).build().unwrap();
    for _ in 0..3 {
        drop(throttle.hit("a").await.unwrap());
    }
    pair.primary.plays(DOWN);
    assert_eq!(throttle.hit("a").await.unwrap().denial(), Some(Denial::Blocked));
}

#[tokio::test(start_paused = true)]
async fn what_the_fallback_denies_is_no_offence() {
    let pair = pair_with(share(1, 4));
    let penalty =
        Penalty::block_for(Duration::from_secs(60)).after(2).within(Duration::from_secs(60));
    let builder = Throttle::builder("penal").limit("4/day", FixedWindow::new()).penalty(penalty);
    let throttle = builder.backend(pair.failover.clone()).build().unwrap();
    pair.primary.plays(DOWN);
    for hit in 0..5 {
        let decision = throttle.hit("a").await.unwrap();
        assert_eq!((decision.is_allowed(), decision.decided_by()), (hit == 0, DecidedBy::Fallback));
    }
    pair.primary.plays(Play::Answer);
    assert!(throttle.hit("a").await.unwrap().is_allowed(), "it did no more than it may");
}

#[tokio::test(start_paused = true)]
async fn what_the_primary_took_is_settled_there_or_not_at_all() {
    let pair = pair();
    let taken = async || pair.throttle.hit("a").await.unwrap().receipt().unwrap();
    let (one, other) = (taken().await, taken().await);
    pair.primary.plays(DOWN);
    let settled = pair.throttle.settle("a", one, 2).await;
    assert_eq!(error(settled).kind(), ErrorKind::Unavailable);
    assert_eq!(pair.left("a").await, (3, 5), "the fallback owes nothing");
    pair.primary.plays(Play::Answer);
    pair.throttle.settle("a", other, 2).await.unwrap();
    assert_eq!(pair.left("a").await, (2, 5));
    // One of the fallback is settled there.
    pair.primary.plays(DOWN);
    let receipt = taken().await;
    pair.primary.plays(Play::Answer);
    pair.throttle.settle("a", receipt, 3).await.unwrap();
    assert_eq!(pair.left("a").await, (2, 2));
}

#[tokio::test(start_paused = true)]
async fn what_the_fallback_may_have_done_is_told() {
    let pair = pair();
    pair.primary.plays(DOWN);
    pair.fallback.plays(Play::FailAfterwards(ErrorKind::Timeout));
    let failed = error(pair.throttle.hit("a").await);
    assert_eq!((failed.kind(), failed.effect()), (ErrorKind::Unavailable, Effect::Ambiguous));
    let failed = pair.throttle.hit_many(["a"]).await.pop().unwrap();
    assert_eq!(error(failed).effect(), Effect::Ambiguous);
    pair.fallback.plays(Play::Refuse(ErrorKind::Timeout));
    assert_eq!(error(pair.throttle.hit("a").await).effect(), Effect::NotApplied);
    let failed = pair.throttle.hit_many(["a"]).await.pop().unwrap();
    assert_eq!(error(failed).effect(), Effect::NotApplied);
    // A block of the fallback's stands there.
    pair.fallback.plays(Play::Answer);
    let blocked = error(pair.throttle.block("a", Duration::from_secs(60)).await);
    assert_eq!((blocked.kind(), blocked.effect()), (ErrorKind::Unavailable, Effect::Ambiguous));
}

#[tokio::test(start_paused = true)]
async fn values_locks_and_questions_are_the_primarys() {
    let pair = pair();
    pair.failover.set(&Key::value("a"), b"1", None).await.unwrap();
    assert_eq!(pair.failover.get(&Key::value("a")).await.unwrap().as_deref(), Some(&b"1"[..]));
    drop(pair.throttle.inspect("a").await.unwrap());
    pair.failover.ready().await.unwrap();
    assert_eq!(pair.fallback.asked_in_all(), 0);
    pair.primary.plays(DOWN);
    assert!(pair.failover.get(&Key::value("a")).await.is_err());
    assert!(pair.failover.ready().await.is_err());
    assert_eq!(error(pair.throttle.inspect("a").await).kind(), ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_lifespan_is_of_both_and_counted() {
    let pair = pair();
    let is_open = async |memory: &InMemory| memory.ready().await.is_ok();
    let elsewhere = pair.fallback.lifespan().await.unwrap();
    let life = pair.failover.lifespan().await.unwrap();
    pair.failover.initialize().await.unwrap();
    pair.primary.plays(DOWN);
    assert!(pair.throttle.hit("a").await.unwrap().is_allowed());
    pair.primary.plays(Play::Answer);
    life.close().await.unwrap();
    assert!(!is_open(pair.primary.memory()).await);
    assert!(is_open(pair.fallback.memory()).await, "it is used elsewhere");
    assert_eq!(left(pair.fallback.memory(), "a").await, 4, "nor cleared");
    let life = pair.failover.lifespan().await.unwrap();
    elsewhere.close().await.unwrap();
    assert!(is_open(pair.fallback.memory()).await, "now it is used here");
    life.close().await.unwrap();
    assert!(!is_open(pair.fallback.memory()).await && !is_open(pair.primary.memory()).await);
    pair.failover.initialize().await.unwrap();
    assert!(pair.throttle.hit("b").await.unwrap().is_allowed(), "open again");
    assert_eq!(left(pair.fallback.memory(), "a").await, 5, "cleared by the last one");
    pair.failover.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_fallback_that_keeps_its_counts_keeps_them_at_the_end_of_a_lifespan() {
    let memory = InMemory::builder().persistent(true).build().unwrap();
    let failover = Failover::new(Scripted::new(), memory.clone());
    let throttle = raising(memory.clone());
    let life = failover.lifespan().await.unwrap();
    assert!(throttle.hit("a").await.unwrap().is_allowed());
    life.close().await.unwrap();
    let open = memory.lifespan().await.unwrap();
    assert_eq!(left(&memory, "a").await, 4);
    open.close().await.unwrap();
    let life = failover.lifespan().await.unwrap();
    failover.clear().await.unwrap();
    assert_eq!(left(&memory, "a").await, 5, "asked for");
    life.close().await.unwrap();
    // Also before there was any lifespan.
    let memory = InMemory::builder().persistent(true).build().unwrap();
    assert!(raising(memory.clone()).hit("a").await.unwrap().is_allowed());
    Failover::new(Scripted::new(), memory.clone()).clear().await.unwrap();
    assert_eq!(left(&memory, "a").await, 5);
}

#[tokio::test(start_paused = true)]
async fn a_start_without_the_primary_fails_unless_it_may_be_degraded() {
    use traffik::lifespan::{LifespanOptions, Start};
    let pair = pair();
    pair.primary.plays(DOWN);
    assert!(pair.failover.lifespan().await.is_err());
    assert_eq!(pair.fallback.asked("stop"), 1, "it does not stay open");
    let degraded = LifespanOptions::new().start(Start::Degraded);
    let life: Lifespan = pair.failover.lifespan_with(degraded).await.unwrap();
    assert_eq!(pair.throttle.hit("a").await.unwrap().decided_by(), DecidedBy::Fallback);
    assert_eq!(pair.fallback.asked("initialize"), 2);
    pair.primary.plays(Play::Answer);
    life.close().await.unwrap();
    // A fallback that is away fails nothing.
    let pair = self::pair();
    pair.fallback.plays(DOWN);
    let life = pair.failover.lifespan().await.unwrap();
    assert_eq!(pair.throttle.hit("a").await.unwrap().decided_by(), DecidedBy::Backend);
    pair.fallback.plays(Play::Answer);
    life.close().await.unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn f28_a_runtime_that_ends_under_hits_leaves_all_usable() {
    for _ in 0..100 {
        let pair = pair();
        pair.primary.plays(Play::Silence);
        let ended = runtime();
        ended.block_on(async {
            for key in ["a", "b", "c"] {
                let throttle = pair.throttle.clone();
                tokio::spawn(async move { throttle.hit(key).await });
            }
            tokio::task::yield_now().await;
        });
        drop(ended);
        pair.primary.plays(DOWN);
        let decision = runtime().block_on(pair.throttle.hit("a")).unwrap();
        assert_eq!(decision.remaining(), 4, "what was dropped asked no fallback");
    }
}

#[test]
fn f29_a_lifespan_that_is_dropped_stops_both() {
    for inside in [true, false] {
        let (pair, runtime) = (pair(), runtime());
        let life = runtime.block_on(pair.failover.lifespan()).unwrap();
        if inside {
            runtime.block_on(async { drop(life) });
        } else {
            drop((runtime, life));
        }
        assert_eq!((pair.primary.asked("stop"), pair.fallback.asked("stop")), (1, 1));
        assert_eq!((pair.primary.asked("close"), pair.fallback.asked("close")), (0, 0));
        pair.primary.plays(DOWN);
        let decision = self::runtime().block_on(pair.throttle.hit("a")).unwrap();
        assert!(decision.is_allowed(), "nothing was closed");
    }
}

#[tokio::test(start_paused = true)]
async fn f35_a_handler_that_panics_denies_after_both_failed() {
    let pair = pair();
    let handler = OnError::handler(|_| async { panic!("as it was told") });
    let builder = Throttle::builder("handled").rate("1/day").backend(pair.failover.clone());
    let throttle = builder.on_error(handler).build().unwrap();
    pair.primary.plays(DOWN);
    assert_eq!(throttle.hit("a").await.unwrap().decided_by(), DecidedBy::Fallback);
    pair.fallback.plays(DOWN);
    let denied = throttle.hit("a").await.unwrap();
    assert_eq!((denied.denial(), denied.decided_by()), (Some(Denial::Policy), DecidedBy::Policy));
}

#[test]
fn a_fallback_is_another_backend_and_the_only_one() {
    let refused = |primary: Arc<dyn Backend>, fallback: Arc<dyn Backend>, problem: &str| {
        let builder = Throttle::builder("t").rate("5/h").backend(Arc::clone(&primary));
        let error = builder.fallback(Arc::clone(&fallback)).build().unwrap_err().to_string();
        assert!(error.starts_with(&format!("fallback {problem}")), "{error}");
        let around = Resilience::recommended().fallback(Arc::clone(&fallback));
        assert_eq!(around.around(Arc::clone(&primary)).unwrap_err().to_string(), error);
        let join = std::panic::AssertUnwindSafe(|| Failover::new(primary, fallback));
        let panic = std::panic::catch_unwind(join).unwrap_err();
        assert_eq!(panic.downcast_ref::<String>(), Some(&error));
    };
    let memory = Scripted::new();
    refused(
        Arc::new(CircuitBreaker::new(memory.clone())),
        Arc::new(memory.clone()),
        "is the primary itself; use another",
    );
    let pair = Resilience::recommended().fallback(InMemory::new()).around(memory).unwrap();
    let other: Arc<dyn Backend> = Arc::new(InMemory::new());
    refused(Arc::clone(&pair), Arc::clone(&other), "cannot be added, for the backend has one");
    let breaker = CircuitBreaker::with_options(Arc::clone(&pair), CircuitBreakerOptions::new());
    let told = breaker.unwrap_err().to_string();
    assert!(told.starts_with("circuit_breaker is around a fallback"), "{told}");
    let deep: Arc<dyn Backend> = Arc::new(Retry::new(Coalesce::new(Arc::clone(&pair))));
    refused(deep, Arc::clone(&other), "cannot be added, for the backend has one");
    refused(other, pair, "has a fallback of its own");
}

#[test]
fn f34_options_are_checked() {
    let wrong = [
        (
            FailoverOptions::new().primary_timeout(Duration::ZERO),
            "failover primary_timeout is zero",
        ),
        (share(2, 1), "failover share is 2 of 1"),
    ];
    for (wrong, text) in wrong {
        let failover = Failover::with_options(InMemory::new(), InMemory::new(), wrong);
        let error = failover.unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
    }
}
