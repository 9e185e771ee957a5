//! A lone fixed window is kept as one number: it answers like the pure function all the same.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRng, TestRunner};
use traffik::key::KeyPart;
use traffik::strategy::{Op, Step, Write};
use traffik::{
    Backend, Clock, Decision, FixedWindow, Key, Limit, ManualClock, Memcached, Timestamp,
    TokenBucket,
};

use crate::servers::MemcachedServer;
use crate::world::{builder, limit};

#[derive(Clone, Copy, Debug)]
enum Move {
    Hit(u32),
    Peek(u32),
    Refund,
    Forward(u64),
    Back(u64),
    /// On, to the next boundary of a window of 5 s or just around it.
    Boundary(i64),
}

fn moves(may_go_back: bool) -> impl proptest::strategy::Strategy<Value = Vec<(usize, Move)>> {
    let any = prop_oneof![
        8 => Just(Move::Hit(1)),
        2 => (0u32..8).prop_map(Move::Hit),
        1 => (0u32..3).prop_map(Move::Peek),
        2 => Just(Move::Refund),
        2 => (0u64..3_000_000).prop_map(Move::Forward),
        1 => (-1i64..2).prop_map(Move::Boundary),
        u32::from(may_go_back) * 2 + 1 => (0u64..7_000_000).prop_map(Move::Back),
    ];
    let any = any.prop_map(move |next| match next {
        Move::Back(micros) if !may_go_back => Move::Forward(micros),
        // What was refunded while the clock was ahead depends on what a store still has.
        Move::Refund if may_go_back => Move::Hit(1),
        next => next,
    });
    prop::collection::vec((0..5usize, any), 1..60)
}

struct Run<'a> {
    backend: &'a Memcached,
    clock: &'a ManualClock,
    key: Key<'a>,
    stored: Option<Vec<u8>>,
    taken_at: Option<Timestamp>,
}

impl Run<'_> {
    async fn step(&mut self, limits: &[Limit], cost: u32, op: Op) -> (Decision, Decision) {
        let step = Step::new(limits, cost, op);
        let outcome = step.decide(self.stored.as_deref(), self.clock.now());
        match outcome.write {
            None => {}
            Some(Write::Put { value, .. }) => self.stored = Some(value),
            Some(_) => self.stored = None,
        }
        let decision = self.backend.apply(&self.key, &step).await.unwrap();
        if op == Op::Take {
            let receipt = outcome.decision.clone().receipt();
            self.taken_at = receipt.map(|receipt| receipt.taken_at());
        }
        (decision, outcome.decision)
    }

    async fn make(&mut self, limits: &[Limit], next: Move) -> Option<(Decision, Decision)> {
        let now = self.clock.now().as_micros();
        match next {
            Move::Hit(cost) => return Some(self.step(limits, cost, Op::Take).await),
            Move::Peek(cost) => return Some(self.step(limits, cost, Op::Peek).await),
            Move::Refund => {
                let taken_at = self.taken_at?;
                return Some(self.step(limits, 1, Op::Refund { taken_at }).await);
            }
            Move::Forward(micros) => self.clock.advance(Duration::from_micros(micros)),
            Move::Back(micros) => self.clock.set(Timestamp::from_micros(now - micros)),
            Move::Boundary(beside) => {
                let boundary = (now / 5_000_000 + 1) * 5_000_000;
                let there = boundary.saturating_add_signed(beside);
                self.clock.set(Timestamp::from_micros(there));
            }
        }
        None
    }
}

fn said(decision: &Decision) -> impl PartialEq + std::fmt::Debug {
    let waits = (decision.retry_after(), decision.reset_after());
    (decision.denial(), decision.remaining(), decision.limit(), waits)
}

/// `choices`: the limits of each step, by number.
fn agrees(name: &str, choices: &[Vec<Limit>], may_go_back: bool) {
    let server = MemcachedServer::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clock = ManualClock::new();
    let backend = builder(&server).clock(clock.clone()).build().unwrap();
    let config = Config { failure_persistence: None, ..Config::with_cases(150) };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let mut number = 0u64;
    let number = std::cell::RefCell::new(&mut number);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let outcome = runner.run(&moves(may_go_back), |moves| {
        let mut number = number.borrow_mut();
        **number += 1;
        let key = format!("{name}{number}");
        let parts = [KeyPart::bytes(key.as_bytes())];
        let key = Key::new("t", &parts);
        let mut run = Run { backend: &backend, clock: &clock, key, stored: None, taken_at: None };
        for (at, (choice, next)) in moves.iter().enumerate() {
            let limits = &choices[choice % choices.len()];
            let Some((got, expected)) = runtime.block_on(run.make(limits, *next)) else { continue };
            prop_assert_eq!(said(&got), said(&expected), "move {}: {:?}", at, next);
            // After the clock went back the latest hit's instant is not known to the microsecond.
            prop_assert!(may_go_back || got == expected, "{got:?} {expected:?}");
        }
        Ok(())
    });
    outcome.unwrap();
    let numbers = server.stat("incr_hits");
    assert!(numbers > 200, "it went by incr: {numbers}");
}

#[test]
fn one_limit_forward_in_time() {
    agrees("a", &[vec![limit("4/5s", FixedWindow::new())]], false);
}

#[test]
fn one_limit_whose_clock_goes_back() {
    agrees("b", &[vec![limit("4/5s", FixedWindow::new())]], true);
}

#[test]
fn limits_that_change_from_hit_to_hit() {
    let fixed = |rate| vec![limit(rate, FixedWindow::new())];
    let mut both = fixed("4/5s");
    both.push(limit("3/2s", TokenBucket::new()));
    let same = fixed("4/5s");
    agrees("c", &[same.clone(), both, fixed("6/5s"), fixed("3/min"), same], false);
}

#[test]
fn a_limit_that_has_no_such_number() {
    let server = MemcachedServer::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let backend = builder(&server).build().unwrap();
    runtime.block_on(async {
        for rate in ["3/2500ms", "4294967295/s"] {
            let limits = [limit(rate, FixedWindow::new())];
            let decision = crate::world::hit(&backend, rate, &limits).await.unwrap();
            assert!(decision.is_allowed());
        }
    });
    assert_eq!(server.stat("incr_hits") + server.stat("incr_misses"), 0);
}
