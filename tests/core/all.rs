//! Hits that count together or not at all.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use test_support::together::{self, Pair};
use test_support::{Failing, Gates, Mode, ValuesOnly, wait_of};
use traffik::backend::Overflow;
use traffik::strategy::{Answer, CorruptState, Op, State};
use traffik::{
    Backend, CombinedDecision, DecidedBy, Denial, Error, ErrorKind, Exempt, FixedWindow,
    HitOptions, InMemory, ManualClock, OnError, Outcome, Rate, Strategy, Throttle, Timestamp, all,
};

fn throttle(name: &str, rate: &str, backend: impl Backend) -> Throttle {
    Throttle::builder(name).rate(rate).backend(backend).build().unwrap()
}

async fn left(throttle: &Throttle, key: &str) -> u32 {
    throttle.peek(key).await.unwrap().remaining()
}

fn cost(units: u32) -> HitOptions {
    HitOptions::new().cost(units)
}

/// What tests run on: one step for all, and one after the other.
fn backends(clock: &ManualClock) -> [Arc<dyn Backend>; 2] {
    let memory = InMemory::builder().clock(clock.clone()).build().unwrap();
    [Arc::new(memory), Arc::new(ValuesOnly::new(clock))]
}

#[tokio::test]
async fn all_are_counted_or_none_is() {
    let clock = ManualClock::new();
    for backend in backends(&clock) {
        let requests = throttle("requests", "2/h", Arc::clone(&backend));
        let tokens = throttle("tokens", "10/min", Arc::clone(&backend));
        let hit = async |units| {
            all().hit(&requests, "a").hit_with(&tokens, "a", cost(units)).await.unwrap()
        };
        let passed = hit(4).await;
        assert!(passed.is_allowed() && passed.denied_by().is_none());
        assert_eq!(passed.outcome(), Outcome::Allowed);
        assert_eq!((left(&requests, "a").await, left(&tokens, "a").await), (1, 6));
        // Seven of six: a token comes back in six seconds.
        let denied = hit(7).await;
        assert_eq!(denied.denied_by(), Some(1));
        assert_eq!(denied.outcome(), Outcome::Denied { retry_after: Duration::from_secs(6) });
        let decision = denied.decision(1).unwrap();
        assert_eq!(tokens.denied_by(decision).unwrap().rate().limit(), 10);
        assert_eq!(
            (left(&requests, "a").await, left(&tokens, "a").await),
            (1, 6),
            "nothing is taken"
        );
        assert!(hit(5).await.is_allowed());
        // Both deny now, and the longer wait decides; more than the burst can never pass.
        let denied = hit(2).await;
        assert_eq!(denied.outcome(), Outcome::Denied { retry_after: Duration::from_secs(1800) });
        assert_eq!(denied.denied_by(), Some(0));
        let denied = all().hit_with(&tokens, "a", cost(11)).hit(&requests, "a").await.unwrap();
        assert_eq!((denied.outcome(), denied.denied_by()), (Outcome::Never, Some(0)));
        assert_eq!((left(&requests, "a").await, left(&tokens, "a").await), (0, 1));
        // After the wait it passes.
        clock.advance(Duration::from_secs(1800));
        assert!(hit(2).await.is_allowed());
    }
}

#[tokio::test]
async fn entries_of_one_throttle_and_key_are_one() {
    for backend in backends(&ManualClock::new()) {
        let units = throttle("units", "10/h", Arc::clone(&backend));
        // Another handle of the same name and rates is the same.
        let same = throttle("units", "10/h", Arc::clone(&backend));
        let hits = |one, two| {
            all().hit_with(&units, "a", cost(one)).hit(&units, "b").hit_with(&same, "a", cost(two))
        };
        let denied = hits(5, 6).await.unwrap();
        assert_eq!(denied.outcome(), Outcome::Never, "together above the burst");
        assert_eq!((left(&units, "a").await, left(&units, "b").await), (10, 10));
        let permits = hits(3, 4).await.unwrap().into_permits().unwrap();
        let taken: Vec<u32> = permits.iter().map(|permit| permit.units()).collect();
        assert_eq!(taken, [3, 1, 4], "each has its own");
        assert_eq!((left(&units, "a").await, left(&units, "b").await), (3, 9));
        let mut permits = permits.into_iter();
        permits.next().unwrap().settle(1).await.unwrap();
        permits.next().unwrap().refund().await.unwrap();
        permits.next().unwrap().settle(5).await.unwrap();
        assert_eq!((left(&units, "a").await, left(&units, "b").await), (4, 10));
        // Four are left: each of these would pass by itself.
        assert!(hits(3, 2).await.unwrap().is_denied());
        // What is left for others is the most that one of them leaves.
        let leaving = |units, leave| cost(units).leave(leave);
        let hits = all().hit_with(&units, "a", leaving(1, 3)).hit_with(&units, "a", leaving(1, 0));
        assert!(hits.await.unwrap().is_denied());
        let hits = all().hit_with(&units, "a", leaving(1, 2)).hit_with(&units, "a", leaving(1, 0));
        assert!(hits.await.unwrap().is_allowed());
    }
}

