//! The states of a circuit, by themselves.

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::circuit::{CallOutcome, Circuit, Phase, Ticket, Transition};
use super::options::{CircuitBreakerOptions, Settings};
use crate::clock::monotonic_now;

const MS: Duration = Duration::from_millis(1);

fn settings() -> Settings {
    CircuitBreakerOptions::new().check().unwrap()
}

/// A circuit without chance, and its time.
struct World {
    circuit: Circuit,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let now = monotonic_now();
        Self { circuit: Circuit::new(settings(), |_| Duration::ZERO, now), now }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    fn admit(&mut self) -> Option<Ticket> {
        self.circuit.admit(self.now).ok()
    }

    fn end(&mut self, ticket: Ticket, outcome: CallOutcome) -> Option<Transition> {
        self.circuit.ended(ticket, outcome, self.now)
    }

    fn call(&mut self, outcome: CallOutcome) -> Option<Transition> {
        let ticket = self.admit().expect("a call passes");
        self.end(ticket, outcome)
    }

    fn opened() -> Self {
        let mut world = Self::new();
        for _ in 0..4 {
            assert_eq!(world.call(CallOutcome::Failed), None);
        }
        let opened = world.call(CallOutcome::Failed);
        assert_eq!(opened, Some(Transition::Opened { pause: 100 * MS, failures: 5 }));
        world
    }
}

#[test]
fn failures_in_a_row_open_and_an_answer_breaks_the_row() {
    let mut world = World::new();
    for _ in 0..10 {
        world.wait(100 * MS);
        (0..4).for_each(|_| assert_eq!(world.call(CallOutcome::Failed), None));
        // More answers, so that the failures are not most calls.
        (0..8).for_each(|_| assert_eq!(world.call(CallOutcome::Answered), None));
        assert_eq!(world.call(CallOutcome::Nothing), None, "it says nothing");
    }
    world.wait(100 * MS);
    (0..4).for_each(|_| assert_eq!(world.call(CallOutcome::Failed), None));
    assert_eq!(world.call(CallOutcome::Nothing), None, "nor does it break a row");
    assert!(matches!(
        world.call(CallOutcome::Failed),
        Some(Transition::Opened { failures: 5, .. })
    ));
    assert!(world.admit().is_none());
}

#[test]
fn most_calls_of_the_window_open_without_a_row() {
    let mut world = World::new();
    let mut opened = None;
    for number in 0..30 {
        world.wait(100 * MS);
        let outcome = if number % 3 == 0 { CallOutcome::Answered } else { CallOutcome::Failed };
        opened = world.call(outcome).map(|_| number);
        if opened.is_some() {
            break;
        }
    }
    assert_eq!(opened, Some(19), "with the twentieth call");
    // Two of five are not most.
    let mut world = World::new();
    for number in 0..1_000 {
        world.wait(100 * MS);
        let outcome = if number % 5 < 3 { CallOutcome::Answered } else { CallOutcome::Failed };
        assert_eq!(world.call(outcome), None);
    }
    // What was before the window does not count.
    world.wait(Duration::from_secs(11));
    assert_eq!(world.circuit.tally().in_window(world.now, &settings()), (0, 0));
}

/// One of three nodes is silent: its calls wait in vain, while the others are answered.
#[test]
fn a_silent_node_opens_nothing_while_others_answer() {
    let mut world = World::new();
    let mut waiting = std::collections::VecDeque::new();
    for number in 0..5_000_u32 {
        world.wait(MS);
        let ticket = world.admit().expect("it stays closed");
        if number % 3 == 0 {
            waiting.push_back((world.now + 100 * MS, ticket));
        } else {
            assert_eq!(world.end(ticket, CallOutcome::Answered), None);
        }
        // Given up in bursts, one after the other.
        while number % 50 == 0 && waiting.front().is_some_and(|(at, _)| *at <= world.now) {
            let (_, ticket) = waiting.pop_front().unwrap();
            assert_eq!(world.circuit.dropped(ticket, world.now), None);
        }
    }
}

/// One of three nodes refuses, so that some of its calls come one after the other by chance.
#[test]
fn a_row_by_chance_opens_nothing_while_others_answer() {
    let mut world = World::new();
    (0..60).for_each(|_| assert_eq!(world.call(CallOutcome::Answered), None));
    world.wait(10 * MS);
    (0..30).for_each(|_| assert_eq!(world.call(CallOutcome::Failed), None, "within 50 ms"));
    world.wait(50 * MS);
    assert!(
        matches!(world.call(CallOutcome::Failed), Some(Transition::Opened { .. })),
        "nobody answers"
    );
}

