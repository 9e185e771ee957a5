//! Random timelines: each strategy, on each way of keeping its state, against the model at each step.

use proptest::prelude::*;

use crate::model::{Kind, Rule};
use crate::world::{Tested, World, check};

/// 2024-01-01: somewhere in the middle of the domain.
const START: u64 = 1_704_067_200_000_000;
const HOUR: u64 = 3_600_000_000;
const DAY: u64 = 24 * HOUR;

/// What happens next to the key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Move {
    Wait(u64),
    /// In 1/64 of a period.
    WaitPeriods(u16),
    /// To the next window boundary, or near it.
    ToBoundary(i64),
    /// To the end of the last wait, or near it, and again.
    Retry(i64),
    /// To where all should be as fresh, or near it, and look.
    ToReset(i64),
    Hit(Cost),
    Peek(Cost),
    /// A hit that leaves something.
    HitLeaving(Cost, Cost),
    PeekLeaving(Cost, Cost),
    Refund(usize),
    ClockBack(u64),
    /// To other limits, where there are some.
    Change(usize),
}

/// A cost, where it gets interesting.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cost {
    Exactly(u32),
    /// What can pass at once, more or less.
    Capacity(i64),
    /// What remains, more or less.
    Remaining(i64),
    /// In 1/256 of the capacity.
    Share(u8),
}

fn costs() -> impl Strategy<Value = Cost> {
    prop_oneof![
        4 => Just(Cost::Exactly(1)),
        1 => prop_oneof![Just(0), 2..10u32, Just(u32::MAX), any::<u32>()].prop_map(Cost::Exactly),
        1 => (-1..=1i64).prop_map(Cost::Capacity),
        2 => (-1..=1i64).prop_map(Cost::Remaining),
        3 => any::<u8>().prop_map(Cost::Share),
    ]
}

fn moves(goes_back: bool, changes: bool) -> impl Strategy<Value = Move> {
    let near = || prop_oneof![Just(-1000i64), Just(-1), Just(0), Just(1), Just(1000)];
    let (back, changes) = (u32::from(goes_back), 6 * u32::from(changes));
    prop_oneof![
        3 => prop_oneof![1..1_000u64, 1_000..5_000_000u64].prop_map(Move::Wait),
        3 => prop_oneof![0..=64u16, 0..=320u16].prop_map(Move::WaitPeriods),
        3 => near().prop_map(Move::ToBoundary),
        4 => (-1..=1i64).prop_map(Move::Retry),
        2 => (-1..=1i64).prop_map(Move::ToReset),
        14 => costs().prop_map(Move::Hit),
        5 => prop_oneof![
            2 => costs().prop_map(Move::Peek),
            2 => (costs(), costs()).prop_map(|(cost, leave)| Move::HitLeaving(cost, leave)),
            1 => (costs(), costs()).prop_map(|(cost, leave)| Move::PeekLeaving(cost, leave)),
        ],
        2 => (0..60usize).prop_map(Move::Refund),
        back => prop_oneof![1..1_000u64, 1..5 * HOUR, 1..3 * DAY].prop_map(Move::ClockBack),
        changes => any::<usize>().prop_map(Move::Change),
    ]
}

/// Where a timeline starts, and what happens.
pub(crate) fn timeline(goes_back: bool, changes: bool) -> impl Strategy<Value = (u64, Vec<Move>)> {
    // The epoch itself is the first boundary of all windows.
    let starts = prop_oneof![9 => START..START + 40 * DAY, 1 => 0..2_000_000u64];
    (starts, prop::collection::vec(moves(goes_back, changes), 30..=60))
}

/// Whole milliseconds up to 30 days, the usual ones more often.
fn periods() -> impl Strategy<Value = u64> {
    const USUAL: &[u64] = &[1, 2_500, 1_000, 60_000, 3_600_000, 86_400_000, 30 * 86_400_000];
    let millis = prop_oneof![
        prop::sample::select(USUAL),
        1..1_000u64,
        1_000..100_000u64,
        1..=30 * 86_400_000u64,
    ];
    millis.prop_map(|millis| millis * 1_000)
}

fn limits(most: u32) -> impl Strategy<Value = u32> {
    prop_oneof![2 => 1..=5u32, 2 => 1..=100u32.min(most), 1 => 1..=most]
}

/// Limits of one strategy; for a bucket with bursts below, at and above the limit.
pub(crate) fn rules(kind: impl Strategy<Value = Kind>) -> impl Strategy<Value = Rule> {
    kind.prop_flat_map(|kind| {
        let most = if kind == Kind::Log { 10_000 } else { 1_000_000 };
        (limits(most), periods(), 0..6u8, any::<u32>()).prop_map(
            move |(limit, period, choice, random)| {
                let burst = match choice {
                    _ if !kind.is_bucket() => None,
                    0 => Some(limit),
                    1 => Some(random % limit + 1),
                    2 => Some(limit + random % 10),
                    3 => Some(limit.saturating_mul(random % 10 + 1)),
                    _ => None,
                };
                within_domain(Rule { kind, limit, burst, period, brought: false })
            },
        )
    })
}

