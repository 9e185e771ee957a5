//! The sliding window log: remembers each hit for one period.

use super::{Answer, CorruptState, LimitError, Op, State, Strategy, StrategyId, Verdict};
use crate::clock::Timestamp;
use crate::rate::Rate;

/// Remembers each hit for exactly one period: a hit at `t` counts on `(now - period, now]`.
///
/// The most exact window: in no period do more than the limit pass. It costs 16 bytes an instant at
/// which something fit, so its limit is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlidingWindowLog {
    max_entries: u32,
}

impl SlidingWindowLog {
    /// Creates a log of at most 1,000 entries.
    #[must_use]
    pub const fn new() -> Self {
        Self { max_entries: 1_000 }
    }

    /// Sets the largest limit that it accepts. Defaults to 1,000.
    ///
    /// A long log is slow where the whole state is read and written at each hit, as in a shared store.
    #[must_use]
    pub const fn max_entries(mut self, entries: u32) -> Self {
        self.max_entries = entries;
        self
    }
}

impl Default for SlidingWindowLog {
    fn default() -> Self {
        Self::new()
    }
}

impl Strategy for SlidingWindowLog {
    fn evaluate(
        &self,
        rate: &Rate,
        state: &mut State,
        now: Timestamp,
        cost: u32,
        op: Op,
    ) -> Result<Answer, CorruptState> {
        let log = Log::read(state, rate, now)?;
        if cost == 0 {
            return Ok(log.answer(Verdict::Allowed, log.live));
        }
        if let Op::Refund { taken_at } = op {
            log.refund(state, taken_at, cost)?;
            let log = Log::read(state, rate, now)?;
            return Ok(log.answer(Verdict::Allowed, log.live));
        }
        if op == Op::Charge {
            let live = log.charge(state, cost);
            let charged = Log { newest: Some(now), ..log };
            return Ok(charged.answer(Verdict::Allowed, live));
        }
        if cost > log.limit {
            return Ok(log.answer(Verdict::Never, log.live));
        }
        if u64::from(log.live) + u64::from(cost) > u64::from(log.limit) {
            let retry_at = log.retry_at(state, cost)?;
            return Ok(log.answer(Verdict::Denied { retry_at }, log.live));
        }
        if op != Op::Take {
            return Ok(log.answer(Verdict::Allowed, log.live));
        }
        log.take(state, cost);
        let taken = Log { newest: Some(now), ..log };
        Ok(taken.answer(Verdict::Allowed, log.live + cost))
    }

    fn id(&self) -> StrategyId {
        StrategyId::SLIDING_WINDOW_LOG
    }

    fn supports(&self, op: Op) -> bool {
        !matches!(op, Op::Reserve { .. })
    }

    fn check(&self, rate: &Rate) -> Result<(), LimitError> {
        LimitError::refuse_burst(rate)?;
        if rate.limit() > self.max_entries {
            return Err(LimitError::new(
                rate,
                format!(
                    "the limit is above the log's {} entries; raise it with max_entries, or use \
                     another strategy",
                    self.max_entries
                ),
            ));
        }
        Ok(())
    }
}

/// What the stored words say at `now`.
///
/// Words: the sum of all counts, then a pair (instant, count) for each instant, oldest first. Only
/// pairs that have expired are read, from the front, and the newest.
#[derive(Clone, Copy, Debug)]
struct Log {
    limit: u32,
    period: u64,
    now: Timestamp,
    /// Units that still count.
    live: u32,
    /// Pairs at the front that no longer count.
    expired: usize,
    newest: Option<Timestamp>,
}

impl Log {
    fn read(state: &State, rate: &Rate, now: Timestamp) -> Result<Self, CorruptState> {
        let mut log = Self {
            limit: rate.limit(),
            period: rate.period_micros(),
            now,
            live: 0,
            expired: 0,
            newest: None,
        };
        let Some((total, entries)) = state.words().split_first() else { return Ok(log) };
        let (pairs, []) = entries.as_chunks::<2>() else {
            return Err(CorruptState("sliding window log: half an entry"));
        };
        let wrong = CorruptState("sliding window log: wrong total");
        // Before anything is taken off it: then every count that matters is a small number.
        log.live = u32::try_from(*total)
            .map_err(|_| CorruptState("sliding window log: total out of range"))?;
        for &[at, count] in pairs {
            if log.counts(at) {
                break;
            }
            let left = u32::try_from(count).ok().and_then(|count| log.live.checked_sub(count));
            log.live = left.ok_or(wrong)?;
            log.expired += 1;
        }
        if (log.live > 0) != (log.expired < pairs.len()) {
            return Err(wrong);
        }
        if log.live > 0
            && let Some(&[at, count]) = pairs.last()
        {
            if at > state.last().as_micros() || count > u64::from(log.live) {
                return Err(CorruptState("sliding window log: a wrong last entry"));
            }
            log.newest = Some(Timestamp::from_micros(at));
        }
        Ok(log)
    }