#[test]
fn a_caller_that_gives_up_late_found_silence_and_an_early_one_nothing() {
    let mut world = World::new();
    for _ in 0..100 {
        let ticket = world.admit().unwrap();
        world.wait(49 * MS);
        assert_eq!(world.circuit.dropped(ticket, world.now), None);
    }
    let tickets: Vec<Ticket> = (0..5).map(|_| world.admit().unwrap()).collect();
    world.wait(50 * MS);
    let changes = tickets.into_iter().map(|ticket| world.circuit.dropped(ticket, world.now));
    let changes: Vec<_> = changes.collect();
    assert_eq!(changes[..4], [None; 4]);
    assert!(matches!(changes[4], Some(Transition::Opened { .. })));
}

#[test]
fn one_probe_passes_and_its_answer_closes() {
    let mut world = World::opened();
    world.wait(99 * MS);
    assert!(world.admit().is_none());
    world.wait(MS);
    let probe = world.admit().unwrap();
    assert!(probe.is_probe() && world.admit().is_none());
    let closed = world.end(probe, CallOutcome::Answered);
    assert_eq!(closed, Some(Transition::Closed { open_for: 100 * MS, was_probing: true }));
    assert!(!world.admit().unwrap().is_probe());
}

#[test]
fn pauses_grow_to_their_longest_and_begin_anew() {
    let mut world = World::opened();
    for pause in [100, 200, 250, 250, 250] {
        world.wait(pause * MS);
        let probe = world.admit().expect("the pause is over");
        let expected = (2 * pause).min(250);
        let failed = world.end(probe, CallOutcome::Failed);
        assert_eq!(failed, Some(Transition::ProbeFailed { pause: expected * MS }));
    }
    world.wait(250 * MS);
    let probe = world.admit().unwrap();
    world.end(probe, CallOutcome::Answered);
    (0..4).for_each(|_| assert_eq!(world.call(CallOutcome::Failed), None));
    let opened = world.call(CallOutcome::Failed);
    assert_eq!(opened, Some(Transition::Opened { pause: 100 * MS, failures: 5 }));
}

/// One of three nodes refuses at once, and so its failures come before the answers of the others.
#[test]
fn failures_that_come_first_open_nothing_while_most_calls_are_under_way() {
    let mut world = World::opened();
    world.wait(100 * MS);
    let probe = world.admit().unwrap();
    assert!(world.end(probe, CallOutcome::Answered).is_some());
    let mut at_others: Vec<_> = (0..64).map(|_| world.admit().unwrap()).collect();
    for _ in 0..1_000 {
        (0..32).for_each(|_| assert_eq!(world.call(CallOutcome::Failed), None));
        for ticket in at_others.split_off(0) {
            assert_eq!(world.end(ticket, CallOutcome::Answered), None);
            at_others.push(world.admit().unwrap());
        }
        world.wait(MS);
    }
    // Now the others fail too.
    let changes: Vec<_> =
        at_others.into_iter().filter_map(|ticket| world.end(ticket, CallOutcome::Failed)).collect();
    assert_eq!(changes, [], "within 50 ms of answers");
    world.wait(50 * MS);
    assert!(matches!(world.call(CallOutcome::Failed), Some(Transition::Opened { .. })));
}

#[test]
fn a_probe_that_says_nothing_frees_its_place_and_a_silent_one_pauses() {
    let mut world = World::opened();
    world.wait(100 * MS);
    let probe = world.admit().unwrap();
    assert_eq!(world.circuit.dropped(probe, world.now), Some(Transition::ProbeVoid));
    let probe = world.admit().expect("the next call is the probe");
    assert_eq!(world.end(probe, CallOutcome::Nothing), Some(Transition::ProbeVoid));
    let probe = world.admit().expect("and the next");
    world.wait(60 * MS);
    let failed = world.circuit.dropped(probe, world.now);
    assert_eq!(failed, Some(Transition::ProbeFailed { pause: 200 * MS }));
    assert!(world.admit().is_none());
}

#[test]
fn a_probe_that_never_ends_has_failed() {
    let mut world = World::opened();
    world.wait(100 * MS);
    let lost = world.admit().unwrap();
    world.wait(100 * MS);
    assert!(world.admit().is_none(), "its time is over, so a pause began");
    world.wait(200 * MS);
    let probe = world.admit().expect("another");
    assert_eq!(world.end(lost, CallOutcome::Answered), None, "nobody listens any more");
    assert!(world.end(probe, CallOutcome::Answered).is_some());
}

#[test]
fn what_began_before_the_last_change_says_nothing() {
    let mut world = World::new();
    let [early, other] = [world.admit().unwrap(), world.admit().unwrap()];
    (0..5).for_each(|_| _ = world.call(CallOutcome::Failed));
    assert!(!world.circuit.is_closed());
    assert_eq!(world.end(early, CallOutcome::Answered), None);
    assert!(!world.circuit.is_closed(), "it began before the circuit opened");
    world.wait(100 * MS);
    let probe = world.admit().unwrap();
    world.end(probe, CallOutcome::Answered);
    (0..4).for_each(|_| assert_eq!(world.call(CallOutcome::Failed), None));
    assert_eq!(world.end(other, CallOutcome::Failed), None);
    assert!(world.circuit.is_closed(), "it is no fifth failure");
}

