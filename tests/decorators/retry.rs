//! Retries around a backend that does as it is told.

use std::num::NonZeroU32;
use std::time::Duration;

use test_support::{Play, Scripted};
use traffik::backend::Answers;
use traffik::decorator::{CircuitBreaker, Retry, RetryOptions};
use traffik::key::KeyPart;
use traffik::step::Step;
use traffik::strategy::Op;
use traffik::{Backend, Effect, ErrorKind, Key, LockOptions, Locks, Throttle, Values};

use super::support::{MS, error, five, given_up_after, is_open_error, left, raising, take};

const DOWN: Play = Play::Refuse(ErrorKind::Unavailable);

fn retried() -> (Scripted, Retry) {
    let scripted = Scripted::new();
    (scripted.clone(), Retry::new(scripted))
}

#[tokio::test(start_paused = true)]
async fn what_was_not_done_is_asked_twice_more() {
    let (scripted, retry) = retried();
    scripted.plays_next([DOWN, Play::Refuse(ErrorKind::Timeout)]);
    assert_eq!(take(&retry, "a").await.unwrap().remaining(), 4);
    assert_eq!(scripted.asked("apply"), 3);
    scripted.plays_next([DOWN; 3]);
    assert_eq!(take(&retry, "a").await.unwrap_err().effect(), Effect::NotApplied);
    assert_eq!((scripted.asked("apply"), left(scripted.memory(), "a").await), (6, 4));
    scripted.plays_next([DOWN, DOWN]);
    assert_eq!(retry.get(&Key::value("a")).await.unwrap(), None);
    scripted.plays_next([DOWN, DOWN]);
    assert!(retry.lock("a", LockOptions::new()).await.unwrap().release().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_may_have_happened_and_mistakes_are_asked_once() {
    for play in [
        Play::FailAfterwards(ErrorKind::Unavailable),
        Play::FailAfterwards(ErrorKind::Timeout),
        Play::Refuse(ErrorKind::Overloaded),
        Play::Refuse(ErrorKind::Misconfigured),
        Play::Refuse(ErrorKind::Closed),
        Play::Refuse(ErrorKind::Full),
        Play::Refuse(ErrorKind::Contended),
    ] {
        let (scripted, retry) = retried();
        scripted.plays(play);
        assert!(take(&retry, "a").await.is_err());
        assert!(raising(retry.clone()).hit_many(["a", "b"]).await.iter().all(Result::is_err));
        assert_eq!(scripted.asked("apply"), 3, "{play:?}");
        assert!(retry.ready().await.is_err());
        assert_eq!(scripted.asked("ready"), 1, "a question for the truth");
    }
}

#[tokio::test(start_paused = true)]
async fn no_pause_begins_that_ends_too_late() {
    let scripted = Scripted::new();
    let many = NonZeroU32::new(1_000_000).unwrap();
    let options = RetryOptions::new().retries(many).first_pause(MS).longest_pause(40 * MS);
    let retry = Retry::with_options(scripted.clone(), options.within(60 * MS)).unwrap();
    scripted.plays(DOWN);
    for _ in 0..50 {
        let start = tokio::time::Instant::now();
        assert!(take(&retry, "a").await.is_err());
        assert!(start.elapsed() <= 60 * MS, "{:?}", start.elapsed());
    }
    assert!(scripted.asked("apply") > 100, "they were repeated");
}

#[tokio::test(start_paused = true)]
async fn pauses_are_at_random() {
    let (scripted, retry) = retried();
    let mut times = Vec::new();
    for _ in 0..100 {
        scripted.plays_next([DOWN]);
        let start = tokio::time::Instant::now();
        assert!(take(&retry, "a").await.is_ok());
        times.push(start.elapsed());
    }
    assert!(times.iter().all(|time| *time <= 11 * MS), "{times:?}");
    assert!(times.iter().any(|time| *time <= 3 * MS) && times.iter().any(|time| *time >= 7 * MS));
}

#[tokio::test(start_paused = true)]
async fn of_many_only_those_that_failed_are_repeated() {
    let (scripted, retry) = retried();
    let throttle = raising(retry);
    // a, b, c and d; then b and d; then d.
    scripted.plays_next([Play::Answer, DOWN, Play::Answer, DOWN, Play::Answer, DOWN]);
    let decisions = throttle.hit_many(["a", "b", "c", "d"]).await;
    assert!(decisions.into_iter().all(|decision| decision.unwrap().remaining() == 4));
    assert_eq!((scripted.asked("apply_many"), scripted.asked("apply")), (3, 7));
    for key in ["a", "b", "c", "d"] {
        assert_eq!(left(scripted.memory(), key).await, 4, "{key} was counted once");
    }
}

#[tokio::test(start_paused = true)]
async fn the_steps_of_a_key_keep_their_order() {
    let (scripted, retry) = retried();
    let limits = five();
    let [a, b] = [b"a", b"b"].map(|key| [KeyPart::bytes(key)]);
    let step = |key, cost| (Key::new("decorated", key), Step::new(&limits, cost, Op::Take));
    let steps = [step(&a, 1), step(&b, 1), step(&a, 2), step(&a, 3)];
    // Of a the first failed and the second got through; the third may be repeated, and so may b.
    scripted.plays_next([DOWN, DOWN, Play::Answer, DOWN]);
    let answers = Answers::new(steps.len());
    retry.apply_many(&steps, &answers).await;
    let answers: Vec<_> = answers.into_answers().map(Option::unwrap).collect();
    assert_eq!(answers[0].as_ref().unwrap_err().effect(), Effect::NotApplied);
    let remaining = [1, 2, 3].map(|place| answers[place].as_ref().unwrap().remaining());
    assert_eq!(remaining, [4, 3, 0]);
    assert_eq!(scripted.asked("apply"), 6);
}

#[tokio::test(start_paused = true)]
async fn f22_answers_are_not_lost_when_the_caller_gives_up() {
    let (scripted, retry) = retried();
    let throttle = raising(retry);
    scripted.plays_for("down", DOWN);
    scripted.plays_for("silent", Play::Silence);
    let decisions = throttle.hit_many(["a", "silent", "down"]).await;
    let mut decisions = decisions.into_iter();
    assert_eq!(decisions.next().unwrap().unwrap().remaining(), 4);
    assert_eq!(error(decisions.next().unwrap()).kind(), ErrorKind::Timeout);
    // Known to have failed before the caller gave up.
    assert_eq!(error(decisions.next().unwrap()).effect(), Effect::NotApplied);
    assert_eq!(left(scripted.memory(), "a").await, 4);
    // In the second attempt it may happen.
    let (scripted, retry) = retried();
    scripted.plays_next([DOWN, Play::SilenceAfterwards]);
    let decisions = raising(retry).hit_many(["a"]).await;
    assert_eq!(error(decisions.into_iter().next().unwrap()).effect(), Effect::Ambiguous);
    assert_eq!(left(scripted.memory(), "a").await, 4, "and did");
}

#[tokio::test(start_paused = true)]
async fn all_together_are_repeated_together() {
    let (scripted, retry) = retried();
    let throttles = ["one", "two"].map(|name| {
        let builder = Throttle::builder(name).rate("5/day").backend(retry.clone());
        builder.build().unwrap()
    });
    scripted.plays_next([DOWN, DOWN]);
    let mut all = traffik::all();
    for throttle in &throttles {
        all = all.hit(throttle, "a");
    }
    assert!(all.await.unwrap().is_allowed());
    assert_eq!(scripted.asked("apply_all"), 3);
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_around_it_asks_nobody() {
    let (scripted, retry) = retried();
    let breaker = CircuitBreaker::new(retry);
    scripted.plays(DOWN);
    for _ in 0..5 {
        assert!(take(&breaker, "a").await.is_err());
    }
    assert_eq!(scripted.asked("apply"), 15);
    for _ in 0..100 {
        assert!(is_open_error(&take(&breaker, "a").await.unwrap_err()));
    }
    assert_eq!(scripted.asked("apply"), 15);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_is_dropped_asks_no_more() {
    let scripted = Scripted::new();
    let long = Duration::from_secs(10);
    let options = RetryOptions::new().first_pause(long).longest_pause(long).within(long * 2);
    let retry = Retry::with_options(scripted.clone(), options).unwrap();
    scripted.plays(DOWN);
    given_up_after(MS, async {
        // At random a pause may be short.
        while take(&retry, "a").await.is_err() {}
    })
    .await;
    let asked = scripted.asked("apply");
    tokio::time::sleep(long * 10).await;
    assert_eq!(scripted.asked("apply"), asked);
}

#[test]
fn options_are_checked() {
    let options = RetryOptions::new;
    for (wrong, named) in [
        (options().first_pause(Duration::ZERO), "first_pause"),
        (options().within(Duration::ZERO), "within"),
        (options().longest_pause(9 * MS), "longest_pause"),
    ] {
        let error = Retry::with_options(Scripted::new(), wrong).unwrap_err().to_string();
        assert!(error.starts_with(&format!("retry {named} is ")), "{error}");
    }
}
