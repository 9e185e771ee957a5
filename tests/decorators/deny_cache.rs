//! The deny cache: what it answers, what it forgets, and that it never lets more pass.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::Config;
use test_support::servers::RedisServer;
use test_support::{Distant, Place, Play, Scripted, Wire};
use tokio::task::JoinSet;
use traffik::backend::Answers;
use traffik::conformance;
use traffik::decorator::{Coalesce, DenyCache, DenyCacheOptions, Failover};
use traffik::key::KeyPart;
use traffik::step::{BlockChange, Step};
use traffik::strategy::{Limit, Op};
use traffik::{
    Backend, Clock, DecidedBy, Decision, Denial, Effect, Error, ErrorKind, FixedWindow, HitOptions,
    InMemory, Key, ManualClock, OnError, Outcome, Penalty, Rate, Throttle, Timestamp, TokenBucket,
};

use super::support::{OnMemory, OnRedis};

const SECOND: Duration = Duration::from_secs(1);
/// Longer than any test, so that only what must make it forget does.
pub(super) const LONG: DenyCacheOptions =
    DenyCacheOptions::new().max_age(Duration::from_secs(3600));

/// A cache around a backend in memory that is as far away as a server.
struct World {
    clock: ManualClock,
    cache: DenyCache,
    distant: Distant,
    wire: Arc<Wire>,
}

impl World {
    fn new(options: DenyCacheOptions) -> Self {
        let clock = ManualClock::new();
        let memory = InMemory::builder().clock(clock.clone()).build().unwrap();
        Self::around(memory, clock, options)
    }

    fn around(memory: InMemory, clock: ManualClock, options: DenyCacheOptions) -> Self {
        let distant = Distant::new(memory);
        let cache = DenyCache::with_options(distant.clone(), options).unwrap();
        Self { clock, cache, wire: distant.wire(), distant }
    }

    fn throttle(&self, rate: &str) -> Throttle {
        let throttle = Throttle::builder("t").rate(rate).backend(self.cache.clone());
        throttle.on_error(OnError::Raise).build().unwrap()
    }

    async fn advance(&self, time: Duration) {
        self.clock.advance(time);
        tokio::time::advance(time).await;
    }

    /// Returns how many questions a call asks.
    async fn questions<T>(&self, call: impl Future<Output = T>) -> (u64, T) {
        let before = self.wire.questions();
        let done = call.await;
        (self.wire.questions() - before, done)
    }
}

fn wait_of(decision: &Decision) -> Duration {
    test_support::wait_of(decision).expect("a wait")
}

