//! Blocks of keys, by a script: on a key that is hit all the time reads and writes would never meet.

use std::sync::LazyLock;

use redis::Value;

use super::decide::SERVER_TIME;
use super::scripts::Script;
use super::{RedisInner, primitives};
use crate::backend::{Result, optimistic};
use crate::clock::Timestamp;
use crate::key::Key;
use crate::step::BlockChange;

const OPERATION: &str = "change_block";

pub(super) static CHANGE_BLOCK: LazyLock<Script> = LazyLock::new(|| {
    Script::compose([
        include_str!("lua/arithmetic.lua"),
        include_str!("lua/codec.lua"),
        include_str!("lua/change_block.lua"),
    ])
});

/// Returns the change as the script reads it, at that instant or else at the server's own time.
pub(super) fn argument(change: BlockChange, asked_at: Option<Timestamp>) -> Vec<u8> {
    let (number, time) = match change {
        BlockChange::Remove => (0, Timestamp::ZERO),
        BlockChange::Replace(time) => (1, Timestamp::ZERO.saturating_add(time)),
        BlockChange::Lengthen(time) => (2, Timestamp::ZERO.saturating_add(time)),
    };
    let asked_at = asked_at.map_or(SERVER_TIME, Timestamp::as_micros);
    let mut argument = vec![number];
    argument.extend_from_slice(&time.as_micros().to_le_bytes());
    argument.extend_from_slice(&asked_at.to_le_bytes());
    argument
}

/// Returns whether the key was blocked by the reply of the script; `None` if there is no room for a block.
pub(super) fn read(reply: &Value) -> Result<Option<bool>> {
    match reply {
        Value::Int(0) => Ok(Some(false)),
        Value::Int(1) => Ok(Some(true)),
        Value::Int(-1) => Ok(None),
        other => Err(primitives::unexpected(OPERATION, other)),
    }
}

impl RedisInner {
    /// Returns whether the key was blocked.
    pub(super) async fn change_block(&self, key: &Key<'_>, change: BlockChange) -> Result<bool> {
        let (key, argument) = (self.keys.of(key), argument(change, self.given_time()));
        let reply = self.client.run(OPERATION, &CHANGE_BLOCK, &[&key], &[&argument]).await?;
        read(&reply)?.ok_or_else(|| optimistic::no_room_for_block(&self.core))
    }
}
