//! The bytes of a snapshot.
//!
//! All numbers are little-endian.
//!
//! ```text
//! header
//!   magic     [u8; 8]   89 "traffik"
//!   version   u32       1
//!   secret    u64 * 2   of the digests of long keys
//!   taken_at  u64       microseconds since the epoch, by the backend's clock
//!   checksum  u64
//! frames, until one that is the end
//!   kind      u8
//!   length    u64       of the payload
//!   payload   [u8]
//!   checksum  u64
//!
//! throttle (1)   the name, in UTF-8; the first has the number 0
//! keys (2)       any number of
//!   throttle  u32       number of its throttle
//!   shape     u8        length of the key, or 31 for a digest; with 32 if it has several parts
//!   words     u64 * 2   the key, or its digest
//!   length    u32       of the state
//!   state     [u8]      as every store has it: see `step::codec`
//!   drains    u32 each  of each part of the state: 0 if it is kept as words. If it is kept as a packed count, the
//!                       limit by which a bucket drains; of another strategy 1
//! values (3)     any number of
//!   length    u64       of the key
//!   key       [u8]
//!   expires   u64       microseconds since the epoch; 2^64 - 1 for never
//!   length    u64       of the value
//!   value     [u8]
//! end (4)
//!   throttles u64       how many there were, as of the others
//!   keys      u64
//!   values    u64
//! ```
//!
//! A checksum is SipHash-1-3 of all bytes before it, keyed by the secret. So none is right after a byte that is wrong,
//! lost, or in another place. Nothing follows the end.

pub(super) const MAGIC: [u8; 8] = *b"\x89traffik";
pub(super) const VERSION: u32 = 1;
/// Where the version is.
pub(super) const VERSION_AT: u64 = 8;
/// Of a value that never expires.
pub(super) const NEVER: u64 = u64::MAX;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Throttle,
    Keys,
    Values,
    End,
}

impl Kind {
    pub(super) const fn raw(self) -> u8 {
        match self {
            Self::Throttle => 1,
            Self::Keys => 2,
            Self::Values => 3,
            Self::End => 4,
        }
    }

    pub(super) const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Throttle),
            2 => Some(Self::Keys),
            3 => Some(Self::Values),
            4 => Some(Self::End),
            _ => None,
        }
    }
}

/// How much there is in a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) throttles: u64,
    pub(super) keys: u64,
    pub(super) values: u64,
}
