//! What comes from a store may be anything: others can write there too.

use proptest::prelude::*;
use traffik::step::{StepError, Write};
use traffik::strategy::Op;
use traffik::{Error, ErrorKind, ManualClock, Timestamp};

use crate::mixes::small_rule;
use crate::model::{KINDS, Kind, Rule};
use crate::place::secs;
use crate::store::Bytes;
use crate::waits::{Stored, hits};
use crate::world::{SHORT_KEY, Tested, at_once, check, throttle};

fn is_corrupt(state: &Stored) -> bool {
    matches!(state.try_ask(1, Op::Peek), Err(StepError::Corrupt { .. }))
}

/// Whatever is stored, a step answers; and what it cannot read, it answers as for a new key.
fn survives(state: &Stored, cost: u32) -> Tested {
    let fresh = Stored { value: None, ..state.clone() };
    match state.try_ask(cost, Op::Peek) {
        Ok(peek) => prop_assert_eq!(&peek.write, &None),
        Err(StepError::Corrupt { write, .. }) => prop_assert_eq!(&write, &None),
        Err(other) => panic!("{other}"),
    }
    let written = match state.try_ask(cost, Op::Take) {
        Ok(_) => return Ok(()),
        Err(StepError::Corrupt { write, .. }) => write,
        Err(other) => panic!("{other}"),
    };
    let expected = fresh.ask(cost, Op::Take);
    prop_assert_eq!(&written, &expected.write, "as a key that was never seen");
    if matches!(written, Some(Write::Put { .. })) {
        let mut after = state.clone();
        after.heal(cost, Op::Take);
        let remaining = after.peek(cost).decision.remaining();
        prop_assert_eq!(remaining, expected.decision.remaining(), "healed, and holding this hit");
    }
    Ok(())
}

#[test]
fn bytes_at_random_never_panic_and_start_afresh() {
    let inputs = (small_rule(), prop::collection::vec(any::<u8>(), 0..120), 0..=15u32);
    check(10_000, inputs, |(rule, mut bytes, cost)| {
        let mut state = Stored::after(&[rule], &[]);
        state.value = Some(bytes.clone());
        prop_assert!(is_corrupt(&state), "no state by chance: {bytes:?}");
        survives(&state, cost)?;
        // Further in, behind a version that is right.
        if let Some(version) = bytes.first_mut() {
            *version = 1;
        }
        state.value = Some(bytes);
        survives(&state, cost)
    });
}

#[test]
fn states_that_are_cut_or_too_long_are_corrupt() {
    for kind in KINDS {
        let state = Stored::after(&[Rule::new(kind, 5, secs(10))], &[(0, 2), (1_000_000, 1)]);
        let value = state.value.clone().unwrap();
        let longer = [&value[..], &[0]].concat();
        for bytes in (0..value.len()).map(|length| value[..length].to_vec()).chain([longer]) {
            let state = Stored { value: Some(bytes), ..state.clone() };
            assert!(is_corrupt(&state), "{kind:?}: {state:?}");
            survives(&state, 1).unwrap();
        }
    }
}

/// A change of one number in a state, at any byte: to one that is at the edge of something.
#[derive(Clone, Copy, Debug)]
struct Forged {
    offset: usize,
    number: Number,
}

#[derive(Clone, Copy, Debug)]
enum Number {
    Plain(u64),
    Now(i64),
    Moved(i64),
}

fn forged() -> impl Strategy<Value = Forged> {
    const EDGES: &[u64] = &[
        0,
        1,
        2,
        u32::MAX as u64,
        1 << 32,
        1 << 33,
        (1 << 53) - 1,
        1 << 53,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ];
    let number = prop_oneof![
        3 => prop::sample::select(EDGES).prop_map(Number::Plain),
        1 => any::<u64>().prop_map(Number::Plain),
        1 => (-1..=1i64).prop_map(Number::Now),
        2 => (-2..=2i64).prop_map(Number::Moved),
    ];
    // Where the words of a state of one part begin, and where anything does.
    let offset = prop_oneof![4 => (0..12usize).prop_map(|word| 34 + 8 * word), 1 => 0..120usize];
    (offset, number).prop_map(|(offset, number)| Forged { offset, number })
}

fn forge(state: &mut Stored, forged: Forged) {
    let Some(value) = &mut state.value else { return };
    let Some(field) = value.get_mut(forged.offset..).and_then(|rest| rest.first_chunk_mut()) else {
        return;
    };
    let number = match forged.number {
        Number::Plain(number) => number,
        Number::Now(offset) => state.now.wrapping_add_signed(offset),
        Number::Moved(offset) => u64::from_le_bytes(*field).wrapping_add_signed(offset),
    };
    *field = number.to_le_bytes();
}

