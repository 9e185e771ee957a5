//! Bytes that are taken apart, into zeros when there are no more.

use crate::rate::Rate;
use crate::strategy::{
    FixedWindow, Limit, SlidingWindowCounter, SlidingWindowLog, Strategy, TokenBucket,
};

pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        for byte in &mut taken {
            if let Some((first, rest)) = self.0.split_first() {
                (*byte, self.0) = (*first, rest);
            }
        }
        taken
    }

    pub(crate) fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// As many bytes as a byte before them says, or as there are.
    #[cfg(all(feature = "redis", feature = "memcached"))]
    pub(crate) fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte());
        let (piece, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        piece
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.0
    }
}

/// One of some sets of limits: each strategy alone, all together, and those without a state.
pub(crate) fn limits(which: u8) -> Vec<Limit> {
    fn limit(rate: &str, strategy: impl Strategy) -> Limit {
        let rate: Rate = rate.parse().expect("a rate");
        Limit::new(rate, strategy).expect("a strategy that keeps it")
    }
    match which % 7 {
        0 => vec![limit("5/s", TokenBucket::new())],
        1 => vec![limit("3/min", FixedWindow::new())],
        2 => vec![limit("7/h", SlidingWindowCounter::new())],
        3 => vec![limit("4/s", SlidingWindowLog::new())],
        4 => vec![
            limit("5/s burst 9", TokenBucket::new().max_debt(3)),
            limit("3/min", FixedWindow::new()),
            limit("7/h", SlidingWindowCounter::new()),
            limit("4/s", SlidingWindowLog::new()),
        ],
        5 => vec![limit("unlimited", TokenBucket::new()), limit("0/s", FixedWindow::new())],
        _ => vec![
            limit("4294967295/366d", FixedWindow::new()),
            limit("4294967295/ms", TokenBucket::new()),
        ],
    }
}