    /// Returns whether an entry of that instant still counts.
    fn counts(&self, at: u64) -> bool {
        self.gone_at(at) > self.now
    }

    fn gone_at(&self, at: u64) -> Timestamp {
        Timestamp::from_micros(at.saturating_add(self.period))
    }

    fn answer(&self, verdict: Verdict, live: u32) -> Answer {
        let reset_at = match self.newest {
            Some(newest) if live > 0 => self.gone_at(newest.as_micros()),
            _ => self.now,
        };
        Answer { verdict, remaining: self.limit.saturating_sub(live), reset_at }
    }

    /// Returns when enough entries are gone for `cost` to pass.
    fn retry_at(&self, state: &State, cost: u32) -> Result<Timestamp, CorruptState> {
        let (pairs, _) = state.words()[1..].as_chunks::<2>();
        let needed = u64::from(self.live) + u64::from(cost) - u64::from(self.limit);
        let mut freed = 0u64;
        for &[at, count] in &pairs[self.expired..] {
            freed = freed.saturating_add(count);
            if freed >= needed {
                return Ok(self.gone_at(at));
            }
        }
        Err(CorruptState("sliding window log: wrong total"))
    }

    fn take(&self, state: &mut State, cost: u32) {
        let live = u64::from(self.live) + u64::from(cost);
        if self.live == 0 {
            state.set(&[live, self.now.as_micros(), u64::from(cost)]);
            return;
        }
        self.drop_expired(state, live);
        match state.last_two_mut() {
            Some([at, count]) if *at == self.now.as_micros() => *count += u64::from(cost),
            _ => {
                state.push(self.now.as_micros());
                state.push(u64::from(cost));
            }
        }
    }

    /// Counts what has happened; returns the units that count then. A full log merges it into its newest
    /// entry, which moves to now: so there are never more entries than the limit has units.
    fn charge(&self, state: &mut State, cost: u32) -> u32 {
        let cost = cost.min(u32::MAX - self.live);
        if self.live < self.limit {
            self.take(state, cost);
            return self.live + cost;
        }
        self.drop_expired(state, u64::from(self.live) + u64::from(cost));
        if let Some([at, count]) = state.last_two_mut() {
            *at = self.now.as_micros();
            *count += u64::from(cost);
        }
        self.live + cost
    }

    /// Gives back up to `cost` of what was taken at that instant.
    fn refund(
        &self,
        state: &mut State,
        taken_at: Timestamp,
        cost: u32,
    ) -> Result<(), CorruptState> {
        if self.live == 0 || !self.counts(taken_at.as_micros()) {
            return Ok(());
        }
        let (pairs, _) = state.words()[1..].as_chunks::<2>();
        let index = self.first_from(pairs, taken_at.as_micros());
        let Some(&[_, count]) = pairs.get(index).filter(|pair| pair[0] == taken_at.as_micros())
        else {
            return Ok(());
        };
        if count > u64::from(self.live) {
            return Err(CorruptState("sliding window log: wrong total"));
        }
        let back = count.min(u64::from(cost));
        let words = state.words_mut();
        if count == back {
            words.drain(1 + 2 * index..3 + 2 * index);
        } else {
            words[2 + 2 * index] = count - back;
        }
        self.drop_expired(state, u64::from(self.live) - back);
        Ok(())
    }

    /// The first live pair that is not before that instant. Written out, so that a script that repeats
    /// this finds the same pair also among corrupt ones, which may be in any order.
    fn first_from(&self, pairs: &[[u64; 2]], instant: u64) -> usize {
        let (mut low, mut high) = (self.expired, pairs.len());
        while low < high {
            let middle = (low + high) / 2;
            if pairs[middle][0] < instant {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Drops the expired pairs and writes the new sum.
    fn drop_expired(&self, state: &mut State, live: u64) {
        state.drop_front(2 * self.expired);
        if let Some(total) = state.first_mut() {
            *total = live;
        }
    }
}
