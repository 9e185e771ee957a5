//! The stored form of a key's state: the same bytes in every store.
//!
//! All numbers are little-endian.
//!
//! ```text
//! version  u8  = 1
//! count    u8
//! count times:
//!   strategy  u32   its identifier
//!   period    u64   microseconds
//!   limit     u32   of a rate that a hit brought; 0 for a throttle's own
//!   burst     u32   as limit
//!   last      u64   microseconds since the epoch, as reset_at
//!   reset_at  u64
//!   length    u32   words that follow
//!   words     u64 * length
//! ```
//!
//! A block is a part of the strategy 5 and the period 0, with one word (1 if a penalty made it), which is over at
//! its `reset_at`.
//!
//! A part is found by the first four, never by its position, so a throttle that changes its period or
//! strategy leaves the other parts alone. Lengths are checked against the bytes at hand before
//! anything is allocated.

use crate::clock::Timestamp;
use crate::strategy::{CorruptState, PartId, State, StrategyId};

const VERSION: u8 = 1;
/// The most parts of one value besides a block.
pub(crate) const MAX_PARTS: usize = u8::MAX as usize - 1;
const HEADER: usize = 2;
const PART_HEADER: usize = 40;

/// The state of one limit, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) id: PartId,
    /// From when on it reads as missing.
    pub(crate) reset_at: Timestamp,
    pub(crate) state: State,
}

pub(crate) fn encode(parts: &[Part]) -> Vec<u8> {
    let parts = &parts[..parts.len().min(MAX_PARTS + 1)];
    let words: usize = parts.iter().map(|part| part.state.words().len()).sum();
    let mut bytes = Vec::with_capacity(HEADER + parts.len() * PART_HEADER + words * 8);
    bytes.push(VERSION);
    bytes.push(u8::try_from(parts.len()).unwrap_or(u8::MAX));
    for part in parts {
        let words = part.state.words();
        bytes.extend_from_slice(&part.id.strategy.raw().to_le_bytes());
        bytes.extend_from_slice(&part.id.period.to_le_bytes());
        bytes.extend_from_slice(&part.id.limit.to_le_bytes());
        bytes.extend_from_slice(&part.id.burst.to_le_bytes());
        bytes.extend_from_slice(&part.state.last().as_micros().to_le_bytes());
        bytes.extend_from_slice(&part.reset_at.as_micros().to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(words.len()).unwrap_or(u32::MAX).to_le_bytes());
        for word in words {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    bytes
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<Part>, CorruptState> {
    let mut reader = Reader(bytes);
    let [version] = reader.take()?;
    if version != VERSION {
        return Err(CorruptState("unknown version"));
    }
    let [count] = reader.take()?;
    if usize::from(count) * PART_HEADER > reader.0.len() {
        return Err(CorruptState("truncated"));
    }
    let parts = (0..count).map(|_| reader.part()).collect::<Result<Vec<_>, _>>()?;
    if reader.0.is_empty() { Ok(parts) } else { Err(CorruptState("bytes after the end")) }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn part(&mut self) -> Result<Part, CorruptState> {
        let id = PartId {
            strategy: StrategyId::from_raw(u32::from_le_bytes(self.take()?)),
            period: u64::from_le_bytes(self.take()?),
            limit: u32::from_le_bytes(self.take()?),
            burst: u32::from_le_bytes(self.take()?),
        };
        let last = self.instant()?;
        let reset_at = self.instant()?;
        let length = u32::from_le_bytes(self.take()?);
        let (words, _) = self.0.as_chunks::<8>();
        let words = usize::try_from(length)
            .ok()
            .and_then(|length| words.get(..length))
            .ok_or(CorruptState("truncated"))?;
        self.0 = &self.0[words.len() * 8..];
        let words = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        Ok(Part { id, reset_at, state: State::new(last, words) })
    }

    fn instant(&mut self) -> Result<Timestamp, CorruptState> {
        let micros = u64::from_le_bytes(self.take()?);
        if micros > Timestamp::MAX.as_micros() {
            return Err(CorruptState("instant out of range"));
        }
        Ok(Timestamp::from_micros(micros))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], CorruptState> {
        let (head, rest) = self.0.split_first_chunk().ok_or(CorruptState("truncated"))?;
        self.0 = rest;
        Ok(*head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts() -> impl Strategy<Value = Vec<Part>> {
        let micros = 0..=Timestamp::MAX.as_micros();
        let part = (
            any::<u32>(),
            any::<u64>(),
            any::<(u32, u32)>(),
            micros.clone(),
            micros,
            prop::collection::vec(any::<u64>(), 0..5),
        );
        prop::collection::vec(part, 0..4).prop_map(|parts| {
            parts
                .into_iter()
                .map(|(id, period, (limit, burst), last, reset_at, words)| Part {
                    id: PartId { strategy: StrategyId::from_raw(id), period, limit, burst },
                    reset_at: Timestamp::from_micros(reset_at),
                    state: State::new(Timestamp::from_micros(last), words),
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(parts in parts()) {
            prop_assert_eq!(decode(&encode(&parts)), Ok(parts));
        }

        #[test]
        fn f30_every_truncation_is_refused(parts in parts(), cut in 1usize..40) {
            let bytes = encode(&parts);
            let short = &bytes[..bytes.len().saturating_sub(cut)];
            prop_assert!(decode(short).is_err());
        }

        #[test]
        fn f30_no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(parts) = decode(&bytes) {
                prop_assert_eq!(encode(&parts), bytes);
            }
        }
    }

    #[test]
    fn f30_a_stored_length_allocates_nothing() {
        let mut bytes = encode(&[Part {
            id: PartId { strategy: StrategyId::BUCKET, period: 1, limit: 0, burst: 0 },
            reset_at: Timestamp::ZERO,
            state: State::new(Timestamp::ZERO, vec![]),
        }]);
        let length = bytes.len() - 4;
        bytes[length..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode(&bytes), Err(CorruptState("truncated")));
    }

    #[test]
    fn the_bytes_do_not_change_between_versions() {
        let part = Part {
            id: PartId { strategy: StrategyId::BUCKET, period: 60_000_000, limit: 0, burst: 0 },
            reset_at: Timestamp::from_micros(1_704_067_200_600_000),
            state: State::new(Timestamp::from_micros(1_704_067_200_000_000), vec![1, 0]),
        };
        let expected = "0101\
            0400000000879303000000000000000000000000\
            00202110d70d0600c0472a10d70d060002000000\
            01000000000000000000000000000000";
        let hex: String = encode(&[part]).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex.len(), expected.len());
        assert_eq!(hex, expected);
    }
}
