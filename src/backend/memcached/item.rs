//! The format of an item: the instant at which it ends, its generation, and the value.
//!
//! ```text
//! mark        u8   = 2, or 3 with a generation
//! generation  u64  only with mark 3
//! ends_at     u64  microseconds since the epoch; 0 for never
//! value
//! ```
//!
//! Numbers are little-endian. The server tells nobody how long an item has still to live. It stands here,
//! so that a value can be changed without changing that, and ends to the microsecond and not to the
//! server's second. An item without the mark is a bare value that never ends, which another program
//! wrote.

use std::time::Duration;

use super::exptime::{self, NEVER};
use crate::clock::Timestamp;

const MARK: u8 = 2;
const MARK_WITH_GENERATION: u8 = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Only where keys are tracked; see [`generation`](super::generation).
    pub(super) generation: Option<u64>,
    pub(super) ends_at: Option<Timestamp>,
    pub(super) value: Vec<u8>,
}

impl Item {
    pub(super) fn decode(mut bytes: Vec<u8>) -> Self {
        let Some((generation, ends_at, length)) = header(&bytes) else {
            return Self { generation: None, ends_at: None, value: bytes };
        };
        bytes.drain(..length);
        let ends_at = (ends_at > 0).then(|| Timestamp::from_micros(ends_at));
        Self { generation, ends_at, value: bytes }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(17 + self.value.len());
        match self.generation {
            None => bytes.push(MARK),
            Some(generation) => {
                bytes.push(MARK_WITH_GENERATION);
                bytes.extend_from_slice(&generation.to_le_bytes());
            }
        }
        bytes.extend_from_slice(&self.ends_at.map_or(0, Timestamp::as_micros).to_le_bytes());
        bytes.extend_from_slice(&self.value);
        bytes
    }

    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.ends_at.is_some_and(|ends_at| ends_at <= now)
    }
}

/// The generation, the end, and the length of both with the mark.
fn header(bytes: &[u8]) -> Option<(Option<u64>, u64, usize)> {
    let (mark, rest) = bytes.split_first()?;
    let (generation, rest) = match *mark {
        MARK => (None, rest),
        MARK_WITH_GENERATION => {
            let (generation, rest) = rest.split_first_chunk()?;
            (Some(u64::from_le_bytes(*generation)), rest)
        }
        _ => return None,
    };
    let (ends_at, value) = rest.split_first_chunk()?;
    Some((generation, u64::from_le_bytes(*ends_at), bytes.len() - value.len()))
}

/// When an item that ends at that instant may be forgotten by the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExptimePolicy {
    /// Somebody moves the clock by hand: then the server's own may not decide.
    pub(super) for_at_least: Duration,
}

impl ExptimePolicy {
    pub(super) fn exptime(self, ends_at: Option<Timestamp>, now: Timestamp) -> u32 {
        ends_at.map_or(NEVER, |ends_at| {
            exptime::of(ends_at.saturating_duration_since(now).max(self.for_at_least))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            value: Vec<u8>,
            generation: Option<u64>,
            ends_at in 0..=Timestamp::MAX.as_micros(),
        ) {
            let ends_at = (ends_at > 0).then(|| Timestamp::from_micros(ends_at));
            let item = Item { generation, ends_at, value };
            prop_assert_eq!(Item::decode(item.encode()), item);
        }

        #[test]
        fn f30_no_bytes_make_it_panic(bytes: Vec<u8>) {
            let item = Item::decode(bytes.clone());
            prop_assert!(item.value.len() <= bytes.len());
        }
    }
}
