//! Blocks: a part of a key's state that denies every hit until it is over.

use std::time::Duration;

use super::codec::{self, Part};
use super::operation::apply_healing;
use super::{Cell, MAX_LIMITS, Step, StepError, Write, joined};
use crate::clock::Timestamp;
use crate::decision::Decision;
use crate::strategy::{CorruptState, Op, PartId, State};

/// A change of a key's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockChange {
    /// Block it for that long from now, whatever there was before.
    Replace(Duration),
    /// Block it for that long from now, unless it is blocked for longer.
    Lengthen(Duration),
    /// End the block, if there is one.
    Remove,
}

impl BlockChange {
    /// Returns until when a key is blocked that was until then.
    pub(crate) fn until(self, before: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Replace(time) => Some(now.saturating_add(time)),
            Self::Lengthen(time) => Some(now.saturating_add(time)).max(before),
            Self::Remove => None,
        }
    }

    /// Returns the word of the block's part.
    pub(crate) const fn word(self) -> u64 {
        matches!(self, Self::Lengthen(_)) as u64
    }

    /// Returns whether a key was blocked by its stored value, and what must be stored for the change to hold: for a
    /// store with transactions, as [`Step::evaluate`]. A value that cannot be read counts as none.
    ///
    /// # Errors
    ///
    /// [`StepError::TooManyRates`] if the value has no room for a part more.
    pub fn evaluate(
        &self,
        stored: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<(bool, Option<Write>), StepError> {
        let mut parts = stored.and_then(|bytes| codec::decode(bytes).ok()).unwrap_or_default();
        let before = until(&parts).filter(|until| *until > now);
        let after = self.until(before, now);
        if after == before {
            return Ok((before.is_some(), None));
        }
        parts.retain(|part| part.id != PartId::BLOCK);
        if let Some(reset_at) = after {
            let state = State::new(now, vec![self.word()]);
            parts.push(Part { id: PartId::BLOCK, reset_at, state });
        }
        Ok((before.is_some(), Some(joined(parts, now)?)))
    }
}

/// Returns until when a key is blocked.
pub(super) fn until(parts: &[Part]) -> Option<Timestamp> {
    parts.iter().find(|part| part.id == PartId::BLOCK).map(|part| part.reset_at)
}

impl Step<'_> {
    /// Returns what is decided while a key is blocked; `None` for what a block does not concern: refunds, and
    /// what has happened.
    fn while_blocked(&self) -> Option<Self> {
        let cost = match self.op() {
            Op::Peek | Op::Take | Op::Reserve { .. } => self.cost(),
            Op::TakeUpTo => self.cost().min(1),
            Op::Refund { .. } | Op::Charge | Op::Drain => return None,
        };
        Some(Step::of_apart(self.limits(), cost, Op::Peek).leave(self.units_to_leave()))
    }

    /// Decides on the cells of a key that is blocked until then; `None` if that does not concern the step, or is
    /// over. A state that cannot be read is a matter of the next hit that the block lets through.
    pub(crate) fn decide_blocked(
        &self,
        cells: &mut [Cell],
        until: Option<Timestamp>,
        asked_at: Timestamp,
    ) -> Option<Result<Decision, CorruptState>> {
        let at = cells.iter().map(Cell::last).fold(asked_at, Timestamp::max);
        let until = until.filter(|until| *until > at)?;
        let step = self.while_blocked()?;
        let (applied, corrupt) = apply_healing::<MAX_LIMITS>(&step, cells, asked_at);
        Some(match (applied, corrupt) {
            (Some(applied), _) => Ok(applied.decision(&step, asked_at).blocked(until, asked_at)),
            (None, Some(corrupt)) => Err(corrupt),
            (None, None) => Err(CorruptState("a strategy cannot read a fresh state")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::{Denial, Outcome};
    use crate::rate::Rate;
    use crate::strategy::{Limit, TokenBucket};

    const NOW: Timestamp = Timestamp::from_micros(1_704_067_200_000_000);

    fn stored(write: Option<Write>) -> Option<Vec<u8>> {
        match write {
            Some(Write::Put { value, .. }) => Some(value),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_block_is_one_part_that_changes_no_other() {
        let limits = [Limit::new(Rate::per_minute(5), TokenBucket::new()).unwrap()];
        let take =
            |stored: Option<&[u8]>| Step::new(&limits, 2, Op::Take).evaluate(stored, NOW).unwrap();
        let counted = stored(take(None).write);
        let minute = Duration::from_secs(60);
        let change =
            |change: BlockChange, stored: Option<&[u8]>| change.evaluate(stored, NOW).unwrap();
        let (was, write) = change(BlockChange::Replace(minute), counted.as_deref());
        let Some(Write::Put { ttl, .. }) = &write else { panic!("{write:?}") };
        assert!(!was && *ttl == minute, "it is kept as long as the block");
        let blocked = stored(write);
        let denied = take(blocked.as_deref());
        assert_eq!(denied.decision.denial(), Some(Denial::Blocked));
        assert_eq!(denied.decision.outcome(), Outcome::Denied { retry_after: minute });
        assert_eq!((denied.decision.remaining(), denied.write), (3, None));
        // Longer or not at all, by a penalty.
        assert_eq!(change(BlockChange::Lengthen(minute / 2), blocked.as_deref()), (true, None));
        let (was, longer) = change(BlockChange::Lengthen(minute * 2), blocked.as_deref());
        assert!(was && longer.is_some());
        let (_, shorter) = change(BlockChange::Replace(minute / 2), stored(longer).as_deref());
        let (was, removed) = change(BlockChange::Remove, stored(shorter).as_deref());
        assert!(was);
        assert_eq!(stored(removed), counted, "as if there had been none");
        assert_eq!(change(BlockChange::Remove, counted.as_deref()), (false, None));
        let (_, alone) = change(BlockChange::Replace(minute), None);
        let alone = stored(alone);
        assert_eq!(change(BlockChange::Remove, alone.as_deref()), (true, Some(Write::Delete)));
        let after = NOW.saturating_add(minute);
        let passed = Step::new(&limits, 1, Op::Take).evaluate(alone.as_deref(), after).unwrap();
        assert!(passed.decision.is_allowed(), "it is over at its instant");
    }

    #[test]
    fn the_wait_is_that_of_the_block_and_the_limits() {
        let limits = [Limit::new(Rate::per_minute(1), TokenBucket::new()).unwrap()];
        let used = Step::new(&limits, 1, Op::Take).evaluate(None, NOW).unwrap();
        let used = stored(used.write);
        for (block, expected) in [(5, 60), (90, 90)] {
            let block = BlockChange::Replace(Duration::from_secs(block));
            let blocked = stored(block.evaluate(used.as_deref(), NOW).unwrap().1);
            let denied = Step::new(&limits, 1, Op::Take).evaluate(blocked.as_deref(), NOW).unwrap();
            let expected = Outcome::Denied { retry_after: Duration::from_secs(expected) };
            assert_eq!(denied.decision.outcome(), expected);
            let never = Step::new(&limits, 2, Op::Take).evaluate(blocked.as_deref(), NOW).unwrap();
            assert_eq!(never.decision.outcome(), Outcome::Never);
            assert_eq!(never.decision.denial(), Some(Denial::Blocked));
            let free = Step::new(&limits, 0, Op::Take).evaluate(blocked.as_deref(), NOW).unwrap();
            assert_eq!(free.decision.denial(), Some(Denial::Blocked), "every cost");
        }
    }
}
