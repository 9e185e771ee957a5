//! What an operator does: block a key, let it go, look it up; and penalties, which block by a rule.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use test_support::{Failing, Gates, Mode, RuntimeClock, ValuesOnly, wait_of};
use traffik::backend::Overflow;
use traffik::step::BlockChange;
use traffik::{
    Backend, BuildError, Denial, Error, ErrorKind, Exempt, FixedWindow, HitOptions, InMemory, Key,
    ManualClock, Outcome, Penalty, Rate, SlidingWindowLog, Throttle, TokenBucket, all,
};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

fn memory(clock: &ManualClock) -> InMemory {
    InMemory::builder().clock(clock.clone()).build().unwrap()
}

/// In memory, and where states are stored as bytes.
fn backends(clock: &ManualClock) -> [Arc<dyn Backend>; 2] {
    [Arc::new(memory(clock)), Arc::new(ValuesOnly::new(clock))]
}

fn denial(decision: &traffik::Decision) -> (Option<Denial>, Option<Duration>) {
    (decision.denial(), wait_of(decision))
}

#[tokio::test]
async fn a_block_denies_every_hit_and_takes_nothing() {
    let long = "a key of more than sixteen bytes";
    for key in ["a", long] {
        let clock = ManualClock::new();
        for backend in backends(&clock) {
            let api =
                Throttle::builder("api").rates(["10/h", "100/day"]).backend(Arc::clone(&backend));
            let api = api.build().unwrap();
            let taken = api.hit_with(key, HitOptions::new().cost(4)).await.unwrap();
            let receipt = taken.receipt().unwrap();
            api.block(key, HOUR).await.unwrap();
            let blocked = (Some(Denial::Blocked), Some(HOUR));
            assert_eq!(denial(&api.hit(key).await.unwrap()), blocked);
            assert_eq!(denial(&api.peek(key).await.unwrap()), blocked);
            let free = api.hit_with(key, HitOptions::new().cost(0)).await.unwrap();
            assert_eq!(denial(&free), blocked, "of any cost");
            let taken = api.take_up_to(key, 3).await.unwrap();
            assert_eq!((taken.units(), denial(taken.decision())), (0, blocked));
            for decision in api.hit_many([key, key]).await {
                assert_eq!(denial(&decision.unwrap()), blocked);
            }
            let decision = api.hit(key).await.unwrap();
            assert_eq!(api.denied_by(&decision).map(|limit| limit.name().into_owned()), None);
            assert_eq!(decision.remaining(), 6, "as the limits stand");
            assert_eq!(decision.answers().len(), 2);
            assert!(format!("{decision}").starts_with("blocked, retry after"), "{decision}");
            let never = api.hit_with(key, HitOptions::new().cost(11)).await.unwrap();
            assert_eq!((never.outcome(), never.denial()), (Outcome::Never, Some(Denial::Blocked)));
            let Err(Error::Denied(decision)) = api.acquire(key).timeout(HOUR * 2).await else {
                panic!("a blocked caller does not wait");
            };
            assert_eq!(decision.denial(), Some(Denial::Blocked));
            assert!(all().hit(&api, "other").hit(&api, key).await.unwrap().is_denied());
            assert_eq!(api.peek("other").await.unwrap().remaining(), 10);
            // What is no hit goes on.
            api.refund(key, receipt).await.unwrap();
            assert!(api.charge(key, 7).await.unwrap().is_allowed());
            assert_eq!(api.peek(key).await.unwrap().remaining(), 3);
            assert!(api.hit("other").await.unwrap().is_allowed(), "others are not blocked");
            let same = Throttle::builder("other").rate("10/h").backend(backend).build().unwrap();
            assert!(same.hit(key).await.unwrap().is_allowed(), "nor is it by other throttles");
            // It is over at its instant.
            clock.advance(HOUR - Duration::from_micros(1));
            assert_eq!(denial(&api.hit(key).await.unwrap()).0, Some(Denial::Blocked));
            clock.advance(Duration::from_micros(1));
            assert!(api.hit(key).await.unwrap().is_allowed());
        }
    }
}

