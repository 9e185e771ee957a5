//! Observers: each hit of each verb is seen once, by what its caller is told.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use test_support::{Failing, Gates, Mode as Failure, RuntimeClock, ValuesOnly};
use traffik::backend::Overflow;
use traffik::observe::{Event, Observer};
use traffik::{
    Backend, DecidedBy, Decision, Denial, Effect, Error, ErrorKind, Exempt, FixedWindow,
    HitOptions, InMemory, ManualClock, Mode, OnError, Outcome, Rate, Throttle, ThrottleBuilder,
    all,
};

const SECOND: Duration = Duration::from_secs(1);

/// What an observer was told, as text.
#[derive(Debug, Default)]
struct Log(Mutex<Vec<String>>);

impl Observer for Log {
    fn on_event(&self, event: &Event<'_>) {
        let text = match event {
            Event::Decision(made) => {
                let outcome = match (made.outcome, made.withdrawn, made.shadowed) {
                    (Outcome::Allowed, true, None) => "withdrawn".to_owned(),
                    (Outcome::Allowed, false, None) => "allowed".to_owned(),
                    (Outcome::Allowed, false, Some(it)) => format!("shadowed {:?}", it.denial()),
                    (outcome, false, None) => {
                        assert_ne!(outcome, Outcome::Allowed);
                        format!("denied {:?}", made.denial.expect("it is denied"))
                    }
                    other => panic!("{other:?}"),
                };
                assert_eq!(made.denial.is_some(), made.outcome != Outcome::Allowed);
                let mut text = format!("{} {outcome} {}", made.throttle, made.cost);
                if made.decided_by != DecidedBy::Backend {
                    text += &format!(" by {:?}", made.decided_by);
                }
                if let Some(limit) = made.limit {
                    text += &format!(" of {limit}");
                }
                if made.is_brought {
                    text += " (brought)";
                }
                if !made.elapsed.is_zero() {
                    text += &format!(" in {:?}", made.elapsed);
                }
                if let Some(key) = made.key {
                    text += &format!(" for {:?}", key.parts());
                }
                text
            }
            Event::NearLimit(near) => {
                let key = near.key.map(|key| format!(" for {:?}", key.parts()));
                let (remaining, burst) = (near.remaining, near.burst);
                format!("near {}: {remaining}/{burst}{}", near.limit, key.unwrap_or_default())
            }
            Event::Overflow(full) => format!("overflow {} {}", full.throttle, full.is_allowed),
            Event::BackendFailed(it) => format!(
                "failed {} {} {} {:?} {:?}",
                it.throttle, it.backend, it.operation, it.kind, it.effect
            ),
            other => panic!("{other:?}"),
        };
        self.0.lock().push(text);
    }
}

impl Log {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }
}

fn logging(builder: ThrottleBuilder) -> (ThrottleBuilder, Arc<Log>) {
    let log = Arc::new(Log::default());
    (builder.observer(Arc::clone(&log)), log)
}

fn logged(name: &str, rate: &str, backend: impl Backend) -> (Throttle, Arc<Log>) {
    let (builder, log) = logging(Throttle::builder(name).rate(rate).backend(backend));
    (builder.build().unwrap(), log)
}

