//! Random timelines of several limits, of limits that change, and of very large numbers.

use proptest::prelude::*;

use crate::model::{KINDS, Kind, Rule};
use crate::timeline::{any_rule, play, timeline};
use crate::world::{World, check};

const SECOND: u64 = 1_000_000;

/// A rule whose numbers are near those of others, so that each of several has its say.
pub(crate) fn small_rule() -> impl Strategy<Value = Rule> {
    const PERIODS: &[u64] = &[SECOND / 10, SECOND, 2 * SECOND, 5 * SECOND, 60 * SECOND];
    let kinds = prop::sample::select(&KINDS[..]);
    (kinds, 1..=12u32, prop::sample::select(PERIODS), prop::option::of(1..20u32)).prop_map(
        |(kind, limit, period, burst)| {
            let burst = burst.filter(|_| kind.is_bucket());
            Rule { kind, limit, burst, period, brought: false }
        },
    )
}

/// Two to eight rules of which each has a state of its own.
pub(crate) fn several() -> impl Strategy<Value = Vec<Rule>> {
    let one = prop_oneof![
        12 => small_rule(),
        2 => any_rule(),
        // Denies all that costs something.
        1 => small_rule().prop_map(|rule| Rule { burst: None, ..rule.limit(0) }),
    ];
    prop::collection::vec(one, 2..=8).prop_map(|rules| {
        let mut apart: Vec<Rule> = Vec::new();
        for rule in rules {
            if !apart.iter().any(|other| other.shares_part_with(&rule)) {
                apart.push(rule);
            }
        }
        apart
    })
}

#[test]
fn several_limits_are_all_or_nothing() {
    check(600, (several(), timeline(false, false)), |(rules, (start, moves))| {
        play(&mut World::new(&rules, start).with_expiry(), &moves)
    });
    check(600, (several(), timeline(true, false)), |(rules, (start, moves))| {
        play(&mut World::new(&rules, start), &moves)
    });
}

/// The same strategy and period with two to four limits and bursts.
fn changing_limits() -> impl Strategy<Value = Vec<Vec<Rule>>> {
    let limits = prop::collection::vec((1..=1_000u32, prop::option::of(1..=2_000u32)), 2..=4);
    let periods = prop_oneof![1..=5_000u64, 1..=86_400_000u64];
    (prop::sample::select(&KINDS[..]), periods, limits).prop_map(|(kind, millis, limits)| {
        let rule = |(limit, burst): (u32, Option<u32>)| {
            let burst = burst.filter(|_| kind.is_bucket());
            vec![Rule { kind, limit, burst, period: millis * 1_000, brought: false }]
        };
        limits.into_iter().map(rule).collect()
    })
}

#[test]
fn a_changed_limit_acts_at_once_on_what_was_counted() {
    check(1_000, (changing_limits(), timeline(true, true)), |(variants, (start, moves))| {
        play(&mut World::of_variants(variants, start), &moves)
    });
}

/// The limits of a throttle, and one to three times one to three rates that hits bring.
fn brought_rates() -> impl Strategy<Value = Vec<Vec<Rule>>> {
    const PERIODS: &[u64] = &[SECOND, 2 * SECOND, 60 * SECOND];
    let kinds = prop::sample::select(&KINDS[..]);
    let rate = (1..=6u32, prop::option::of(1..=9u32), prop::sample::select(PERIODS));
    let rates = prop::collection::vec(prop::collection::vec(rate, 1..=3), 2..=4);
    (kinds, rates).prop_map(|(kind, variants)| {
        let variants = variants.into_iter().enumerate().map(|(index, rates)| {
            let mut rules: Vec<Rule> = Vec::new();
            for (limit, burst, period) in rates {
                let burst = burst.filter(|_| kind.is_bucket());
                let rule = Rule { kind, limit, burst, period, brought: index > 0 };
                if !rules.iter().any(|other| other.shares_part_with(&rule)) {
                    rules.push(rule);
                }
            }
            rules
        });
        variants.collect()
    })
}

#[test]
fn a_rate_that_a_hit_brings_neither_lifts_nor_fills_another() {
    check(1_000, (brought_rates(), timeline(false, true)), |(variants, (start, moves))| {
        play(&mut World::of_rates(variants, start).with_expiry(), &moves)
    });
}