#[tokio::test]
async fn what_cannot_be_one_is_refused_before_anything_is_taken() {
    let backend = InMemory::new();
    let units = throttle("units", "10/h", backend.clone());
    let other = throttle("units", "20/h", backend.clone());
    let plan = HitOptions::new().replace_rates([Rate::per_hour(3)]);
    let problem = async |hits: traffik::All| match hits.await {
        Err(Error::HitOptions { throttle, problem, .. }) => format!("{throttle}: {problem}"),
        other => panic!("{other:?}"),
    };
    let text = problem(all().hit(&units, "a").hit(&other, "a")).await;
    assert!(
        text.contains("two entries of one `all` have the same key: give the same rates"),
        "{text}"
    );
    let text = problem(all().hit(&units, "a").hit_with(&units, "a", plan.clone())).await;
    assert!(text.contains("give the same rates"), "{text}");
    let much = || cost(u32::MAX);
    let text = problem(all().hit_with(&units, "a", much()).hit_with(&units, "a", much())).await;
    assert!(text.contains("together above 4294967295"), "{text}");
    assert!(matches!(all().await, Err(Error::NoEntries)));
    let many = throttle("many", "1/h", InMemory::new());
    let hits = |count: u32| (0..count).fold(all(), |hits, key| hits.hit(&many, key));
    assert!(hits(256).await.unwrap().is_allowed());
    let error = hits(257).await.unwrap_err();
    assert!(matches!(error, Error::TooManyEntries { entries: 257, most: 256, .. }), "{error}");
    let homeless = Throttle::builder("homeless").rate("1/h").build().unwrap();
    let error = all().hit(&units, "a").hit(&homeless, "a").await.unwrap_err();
    assert!(matches!(error, Error::NoBackend { .. }), "{error}");
    assert_eq!(left(&units, "a").await, 10);
    // The same rates that two hits bring are one.
    let hits = all().hit_with(&units, "a", plan.clone()).hit_with(&units, "a", plan.cost(2));
    let permits = hits.reserve().await.unwrap();
    assert_eq!(permits.iter().map(|permit| permit.units()).sum::<u32>(), 3);
    for permit in permits {
        permit.refund().await.unwrap();
    }
}

#[tokio::test]
async fn what_nobody_is_asked_about_passes() {
    for backend in backends(&ManualClock::new()) {
        let units = throttle("units", "1/h", Arc::clone(&backend));
        let free =
            Throttle::builder("free").rate(Rate::UNLIMITED).backend(backend).build().unwrap();
        let hit =
            async || all().hit(&units, Exempt).hit(&free, "a").hit(&units, "a").await.unwrap();
        let passed = hit().await;
        let by: Vec<_> = passed.decisions().map(|one| one.unwrap().decided_by()).collect();
        assert_eq!(by, [DecidedBy::Exempt, DecidedBy::Unlimited, DecidedBy::Backend]);
        let units: Vec<u32> =
            passed.into_permits().unwrap().iter().map(|one| one.units()).collect();
        assert_eq!(units, [0, 0, 1]);
        let denied = hit().await;
        assert_eq!(denied.denied_by(), Some(2));
        assert!(denied.into_permits().unwrap_err().is_denied());
    }
}