pub(super) async fn deny(throttle: &Throttle, key: &str) -> Decision {
    loop {
        let decision = throttle.hit(key).await.unwrap();
        if decision.is_denied() {
            return decision;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_denied_key_asks_nothing_until_its_time_is_over() {
    let world = World::new(DenyCacheOptions::new());
    let throttle = world.throttle("6/min");
    let denied = deny(&throttle, "a").await;
    assert_eq!(wait_of(&denied), Duration::from_secs(10));
    let (questions, ()) = world
        .questions(async {
            for passed in 0..1_000u64 {
                let hit = throttle.hit("a").await.unwrap();
                let peeked = throttle.peek("a").await.unwrap();
                assert_eq!(hit, peeked);
                let left = Duration::from_secs(10) - Duration::from_micros(passed * 999);
                assert_eq!(wait_of(&hit), left, "it shrinks as time passes");
                assert_eq!(hit.remaining(), 0);
                assert_eq!(hit.decided_by(), DecidedBy::Backend);
                assert_eq!(hit.denied_by(), Some(0));
                world.advance(Duration::from_micros(999)).await;
            }
        })
        .await;
    assert_eq!(questions, 0);
    assert_eq!((world.cache.info().hits(), world.cache.info().remembered()), (2_000, 1));
    world.advance(Duration::from_millis(1)).await;
    assert_eq!(world.cache.info().remembered(), 0);
    assert_eq!(world.questions(throttle.hit("a")).await.0, 1, "after a second it asks");
    assert_eq!(world.questions(throttle.hit("b")).await.0, 1, "each key for itself");
}

#[tokio::test(start_paused = true)]
async fn a_short_wait_is_kept_exactly_and_counts_from_before_the_question() {
    let world = World::new(DenyCacheOptions::new());
    let throttle = world.throttle("10/s");
    let denied = deny(&throttle, "a").await;
    assert_eq!(wait_of(&denied), Duration::from_millis(100));
    world.advance(Duration::from_micros(99_999)).await;
    assert_eq!(world.questions(throttle.hit("a")).await.0, 0);
    world.advance(Duration::from_micros(1)).await;
    let (questions, hit) = world.questions(throttle.hit("a")).await;
    assert!(hit.unwrap().is_allowed());
    assert_eq!(questions, 1);
    // The reply comes when most of the wait is over.
    world.wire.hold(Place::Reply);
    let asking = tokio::spawn({
        let throttle = throttle.clone();
        async move { throttle.hit("a").await.unwrap() }
    });
    world.wire.until_held(1).await;
    world.advance(Duration::from_millis(90)).await;
    world.wire.release();
    assert_eq!(wait_of(&asking.await.unwrap()), Duration::from_millis(100));
    let (questions, hit) = world.questions(throttle.hit("a")).await;
    assert_eq!((questions, wait_of(&hit.unwrap())), (0, Duration::from_millis(10)));
    world.advance(Duration::from_millis(10)).await;
    assert!(throttle.hit("a").await.unwrap().is_allowed());
}

#[tokio::test(start_paused = true)]
async fn either_clock_ends_it_and_one_that_goes_back_too() {
    let world = World::new(DenyCacheOptions::new());
    let throttle = world.throttle("6/min");
    for (moves, questions) in [(999, 0), (1_000, 1)] {
        let _ = deny(&throttle, "a").await;
        tokio::time::advance(Duration::from_millis(moves)).await;
        assert_eq!(world.questions(throttle.hit("a")).await.0, questions, "{moves} ms");
        world.cache.initialize().await.unwrap();
        let _ = deny(&throttle, "a").await;
        world.clock.advance(Duration::from_millis(moves));
        assert_eq!(
            world.questions(throttle.hit("a")).await.0,
            questions,
            "{moves} ms by the clock"
        );
        world.cache.initialize().await.unwrap();
    }
    let _ = deny(&throttle, "b").await;
    world.clock.set(Timestamp::from_micros(world.clock.now().as_micros() - 1));
    assert_eq!(world.questions(throttle.hit("b")).await.0, 1);
}

#[tokio::test(start_paused = true)]
async fn only_equal_questions_are_answered() {
    let world = World::new(LONG);
    let throttle = world.throttle("5/h");
    let _ = deny(&throttle, "a").await;
    let cost = |units| HitOptions::new().cost(units);
    for (options, same) in [
        (cost(1), 0),
        (cost(2), 1),
        (cost(2), 0),
        (cost(1).leave(1), 1),
        (cost(1).leave(1), 0),
        (HitOptions::new().add_rates([Rate::per_day(50)]), 1),
        (HitOptions::new().add_rates([Rate::per_day(50)]), 0),
    ] {
        let (questions, decision) = world.questions(throttle.hit_with("a", options.clone())).await;
        assert_eq!(questions, same, "{options:?}: {decision:?}");
    }
    assert_eq!(world.questions(throttle.hit("a")).await.0, 0, "still remembered");
    let other_rates = HitOptions::new().replace_rates([Rate::per_hour(6)]);
    let (questions, hit) = world.questions(throttle.hit_with("a", other_rates)).await;
    assert_eq!((questions, hit.unwrap().is_allowed()), (1, true));
    // Limits that were changed, as in a new version of the service.
    let (questions, hit) = world.questions(world.throttle("6/h").hit("a")).await;
    assert_eq!((questions, hit.unwrap().is_allowed()), (1, true));
    let windows = Throttle::builder("t").limit("5/h", FixedWindow::new());
    let windows = windows.backend(world.cache.clone()).build().unwrap();
    assert_eq!(world.questions(windows.hit("a")).await.0, 1);
    let debt = Throttle::builder("t").limit("5/h", TokenBucket::new().max_debt(9));
    let debt = debt.backend(world.cache.clone()).build().unwrap();
    let (questions, hit) = world.questions(debt.hit("a")).await;
    assert_eq!((questions, hit.unwrap().is_allowed()), (1, true));
    // It passed, so there is less than was said before.
    assert_eq!(world.questions(throttle.hit("a")).await.0, 1);
    // Not of a hit and not of a peek.
    let (questions, taken) = world.questions(throttle.take_up_to("a", 1)).await;
    assert_eq!((questions, taken.unwrap().units()), (1, 0));
    let patient = throttle.acquire("a").timeout(SECOND).into_future();
    assert_eq!(world.questions(patient).await.0, 1);
    assert_eq!(world.questions(throttle.hit("a")).await.0, 0, "still remembered");
}

#[tokio::test(start_paused = true)]
async fn what_may_let_a_key_pass_makes_it_forget() {
    let world = World::new(LONG);
    let throttle = world.throttle("5/h");
    for change in 0..10 {
        let key = format!("key {change}");
        let (key, other) = (key.as_str(), "another");
        let receipt = throttle.hit(key).await.unwrap().receipt().unwrap();
        let estimate = throttle.reserve(key, 2).await.unwrap();
        let _ = deny(&throttle, key).await;
        let _ = deny(&throttle, other).await;
        let others_stay = match change {
            0 => {
                throttle.refund(key, receipt).await.unwrap();
                true
            }
            1 => {
                estimate.settle(1).await.unwrap();
                true
            }
            2 => {
                estimate.settle(4).await.unwrap();
                true
            }
            3 => {
                throttle.reset(key).await.unwrap();
                true
            }
            4 => {
                throttle.block(key, SECOND).await.unwrap();
                assert_eq!(throttle.hit(key).await.unwrap().denial(), Some(Denial::Blocked));
                throttle.unblock(key).await.unwrap();
                true
            }
            5 => {
                let _ = throttle.charge(key, 1).await.unwrap();
                true
            }
            6 => {
                throttle.drain(key).await.unwrap();
                true
            }
            7 => {
                world.cache.clear().await.unwrap();
                false
            }
            8 => {
                world.cache.close().await.unwrap();
                let Err(Error::Backend(error)) = throttle.hit(key).await else { panic!("closed") };
                assert_eq!(error.kind(), ErrorKind::Closed);
                world.cache.initialize().await.unwrap();
                false
            }
            _ => {
                world.cache.initialize().await.unwrap();
                false
            }
        };
        let (questions, decision) = world.questions(throttle.hit(key)).await;
        assert_eq!(questions, 1, "change {change}");
        let may_pass = matches!(change, 0 | 1 | 3 | 7);
        assert_eq!(decision.unwrap().is_allowed(), may_pass, "change {change}");
        let (questions, _) = world.questions(throttle.hit(other)).await;
        assert_eq!(questions == 0, others_stay, "change {change}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_denial_under_way_while_its_key_changes_is_not_remembered() {
    let world = World::new(LONG);
    let throttle = world.throttle("1/h");
    for change in 0..4 {
        let key = format!("key {change}");
        let receipt = throttle.hit(key.as_str()).await.unwrap().receipt().unwrap();
        world.wire.hold(Place::Reply);
        let asking = tokio::spawn({
            let (throttle, key) = (throttle.clone(), key.clone());
            async move { throttle.hit(key.as_str()).await.unwrap() }
        });
        world.wire.until_held(1).await;
        match change {
            0 => throttle.refund(key.as_str(), receipt).await.unwrap(),
            1 => throttle.reset(key.as_str()).await.unwrap(),
            2 => {
                // Of a block that is gone by now, and of a limit that has room again.
                throttle.refund(key.as_str(), receipt).await.unwrap();
                throttle.unblock(key.as_str()).await.unwrap();
            }
            _ => world.cache.clear().await.unwrap(),
        }
        world.wire.release();
        assert!(asking.await.unwrap().is_denied(), "it was asked before");
        assert!(throttle.hit(key.as_str()).await.unwrap().is_allowed(), "change {change}");
    }
}

#[tokio::test(start_paused = true)]
async fn f22_a_refund_that_is_dropped_at_any_poll_makes_it_forget() {
    for polls in 0..6 {
        let world = World::new(LONG);
        let throttle = world.throttle("1/h");
        let receipt = throttle.hit("a").await.unwrap().receipt().unwrap();
        let _ = deny(&throttle, "a").await;
        {
            let mut refund = pin!(throttle.refund("a", receipt));
            for _ in 0..polls {
                if futures_util::poll!(refund.as_mut()).is_ready() {
                    break;
                }
            }
        }
        let truth = world.distant.directly();
        let limits = throttle.limits();
        let parts = [KeyPart::bytes(b"a")];
        let peek = Step::new(limits, 1, Op::Peek);
        let passes = truth.apply(&Key::new("t", &parts), &peek).await.unwrap().is_allowed();
        assert_eq!(throttle.hit("a").await.unwrap().is_allowed(), passes, "{polls} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn policies_and_full_memories_are_not_remembered_and_errors_are_none() {
    let world = World::new(LONG);
    let denies = Throttle::builder("t").rate("5/h").backend(world.cache.clone());
    let denies = denies.on_error(OnError::default()).build().unwrap();
    world.wire.fail(ErrorKind::Unavailable, Effect::NotApplied);
    for _ in 0..3 {
        let (questions, decision) = world.questions(denies.hit("a")).await;
        let decision = decision.unwrap();
        assert_eq!((questions, decision.denial()), (1, Some(Denial::Policy)));
    }
    world.wire.heal();
    assert!(denies.hit("a").await.unwrap().is_allowed());

    let clock = ManualClock::new();
    let memory = InMemory::builder().clock(clock.clone()).max_keys(Some(1)).build().unwrap();
    let world = World::around(memory, clock, LONG);
    let throttle = world.throttle("5/h");
    assert!(throttle.hit("first").await.unwrap().is_allowed());
    for _ in 0..3 {
        let (questions, decision) = world.questions(throttle.hit("second")).await;
        assert_eq!((questions, decision.unwrap().denial()), (1, Some(Denial::Full)));
    }
    throttle.reset("first").await.unwrap();
    assert!(throttle.hit("second").await.unwrap().is_allowed());
}

#[tokio::test(start_paused = true)]
async fn denials_by_a_fallback_are_not_remembered() {
    let (primary, fallback) = (Scripted::new(), Scripted::new());
    let failover = Failover::new(primary.clone(), fallback.clone());
    let cache = DenyCache::with_options(failover, LONG).unwrap();
    let throttle = Throttle::builder("t").rate("1/h").backend(cache.clone()).build().unwrap();
    primary.plays(Play::Refuse(ErrorKind::Unavailable));
    for hit in 0..4 {
        let decision = throttle.hit("a").await.unwrap();
        assert_eq!((decision.is_allowed(), decision.decided_by()), (hit == 0, DecidedBy::Fallback));
    }
    assert!(throttle.hit_many(["a", "a"]).await.into_iter().all(|it| it.unwrap().is_denied()));
    assert_eq!((fallback.asked("apply"), cache.info().remembered()), (6, 0), "each asked");
    primary.plays(Play::Answer);
    let decision = throttle.hit("a").await.unwrap();
    assert_eq!((decision.is_allowed(), decision.decided_by()), (true, DecidedBy::Backend));
}

#[tokio::test(start_paused = true)]
async fn what_the_limits_alone_never_let_pass_is_remembered() {
    let world = World::new(DenyCacheOptions::new());
    let throttle = world.throttle("5/h");
    let hit = || throttle.hit_with("a", HitOptions::new().cost(6));
    assert_eq!(world.questions(hit()).await.0, 1);
    let (questions, decision) = world.questions(hit()).await;
    assert_eq!((questions, decision.unwrap().outcome()), (0, Outcome::Never));
    world.advance(SECOND).await;
    assert_eq!(world.questions(hit()).await.0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_block_is_remembered_until_it_ends() {
    let world = World::new(DenyCacheOptions::new());
    let throttle = world.throttle("5/h");
    throttle.block("a", Duration::from_millis(300)).await.unwrap();
    let _ = throttle.hit("a").await.unwrap();
    world.advance(Duration::from_millis(200)).await;
    let (questions, decision) = world.questions(throttle.hit("a")).await;
    let decision = decision.unwrap();
    assert_eq!((questions, decision.denial()), (0, Some(Denial::Blocked)));
    assert_eq!(wait_of(&decision), Duration::from_millis(100));
    world.advance(Duration::from_millis(100)).await;
    assert!(throttle.hit("a").await.unwrap().is_allowed());
}

#[tokio::test(start_paused = true)]
async fn a_penalty_counts_what_is_answered_here() {
    let world = World::new(LONG);
    let penalty = Penalty::block_for(Duration::from_secs(7200)).after(5).within(SECOND);
    let throttle = Throttle::builder("t").rate("1/h").penalty(penalty);
    let throttle = throttle.backend(world.cache.clone()).build().unwrap();
    assert!(throttle.hit("a").await.unwrap().is_allowed());
    let mut denials = Vec::new();
    for _ in 0..6 {
        denials.push(throttle.hit("a").await.unwrap().denial().unwrap());
    }
    let expected = [[Denial::Limited; 4].as_slice(), &[Denial::Blocked; 2]].concat();
    assert_eq!(denials, expected);
    assert_eq!(wait_of(&throttle.hit("a").await.unwrap()), Duration::from_secs(7200));
}

#[tokio::test(start_paused = true)]
async fn of_many_the_others_are_asked_together() {
    let world = World::new(LONG);
    let throttle = world.throttle("1/h");
    let _ = deny(&throttle, "a").await;
    let steps = world.wire.steps();
    let (questions, decisions) = world.questions(throttle.hit_many(["b", "a", "c", "a"])).await;
    let allowed: Vec<bool> = decisions.into_iter().map(|it| it.unwrap().is_allowed()).collect();
    assert_eq!(allowed, [true, false, true, false]);
    assert_eq!((questions, world.wire.steps() - steps), (1, 2));
    for key in ["b", "c"] {
        let _ = deny(&throttle, key).await;
    }
    assert_eq!(world.questions(throttle.hit_many(["a", "b", "c"])).await.0, 0);
}

#[tokio::test(start_paused = true)]
async fn the_steps_of_a_key_keep_their_order() {
    let world = World::new(LONG);
    let throttle = world.throttle("1/h");
    let receipt = throttle.hit("a").await.unwrap().receipt().unwrap();
    let _ = deny(&throttle, "a").await;
    let (parts, limits) = ([KeyPart::bytes(b"a")], throttle.limits());
    let on = |op| (Key::new("t", &parts), Step::new(limits, 1, op));
    let refund = Op::Refund { taken_at: receipt.taken_at() };
    let steps = [on(Op::Take), on(refund), on(Op::Peek), on(Op::Take), on(Op::Take)];
    let answers = Answers::new(steps.len());
    world.cache.apply_many(&steps, &answers).await;
    let allowed: Vec<bool> =
        answers.into_answers().map(|answer| answer.unwrap().unwrap().is_allowed()).collect();
    assert_eq!(allowed, [false, true, true, true, false]);
    throttle.reset("a").await.unwrap();
    let (questions, hit) = world.questions(throttle.hit("a")).await;
    assert_eq!((questions, hit.unwrap().is_allowed()), (1, true));
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_of_many_before_the_deadline_counts() {
    let world = World::new(LONG);
    let throttle = world.throttle("1/h");
    let _ = deny(&throttle, "a").await;
    world.wire.hold(Place::Request);
    let decisions = throttle.hit_many(["a", "b"]).await;
    let [Ok(denied), Err(Error::Backend(late))] = &decisions[..] else { panic!("{decisions:?}") };
    assert!(denied.is_denied());
    assert_eq!(late.kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn hits_together_ask_unless_all_are_denied() {
    let world = World::new(LONG);
    let (one, other) = (world.throttle("1/h"), world.throttle("1/h"));
    let both = || traffik::all().hit(&one, "a").hit(&other, "b");
    let _ = deny(&one, "a").await;
    let (questions, decision) = world.questions(both().into_future()).await;
    assert!(decision.unwrap().is_denied());
    assert_eq!(questions, 1, "what the other would be told is not known");
    assert!(other.hit("b").await.unwrap().is_allowed(), "and nothing was taken of it");
    let _ = deny(&other, "b").await;
    let (questions, decision) = world.questions(both().into_future()).await;
    assert!(decision.unwrap().is_denied());
    assert_eq!(questions, 0);
}

#[tokio::test(start_paused = true)]
async fn in_memory_the_fast_path_goes_past_it() {
    let cache = DenyCache::new(InMemory::new());
    let throttle = Throttle::builder("t").rate("1/h").backend(cache.clone()).build().unwrap();
    let _ = deny(&throttle, "a").await;
    let _ = deny(&throttle, "a").await;
    assert_eq!((cache.info().hits(), cache.info().remembered()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_keys_is_bounded_and_denies_nobody() {
    let world = World::new(LONG.max_keys(1_000));
    let throttle = world.throttle("1/h");
    for number in 0..20_000u32 {
        // A key that is new is never denied, whatever is remembered.
        assert!(throttle.hit(number).await.unwrap().is_allowed(), "{number}");
        assert!(throttle.hit(number).await.unwrap().is_denied(), "{number}");
        let (questions, hit) = world.questions(throttle.hit(number)).await;
        assert!(hit.unwrap().is_denied());
        assert_eq!(questions, 0, "the last is remembered");
    }
    let remembered = world.cache.info().remembered();
    assert!((900..=1_000).contains(&remembered), "{remembered}");
}

#[tokio::test(start_paused = true)]
async fn a_flood_pushes_out_itself_and_not_who_is_hit_meanwhile() {
    const FLOOD: u64 = 1_000;
    let step = Duration::from_micros(500);
    // None of them ends meanwhile.
    for options in [DenyCacheOptions::new(), LONG] {
        // One set, so that each key of the flood lies beside the denied one.
        let world = World::new(options.max_keys(8));
        let throttle = world.throttle("1/h");
        let _ = deny(&throttle, "a").await;
        let mut own = 0;
        for number in 0..FLOOD {
            world.advance(step).await;
            let (questions, _) = world.questions(deny(&throttle, &format!("{number}"))).await;
            assert_eq!(questions, 2, "one that passes and one that is denied");
            for _ in 0..10 {
                let (questions, hit) = world.questions(throttle.hit("a")).await;
                assert!(hit.unwrap().is_denied());
                own += questions;
            }
        }
        assert_eq!(own, 0, "of {} hits", FLOOD * 10);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_flood_has_left_there_does_not_make_others_push_out_each_other() {
    let world = World::new(LONG.max_keys(8));
    let [flood, short] = ["1/h", "1/min"].map(|rate| world.throttle(rate));
    for number in 0..8 {
        let _ = deny(&flood, &format!("{number}")).await;
    }
    // They end before all of the flood.
    for key in ["a", "b"] {
        let _ = deny(&short, key).await;
    }
    for _ in 0..100 {
        for key in ["a", "b"] {
            let (questions, hit) = world.questions(short.hit(key)).await;
            assert!(hit.unwrap().is_denied());
            assert_eq!(questions, 0, "{key}");
        }
    }
}

/// Hits a denied key by so many tasks.
pub(super) async fn hit_at_once(throttle: &Throttle, tasks: usize) {
    let mut hits = JoinSet::new();
    for _ in 0..tasks {
        let throttle = throttle.clone();
        hits.spawn(async move { assert!(throttle.hit("a").await.unwrap().is_denied()) });
    }
    hits.join_all().await;
}

#[tokio::test(start_paused = true)]
async fn when_a_denial_runs_out_all_ask_who_come_before_the_next_and_few_where_they_share() {
    const TASKS: usize = 64;
    for (shares, most) in [(false, 64), (true, 4)] {
        let clock = ManualClock::new();
        let distant = Distant::new(InMemory::builder().clock(clock.clone()).build().unwrap());
        let wire = distant.wire();
        let cache = match shares {
            true => DenyCache::new(Coalesce::new(distant)),
            false => DenyCache::new(distant),
        };
        let throttle = Throttle::builder("t").rate("1/h").backend(cache);
        let throttle = throttle.on_error(OnError::Raise).build().unwrap();
        let _ = deny(&throttle, "a").await;
        let questions = async || {
            let before = wire.questions();
            hit_at_once(&throttle, TASKS).await;
            wire.questions() - before
        };
        assert_eq!(questions().await, 0, "it is remembered");
        clock.advance(SECOND);
        // In one instant: the first by itself, and all others together.
        assert_eq!(questions().await, if shares { 2 } else { most });
        assert_eq!(questions().await, 0, "it is remembered again");
        clock.advance(SECOND);
        // One after the other, each when those before are on their way.
        let before = wire.questions();
        wire.hold(Place::Request);
        let mut hits = JoinSet::new();
        for _ in 0..TASKS {
            let throttle = throttle.clone();
            hits.spawn(async move { assert!(throttle.hit("a").await.unwrap().is_denied()) });
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
        wire.release();
        hits.join_all().await;
        assert_eq!(wire.questions() - before, most, "shares: {shares}");
        assert_eq!(questions().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refunds_beside_denials_leave_nothing_stale() {
    const ROUNDS: usize = 300;
    let world = World::new(LONG);
    let throttle = world.throttle("2/h");
    for round in 0..ROUNDS {
        let key = format!("key {}", round % 7);
        let mut tasks = JoinSet::new();
        for _ in 0..6 {
            let (throttle, key) = (throttle.clone(), key.clone());
            tasks.spawn(async move {
                for _ in 0..4 {
                    let decision = throttle.hit(key.as_str()).await.unwrap();
                    if let Some(receipt) = decision.receipt() {
                        throttle.refund(key.as_str(), receipt).await.unwrap();
                    }
                }
            });
        }
        tasks.join_all().await;
        // All was given back, so what the cache says now must not be from before.
        assert!(throttle.peek(key.as_str()).await.unwrap().is_allowed(), "round {round}");
    }
    assert!(world.cache.info().hits() > 0, "some were answered here");
}

/// What is done to one key, each after some time.
#[derive(Clone, Debug)]
enum Action {
    Hit(u32),
    Peek(u32),
    Charge(u32),
    Refund,
    /// As another process does.
    RefundElsewhere,
    Reset,
    Block(u64),
    Drain,
}

fn actions() -> impl proptest::strategy::Strategy<Value = Vec<(u64, Action)>> {
    let action = prop_oneof![
        8 => (1u32..4).prop_map(Action::Hit),
        3 => (1u32..4).prop_map(Action::Peek),
        1 => (1u32..3).prop_map(Action::Charge),
        1 => Just(Action::Refund),
        1 => Just(Action::RefundElsewhere),
        1 => Just(Action::Reset),
        1 => (1u64..3_000).prop_map(Action::Block),
        1 => Just(Action::Drain),
    ];
    let pause = prop_oneof![3 => Just(0u64), 2 => 0u64..400, 1 => 0u64..3_000];
    prop::collection::vec((pause, action), 1..60)
}

proptest! {
    #![proptest_config(Config { cases: 150, failure_persistence: None, ..Config::default() })]
    /// It is exact but for what others give back, which it sees after its age at most.
    #[test]
    fn it_never_admits_more_and_denies_no_longer_than_it_may(actions in actions(), window: bool) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(go(actions, window));
    }
}

async fn go(actions: Vec<(u64, Action)>, window: bool) {
    let max_age = Duration::from_millis(500);
    let world = World::new(DenyCacheOptions::new().max_age(max_age));
    let rate = Rate::new(4, Duration::from_secs(2)).unwrap();
    let limit = match window {
        true => Limit::new(rate, FixedWindow::new()),
        false => Limit::new(rate, TokenBucket::new()),
    };
    let (limits, parts) = ([limit.unwrap()], [KeyPart::bytes(b"a")]);
    let key = Key::new("t", &parts);
    let (cache, truth) = (&world.cache, world.distant.directly());
    let mut receipts = Vec::new();
    let mut elsewhere = None;
    for (pause, action) in actions {
        world.advance(Duration::from_millis(pause)).await;
        let since = elsewhere.map(|at| world.clock.now().saturating_duration_since(at));
        match action {
            Action::Hit(cost) | Action::Peek(cost) => {
                let op = if matches!(action, Action::Hit(_)) { Op::Take } else { Op::Peek };
                let step = Step::new(&limits, cost, op);
                let peek = Step::new(&limits, cost, Op::Peek);
                let expected = truth.apply(&key, &peek).await.unwrap();
                let said = cache.apply(&key, &step).await.unwrap();
                if since.is_none_or(|since| since >= max_age) {
                    assert_eq!(said.outcome(), expected.outcome(), "{action:?}");
                    assert_eq!(said.denial(), expected.denial());
                } else if expected.is_denied() {
                    assert!(said.is_denied(), "no more than the store admits");
                }
                receipts.extend(said.receipt().map(|it| (it.taken_at(), it.cost())));
            }
            Action::Charge(cost) => {
                let _ = cache.apply(&key, &Step::new(&limits, cost, Op::Charge)).await.unwrap();
            }
            Action::Refund | Action::RefundElsewhere => {
                let Some((taken_at, cost)) = receipts.pop() else { continue };
                let step = Step::new(&limits, cost, Op::Refund { taken_at });
                let _ = match action {
                    Action::Refund => cache.apply(&key, &step).await.unwrap(),
                    _ => {
                        elsewhere = Some(world.clock.now());
                        truth.apply(&key, &step).await.unwrap()
                    }
                };
            }
            Action::Reset => cache.forget(&key).await.unwrap(),
            Action::Block(millis) => {
                let change = BlockChange::Replace(Duration::from_millis(millis));
                cache.change_block(&key, change).await.unwrap();
            }
            Action::Drain => {
                let _ = cache.apply(&key, &Step::new(&limits, 0, Op::Drain)).await.unwrap();
            }
        }
    }
}

#[test]
fn f34_options_out_of_their_ranges_are_refused() {
    let build = |options| DenyCache::with_options(InMemory::new(), options).map(drop);
    let new = DenyCacheOptions::new;
    for (options, setting) in [
        (new().max_age(Duration::ZERO), "max_age"),
        (new().max_age(Duration::from_secs(3601)), "max_age"),
        (new().max_keys(0), "max_keys"),
        (new().max_keys(usize::MAX), "max_keys"),
    ] {
        let error = build(options).unwrap_err().to_string();
        assert!(error.starts_with(setting) && error.contains("use 1"), "{error}");
    }
    assert!(build(new().max_age(Duration::from_micros(1)).max_keys(1)).is_ok());
}

/// The suite moves the clock by hand and wants each answer to be that of the very instant: what is remembered is of it
/// for a microsecond.
const BRIEF: DenyCacheOptions = DenyCacheOptions::new().max_age(Duration::from_micros(1));

fn around(backend: Arc<dyn Backend>) -> Arc<dyn Backend> {
    Arc::new(DenyCache::with_options(backend, BRIEF).unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_suite_in_memory() {
    conformance::run(&OnMemory(around)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_on_threads() {
    conformance::run(&OnMemory(around)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_on_redis() {
    conformance::run(&OnRedis(RedisServer::start(), around)).await;
}