#[test]
fn a_changed_debt_acts_at_once_on_what_was_counted() {
    let debts = prop::collection::vec(0..=50u32, 2..=4);
    let inputs = (1..=20u32, 1..=10_000u64, debts, timeline(true, true));
    check(400, inputs, |(limit, millis, debts, (start, moves))| {
        let period = millis * 1_000;
        let rule = |debt| {
            let kind = Kind::Token { debt };
            vec![Rule { kind, limit, burst: None, period, brought: false }]
        };
        play(&mut World::of_variants(debts.into_iter().map(rule).collect(), start), &moves)
    });
}

/// One strategy with two to four periods: each has a part of its own.
fn changing_periods() -> impl Strategy<Value = Vec<Vec<Rule>>> {
    let periods = prop::collection::btree_set(1..=60_000u64, 2..=4);
    (small_rule(), periods).prop_map(|(rule, periods)| {
        let rule = |millis| vec![Rule { period: millis * 1_000, ..rule }];
        periods.into_iter().map(rule).collect()
    })
}

#[test]
fn a_changed_period_is_its_own_part_and_resets_no_other() {
    check(800, (changing_periods(), timeline(false, true)), |(variants, (start, moves))| {
        play(&mut World::of_variants(variants, start).with_expiry(), &moves)
    });
}

/// Throttles of several limits, of which each may have some in common with the others.
#[test]
fn a_throttle_that_gains_or_loses_a_limit_resets_no_other() {
    let variants =
        (several(), prop::collection::vec(any::<u8>(), 2..=4)).prop_map(|(rules, masks)| {
            let chosen = |mask: u8| {
                let with = |&(index, _): &(usize, &Rule)| index == 0 || mask >> index & 1 == 1;
                rules.iter().enumerate().filter(with).map(|(_, rule)| *rule).collect()
            };
            masks.into_iter().map(chosen).collect::<Vec<Vec<Rule>>>()
        });
    check(500, (variants, timeline(false, true)), |(variants, (start, moves))| {
        play(&mut World::of_variants(variants, start).with_expiry(), &moves)
    });
}

/// The longest periods of the domain, in milliseconds.
const LONG_PERIODS: std::ops::RangeInclusive<u64> = 300 * 86_400_000..=366 * 86_400_000;

/// Limits, bursts, debts and periods at the far end of the domain.
fn big_rule() -> impl Strategy<Value = Rule> {
    // At least so much that a burst and a debt of all 32 bits come back within 100 years.
    let units = || prop_oneof![Just(u32::MAX), u32::MAX - 3..=u32::MAX, 1_u32 << 27..=u32::MAX];
    let millis = prop_oneof![Just(*LONG_PERIODS.end()), LONG_PERIODS];
    let kinds = prop::sample::select(&KINDS[..]);
    (kinds, units(), prop::option::of(units()), prop::option::of(units()), millis).prop_map(
        |(kind, limit, burst, debt, millis)| {
            let burst = burst.filter(|_| kind.is_bucket());
            let kind = match (kind, debt) {
                (Kind::Token { .. }, Some(debt)) => Kind::Token { debt },
                _ => kind,
            };
            Rule { kind, limit, burst, period: millis * 1_000, brought: false }
        },
    )
}

#[test]
fn large_numbers_are_exact() {
    check(1_500, (big_rule(), timeline(true, false)), |(rule, (start, moves))| {
        play(&mut World::new(&[rule], start), &moves)
    });
}

/// Bursts of one bucket on both sides of where its state no longer fits 64 bits.
fn narrow_and_wide() -> impl Strategy<Value = Vec<Vec<Rule>>> {
    let kinds = prop::sample::select(&KINDS[3..]);
    let bursts = prop_oneof![1..=200_000u32, 250_000..=350_000u32, 1_u32 << 20..=u32::MAX];
    let bursts = prop::collection::vec(bursts, 2..=4);
    (kinds, 1_u32 << 26..=u32::MAX, bursts, LONG_PERIODS).prop_map(
        |(kind, limit, bursts, millis)| {
            let period = millis * 1_000;
            let rule =
                |burst| vec![Rule { kind, limit, burst: Some(burst), period, brought: false }];
            bursts.into_iter().map(rule).collect()
        },
    )
}

#[test]
fn a_bucket_may_change_between_narrow_and_wide() {
    check(800, (narrow_and_wide(), timeline(true, true)), |(variants, (start, moves))| {
        play(&mut World::of_variants(variants.clone(), start), &moves)?;
        play(&mut World::of_rates(variants, start), &moves)
    });
}