#[tokio::test]
async fn over_several_backends_those_before_are_given_back() {
    let backends = [InMemory::new(), InMemory::new(), InMemory::new()];
    let [first, second, third] = ["first", "second", "third"].map(|name| {
        let place = usize::from(name == "second") + 2 * usize::from(name == "third");
        let rate = if name == "second" { "1/h" } else { "5/h" };
        throttle(name, rate, backends[place].clone())
    });
    let hit = async || {
        all().hit(&first, "a").hit(&second, "a").hit(&third, "a").hit(&first, "b").await.unwrap()
    };
    assert!(hit().await.is_allowed());
    let denied = hit().await;
    assert_eq!(denied.denied_by(), Some(1));
    assert!(denied.not_given_back().is_empty());
    assert!(denied.decision(0).unwrap().is_allowed());
    assert!(denied.decision(2).is_none(), "the third backend was not asked");
    assert!(denied.decision(3).unwrap().is_allowed(), "of the first backend");
    let left = [left(&first, "a").await, left(&third, "a").await, left(&first, "b").await];
    assert_eq!(left, [4, 4, 4]);
}

#[tokio::test]
async fn what_is_not_given_back_is_named() {
    let keeps = Failing::new(Mode::NoRefunds);
    let first = throttle("first", "5/h", keeps);
    let second = throttle("second", "0/h", InMemory::new());
    let denied = all().hit(&first, "a").hit(&first, "b").hit(&second, "a").await.unwrap();
    assert_eq!((denied.outcome(), denied.denied_by()), (Outcome::Never, Some(2)));
    assert_eq!(denied.not_given_back(), [0, 1]);
    assert_eq!(left(&first, "a").await, 4);
}

/// A failure is decided for each entry by the policy of its throttle.
#[tokio::test]
async fn each_policy_decides_about_its_own() {
    let down = || Failing::new(Mode::Fail(ErrorKind::Unavailable));
    let with = |name: &str, backend: Arc<dyn Backend>, policy| {
        let throttle = Throttle::builder(name).rate("5/h").backend(backend).on_error(policy);
        throttle.build().unwrap()
    };
    let counted = throttle("counted", "5/h", InMemory::new());
    let outcome = async |policy: OnError| {
        let open = with("open", Arc::new(down()), OnError::Allow);
        let throttle = with("own", Arc::new(down()), policy);
        all().hit(&counted, "a").hit(&open, "a").hit(&throttle, "a").await
    };
    let passed = outcome(OnError::Allow).await.unwrap();
    assert!(passed.is_allowed());
    let by: Vec<_> = passed.decisions().map(|one| one.unwrap().decided_by()).collect();
    assert_eq!(by, [DecidedBy::Backend, DecidedBy::Policy, DecidedBy::Policy]);
    assert_eq!(left(&counted, "a").await, 4);
    let denied = outcome(OnError::throttle(Duration::from_secs(7))).await.unwrap();
    assert_eq!(denied.outcome(), Outcome::Denied { retry_after: Duration::from_secs(7) });
    assert_eq!(denied.decision(2).unwrap().denial(), Some(Denial::Policy));
    assert_eq!(left(&counted, "a").await, 4, "given back");
    assert!(matches!(outcome(OnError::Raise).await, Err(Error::Backend(_))));
    assert_eq!(left(&counted, "a").await, 4, "given back");
    let error = outcome(OnError::throttle(Duration::from_secs(7))).await.unwrap();
    assert!(matches!(error.into_permits(), Err(CombinedDecision { .. })));
}

/// The caller goes away while the second is decided, by another backend or by the same.
#[tokio::test]
async fn f22_a_future_that_is_dropped_gives_back_what_was_taken() {
    let gates = Arc::new(Gates::default());
    let slow: Arc<dyn Backend> = Arc::new(Failing::new(Mode::Slow).with_gates(Arc::clone(&gates)));
    let firsts =
        [throttle("first", "5/h", InMemory::new()), throttle("first", "5/h", Arc::clone(&slow))];
    let second = throttle("second", "5/h", slow);
    for (first, before) in firsts.into_iter().zip([0, 1]) {
        let asked = gates.asked("apply");
        gates.shut_after("apply", asked + before);
        drop_when_pending(all().hit(&first, "a").hit(&second, "a")).await;
        assert!(gates.asked("apply") - asked > before, "the second was asked");
        gates.open_all();
        until_left(&first, 5).await;
        until_left(&second, 5).await;
        assert!(gates.asked("apply") - asked > before + 1, "what it took was given back");
    }
}

