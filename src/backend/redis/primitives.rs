//! The user's own values.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use redis::Value;

use super::scripts::{COMPARE_AND_SET, DECREMENT, INCREMENT, READ, SET_ALL};
use super::{NAME, RedisInner, failed};
use crate::backend::optimistic::StateStore;
use crate::backend::{MAX_COUNTER, Result, Ttl, counter};
use crate::clock::Timestamp;
use crate::error::{BackendError, Effect, ErrorKind};
use crate::key::Key;
use crate::step::Write;

/// With a clock that was given the server cannot know when a state is over; its TTL is then at least
/// this.
const GIVEN_CLOCK_TTL: Duration = Duration::from_secs(3600);

/// What `multi_set` sets in one step, about a millisecond of the server's, in which others wait.
const MOST_PAIRS: usize = 1_000;
const MOST_BYTES: usize = 1 << 20;
const CHUNKS_AT_ONCE: usize = 16;

/// A TTL in milliseconds, rounded up and at least 1, as an argument.
pub(super) fn millis(ttl: Duration) -> String {
    // Beyond it the server would refuse the number; it is 285,000 years.
    const MOST: u128 = 1 << 53;
    ttl.as_nanos().div_ceil(1_000_000).clamp(1, MOST).to_string()
}

/// A reply of another shape than the command has.
pub(super) fn unexpected(operation: &'static str, reply: &Value) -> BackendError {
    let shape: String = format!("{reply:?}").chars().take(100).collect();
    failed(operation, ErrorKind::Other)
        .with_effect(Effect::Ambiguous)
        .with_message(format!("a reply that the command does not have: {shape}"))
}

fn bytes(operation: &'static str, reply: Value) -> Result<Option<Vec<u8>>> {
    match reply {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        Value::SimpleString(text) => Ok(Some(text.into_bytes())),
        other => Err(unexpected(operation, &other)),
    }
}

fn flag(operation: &'static str, reply: &Value) -> Result<bool> {
    match reply {
        Value::Int(number) => Ok(*number > 0),
        other => Err(unexpected(operation, other)),
    }
}

/// A counter: a number, or its digits beyond what a script's numbers hold.
fn number(operation: &'static str, reply: Value) -> Result<u64> {
    match reply {
        Value::Int(number) if number >= 0 => Ok(number.unsigned_abs()),
        Value::BulkString(digits) => counter::parse(NAME, operation, &digits),
        other => Err(unexpected(operation, &other)),
    }
}

impl RedisInner {
    pub(super) async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>> {
        self.get_raw("get", &self.keys.of(key)).await
    }

    pub(super) async fn get_raw(
        &self,
        operation: &'static str,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>> {
        let mut cmd = redis::cmd("GET");
        cmd.arg(key);
        bytes(operation, self.client.call(operation, key, &cmd).await?)
    }

    pub(super) async fn set(
        &self,
        key: &Key<'_>,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> Result<()> {
        if ttl.is_some_and(|ttl| ttl.is_zero()) {
            return self.remove("set", key).await.map(drop);
        }
        let key = self.keys.of(key);
        let mut cmd = redis::cmd("SET");
        cmd.arg(&key).arg(value);
        if let Some(ttl) = ttl {
            cmd.arg("PX").arg(millis(ttl));
        }
        self.client.call("set", &key, &cmd).await.map(drop)
    }

    pub(super) async fn remove(&self, operation: &'static str, key: &Key<'_>) -> Result<bool> {
        let key = self.keys.of(key);
        let mut cmd = redis::cmd("DEL");
        cmd.arg(&key);
        flag(operation, &self.client.call(operation, &key, &cmd).await?)
    }

    pub(super) async fn increment(
        &self,
        operation: &'static str,
        key: &Key<'_>,
        by: u64,
        ttl: Option<Duration>,
    ) -> Result<u64> {
        if by > MAX_COUNTER {
            return Err(failed(operation, ErrorKind::OutOfRange));
        }
        let (key, by, ttl) = (self.keys.of(key), by.to_string(), ttl.map(millis));
        let mut arguments = vec![by.as_bytes()];
        arguments.extend(ttl.as_ref().map(String::as_bytes));
        number(operation, self.client.run(operation, &INCREMENT, &[&key], &arguments).await?)
    }