#[test]
fn one_who_finds_out_closes() {
    let mut world = World::opened();
    let ticket = world.circuit.ticket(world.now);
    assert_eq!(world.end(ticket, CallOutcome::Failed), None);
    let ticket = world.circuit.ticket(world.now);
    assert!(matches!(world.end(ticket, CallOutcome::Answered), Some(Transition::Closed { .. })));
}

#[derive(Clone, Debug)]
enum Event {
    Wait(u64),
    Admit,
    FindOut,
    End(usize, u8),
    Drop(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        (0..400_u64).prop_map(Event::Wait),
        Just(Event::Admit),
        Just(Event::Admit),
        Just(Event::FindOut),
        (any::<usize>(), 0..5_u8).prop_map(|(index, outcome)| Event::End(index, outcome)),
        any::<usize>().prop_map(Event::Drop),
    ];
    proptest::collection::vec(event, 1..200)
}

proptest! {
    #[test]
    fn any_events_leave_one_probe_at_most_and_never_a_circuit_that_stays_open(events in events()) {
        let mut world = World::new();
        let mut under_way: Vec<Ticket> = Vec::new();
        for event in events {
            match event {
                Event::Wait(millis) => world.now += Duration::from_millis(millis),
                Event::Admit => {
                    under_way.extend(world.admit());
                }
                Event::FindOut => under_way.push(world.circuit.ticket(world.now)),
                Event::End(..) | Event::Drop(_) if under_way.is_empty() => continue,
                Event::End(index, outcome) => {
                    let ticket = under_way.swap_remove(index % under_way.len());
                    let outcome = match outcome {
                        0 => CallOutcome::Answered,
                        1 => CallOutcome::Nothing,
                        _ => CallOutcome::Failed,
                    };
                    world.end(ticket, outcome);
                }
                Event::Drop(index) => {
                    let ticket = under_way.swap_remove(index % under_way.len());
                    world.circuit.dropped(ticket, world.now);
                }
            }
            // Of those under way one at most may still be the probe that is waited for.
            let live = under_way.iter().filter(|ticket| ticket.is_probe()).filter(|ticket| {
                let mut then = world.circuit.clone();
                then.ended(**ticket, CallOutcome::Answered, world.now).is_some()
            });
            prop_assert!(live.count() <= 1);
            // Whatever happened, a call passes when the time of a probe and the longest pause are over.
            let in_time = world.now + settings().probe_timeout + settings().longest_open;
            prop_assert!(world.circuit.clone().admit(in_time).is_ok(), "{:?}", world.circuit);
            if let Phase::Open { until } = world.circuit.state() {
                prop_assert!(until <= world.now + settings().longest_open);
            }
        }
        // Each that is over says nothing, twice.
        for ticket in under_way {
            let fresh = world.circuit.ticket(world.now);
            world.circuit.ended(fresh, CallOutcome::Answered, world.now);
            let (open, state) = (world.circuit.times_opened(), world.circuit.state());
            if ticket.is_probe() {
                prop_assert_eq!(world.circuit.ended(ticket, CallOutcome::Failed, world.now), None);
            }
            prop_assert_eq!((world.circuit.times_opened(), world.circuit.state()), (open, state));
        }
    }
}

#[test]
fn options_are_checked() {
    let options = CircuitBreakerOptions::new;
    let zero = Duration::ZERO;
    for (wrong, named) in [
        (options().silent_after(zero), "silent_after"),
        (options().first_open(zero), "first_open"),
        (options().probe_timeout(zero), "probe_timeout"),
        (options().window(9 * MS), "window"),
        (options().longest_open(99 * MS), "longest_open"),
    ] {
        let error = wrong.check().unwrap_err().to_string();
        assert!(error.starts_with(&format!("circuit breaker {named} is ")), "{error}");
    }
    let many = NonZeroU32::MAX;
    let longest = options().failures_in_a_row(many).min_calls(many).longest_open(Duration::MAX);
    let mut circuit = Circuit::new(longest.check().unwrap(), |it| it, monotonic_now());
    let ticket = circuit.ticket(monotonic_now());
    assert_eq!(circuit.ended(ticket, CallOutcome::Failed, monotonic_now()), None);
}

#[test]
fn short_deadlines_shorten_what_counts_as_silence() {
    let short = CircuitBreakerOptions::new().for_callers_of(20 * MS).check().unwrap();
    assert_eq!(short.silent_after, 10 * MS);
    let long = CircuitBreakerOptions::new().for_callers_of(250 * MS).check().unwrap();
    assert_eq!(long.silent_after, 50 * MS);
    let own = CircuitBreakerOptions::new().silent_after(70 * MS).for_callers_of(20 * MS);
    assert_eq!(own.check().unwrap().silent_after, 70 * MS);
}