/// A backend in memory, once with its fast path and once asked by values alone.
fn backends() -> [(&'static str, Arc<dyn Backend>); 2] {
    let clock = ManualClock::new();
    let memory = InMemory::builder().clock(clock.clone()).build().unwrap();
    [("in memory", Arc::new(memory)), ("by values", Arc::new(ValuesOnly::new(&clock)))]
}

#[tokio::test(start_paused = true)]
async fn each_verb_is_seen_once() {
    for (name, backend) in backends() {
        let (api, log) = logged("api", "5/min", backend);
        let seen = |expected: &[&str]| assert_eq!(log.take(), expected, "{name}");
        let _ = api.hit("a").await.unwrap();
        seen(&["api allowed 1 of api/min"]);
        let _ = api.hit_with("a", HitOptions::new().cost(2)).await.unwrap();
        seen(&["api allowed 2 of api/min"]);
        api.enforce("a").await.unwrap();
        seen(&["api allowed 1 of api/min"]);
        assert!(api.enforce_with("a", HitOptions::new().cost(6)).await.is_err());
        seen(&["api denied Never 6 of api/min"]);
        api.reserve("a", 1).await.unwrap().settle(0).await.unwrap();
        seen(&["api allowed 1 of api/min"]);
        assert_eq!(api.take_up_to("a", 9).await.unwrap().units(), 1);
        seen(&["api allowed 9 of api/min"]);
        assert_eq!(api.take_up_to("a", 9).await.unwrap().units(), 0);
        seen(&["api denied Limited 9 of api/min"]);
        let _ = api.hit("a").await.unwrap();
        seen(&["api denied Limited 1 of api/min"]);
        if name == "in memory" {
            assert!(api.try_acquire("a", 1).is_err());
            api.try_acquire("b", 2).unwrap().refund().await.unwrap();
            seen(&["api denied Limited 1 of api/min", "api allowed 2 of api/min"]);
        }
        let _ = api.hit_many(["a", "b", "b"]).await;
        seen(&[
            "api denied Limited 1 of api/min",
            "api allowed 1 of api/min",
            "api allowed 1 of api/min",
        ]);
        let _ = api.hit(Exempt).await.unwrap();
        seen(&["api allowed 1 by Exempt"]);
        // None of these is a hit.
        let _ = api.peek("a").await.unwrap();
        let _ = api.peek_with("a", HitOptions::new().cost(9)).await.unwrap();
        let receipt = api.hit("c").await.unwrap().receipt().unwrap();
        let _ = log.take();
        api.refund("c", receipt).await.unwrap();
        let _ = api.charge("a", 3).await.unwrap();
        api.drain("a").await.unwrap();
        api.block("a", SECOND).await.unwrap();
        seen(&[]);
        let _ = api.hit("a").await.unwrap();
        seen(&["api denied Blocked 1 of api/min"]);
    }
}

#[tokio::test(start_paused = true)]
async fn limits_that_hits_bring_and_unlimited_ones_are_told_apart() {
    for (name, backend) in backends() {
        let (api, log) = logged("api", "5/min", Arc::clone(&backend));
        let brought = HitOptions::new().replace_rates([Rate::per_hour(1)]);
        let _ = api.hit_with("a", brought.clone()).await.unwrap();
        let _ = api.hit_with("a", brought).await.unwrap();
        let own = HitOptions::new().replace_rates([Rate::per_minute(5)]);
        let _ = api.hit_with("a", own).await.unwrap();
        assert_eq!(
            log.take(),
            [
                "api allowed 1 of api/h (brought)",
                "api denied Limited 1 of api/h (brought)",
                "api allowed 1 of api/min",
            ],
            "{name}"
        );
        let (free, log) = logged("free", "unlimited", backend);
        let _ = free.hit("a").await.unwrap();
        assert_eq!(log.take(), ["free allowed 1 by Unlimited"], "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn acquire_is_seen_once_however_long_it_waits() {
    for window in [false, true] {
        let (builder, log) = logging(Throttle::builder("jobs").rate("1/min"));
        let builder = if window { builder.strategy(FixedWindow::new()) } else { builder };
        let jobs = builder.backend(RuntimeClock::memory()).build().unwrap();
        for _ in 0..3 {
            jobs.acquire("a").await.unwrap().commit();
        }
        let late = jobs.acquire("a").timeout(SECOND).await;
        assert!(matches!(late, Err(Error::Denied(_))));
        let allowed = log.take();
        let allowed: Vec<_> = allowed.iter().map(|text| &text[..text.len().min(30)]).collect();
        let (passed, denied) = ("jobs allowed 1 of jobs/min", "jobs denied Limited 1 of jobs/");
        assert_eq!(allowed, [passed, passed, passed, denied], "window: {window}");
    }
}

#[tokio::test(start_paused = true)]
async fn entries_of_all_are_seen_when_all_are_decided() {
    for (name, backend) in backends() {
        let (one, one_log) = logged("one", "2/min", Arc::clone(&backend));
        let (two, two_log) = logged("two", "1/min", Arc::clone(&backend));
        let hit = async || {
            all().hit(&one, "a").hit(&two, "a").hit(&one, "a").hit(&two, Exempt).await.unwrap()
        };
        assert!(hit().await.is_allowed());
        let allowed = "one allowed 1 of one/min";
        assert_eq!(one_log.take(), [allowed, allowed], "{name}: two entries that are one");
        assert_eq!(
            two_log.take(),
            ["two allowed 1 of two/min", "two allowed 1 by Exempt"],
            "{name}"
        );
        one.reset("a").await.unwrap();
        assert!(hit().await.is_denied());
        let withdrawn = "one withdrawn 1 of one/min";
        assert_eq!(one_log.take(), [withdrawn, withdrawn], "{name}");
        assert_eq!(
            two_log.take(),
            ["two denied Limited 1 of two/min", "two withdrawn 1 by Exempt"],
            "{name}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn modes_are_seen() {
    for (name, backend) in backends() {
        let (api, log) = logged("api", "0/min", backend);
        for mode in [Mode::Shadow, Mode::Off, Mode::Enforce] {
            api.set_mode(mode);
            let _ = api.hit("a").await.unwrap();
            let _ = api.hit_many(["a"]).await;
            let _ = all().hit(&api, "a").await.unwrap();
        }
        let shadowed = "api shadowed Never 1 of api/min";
        let (off, denied) = ("api allowed 1 by Off", "api denied Never 1 of api/min");
        let expected = [shadowed, off, denied].into_iter().flat_map(|text| [text; 3]);
        assert_eq!(log.take(), expected.collect::<Vec<_>>(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn failures_are_seen_with_their_effect_and_what_was_decided() {
    let down = || Failing::new(Failure::Fail(ErrorKind::Unavailable));
    let (api, log) = logged("api", "5/min", down());
    let failed = "failed api failing apply Unavailable NotApplied";
    let denied = "api denied Policy 1 by Policy";
    let _ = api.hit("a").await.unwrap();
    let _ = api.hit_many(["a", "b"]).await;
    assert_eq!(log.take(), [failed, denied, failed, failed, denied, denied]);
    let _ = api.peek("a").await.unwrap();
    assert!(api.charge("a", 1).await.is_err());
    assert!(api.reset("a").await.is_err());
    assert!(api.inspect("a").await.is_err());
    assert!(api.block("a", SECOND).await.is_err());
    let others = ["forget", "inspect", "change_block"]
        .map(|operation| format!("failed api failing {operation} Unavailable NotApplied"));
    let mut expected = vec![failed.to_owned(); 2];
    expected.extend(others);
    assert_eq!(log.take(), expected);

    let ambiguous = Failing::new(Failure::Ambiguous).with_policy(OnError::Raise);
    let (raises, log) = logged("raises", "5/min", ambiguous);
    assert!(raises.hit("a").await.is_err());
    assert_eq!(log.take(), ["failed raises failing apply Unavailable Ambiguous"], "no decision");
    let (zero, log) = logged("zero", "0/min", down());
    let _ = zero.hit("a").await.unwrap();
    let never = "zero denied Never 1 by Policy of zero/min";
    assert_eq!(log.take(), ["failed zero failing apply Unavailable NotApplied", never]);
    // Two throttles in one question that fails: each is told.
    let (one, log) = logged("one", "5/min", down());
    let _ = all().hit(&one, "a").hit(&one, "b").await.unwrap();
    assert_eq!(log.take().iter().filter(|text| text.starts_with("failed")).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_time_is_that_of_the_decision() {
    let gates = Arc::new(Gates::default());
    gates.shut("apply");
    let slow = Failing::new(Failure::Slow).with_gates(Arc::clone(&gates));
    let (api, log) = logged("api", "5/min", slow);
    let hit = tokio::spawn({
        let api = api.clone();
        async move { api.hit("a").await.map(|decision| decision.is_allowed()) }
    });
    tokio::time::sleep(Duration::from_millis(70)).await;
    gates.open_all();
    assert!(hit.await.unwrap().unwrap());
    assert_eq!(log.take(), ["api allowed 1 of api/min in 70ms"]);
    gates.shut("apply");
    let _ = api.hit("a").await.unwrap();
    let (failed, denied) = (
        format!("failed api failing apply Timeout {:?}", Effect::Ambiguous),
        "api denied Policy 1 by Policy in 250ms",
    );
    assert_eq!(log.take(), [failed.as_str(), denied]);
}

#[tokio::test(start_paused = true)]
async fn a_hit_that_leaves_little_is_told_for_each_limit() {
    for (name, backend) in backends() {
        let (builder, log) = logging(Throttle::builder("api").rates(["10/min", "12/day"]));
        let api = builder.near_limit(20).backend(backend).build().unwrap();
        let near = |log: &Log| {
            let told = log.take();
            told.into_iter().filter(|text| text.starts_with("near")).collect::<Vec<_>>()
        };
        let taking = async |cost| api.hit_with("a", HitOptions::new().cost(cost)).await.unwrap();
        let _ = taking(7).await;
        assert_eq!(near(&log), [""; 0], "{name}: 3 of 10 and 5 of 12");
        let _ = taking(1).await;
        assert_eq!(near(&log), ["near api/min: 2/10"], "{name}");
        let _ = taking(2).await;
        assert_eq!(near(&log), ["near api/min: 0/10", "near api/day: 2/12"], "{name}: each hit");
        let _ = taking(1).await;
        let _ = api.peek("a").await.unwrap();
        api.set_mode(Mode::Shadow);
        let _ = taking(1).await;
        assert_eq!(near(&log), [""; 0], "{name}: denials, peeks and shadows are not near");
    }
    let wrong = Throttle::builder("api").rate("1/s").near_limit(100).backend(InMemory::new());
    let error = wrong.build().unwrap_err().to_string();
    assert_eq!(error, "near_limit of throttle \"api\" is 100 percent; it must be 0 to 99");
}

#[tokio::test(start_paused = true)]
async fn a_hit_that_is_withdrawn_leaves_what_it_took() {
    for (name, backend) in backends() {
        let (builder, log) = logging(Throttle::builder("api").rate("4/min").near_limit(50));
        let api = builder.backend(Arc::clone(&backend)).build().unwrap();
        let closed = Throttle::builder("closed").rate("0/min").backend(backend).build().unwrap();
        let _ = api.hit_with("a", HitOptions::new().cost(2)).await.unwrap();
        let first = ["api allowed 2 of api/min", "near api/min: 2/4"];
        assert_eq!(log.take(), first, "{name}");
        assert!(all().hit(&api, "a").hit(&closed, "a").await.unwrap().is_denied());
        assert_eq!(log.take(), ["api withdrawn 1 of api/min"], "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_memory_is_told_with_its_rule() {
    for (overflow, is_allowed) in [(Overflow::Deny, false), (Overflow::Allow, true)] {
        let memory = InMemory::builder().max_keys(Some(1)).number_of_shards(1).overflow(overflow);
        let (api, log) = logged("api", "5/h", memory.build().unwrap());
        let _ = api.hit("a").await.unwrap();
        let _ = api.hit("b").await.unwrap();
        let decided = match is_allowed {
            true => "api allowed 1 by Overflow".to_owned(),
            false => format!("api denied {:?} 1 by Overflow", Denial::Full),
        };
        let overflow = format!("overflow api {is_allowed}");
        assert_eq!(log.take()[1..], [decided, overflow]);
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_told_only_when_asked_for_by_name() {
    for (name, backend) in backends() {
        let (builder, log) = logging(Throttle::builder("api").rate("2/min").near_limit(50));
        let api = builder.observe_raw_keys().backend(Arc::clone(&backend)).build().unwrap();
        let _ = api.hit("alice").await.unwrap();
        let _ = all().hit(&api, "bob").await.unwrap();
        let key = |who: &str| format!("{:?}", [traffik::key::KeyPart::bytes(who.as_bytes())]);
        let (alice, bob) = (key("alice"), key("bob"));
        assert_eq!(
            log.take(),
            [
                format!("api allowed 1 of api/min for {alice}"),
                format!("near api/min: 1/2 for {alice}"),
                format!("api allowed 1 of api/min for {bob}"),
                format!("near api/min: 1/2 for {bob}"),
            ],
            "{name}"
        );
        let (quiet, log) = logged("quiet", "2/min", backend);
        let _ = quiet.hit("alice").await.unwrap();
        assert!(!log.take().concat().contains("alice"), "{name}");
    }
}

#[derive(Debug)]
struct Panicking;

impl Observer for Panicking {
    fn on_event(&self, _event: &Event<'_>) {
        panic!("an observer that panics, on purpose");
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_breaks_no_hit() {
    for (name, backend) in backends() {
        let (builder, log) = logging(Throttle::builder("api").rate("2/min").observer(Panicking));
        let api = builder.backend(backend).build().unwrap();
        let passed = async || api.hit("a").await.map(|decision: Decision| decision.is_allowed());
        assert!(passed().await.unwrap() && passed().await.unwrap(), "{name}");
        assert!(!passed().await.unwrap(), "{name}");
        assert_eq!(log.take().len(), 3, "{name}: who comes after it is told all the same");
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_may_ask_the_throttle_itself() {
    /// Hits again when it is told, which would wait for ever under a lock.
    #[derive(Debug, Default)]
    struct Curious(std::sync::OnceLock<Throttle>, Mutex<u32>);

    impl Observer for Curious {
        fn on_event(&self, _event: &Event<'_>) {
            *self.1.lock() += 1;
            if *self.1.lock() < 4 {
                self.0.get().unwrap().try_acquire("a", 1).unwrap().commit();
            }
        }
    }

    let curious = Arc::new(Curious::default());
    let api = Throttle::builder("api").rate("9/min").observer(Arc::clone(&curious));
    let api = api.backend(InMemory::new()).build().unwrap();
    curious.0.set(api.clone()).unwrap();
    assert!(api.hit("a").await.unwrap().is_allowed());
    assert_eq!(api.peek("a").await.unwrap().remaining(), 5);
}