    pub(super) async fn decrement(&self, key: &Key<'_>, by: u64) -> Result<u64> {
        let (key, by) = (self.keys.of(key), by.min(MAX_COUNTER).to_string());
        match self.client.run("decrement", &DECREMENT, &[&key], &[by.as_bytes()]).await? {
            Value::Nil => Err(failed("decrement", ErrorKind::NotFound)),
            left => number("decrement", left),
        }
    }

    pub(super) async fn expire(&self, key: &Key<'_>, ttl: Duration) -> Result<bool> {
        if ttl.is_zero() {
            return self.remove("expire", key).await;
        }
        let key = self.keys.of(key);
        let mut cmd = redis::cmd("PEXPIRE");
        cmd.arg(&key).arg(millis(ttl));
        flag("expire", &self.client.call("expire", &key, &cmd).await?)
    }

    pub(super) async fn compare_and_set(
        &self,
        operation: &'static str,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        ttl: Ttl,
    ) -> Result<bool> {
        let key = self.keys.of(key);
        let new = new.filter(|_| ttl != Ttl::After(Duration::ZERO));
        let mark = |value: Option<_>| if value.is_some() { &b"1"[..] } else { b"0" };
        let (mode, ttl): (&[u8], String) = match ttl {
            Ttl::Keep => (b"keep", String::new()),
            Ttl::IfNone(ttl) => (b"if none", millis(ttl)),
            Ttl::After(ttl) => (b"after", millis(ttl)),
            Ttl::Never => (b"never", String::new()),
        };
        let (old, new_bytes) = (expected.unwrap_or_default(), new.unwrap_or_default());
        let arguments = [mark(expected), old, mark(new), new_bytes, mode, ttl.as_bytes()];
        flag(operation, &self.client.run(operation, &COMPARE_AND_SET, &[&key], &arguments).await?)
    }

    pub(super) async fn multi_get(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Vec<u8>>>> {
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| self.keys.of(key)).collect();
        let mut values = vec![None; keys.len()];
        let groups = self.client.servers().group(&keys);
        let asked = groups.iter().map(|group| {
            let mut cmd = redis::cmd("MGET");
            for index in group {
                cmd.arg(&keys[*index]);
            }
            let key = &keys[group[0]];
            async move { self.client.call("multi_get", key, &cmd).await }
        });
        let replies = futures_util::future::join_all(asked).await;
        for (group, reply) in groups.iter().zip(replies) {
            match reply? {
                Value::Array(found) if found.len() == group.len() => {
                    for (index, value) in group.iter().zip(found) {
                        values[*index] = bytes("multi_get", value)?;
                    }
                }
                other => return Err(unexpected("multi_get", &other)),
            }
        }
        Ok(values)
    }