#[tokio::test]
async fn every_strategy_is_blocked() {
    let clock = ManualClock::new();
    for backend in backends(&clock) {
        let with = |name: &str| Throttle::builder(name).backend(Arc::clone(&backend));
        let throttles = [
            with("bucket").limit("5/h", TokenBucket::new()),
            with("wide").limit("4000000000/30d burst 4100000000", TokenBucket::new()),
            with("window").limit("5/h", FixedWindow::new()),
            with("log").limit("5/h", SlidingWindowLog::new()),
            with("zero").rate("0/h"),
            with("some").rate("5/h").rate(Rate::UNLIMITED),
        ];
        for throttle in throttles {
            let throttle = throttle.build().unwrap();
            for before in [false, true] {
                if before {
                    let _ = throttle.hit("a").await.unwrap();
                }
                throttle.block("a", MINUTE).await.unwrap();
                let denied = throttle.hit("a").await.unwrap();
                assert!(denied.is_denied(), "{}", throttle.name());
                if throttle.name() != "zero" {
                    assert_eq!(denial(&denied), (Some(Denial::Blocked), Some(MINUTE)));
                }
                assert!(throttle.unblock("a").await.unwrap());
                assert!(!throttle.unblock("a").await.unwrap());
            }
            if throttle.name() != "zero" {
                assert!(throttle.hit("a").await.unwrap().is_allowed(), "{}", throttle.name());
            }
        }
    }
}

#[tokio::test]
async fn blocking_again_replaces_and_a_reset_ends_it() {
    let clock = ManualClock::new();
    for backend in backends(&clock) {
        let api =
            Throttle::builder("api").rate("10/h").backend(Arc::clone(&backend)).build().unwrap();
        let wait = async || wait_of(&api.peek("a").await.unwrap());
        for time in [HOUR, MINUTE, HOUR * 24 * 365] {
            api.block("a", time).await.unwrap();
            assert_eq!(wait().await, Some(time));
        }
        let key = [traffik::key::KeyPart::bytes(b"a")];
        let key = Key::new("api", &key);
        api.block("a", HOUR).await.unwrap();
        for (time, expected) in [(MINUTE, HOUR), (HOUR * 2, HOUR * 2)] {
            assert!(backend.change_block(&key, BlockChange::Lengthen(time)).await.unwrap());
            assert_eq!(wait().await, Some(expected), "a penalty only lengthens");
        }
        api.reset("a").await.unwrap();
        assert!(api.hit("a").await.unwrap().is_allowed());
        api.block("a", HOUR).await.unwrap();
        backend.clear().await.unwrap();
        assert_eq!(api.hit("a").await.unwrap().remaining(), 9);
    }
}

