//! Random limits, steps and values, the same in every run.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::rate::Rate;
use crate::strategy::{
    FixedWindow, Gcra, LeakyBucket, Limit, LimitError, SlidingWindowCounter, SlidingWindowLog,
    TokenBucket,
};

/// xorshift64*.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        random
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    pub(super) fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap()
    }

    pub(super) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    /// Any number, of any length in bits up to `bits`.
    pub(super) fn up_to_bits(&mut self, bits: u64) -> u64 {
        self.next() >> (64 - bits + self.below(bits))
    }

    fn units(&mut self) -> u32 {
        match self.below(4) {
            0 => u32::try_from(self.up_to_bits(32)).unwrap(),
            1 => self.pick(&[u32::MAX, u32::MAX - 1, 1 << 31, 1_000_000]),
            _ => self.pick(&[1, 1, 2, 3, 5, 10, 100, 1_000]),
        }
    }

    fn period(&mut self) -> Duration {
        let millis = match self.below(3) {
            0 => 1 + self.up_to_bits(34),
            1 => self.pick(&[1, 366 * 86_400_000]),
            _ => self.pick(&[1, 10, 1_000, 60_000, 3_600_000, 86_400_000]),
        };
        Duration::from_millis(millis)
    }
}

/// Where the state of a limit is: its kind and period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) kind: u64,
    pub(super) period: Duration,
}

pub(super) const KINDS: u64 = 6;

impl Place {
    pub(super) fn any(random: &mut Random) -> Self {
        Self { kind: random.below(KINDS), period: random.period() }
    }

    /// A limit that keeps its state there.
    pub(super) fn limit(self, random: &mut Random) -> Limit {
        let units = if random.one_in(20) { 0 } else { random.units() };
        let rate = Rate::new(units, self.period).unwrap();
        if random.one_in(40) {
            return self.try_limit(Rate::UNLIMITED, 0).unwrap();
        }
        for _ in 0..3 {
            let burst = if random.one_in(3) { rate } else { rate.burst(random.units()) };
            let debt = if random.one_in(2) { 0 } else { random.units() };
            if let Ok(limit) = self.try_limit(burst, debt) {
                return limit;
            }
        }
        self.try_limit(rate, 0).unwrap()
    }

    fn try_limit(self, rate: Rate, debt: u32) -> Result<Limit, LimitError> {
        match self.kind {
            0 => Limit::new(rate, TokenBucket::new().max_debt(debt)),
            1 => Limit::new(rate, LeakyBucket),
            2 => Limit::new(rate, Gcra),
            3 => Limit::new(rate, FixedWindow),
            4 => Limit::new(rate, SlidingWindowCounter),
            _ => Limit::new(rate, SlidingWindowLog::new().max_entries(u32::MAX)),
        }
    }
}

/// Spoils a stored value.
pub(super) fn spoil(random: &mut Random, value: &[u8]) -> Vec<u8> {
    let mut bytes = value.to_vec();
    if bytes.is_empty() || random.one_in(10) {
        let length = random.index(120);
        bytes = (0..length).map(|_| random.next().to_le_bytes()[0]).collect();
        if let Some(version) = bytes.first_mut() {
            *version = 1;
        }
        return bytes;
    }
    match random.below(6) {
        0 => bytes.truncate(random.index(bytes.len())),
        1 => bytes.push(0),
        2 | 3 => {
            let index = random.index(bytes.len());
            bytes[index] ^= 1 << random.below(8);
        }
        _ => {
            // A number of eight bytes: those of a part begin at 2, 6, 14, 22, 30 and, the words, at 42.
            let numbers = bytes.len().saturating_sub(2) / 8;
            let place = match random.below(3) {
                0 => random.pick(&[6, 14, 22, 30]),
                _ => 2 + 8 * random.index(numbers + 1),
            };
            if let Some(number) = bytes[place.min(value.len())..].first_chunk_mut() {
                *number = odd_number(random, u64::from_le_bytes(*number)).to_le_bytes();
            }
        }
    }
    bytes
}

fn odd_number(random: &mut Random, was: u64) -> u64 {
    let max = Timestamp::MAX.as_micros();
    match random.below(4) {
        0 => was.wrapping_add(1),
        1 => was.wrapping_sub(1),
        2 => random.up_to_bits(64),
        _ => random.pick(&[0, 1, 1 << 32, (1 << 33) - 1, 1 << 33, max, max + 1, max + 2, u64::MAX]),
    }
}