/// ... and while it is being given back.
#[tokio::test]
async fn f22_a_future_that_is_dropped_late_gives_back_what_was_taken() {
    let gates = Arc::new(Gates::default());
    let slow = throttle("slow", "5/h", Failing::new(Mode::Slow).with_gates(Arc::clone(&gates)));
    let none = throttle("none", "0/h", InMemory::new());
    gates.shut_after("apply", 1);
    drop_when_pending(all().hit(&slow, "a").hit(&none, "a")).await;
    assert_eq!(gates.asked("apply"), 2, "the hit and its refund");
    gates.open_all();
    until_left(&slow, 5).await;
}

async fn drop_when_pending(hits: traffik::All) {
    let mut hits = Box::pin(hits.into_future());
    let polled = poll_fn(|cx| Poll::Ready(hits.as_mut().poll(cx))).await;
    assert!(polled.is_pending());
    // The task that goes on with it.
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
}

/// What a task gives back is asked behind it.
async fn until_left(throttle: &Throttle, expected: u32) {
    for _ in 0..100 {
        if left(throttle, "a").await == expected {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{} of {expected} are left", left(throttle, "a").await);
}

/// However many there are, and whatever became of them: also while they are given back.
#[tokio::test(start_paused = true)]
async fn all_ends_within_one_deadline() {
    let longest = Throttle::DEFAULT_DEADLINE * 2;
    let silent: Arc<dyn Backend> = Arc::new(Failing::new(Mode::Hang));
    let open = |name: &str, time| {
        let throttle = Throttle::builder(name).rate("5/h").backend(Arc::clone(&silent));
        throttle.deadline(time).on_error(OnError::Allow).build().unwrap()
    };
    let throttles = [open("a", longest), open("b", longest / 2), open("c", longest)];
    let mut hits = all();
    for key in 0..8u32 {
        hits = hits.hit(&throttles[key as usize % 3], key);
    }
    // What takes no time is never too late.
    let memory = InMemory::new();
    let own = [throttle("own", "5/h", memory.clone()), throttle("other", "5/h", memory)];
    let hits = hits.hit(&own[0], "a").hit(&own[1], "a");
    let start = tokio::time::Instant::now();
    let passed = hits.await.unwrap();
    assert!(passed.is_allowed(), "by the policy of each");
    assert_eq!(start.elapsed(), longest);
    let by = [9, 8, 7].map(|entry| passed.decision(entry).unwrap().decided_by());
    assert_eq!(by, [DecidedBy::Backend, DecidedBy::Backend, DecidedBy::Policy]);
    assert_eq!((left(&own[0], "a").await, left(&own[1], "a").await), (4, 4));

    let gates = Arc::new(Gates::default());
    let slow = throttle("slow", "5/h", Failing::new(Mode::Slow).with_gates(Arc::clone(&gates)));
    let none = throttle("none", "0/h", InMemory::new());
    gates.shut_after("apply", 1);
    let start = tokio::time::Instant::now();
    let denied = all().hit(&slow, "a").hit(&none, "a").await.unwrap();
    assert_eq!(start.elapsed(), Throttle::DEFAULT_DEADLINE);
    assert_eq!(denied.not_given_back(), [0]);
}

#[tokio::test]
async fn a_full_memory_takes_none_or_all() {
    for overflow in [Overflow::Deny, Overflow::Allow] {
        let backend = InMemory::builder().max_keys(Some(3)).overflow(overflow).build().unwrap();
        let units = throttle("units", "5/h", backend.clone());
        let hits = |keys: [&str; 2]| all().hit(&units, keys[0]).hit(&units, keys[1]);
        assert!(hits(["a", "b"]).await.unwrap().is_allowed());
        let second = hits(["c", "d"]).await.unwrap();
        assert_eq!(second.is_allowed(), overflow == Overflow::Allow, "one of them has no room");
        match second.denied_by() {
            None => assert_eq!(second.decision(1).unwrap().decided_by(), DecidedBy::Overflow),
            Some(entry) => {
                assert_eq!((entry, second.decision(1).unwrap().denial()), (1, Some(Denial::Full)));
                assert_eq!(left(&units, "c").await, 5);
            }
        }
        assert!(hits(["a", "b"]).await.unwrap().is_allowed(), "known keys go on");
        assert_eq!((left(&units, "a").await, left(&units, "b").await), (3, 3));
        assert!(backend.key_count() <= 3);
    }
}

/// Also for several keys what is over makes room first.
#[tokio::test]
async fn keys_that_are_over_make_room_for_several() {
    let clock = ManualClock::new();
    let backend = InMemory::builder().max_keys(Some(4)).clock(clock.clone()).build().unwrap();
    let units = throttle("units", "5/min", backend.clone());
    let hits = |keys: [&str; 4]| keys.iter().fold(all(), |hits, key| hits.hit(&units, *key));
    assert!(hits(["a", "b", "c", "d"]).await.unwrap().is_allowed());
    clock.advance(Duration::from_secs(3 * 3600));
    let second = hits(["e", "f", "g", "h"]).await.unwrap();
    assert!(second.is_allowed());
    assert!(second.decisions().all(|one| one.unwrap().decided_by() == DecidedBy::Backend));
}

/// A strategy that panics after others were taken, and again when it is to give back.
#[tokio::test]
async fn a_panic_of_a_strategy_keeps_nothing_of_the_others() {
    #[derive(Debug)]
    struct Panics(AtomicBool);
    impl Strategy for Panics {
        fn evaluate(
            &self,
            rate: &Rate,
            state: &mut State,
            now: Timestamp,
            cost: u32,
            op: Op,
        ) -> Result<Answer, CorruptState> {
            let is_quiet = op == Op::Peek || self.0.swap(false, Ordering::SeqCst);
            assert!(is_quiet, "part of the test");
            FixedWindow::new().evaluate(rate, state, now, cost, op)
        }
    }
    for backend in backends(&ManualClock::new()) {
        let units = throttle("units", "5/h", Arc::clone(&backend));
        for passes_first in [false, true] {
            let panics = Panics(AtomicBool::new(passes_first));
            let panics = Throttle::builder("panics").limit("5/h", panics);
            let panics = panics.backend(Arc::clone(&backend)).build().unwrap();
            let hits = all().hit(&units, "a").hit(&panics, "a").hit(&panics, "b");
            assert!(hits.await.is_err());
            assert_eq!(left(&units, "a").await, 5);
        }
    }
}

/// A wrapper sees each hit, and does not decide for what it wraps.
#[tokio::test]
async fn a_wrapper_is_another_backend() {
    let inner = InMemory::new();
    let wrapper = Failing::around(inner.clone(), Mode::DownFor("nobody"));
    let (bare, wrapped) = (throttle("t", "5/h", inner), throttle("t", "5/h", wrapper));
    let passed = all().hit(&bare, "a").hit(&wrapped, "a").await.unwrap();
    assert!(passed.is_allowed());
    assert_eq!(left(&bare, "a").await, 3, "both are counted");
    let five = all().hit_with(&bare, "a", cost(2)).hit_with(&wrapped, "a", cost(2)).await.unwrap();
    assert!(five.is_denied());
    assert_eq!(left(&bare, "a").await, 3);
}

#[tokio::test]
async fn a_denial_is_an_error_of_reserve() {
    let units = throttle("units", "5/h", InMemory::new());
    let none = throttle("none", "0/h", InMemory::new());
    let error = all().hit(&units, "a").hit(&none, "a").reserve().await.unwrap_err();
    let Error::Denied(decision) = error else { panic!("{error}") };
    assert_eq!(decision.outcome(), Outcome::Never);
    assert_eq!(none.denied_by(&decision).unwrap().rate().limit(), 0);
    let mut permits = all().hit_with(&units, "a", cost(3)).reserve().await.unwrap();
    permits.pop().unwrap().settle(1).await.unwrap();
    assert_eq!(left(&units, "a").await, 4);
    drop(all().hit(&units, "a").reserve().await.unwrap());
    assert_eq!(left(&units, "a").await, 3, "a permit that is dropped keeps its unit used");
}

#[tokio::test]
async fn the_least_wait_of_a_throttle_is_told() {
    let backend = InMemory::builder().clock(ManualClock::new()).build().unwrap();
    let units = Throttle::builder("units").limit("1/s", FixedWindow::new()).backend(backend);
    let units = units.min_retry_after(Duration::from_secs(30)).build().unwrap();
    assert!(all().hit(&units, "a").hit(&units, "b").await.unwrap().is_allowed());
    let denied = all().hit(&units, "a").hit(&units, "b").await.unwrap();
    assert!(denied.decisions().flatten().any(|one| wait_of(one) == Some(Duration::from_secs(30))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_race_for_two_limits() {
    for backend in backends(&ManualClock::new()) {
        let pair = Pair::new(backend);
        let outcomes = together::race(&pair, 64, 40).await;
        pair.expect_exact(&outcomes).await;
    }
}