/// The same with a debt that can be earned back within 100 years.
fn within_domain(rule: Rule) -> Rule {
    let Kind::Token { debt } = rule.kind else { return rule };
    let most = 100 * 365 * DAY / rule.period * u64::from(rule.limit);
    let room = most.saturating_sub(u64::from(rule.shown_capacity()));
    let debt = debt.min(u32::try_from(room).unwrap_or(u32::MAX));
    Rule { kind: Kind::Token { debt }, ..rule }
}

fn debts() -> impl Strategy<Value = Kind> + Clone {
    prop_oneof![1..=10u32, 1..=2_000_000u32].prop_map(|debt| Kind::Token { debt })
}

pub(crate) fn any_rule() -> impl Strategy<Value = Rule> {
    let kinds = prop_oneof![
        Just(Kind::Fixed),
        Just(Kind::Counter),
        Just(Kind::Log),
        Just(Kind::Token { debt: 0 }),
        debts(),
        Just(Kind::Leaky),
        Just(Kind::Gcra),
    ];
    rules(kinds)
}

/// Plays a timeline; each move checks what it is told.
pub(crate) fn play(world: &mut World, moves: &[Move]) -> Tested {
    for (index, next) in moves.iter().enumerate() {
        // One of the limits at a time: its windows and its capacity are the interesting ones.
        let rule = world.rules()[index % world.rules().len()];
        step(world, rule, *next)
            .map_err(|error| TestCaseError::fail(format!("move {index}, {next:?}: {error}")))?;
    }
    Ok(())
}

fn step(world: &mut World, rule: Rule, next: Move) -> Tested {
    let now = world.now();
    match next {
        Move::Wait(micros) => world.wait_until(now + micros),
        Move::WaitPeriods(parts) => world.wait_until(now + rule.period * u64::from(parts) / 64),
        Move::ToBoundary(offset) => {
            let boundary = (now / rule.period + 1) * rule.period;
            world.wait_until(near(boundary, offset));
        }
        Move::Retry(offset) => {
            if let Some((at, (cost, leave))) = world.retry {
                world.wait_until(near(at, offset));
                return world.hit_leaving(cost, leave);
            }
        }
        Move::ToReset(offset) => {
            if let Some(at) = world.reset {
                world.wait_until(near(at, offset));
                return world.peek(1);
            }
        }
        Move::Hit(cost) => return world.hit(units(world, rule, cost)),
        Move::Peek(cost) => return world.peek(units(world, rule, cost)),
        Move::HitLeaving(cost, leave) => {
            return world.hit_leaving(units(world, rule, cost), units(world, rule, leave));
        }
        Move::PeekLeaving(cost, leave) => {
            return world.peek_leaving(units(world, rule, cost), units(world, rule, leave));
        }
        Move::Refund(number) => {
            let hits = world.hits().max(1);
            return world.refund(number % hits);
        }
        Move::ClockBack(micros) => world.go_back(micros),
        Move::Change(variant) => {
            world.change_limits(variant);
            return world.peek(1);
        }
    }
    Ok(())
}

fn near(at: u64, offset: i64) -> u64 {
    at.saturating_add_signed(offset)
}

fn units(world: &World, rule: Rule, cost: Cost) -> u32 {
    let capacity = rule.capacity();
    let whole = |units: i64| u32::try_from(units.clamp(0, u32::MAX.into())).unwrap();
    match cost {
        Cost::Exactly(units) => units,
        Cost::Capacity(offset) => whole(capacity.cast_signed() + offset),
        Cost::Remaining(offset) => whole(i64::from(world.expected((0, 0)).remaining) + offset),
        Cost::Share(share) => whole((capacity * u64::from(share) / 256).cast_signed()),
    }
}

fn keeps_to_the_model(kind: impl Strategy<Value = Kind> + Clone) {
    check(1_500, (rules(kind.clone()), timeline(false, false)), |(rule, (start, moves))| {
        play(&mut World::new(&[rule], start).with_expiry(), &moves)
    });
    check(1_500, (rules(kind), timeline(true, false)), |(rule, (start, moves))| {
        play(&mut World::new(&[rule], start), &moves)
    });
}

#[test]
fn fixed_window() {
    keeps_to_the_model(Just(Kind::Fixed));
}

#[test]
fn sliding_window_counter() {
    keeps_to_the_model(Just(Kind::Counter));
}

#[test]
fn sliding_window_log() {
    keeps_to_the_model(Just(Kind::Log));
}

#[test]
fn token_bucket() {
    keeps_to_the_model(Just(Kind::Token { debt: 0 }));
}

#[test]
fn token_bucket_with_debt() {
    keeps_to_the_model(debts());
}

#[test]
fn leaky_bucket() {
    keeps_to_the_model(Just(Kind::Leaky));
}

#[test]
fn gcra() {
    keeps_to_the_model(Just(Kind::Gcra));
}