#[tokio::test]
async fn what_no_block_would_reach_is_an_error() {
    let free = Throttle::builder("free").rate(Rate::UNLIMITED).backend(InMemory::new());
    let api = Throttle::builder("api").rate("5/h").backend(InMemory::new()).build().unwrap();
    for (error, expected) in [
        (free.build().unwrap().block("a", HOUR).await, "its rates are all unlimited"),
        (api.block(Exempt, HOUR).await, "the key is exempt"),
        (api.block("a", Duration::ZERO).await, "the time is zero"),
    ] {
        let error = error.unwrap_err();
        assert!(matches!(error, Error::CannotBlock { .. }));
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(!api.unblock(Exempt).await.unwrap());
    let down = Throttle::builder("api").rate("5/h").backend(Failing::new(Mode::Hang));
    let down = down.deadline(Duration::from_millis(5)).build().unwrap();
    let Err(Error::Backend(error)) = down.block("a", HOUR).await else { panic!("it hangs") };
    assert_eq!(error.kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn in_a_full_memory_a_known_key_is_blocked_and_a_new_one_is_an_error() {
    let backend = InMemory::builder().max_keys(Some(2)).overflow(Overflow::Allow).build().unwrap();
    let api = Throttle::builder("api").rate("5/h").backend(backend.clone()).build().unwrap();
    for key in ["a", "b"] {
        let _ = api.hit(key).await.unwrap();
    }
    api.block("a", HOUR).await.unwrap();
    let Err(Error::Backend(error)) = api.block("c", HOUR).await else { panic!("no room") };
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(api.hit("a").await.unwrap().is_denied());
    assert_eq!(backend.key_count(), 2);
    api.unblock("a").await.unwrap();
    api.reset("a").await.unwrap();
    assert_eq!(backend.key_count(), 1);
    api.block("c", HOUR).await.unwrap();
    assert_eq!(backend.key_count(), 2, "a block takes a place");
    api.unblock("c").await.unwrap();
    assert_eq!(backend.key_count(), 1, "and gives it back");
}

/// Blocks that are over are swept, and then nobody looks for one.
#[tokio::test]
async fn what_is_over_is_forgotten() {
    let clock = ManualClock::new();
    let backend = memory(&clock);
    let api = Throttle::builder("api").rate("5/min").backend(backend.clone()).build().unwrap();
    for key in 0..1_000u32 {
        api.block(key, MINUTE).await.unwrap();
    }
    assert_eq!(backend.key_count(), 1_000);
    clock.advance(HOUR * 3);
    while !backend.sweep_chunk() {}
    while !backend.sweep_chunk() {}
    assert_eq!(backend.key_count(), 0);
    for key in 0..1_000u32 {
        assert!(api.hit(key).await.unwrap().is_allowed());
    }
}

#[tokio::test]
async fn an_inspection_shows_the_block_the_limits_and_what_else_there_is() {
    let clock = ManualClock::new();
    for backend in backends(&clock) {
        let api = Throttle::builder("api").rates(["10/h", "100/day"]).backend(Arc::clone(&backend));
        let api = api.build().unwrap();
        let nothing = api.inspect("a").await.unwrap();
        assert_eq!((nothing.blocked_for(), nothing.others().len()), (None, 0));
        let left: Vec<u32> =
            nothing.limits().iter().map(|limit| limit.answer.remaining()).collect();
        assert_eq!(left, [10, 100]);
        assert!(nothing.limits().iter().all(|limit| limit.changed.is_none()));
        let _ = api.hit_with("a", HitOptions::new().cost(4)).await.unwrap();
        let plan = HitOptions::new().replace_rates([Rate::per_minute(7).burst(9)]);
        let _ = api.hit_with("a", plan).await.unwrap();
        // Another of the same name, with a strategy of its own.
        let old = Throttle::builder("api").limit("50/min", FixedWindow::new());
        let _ = old.backend(Arc::clone(&backend)).build().unwrap().hit("a").await.unwrap();
        clock.advance(Duration::from_secs(5));
        api.block("a", MINUTE).await.unwrap();
        let found = api.inspect("a").await.unwrap();
        assert_eq!(found.blocked_for(), Some(MINUTE));
        let limits: Vec<_> = found
            .limits()
            .iter()
            .map(|one| (one.limit.rate().limit(), one.is_brought, one.answer.remaining()))
            .collect();
        assert_eq!(limits, [(10, false, 6), (100, false, 96), (7, true, 8)]);
        let changed = Some(Duration::from_secs(5));
        assert!(found.limits().iter().all(|limit| limit.changed == changed), "{found:?}");
        assert_eq!(found.limits()[2].answer.burst(), 9);
        let [other] = found.others() else { panic!("{found:?}") };
        assert_eq!((other.strategy.name(), other.period), (Some("fixed window"), MINUTE));
        clock.advance(HOUR * 48);
        let over = api.inspect("a").await.unwrap();
        assert_eq!((over.blocked_for(), over.others().len(), over.limits().len()), (None, 0, 2));
        assert_eq!(api.inspect(Exempt).await.unwrap().limits().len(), 0);
    }
}

fn login(backend: impl Backend) -> Throttle {
    let login = Throttle::builder("login").rate("2/h").backend(backend);
    login.penalty(Penalty::block_for(HOUR * 24).after(3).within(MINUTE)).build().unwrap()
}

#[tokio::test]
async fn a_key_that_is_denied_too_often_is_blocked() {
    let clock = ManualClock::new();
    for backend in backends(&clock) {
        let login = login(backend);
        for round in 0..2 {
            for _ in 0..2 {
                assert!(login.hit("a").await.unwrap().is_allowed());
            }
            for _ in 0..2 {
                assert_eq!(login.hit("a").await.unwrap().denial(), Some(Denial::Limited));
                assert!(login.peek("a").await.unwrap().is_denied(), "a peek is not counted");
            }
            let blocked = login.hit("a").await.unwrap();
            assert_eq!(denial(&blocked), (Some(Denial::Blocked), Some(HOUR * 24)), "{round}");
            assert_eq!(login.hit("a").await.unwrap().denial(), Some(Denial::Blocked));
            assert!(login.hit("b").await.unwrap().is_allowed());
            login.reset("b").await.unwrap();
            clock.advance(HOUR * 24);
        }
        // Too slow for it: two in any minute.
        let all = HitOptions::new().cost(2);
        assert!(login.hit_with("a", all.clone()).await.unwrap().is_allowed());
        for _ in 0..10 {
            clock.advance(Duration::from_secs(40));
            let denied = login.hit_with("a", all.clone()).await.unwrap();
            assert_eq!(denied.denial(), Some(Denial::Limited));
        }
    }
}

#[tokio::test]
async fn each_form_of_a_hit_is_counted() {
    let clock = ManualClock::new();
    for backend in backends(&clock) {
        let login = login(backend);
        let _ = login.hit_with("a", HitOptions::new().cost(2)).await.unwrap();
        assert!(login.enforce("a").await.is_err());
        assert_eq!(login.take_up_to("a", 1).await.unwrap().units(), 0);
        let last = login.hit_many(["a"]).await.pop().unwrap().unwrap();
        assert_eq!(last.denial(), Some(Denial::Blocked));
        let _ = login.hit_with("b", HitOptions::new().cost(2)).await.unwrap();
        for expected in [Denial::Limited, Denial::Limited, Denial::Blocked] {
            let denied = all().hit(&login, "b").hit(&login, "c").await.unwrap();
            assert_eq!(denied.decision(0).unwrap().denial(), Some(expected));
        }
        assert_eq!(login.peek("c").await.unwrap().remaining(), 2);
    }
}

/// What a caller is told who waits for its turn is no misuse.
#[tokio::test(start_paused = true)]
async fn who_waits_politely_is_not_blocked() {
    let polite = Throttle::builder("polite").limit("2/s", FixedWindow::new());
    let penalty = Penalty::block_for(HOUR).after(1).within(HOUR);
    let clock = RuntimeClock::new();
    let backend = InMemory::builder().clock(clock).build().unwrap();
    let polite = polite.penalty(penalty).backend(backend).build().unwrap();
    for number in 0..20 {
        let permit = polite.acquire("a").await;
        permit.unwrap_or_else(|error| panic!("{number}: {error}")).commit();
    }
    while polite.hit("a").await.unwrap().is_allowed() {}
    assert_eq!(polite.hit("a").await.unwrap().denial(), Some(Denial::Blocked), "a hit is counted");
}

#[tokio::test]
async fn a_reset_and_an_unblock_forget_the_denials() {
    let clock = ManualClock::new();
    for backend in backends(&clock) {
        let login = login(backend);
        let all = HitOptions::new().cost(2);
        for forgets in [false, true] {
            for round in 0..3 {
                let _ = login.hit_with("a", all.clone()).await.unwrap();
                for _ in 0..2 {
                    assert_eq!(
                        login.hit("a").await.unwrap().denial(),
                        Some(Denial::Limited),
                        "{round}"
                    );
                }
                match forgets {
                    true => login.reset("a").await.unwrap(),
                    false => {
                        assert!(!login.unblock("a").await.unwrap());
                        clock.advance(HOUR);
                    }
                }
            }
        }
    }
}

/// A reset that fails may have happened.
#[tokio::test]
async fn a_reset_that_fails_forgets_the_denials_too() {
    let calls = Arc::new(AtomicU32::new(0));
    let login = login(Failing::new(Mode::NoRefunds).counting(Arc::clone(&calls)));
    let _ = login.hit_with("a", HitOptions::new().cost(2)).await.unwrap();
    for _ in 0..2 {
        assert!(login.hit("a").await.unwrap().is_denied());
    }
    assert!(login.reset("a").await.is_err());
    assert!(login.hit("a").await.unwrap().is_denied());
    assert_eq!(calls.load(Ordering::SeqCst), 1, "no block was asked for");
}

/// A block is not made longer by what it denies, of whatever cost.
#[tokio::test]
async fn what_a_block_denies_is_not_counted() {
    let clock = ManualClock::new();
    for backend in backends(&clock) {
        let login = login(backend);
        for _ in 0..3 {
            let _ = login.hit_with("a", HitOptions::new().cost(3)).await.unwrap();
        }
        clock.advance(HOUR);
        for cost in [3, 1, 3, 3, 3, 3, 3] {
            let denied = login.hit_with("a", HitOptions::new().cost(cost)).await.unwrap();
            assert_eq!(denied.denial(), Some(Denial::Blocked));
        }
        let block = login.inspect("a").await.unwrap().blocked_for();
        assert_eq!(block, Some(HOUR * 23));
    }
}

/// The block of a hit that is one too many has the time that the hit has left.
#[tokio::test(start_paused = true)]
async fn a_hit_with_its_penalty_ends_within_one_deadline() {
    let gates = Arc::new(Gates::default());
    let slow = Failing::new(Mode::Slow).with_gates(Arc::clone(&gates));
    let login = login(slow);
    let _ = login.hit_with("a", HitOptions::new().cost(2)).await.unwrap();
    for _ in 0..2 {
        assert!(login.hit("a").await.unwrap().is_denied());
    }
    gates.shut("apply");
    let opened = Arc::clone(&gates);
    tokio::spawn(async move {
        tokio::time::sleep(Throttle::DEFAULT_DEADLINE / 2).await;
        opened.open_all();
        opened.shut("change_block");
    });
    let start = tokio::time::Instant::now();
    let denied = login.hit("a").await.unwrap();
    assert_eq!(denied.denial(), Some(Denial::Limited), "the block did not come in time");
    assert_eq!(start.elapsed(), Throttle::DEFAULT_DEADLINE);
    assert_eq!(gates.asked("change_block"), 1);
}

#[tokio::test]
async fn many_denials_at_once_ask_for_one_block() {
    let gates = Arc::new(Gates::default());
    let login = login(Failing::new(Mode::Slow).with_gates(Arc::clone(&gates)));
    let decisions = login.hit_many(["a"; 120]).await;
    let blocked =
        decisions.iter().filter(|one| one.as_ref().unwrap().denial() == Some(Denial::Blocked));
    assert!(blocked.count() >= 1);
    assert_eq!(gates.asked("change_block"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_looked_up_within_one_deadline() {
    let gates = Arc::new(Gates::default());
    let login = login(Failing::new(Mode::Slow).with_gates(Arc::clone(&gates)));
    gates.shut("inspect");
    let opened = Arc::clone(&gates);
    tokio::spawn(async move {
        tokio::time::sleep(Throttle::DEFAULT_DEADLINE / 2).await;
        opened.open_all();
        opened.shut("apply");
    });
    let start = tokio::time::Instant::now();
    let error = login.inspect("a").await.unwrap_err();
    assert!(matches!(error, Error::Backend(_)), "{error}");
    assert_eq!(start.elapsed(), Throttle::DEFAULT_DEADLINE);
}

/// A denial that no limit made counts for nothing, and a store that cannot be asked blocks nobody.
#[tokio::test]
async fn failures_are_no_denials() {
    let calls = Arc::new(AtomicU32::new(0));
    let failing = Failing::new(Mode::Fail(ErrorKind::Unavailable)).counting(Arc::clone(&calls));
    let login = login(failing);
    for _ in 0..10 {
        assert_eq!(login.hit("a").await.unwrap().denial(), Some(Denial::Policy));
    }
    assert_eq!(calls.load(Ordering::SeqCst), 10, "no block was asked for");
    let backend = InMemory::builder().max_keys(Some(1)).build().unwrap();
    let login = self::login(backend);
    let _ = login.hit("a").await.unwrap();
    for _ in 0..10 {
        assert_eq!(login.hit("b").await.unwrap().denial(), Some(Denial::Full));
    }
}

#[test]
fn a_rule_that_blocks_everybody_or_nobody_is_refused() {
    let build = |penalty| {
        let throttle = Throttle::builder("t").rate("5/h").backend(InMemory::new());
        match throttle.penalty(penalty).build() {
            Err(BuildError::Setting { setting: "penalty", problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    };
    let rule = Penalty::block_for(HOUR);
    for (rule, expected) in [
        (rule.after(0), "would block everybody"),
        (rule.after(1_001), "the most is 1000"),
        (rule.within(Duration::ZERO), "within no time"),
        (Penalty::block_for(Duration::ZERO), "blocks for no time"),
    ] {
        let problem = build(rule);
        assert!(problem.contains(expected) && problem.contains("\"t\""), "{problem}");
    }
}
