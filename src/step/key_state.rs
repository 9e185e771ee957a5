//! [`KeyState`]: what is stored of a key, to be shown to an operator.

use std::time::Duration;

use super::codec;
use crate::clock::Timestamp;
use crate::rate::Rate;
use crate::strategy::{CorruptState, Limit, PartId, StrategyId};

/// What is stored of a key of a throttle: its block, and a part for each limit that has counted something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyState {
    read_at: Timestamp,
    blocked_until: Option<Timestamp>,
    parts: Vec<StatePart>,
}

/// One part of a key's state: that of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatePart {
    /// The strategy by which it is counted.
    pub strategy: StrategyId,
    /// The period of its rate.
    pub period: Duration,
    /// The rate, if a hit brought it. One of a throttle's own may change its limit and burst, so these are not
    /// stored.
    pub rate: Option<Rate>,
    /// When it was last changed.
    pub changed_at: Timestamp,
    /// From when on it counts no more.
    pub reset_at: Timestamp,
}

impl StatePart {
    /// Returns whether it is the state of a limit.
    pub(crate) fn is_of(&self, limit: &Limit) -> bool {
        let rate = limit.rate();
        let is_of_rate = match &self.rate {
            None => !limit.is_per_hit(),
            Some(brought) => {
                limit.is_per_hit()
                    && brought.limit() == rate.limit()
                    && brought.effective_burst() == rate.effective_burst()
            }
        };
        is_of_rate && self.strategy == limit.strategy_id() && self.period == rate.period()
    }
}

impl KeyState {
    /// Of a key of which nothing is stored.
    pub(crate) const fn empty(read_at: Timestamp) -> Self {
        Self { read_at, blocked_until: None, parts: Vec::new() }
    }

    /// Reads a stored value. What is over is left out.
    ///
    /// # Errors
    ///
    /// When it is not what a throttle stores.
    pub fn read(stored: Option<&[u8]>, read_at: Timestamp) -> Result<Self, CorruptState> {
        let mut state = Self::empty(read_at);
        for part in stored.map_or(Ok(Vec::new()), codec::decode)? {
            state.add(part.id, part.state.last(), part.reset_at);
        }
        Ok(state)
    }

    /// Adds a part, unless it is over.
    pub(crate) fn add(&mut self, id: PartId, changed_at: Timestamp, reset_at: Timestamp) {
        if reset_at <= self.read_at {
            return;
        }
        if id == PartId::BLOCK {
            self.blocked_until = Some(reset_at);
            return;
        }
        let period = Duration::from_micros(id.period);
        let rate = id.is_per_hit().then(|| Rate::new(id.limit, period).ok()).flatten();
        let rate = rate.map(|rate| if id.burst == id.limit { rate } else { rate.burst(id.burst) });
        self.parts.push(StatePart { strategy: id.strategy, period, rate, changed_at, reset_at });
    }

    /// Returns when it was read, by the backend's clock, as all its instants are.
    #[must_use]
    pub const fn read_at(&self) -> Timestamp {
        self.read_at
    }

    /// Returns until when the key is blocked; `None` if it is not.
    #[must_use]
    pub const fn blocked_until(&self) -> Option<Timestamp> {
        self.blocked_until
    }

    /// Returns the parts of its limits, in no order that means anything.
    #[must_use]
    pub fn parts(&self) -> &[StatePart] {
        &self.parts
    }
}
