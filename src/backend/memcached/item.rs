//! What an item holds: the instant at which it ends, and the value.
//!
//! ```text
//! mark     u8  = 2
//! ends_at  u64   microseconds since the epoch, little-endian; 0 for never
//! value
//! ```
//!
//! The server tells nobody how long an item has still to live. It stands here, so that a value can be
//! changed without changing that, and ends to the microsecond and not to the server's second. An item
//! without the mark is a bare value that never ends: a fixed window's number (see
//! [`fixed`](super::fixed)), or what another program wrote.

use std::time::Duration;

use super::expiry::{self, NEVER};
use crate::clock::Timestamp;

const MARK: u8 = 2;
const HEADER: usize = 9;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) ends_at: Option<Timestamp>,
    pub(super) value: Vec<u8>,
}

impl Item {
    pub(super) fn decode(mut bytes: Vec<u8>) -> Self {
        let ends_at = bytes
            .first_chunk::<HEADER>()
            .and_then(|[mark, ends_at @ ..]| (*mark == MARK).then(|| u64::from_le_bytes(*ends_at)));
        match ends_at {
            None => Self { ends_at: None, value: bytes },
            Some(ends_at) => {
                bytes.drain(..HEADER);
                let ends_at = (ends_at > 0).then(|| Timestamp::from_micros(ends_at));
                Self { ends_at, value: bytes }
            }
        }
    }

    pub(super) fn encode(value: &[u8], ends_at: Option<Timestamp>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + value.len());
        bytes.push(MARK);
        bytes.extend_from_slice(&ends_at.map_or(0, Timestamp::as_micros).to_le_bytes());
        bytes.extend_from_slice(value);
        bytes
    }

    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.ends_at.is_some_and(|ends_at| ends_at <= now)
    }
}

/// When an item that ends at that instant may be forgotten by the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keeping {
    /// Somebody moves the clock by hand: then the server's own may not decide.
    pub(super) for_at_least: Duration,
}

impl Keeping {
    pub(super) fn exptime(self, ends_at: Option<Timestamp>, now: Timestamp) -> u32 {
        ends_at.map_or(NEVER, |ends_at| expiry::exptime(ends_at.since(now).max(self.for_at_least)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value: Vec<u8>, ends_at in 0..=Timestamp::MAX.as_micros()) {
            let ends_at = (ends_at > 0).then(|| Timestamp::from_micros(ends_at));
            let item = Item { ends_at, value };
            prop_assert_eq!(Item::decode(Item::encode(&item.value, ends_at)), item);
        }

        #[test]
        fn f30_no_bytes_make_it_panic(bytes: Vec<u8>) {
            let item = Item::decode(bytes.clone());
            prop_assert!(item.value.len() <= bytes.len());
        }
    }
}
