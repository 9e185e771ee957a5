//! The generation of a node's items, which makes `clear` one step for each node.
//!
//! A server cannot list its keys. With `track_keys` each node has one item more, which holds a number, and
//! each item that is written there carries the number that was read beside it. An item of another
//! generation counts as missing. So `clear` raises the number, and what was counted before is read
//! by nobody; its memory is free when it expires.
//!
//! * The number is read by the same `gets` as the item, and **after** it. It never goes down, so whoever
//!   reads an item of a new generation also reads the new number.
//! * A hit that read its item before a `clear` and writes it afterwards still writes the old number: it
//!   counts as one before the `clear`. It cannot overwrite an item of the new generation, for that has
//!   another version.
//! * A number that is missing, because it was evicted or the server restarted, is seeded with the
//!   present microsecond of the wall clock, and `clear` raises it to that at least. So it is a number
//!   that no item carries, and what was there before stays dead.

use super::exptime::NEVER;
use super::protocol::{Command, Reply};
use super::{MemcachedInner, errors};
use crate::backend::{Result, optimistic};
use crate::clock::{Clock, WallClock};

/// What was read of the generation beside an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Generation {
    /// Keys are not tracked.
    Untracked,
    /// There is none, or no number, so all that the node has counts as missing. The first writer
    /// seeds one.
    Missing {
        version: Option<u64>,
    },
    Is(u64),
}

impl Generation {
    /// Of a generation's item and its version.
    pub(super) fn of(found: Option<(Vec<u8>, u64)>) -> Self {
        let Some((text, version)) = found else { return Self::Missing { version: None } };
        let number = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
        number.map_or(Self::Missing { version: Some(version) }, Self::Is)
    }

    /// Returns whether an item that carries `stamp` is of this generation.
    pub(super) fn has(self, stamp: Option<u64>) -> bool {
        match self {
            Self::Untracked => true,
            Self::Missing { .. } => false,
            Self::Is(_) => stamp == self.stamp(),
        }
    }

    /// Returns what an item of this generation carries.
    pub(super) fn stamp(self) -> Option<u64> {
        if let Self::Is(number) = self { Some(number) } else { None }
    }
}

impl MemcachedInner {
    /// Begins the generation of a node that has none; `None` if somebody was faster.
    pub(super) async fn seed(
        &self,
        operation: &'static str,
        node: usize,
        version: Option<u64>,
    ) -> Result<Option<u64>> {
        let number = WallClock::new().now().as_micros();
        let written = self.write_generation(operation, node, number, version).await?;
        Ok(written.then_some(number))
    }

    /// Begins the next generation of a node.
    pub(super) async fn raise(&self, operation: &'static str, node: usize) -> Result<()> {
        let Some(key) = &self.generation_key else { return Ok(()) };
        let attempt = || async move {
            let (number, version) =
                match self.nodes.call(node, operation, Command::Gets(key)).await? {
                    Reply::Value(text, version) => {
                        (Generation::of(Some((text, version))).stamp(), Some(version))
                    }
                    Reply::Missing => (None, None),
                    _ => return Err(errors::unexpected(operation)),
                };
            let next = number.map_or(0, |number| number.saturating_add(1));
            let next = next.max(WallClock::new().now().as_micros());
            let is_written = self.write_generation(operation, node, next, version).await?;
            Ok(is_written.then_some(()))
        };
        optimistic::retry(&self.core, operation, attempt).await
    }

    async fn write_generation(
        &self,
        operation: &'static str,
        node: usize,
        number: u64,
        version: Option<u64>,
    ) -> Result<bool> {
        let Some(key) = &self.generation_key else { return Ok(true) };
        let text = number.to_string();
        let value = text.as_bytes();
        let command = match version {
            Some(version) => Command::Cas { key, value, version, exptime: NEVER },
            None => Command::Add { key, value, exptime: NEVER },
        };
        match self.nodes.call(node, operation, command).await? {
            Reply::Done => Ok(true),
            Reply::Changed | Reply::Missing => Ok(false),
            _ => Err(errors::unexpected(operation)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_of_its_own_generation_alone() {
        let generation = Generation::of(Some((b"7".into(), 1)));
        assert!(generation.has(Some(7)));
        assert!(![None, Some(6), Some(8)].iter().any(|stamp| generation.has(*stamp)));
        for garbage in [&b""[..], b" 7", b"-1", b"x", b"18446744073709551616", b"\xff"] {
            let generation = Generation::of(Some((garbage.into(), 1)));
            assert_eq!(generation, Generation::Missing { version: Some(1) }, "{garbage:?}");
            assert!(![None, Some(0), Some(7)].iter().any(|stamp| generation.has(*stamp)));
        }
        assert!(Generation::Untracked.has(None) && Generation::Untracked.has(Some(7)));
    }
}
