//! Several limits in numbers, strategies of a user's own, and many keys at once.

use proptest::prelude::*;
use traffik::strategy::{Answer, CorruptState, Op, State, StrategyId};
use traffik::{
    BuildError, Denial, FixedWindow, HitOptions, ManualClock, Rate, Strategy as CountStrategy,
    Throttle, Timestamp,
};

use crate::mixes::small_rule;
use crate::model::{KINDS, Kind, Model, Rule};
use crate::place::{Place, millis, secs};
use crate::store::Bytes;
use crate::world::{SHORT_KEY, at_once, check, memory, same, throttle};
use test_support::wait_of;

#[test]
fn what_one_limit_denies_no_other_counts() {
    let rules = [
        Rule::new(Kind::Token { debt: 0 }, 100, secs(60)),
        Rule::new(Kind::Fixed, 2, secs(1)),
        Rule::new(Kind::Log, 50, secs(10)),
    ];
    for place in Place::each(&rules) {
        place.take(2);
        for _ in 0..10 {
            let denied = place.hit();
            assert_eq!((denied.denied_by(), denied.limit()), (Some(1), 2), "{}", place.label);
            assert_eq!(wait_of(&denied), Some(secs(1)));
        }
        let others = [place.changed_to(&rules[..1]), place.changed_to(&rules[2..])];
        assert_eq!(others.map(|other| other.says().remaining), [98, 48], "{}", place.label);
    }
}

#[test]
fn of_several_that_deny_the_longest_wait_speaks() {
    let rules = [
        Rule::new(Kind::Fixed, 2, secs(1)),
        Rule::new(Kind::Log, 2, secs(60)),
        Rule::new(Kind::Token { debt: 0 }, 2, secs(20)),
        Rule::new(Kind::Counter, 9, secs(100)),
    ];
    for place in Place::each(&rules) {
        assert_eq!(place.hit().limit(), 2, "the first of those with the least remaining");
        place.take(1);
        let denied = place.hit();
        assert_eq!(denied.denied_by(), Some(1), "{}", place.label);
        assert_eq!((wait_of(&denied), denied.remaining()), (Some(secs(60)), 0));
        let resets: Vec<_> = denied.answers().map(|answer| answer.reset_after()).collect();
        assert_eq!(denied.reset_after(), resets[1], "all figures are of the limit that it names");
        // All seven of the counter are gone only when the next window is.
        assert!(resets[3] > secs(100));
        let never = place.hit_cost(9);
        assert_eq!((never.denial(), never.denied_by()), (Some(Denial::Never), Some(0)));
    }
}

#[test]
fn two_limits_that_would_share_their_state_are_refused() {
    for kind in KINDS {
        let build = |second: Rule| {
            let builder = Throttle::builder("semantics:same");
            second.add_to(Rule::new(kind, 5, secs(60)).add_to(builder)).build()
        };
        let refused = build(Rule::new(kind, 7, secs(60)));
        assert!(matches!(refused, Err(BuildError::SameState { .. })), "{kind:?}: {refused:?}");
        assert!(build(Rule::new(kind, 7, secs(61))).is_ok(), "{kind:?}");
    }
}

/// A strategy of a user's own, which keeps its words by another's rules.
#[derive(Debug)]
struct Own(FixedWindow);

impl CountStrategy for Own {
    fn evaluate(
        &self,
        rate: &Rate,
        state: &mut State,
        now: Timestamp,
        cost: u32,
        op: Op,
    ) -> Result<Answer, CorruptState> {
        self.0.evaluate(rate, state, now, cost, op)
    }

    fn id(&self) -> StrategyId {
        StrategyId::of("semantics:own")
    }
}

/// Also where the words after a hit are those of before: then only the instant tells them apart.
#[test]
fn a_strategy_of_a_users_own_counts_each_hit() {
    let clock = ManualClock::new();
    let on = |builder: traffik::ThrottleBuilder| {
        builder.limit(Rate::per_second(1), Own(FixedWindow::new())).build().unwrap()
    };
    let in_memory = on(Throttle::builder("semantics:own").backend(memory(&clock)));
    let in_bytes = on(Throttle::builder("semantics:own").backend(Bytes::that_keep(&clock)));
    for throttle in [in_memory, in_bytes] {
        for window in 0..5 {
            let passed = (0..3).filter(|_| at_once(throttle.hit(SHORT_KEY)).unwrap().is_allowed());
            assert_eq!(passed.count(), 1, "window {window} on {throttle:?}");
            clock.advance(secs(1));
        }
    }
}

/// What memory lets go of, to make room for others, matters no more.
#[test]
fn many_keys_in_memory_keep_to_their_models() {
    const KEYS: usize = 24;
    let hits = prop::collection::vec((0..KEYS, 1..=6u32, 0..400_000u64, 0..6u8), 300..400);
    check(60, (small_rule(), hits), |(rule, hits)| {
        let clock = ManualClock::new();
        let backend = memory(&clock);
        let throttle = throttle("semantics:many", &[rule], backend.clone());
        let mut models = vec![Model::default(); KEYS];
        let mut fillers = 0;
        for (key, cost, wait, pause) in hits {
            // Now and then a pause in which keys are over.
            clock.advance(std::time::Duration::from_micros(wait));
            clock.advance(if pause == 0 { secs(15) } else { millis(0) });
            for _ in 0..pause {
                fillers += 1;
                let _ = at_once(throttle.hit(("filler", fillers))).unwrap();
            }
            let text = if key % 2 == 0 { format!("{key}") } else { format!("{key:40}") };
            let now = traffik::Clock::now(&clock).as_micros();
            let expected = models[key].take(&[rule], now, (cost, 0));
            let options = HitOptions::new().cost(cost);
            let decision = at_once(throttle.hit_with(&text, options)).unwrap();
            same(&text, &decision, &expected)?;
        }
        Ok(())
    });
}

#[test]
fn memory_forgets_what_matters_no_more() {
    for kind in KINDS {
        let clock = ManualClock::new();
        let backend = memory(&clock);
        let throttle =
            throttle("semantics:forgets", &[Rule::new(kind, 5, secs(1))], backend.clone());
        for round in 0..20u32 {
            for key in 0..500u32 {
                assert!(at_once(throttle.hit((round, key))).unwrap().is_allowed());
            }
            // The clock could step back, so what is over is kept for an hour.
            clock.advance(secs(1_800));
        }
        assert!(backend.key_count() < 3_000, "{kind:?}: {} of 10,000", backend.key_count());
    }
}