#[test]
fn forged_states_never_panic() {
    let changes = prop::collection::vec(forged(), 1..=3);
    let inputs = (small_rule(), hits(), changes, 0..3_000_000u64, 0..=15u32);
    check(30_000, inputs, |(rule, hits, changes, wait, cost)| {
        let mut state = Stored::after(&[rule], &hits);
        for change in changes {
            forge(&mut state, change);
        }
        survives(&state, cost)?;
        survives(&state.at(state.now + wait), cost)?;
        survives(&state.at(state.now.saturating_sub(wait)), cost)
    });
}

/// The same for what only a throttle can ask for.
#[test]
fn forged_states_survive_a_refund() {
    let changes = prop::collection::vec(forged(), 1..=3);
    let inputs = (small_rule(), hits(), changes, 0..3_000_000u64);
    check(6_000, inputs, |(rule, hits, changes, wait)| {
        let mut state = Stored::after(&[rule], &hits);
        let clock = ManualClock::at(Timestamp::from_micros(state.now));
        let bytes = Bytes::that_keep(&clock);
        let throttle = throttle("semantics:forged", &[rule], bytes.clone());
        bytes.set_value(state.value.clone());
        let receipt = at_once(throttle.hit(SHORT_KEY)).unwrap().receipt();
        state.value = bytes.value();
        for change in changes {
            forge(&mut state, change);
        }
        bytes.set_value(state.value);
        clock.set(Timestamp::from_micros(state.now + wait));
        if let Some(receipt) = receipt {
            match at_once(throttle.refund(SHORT_KEY, receipt)) {
                Ok(()) => {}
                Err(Error::Backend(error)) if error.kind() == ErrorKind::Corrupt => {}
                Err(other) => panic!("{other}"),
            }
        }
        let fresh = rule.shown_capacity();
        let peek = at_once(throttle.peek(SHORT_KEY)).unwrap();
        prop_assert!(peek.remaining() <= fresh, "never above the capacity, by policy nothing");
        Ok(())
    });
}

/// The newest entry of a log is the one that a hit adds to.
#[test]
fn a_log_checks_the_count_that_it_adds_to() {
    let mut state = Stored::after(&[Rule::new(Kind::Log, 5, secs(10))], &[(0, 1)]);
    let value = state.value.as_mut().unwrap();
    // The count of the only entry, which is the last word; the sum still says 1.
    *value.last_chunk_mut().unwrap() = u64::MAX.to_le_bytes();
    assert!(is_corrupt(&state), "{state:?}");
    survives(&state, 1).unwrap();
}

/// A part of the state that another limit owns is not lost with the one that cannot be read.
#[test]
fn one_corrupt_part_does_not_take_the_others_along() {
    let rules = [Rule::new(Kind::Fixed, 5, secs(60)), Rule::new(Kind::Log, 5, secs(10))];
    let mut both = Stored::after(&rules, &[(0, 3)]);
    let value = both.value.as_mut().unwrap();
    // The log is the second part: its last word is the count of its entry, its sum is wrong then.
    let sum = value.len() - 24;
    value[sum..sum + 8].copy_from_slice(&9u64.to_le_bytes());
    both.heal(1, Op::Take);
    assert_eq!(both.peek(1).decision.remaining(), 1, "the window still knows of four hits");
    let log = Stored { limits: vec![rules[1].to_limit()], ..both.clone() };
    assert_eq!(log.peek(1).decision.remaining(), 4, "the log holds this one");
}

/// Nothing that is written has a sum beyond the largest limit, also not where entries have expired.
#[test]
fn a_log_checks_its_sum_before_anything_expires() {
    let hits = [(0, 1), (8_000_000, 1)];
    let mut state = Stored::after(&[Rule::new(Kind::Log, 5, secs(10))], &hits);
    let value = state.value.as_mut().unwrap();
    // The words are the sum, and the instant and the count of two entries.
    let (sum, count) = (value.len() - 40, value.len() - 24);
    value[sum..sum + 8].copy_from_slice(&((1u64 << 32) + 1).to_le_bytes());
    value[count..count + 8].copy_from_slice(&(1u64 << 32).to_le_bytes());
    state.now += 5_000_000;
    assert!(is_corrupt(&state), "{state:?}");
    survives(&state, 1).unwrap();
}

/// A refund that finds a part that it cannot read has not given back of the others twice.
#[test]
fn a_refund_beside_a_corrupt_part_gives_back_once() {
    let rules = [Rule::new(Kind::Leaky, 10, secs(60)), Rule::new(Kind::Fixed, 10, secs(60))];
    let mut both = Stored::after(&rules, &[(0, 5)]);
    let value = both.value.as_mut().unwrap();
    *value.last_chunk_mut().unwrap() = u64::MAX.to_le_bytes();
    let refund = Op::Refund { taken_at: Timestamp::from_micros(both.now) };
    both.heal(2, refund);
    let bucket = both.peek(1).decision.answers().next().unwrap();
    assert_eq!(bucket.remaining(), 7, "of the bucket");
}
