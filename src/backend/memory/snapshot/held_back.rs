//! Every instant of a state that is later than now becomes now.
//!
//! A process that starts again may find its clock set back. What was counted stays counted, and from then on fades as if
//! it had been counted now: nothing extra is granted.

use crate::clock::Timestamp;
use crate::step::codec::Part;
use crate::strategy::{State, StrategyId};

/// Returns to when the parts of a key are held back: now, or the latest instant of a user's own strategy, whose part stays
/// as it was written. Which of its words are instants that strategy alone knows; so for the whole key time stands still
/// until then, as it does for a key whose clock was set back. Else a block of it would be over at once.
pub(super) fn held_at<'p>(parts: impl Iterator<Item = &'p Part>, now: Timestamp) -> Timestamp {
    let own = parts.filter(|part| part.id.strategy.is_custom());
    own.map(|part| part.state.last()).fold(now, Timestamp::max)
}

/// Holds a part back to an instant.
pub(super) fn hold_back(part: &mut Part, now: Timestamp) {
    let last = part.state.last();
    if last <= now || part.id.strategy.is_custom() {
        return;
    }
    let late_by = match part.id.strategy {
        StrategyId::SLIDING_WINDOW_LOG => {
            let (words, late_by) = hold_log_back(part.state.words(), now.as_micros());
            part.state = State::new(now, words);
            late_by
        }
        _ => {
            part.state = State::new(now, part.state.words().to_vec());
            last.as_micros() - now.as_micros()
        }
    };
    // It still takes as long; but for what takes longer than can be said.
    if part.reset_at < Timestamp::MAX {
        let reset_at = part.reset_at.as_micros().saturating_sub(late_by);
        part.reset_at = Timestamp::from_micros(reset_at);
    }
}

/// The words of a log: a sum, then pairs of an instant and a count, oldest first. Returns by how much the newest was too
/// late.
fn hold_log_back(words: &[u64], now: u64) -> (Vec<u64>, u64) {
    let Some((total, entries)) = words.split_first() else { return (Vec::new(), 0) };
    let (pairs, rest) = entries.as_chunks::<2>();
    let mut held = vec![*total];
    for &[at, count] in pairs {
        let at = at.min(now);
        match held[1..].last_chunk_mut() {
            Some([newest, counted]) if *newest == at => *counted = counted.saturating_add(count),
            _ => held.extend([at, count]),
        }
    }
    held.extend_from_slice(rest);
    let newest = pairs.last().map_or(0, |[at, _]| *at);
    (held, newest.saturating_sub(now))
}

#[cfg(all(test, not(traffik_model)))]
mod tests {
    use super::*;
    use crate::strategy::PartId;

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn part(strategy: StrategyId, last: u64, reset_at: u64, words: &[u64]) -> Part {
        let id = PartId { strategy, period: 1000, limit: 0, burst: 0 };
        Part { id, reset_at: at(reset_at), state: State::new(at(last), words.to_vec()) }
    }

    fn held(mut part: Part, now: u64) -> Part {
        hold_back(&mut part, at(now));
        part
    }

    #[test]
    fn what_is_past_stays_as_it_is() {
        for strategy in [StrategyId::BUCKET, StrategyId::SLIDING_WINDOW_LOG, StrategyId::BLOCK] {
            let past = part(strategy, 500, 900, &[1, 500, 1]);
            assert_eq!(held(past.clone(), 500), past);
        }
    }

    #[test]
    fn what_is_later_begins_now_and_takes_as_long() {
        let bucket = held(part(StrategyId::BUCKET, 500, 900, &[4, 3]), 200);
        assert_eq!(bucket, part(StrategyId::BUCKET, 200, 600, &[4, 3]));
        let endless = held(part(StrategyId::BUCKET, 500, u64::MAX, &[4, 3]), 200);
        assert_eq!(endless, part(StrategyId::BUCKET, 200, u64::MAX, &[4, 3]));
        let block = held(part(StrategyId::BLOCK, 500, 90_000, &[1]), 200);
        assert_eq!(block, part(StrategyId::BLOCK, 200, 89_700, &[1]));
    }

    #[test]
    fn entries_of_a_log_that_are_later_become_one() {
        let log = |last, reset_at, words: &[u64]| {
            part(StrategyId::SLIDING_WINDOW_LOG, last, reset_at, words)
        };
        let later = log(500, 1500, &[10, 100, 1, 300, 2, 400, 3, 500, 4]);
        assert_eq!(held(later, 300), log(300, 1300, &[10, 100, 1, 300, 9]));
        // Touched by a refund after its newest entry.
        assert_eq!(held(log(500, 1100, &[1, 100, 1]), 300), log(300, 1100, &[1, 100, 1]));
        assert_eq!(held(log(500, 900, &[]), 300), log(300, 900, &[]));
        assert_eq!(held(log(500, 900, &[7, 8]), 300), log(300, 900, &[7, 8]), "not ours to mend");
    }

    #[test]
    fn what_only_its_strategy_understands_stays_as_it_is_and_so_does_its_key() {
        let custom = part(StrategyId::of("mine"), 500, 900, &[500]);
        assert_eq!(held(custom.clone(), 200), custom);
        let bucket = part(StrategyId::BUCKET, 700, 900, &[4, 3]);
        assert_eq!(held_at([&bucket].into_iter(), at(200)), at(200));
        assert_eq!(held_at([&bucket, &custom].into_iter(), at(200)), at(500));
        assert_eq!(held_at([&bucket, &custom].into_iter(), at(600)), at(600));
    }
}
