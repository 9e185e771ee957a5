//! A lone fixed window of a usual period as one number, so that a hit is one `incr`.
//!
//! ```text
//! period   5 bits   its place in PERIODS, and one; so never 0
//! window   enough bits for every window until the last instant
//! count    the rest
//! ```
//!
//! The window is in the number, so who adds one learns in which window it was counted: a hit that met an
//! old window goes the long way, and one whose clock is behind counts in the window that is there, as in
//! every backend. The period is in it too, and the form is only another spelling of the common one: all
//! but unit hits read and write it by the same pure function and `cas`, so the two never disagree. An
//! item is a number exactly when the last step that wrote it was of one such limit alone.
//!
//! Half of the count's range is left to hits that were counted and are not yet given back, so a count
//! never runs over into the window.

use crate::clock::Timestamp;
use crate::strategy::codec::{self, Part};
use crate::strategy::{Core, FixedWindow, Limit, State, Step, Tag};

const PERIOD_BITS: u32 = 5;
const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The place of a period is part of what is stored: never change it.
const PERIODS: [u64; 31] = [
    SECOND,
    2 * SECOND,
    3 * SECOND,
    5 * SECOND,
    10 * SECOND,
    15 * SECOND,
    20 * SECOND,
    30 * SECOND,
    MINUTE,
    2 * MINUTE,
    3 * MINUTE,
    5 * MINUTE,
    10 * MINUTE,
    15 * MINUTE,
    20 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
    3 * HOUR,
    4 * HOUR,
    6 * HOUR,
    8 * HOUR,
    12 * HOUR,
    DAY,
    2 * DAY,
    3 * DAY,
    5 * DAY,
    7 * DAY,
    10 * DAY,
    14 * DAY,
    30 * DAY,
];

/// A period whose windows are counted in a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    place: u8,
    pub(super) period: u64,
}

/// What such a number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) form: Form,
    /// Which window since the epoch.
    pub(super) window: u64,
    pub(super) count: u64,
}

impl Form {
    /// The form of a step that may be one number: of one fixed window alone.
    pub(super) fn of(step: &Step<'_>) -> Option<Self> {
        let [limit] = step.limits() else { return None };
        let Core::Fixed(_) = limit.core() else { return None };
        let form = Self::of_period(limit.rate().period_micros())?;
        (u64::from(limit.rate().limit()) <= form.most()).then_some(form)
    }

    fn of_period(period: u64) -> Option<Self> {
        let place = PERIODS.iter().position(|known| *known == period)?;
        Some(Self { place: u8::try_from(place).ok()?, period })
    }

    /// The largest limit, and the largest count that is written.
    fn most(self) -> u64 {
        1 << (self.count_bits() - 1)
    }

    fn count_bits(self) -> u32 {
        let windows = Timestamp::MAX.as_micros() / self.period;
        windows.leading_zeros() - PERIOD_BITS
    }

    pub(super) fn window_at(self, now: Timestamp) -> u64 {
        now.as_micros() / self.period
    }

    /// A refund in this form takes from its limit, whatever that is.
    pub(super) fn any_limit(self) -> Limit {
        let rate = crate::Rate::from_micros(u32::MAX, self.period);
        Limit::for_refund(rate, std::sync::Arc::new(FixedWindow::new()))
    }
}

impl Tally {
    pub(super) fn number(self) -> u64 {
        let bits = self.form.count_bits();
        let place = u64::from(self.form.place) + 1;
        place << (u64::BITS - PERIOD_BITS) | self.window << bits | self.count
    }

    /// `None` for a number that was not written by [`number`](Self::number).
    pub(super) fn of(number: u64) -> Option<Self> {
        let place = u8::try_from(number >> (u64::BITS - PERIOD_BITS)).ok()?.checked_sub(1)?;
        let form = Form { place, period: PERIODS[usize::from(place)] };
        let bits = form.count_bits();
        let window = (number << PERIOD_BITS) >> (PERIOD_BITS + bits);
        let known = window <= form.window_at(Timestamp::MAX);
        known.then_some(Self { form, window, count: number & ((1 << bits) - 1) })
    }

    pub(super) fn start(self) -> Timestamp {
        Timestamp::from_micros(self.window * self.form.period)
    }

    pub(super) fn end(self) -> Timestamp {
        Timestamp::from_micros((self.window + 1) * self.form.period)
    }

    pub(super) fn count(self) -> u32 {
        u32::try_from(self.count).unwrap_or(u32::MAX)
    }

    /// The number that an item holds.
    pub(super) fn parse(item: &[u8]) -> Option<Self> {
        let digits = item.iter().all(u8::is_ascii_digit);
        let text = std::str::from_utf8(item).ok().filter(|text| digits && !text.is_empty())?;
        Self::of(text.parse().ok()?)
    }

    /// The common form of the same state; `None` for one that counts nothing.
    pub(super) fn to_common(self) -> Option<Vec<u8>> {
        let state = State::new(self.start(), vec![u64::from(self.count())]);
        let tag = Tag::FIXED_WINDOW;
        let part = Part { tag, period: self.form.period, fresh_at: self.end(), state };
        (self.count > 0).then(|| codec::encode(&[part]))
    }

    /// The number of a state in the common form, if it says nothing else.
    pub(super) fn of_common(form: Form, stored: &[u8]) -> Option<Self> {
        let parts = codec::decode(stored).ok()?;
        let [part] = &parts[..] else { return None };
        let [count] = *part.state.words() else { return None };
        let same = part.tag == Tag::FIXED_WINDOW && part.period == form.period;
        let window = form.window_at(part.state.last());
        (same && count <= form.most()).then_some(Self { form, window, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_usual_period_has_room_to_count() {
        for period in PERIODS {
            let form = Form::of_period(period).unwrap();
            assert!(form.most() >= 1 << 24, "{period}");
            let last = form.window_at(Timestamp::MAX);
            for window in [0, 1, last] {
                for count in [0, 1, form.most(), form.most() * 2 - 1] {
                    let tally = Tally { form, window, count };
                    assert_eq!(Tally::of(tally.number()), Some(tally));
                    assert!(tally.number() >= 1 << 59, "it stands apart from a small number");
                }
            }
        }
        assert_eq!(Form::of_period(2_500_000), None);
    }

    proptest! {
        #[test]
        fn f30_no_number_makes_it_panic(number: u64) {
            if let Some(tally) = Tally::of(number) {
                prop_assert_eq!(tally.number(), number);
                prop_assert!(tally.end() >= tally.start());
                let _ = tally.to_common();
            }
        }

        #[test]
        fn the_two_forms_say_the_same(place in 0..31usize, now: u64, count in 1u32..1 << 24) {
            let form = Form::of_period(PERIODS[place]).unwrap();
            let window = form.window_at(Timestamp::from_micros(now));
            let tally = Tally { form, window, count: count.into() };
            let common = tally.to_common().unwrap();
            prop_assert_eq!(Tally::of_common(form, &common), Some(tally));
        }

        #[test]
        fn adding_one_adds_one(place in 0..31usize, now: u64, count in 0u64..1 << 24) {
            let form = Form::of_period(PERIODS[place]).unwrap();
            let window = form.window_at(Timestamp::from_micros(now));
            let tally = Tally { form, window, count };
            let next = Tally { count: count + 1, ..tally };
            prop_assert_eq!(Tally::of(tally.number() + 1), Some(next));
        }
    }
}