    pub(super) async fn multi_set(
        &self,
        pairs: &[(Key<'_>, &[u8])],
        ttl: Option<Duration>,
    ) -> Result<()> {
        if ttl == Some(Duration::ZERO) {
            for (done, (key, _)) in pairs.iter().enumerate() {
                let removed = self.remove("multi_set", key).await;
                removed.map_err(|error| error.after(done))?;
            }
            return Ok(());
        }
        let keys: Vec<Vec<u8>> = pairs.iter().map(|(key, _)| self.keys.of(key)).collect();
        let ttl = ttl.map(millis).unwrap_or_default();
        let groups = self.client.servers().group(&keys);
        let size = |index: usize| keys[index].len() + pairs[index].1.len();
        let set = |chunk: &[usize]| {
            let chunk_keys: Vec<&[u8]> = chunk.iter().map(|index| &*keys[*index]).collect();
            let mut arguments = vec![ttl.as_bytes()];
            arguments.extend(chunk.iter().map(|index| pairs[*index].1));
            let cmd = (chunk_keys, arguments);
            async move { self.client.run("multi_set", &SET_ALL, &cmd.0, &cmd.1).await }
        };
        // A server does all that has come on a connection before it looks at the next one: so one chunk
        // after the other, or a few for many servers.
        let mut setting = Vec::new();
        for group in &groups {
            setting.extend(chunks(group, size).into_iter().map(set));
        }
        let at_once = if groups.len() > 1 { CHUNKS_AT_ONCE.min(setting.len()) } else { 1 };
        let mut replies = stream::iter(setting).buffer_unordered(at_once);
        // Others may be under way when one fails.
        let mut set = at_once - 1;
        while let Some(reply) = replies.next().await {
            reply.map_err(|error| error.after(set))?;
            set += 1;
        }
        Ok(())
    }
}

/// The parts of a group that a server sets in one step, each by what its key and value take.
fn chunks(group: &[usize], size: impl Fn(usize) -> usize) -> Vec<&[usize]> {
    let mut chunks = Vec::with_capacity(group.len() / MOST_PAIRS + 1);
    let (mut start, mut bytes) = (0, 0);
    for (place, index) in group.iter().enumerate() {
        let next = size(*index);
        if place > start && (place - start == MOST_PAIRS || bytes + next > MOST_BYTES) {
            chunks.push(&group[start..place]);
            (start, bytes) = (place, 0);
        }
        bytes += next;
    }
    if start < group.len() {
        chunks.push(&group[start..]);
    }
    chunks
}

/// Strategies that have no script: read, decide here, write if nobody came between.
impl StateStore for RedisInner {
    /// The time is the server's, or that of a clock that was given.
    async fn read(
        &self,
        operation: &'static str,
        key: &Key<'_>,
    ) -> Result<(Option<Vec<u8>>, Timestamp)> {
        let key = self.keys.of(key);
        let reply = self.client.run(operation, &READ, &[&key], &[]).await?;
        let fields: [Value; 3] = match reply {
            Value::Array(fields) => {
                fields.try_into().map_err(|fields| unexpected(operation, &Value::Array(fields)))?
            }
            other => return Err(unexpected(operation, &other)),
        };
        match fields {
            [stored, Value::Int(seconds), Value::Int(micros)] => {
                let now = seconds.unsigned_abs() * 1_000_000 + micros.unsigned_abs();
                let now = self.given_time().unwrap_or(Timestamp::from_micros(now));
                Ok((bytes(operation, stored)?, now))
            }
            other => Err(unexpected(operation, &Value::Array(other.into()))),
        }
    }

    async fn write(
        &self,
        operation: &'static str,
        key: &Key<'_>,
        expected: Option<&[u8]>,
        write: &Write,
    ) -> Result<bool> {
        let (new, ttl) = match write {
            Write::Put { value, ttl } => {
                let least = self.given_time().map_or(Duration::ZERO, |_| GIVEN_CLOCK_TTL);
                (Some(&**value), Ttl::After(least.max(*ttl)))
            }
            Write::Delete => (None, Ttl::Never),
        };
        self.compare_and_set(operation, key, expected, new, ttl).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_bounded_and_hold_each_pair_once() {
        let lengths = |count: usize, size: usize| -> Vec<usize> {
            let group: Vec<usize> = (0..count).collect();
            let chunks = chunks(&group, |_| size);
            assert_eq!(chunks.concat(), group);
            chunks.iter().map(|chunk| chunk.len()).collect()
        };
        assert_eq!(lengths(0, 1), [0; 0]);
        assert_eq!(lengths(1, MOST_BYTES * 2), [1]);
        assert_eq!(lengths(1_000, 1), [1_000]);
        assert_eq!(lengths(2_001, 1), [1_000, 1_000, 1]);
        assert_eq!(lengths(5, MOST_BYTES / 2), [2, 2, 1]);
        assert_eq!(lengths(3, MOST_BYTES), [1, 1, 1]);
    }
}
