//! [`LockNode`]: the locks on one server.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::client::Client;
use super::failure::Failure;
use super::keys::{Keys, LockKeys};
use super::primitives::{millis, unexpected};
use super::scripts::{ACQUIRE, EXTEND, RAISE_FENCE, RELEASE, SET_FENCED, Script};
use crate::backend::Result;
use crate::clock::monotonic_now;
use crate::lock::valid_until;

/// How long a server remembers the last token of a lock that nobody takes, where nothing else is said.
/// Tokens rise with the server's time too, so this matters only if its clock is put back.
pub(super) const DEFAULT_FENCE_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct LockNode {
    client: Arc<Client>,
    keys: Arc<Keys>,
    fence_ttl: Duration,
    /// The longest that one call takes, if it is not the client's.
    time: Option<Duration>,
}

/// A server's reply to an acquisition.
#[derive(Clone, Copy, Debug)]
pub(super) enum Grant {
    Granted {
        token: u64,
        valid_until: Instant,
    },
    /// Held by another, for that long.
    Held(Duration),
}

impl LockNode {
    pub(super) fn new(client: Arc<Client>, keys: Arc<Keys>, fence_ttl: Duration) -> Self {
        Self { client, keys, fence_ttl, time: None }
    }

    /// The same, with that time for each call.
    pub(super) fn within(&self, time: Duration) -> Self {
        Self { time: Some(time), ..self.clone() }
    }

    pub(super) async fn acquire(&self, name: &str, owner: &str, ttl: Duration) -> Result<Grant> {
        let LockKeys { lock, fence } = self.keys.of_lock(name);
        let (ttl_millis, fence_ttl) = (millis(ttl), millis(self.fence_ttl.max(ttl)));
        let arguments = [owner.as_bytes(), ttl_millis.as_bytes(), fence_ttl.as_bytes()];
        let sent = monotonic_now();
        let reply = self.run(&ACQUIRE, &[&lock, &fence], &arguments).await?;
        let Value::Array(fields) = &reply else { return Err(unexpected("lock", &reply)) };
        match fields[..] {
            // Below zero: somebody made it a lock without a TTL.
            [Value::Int(0), Value::Int(..0)] => Ok(Grant::Held(Duration::MAX)),
            [Value::Int(0), Value::Int(left)] => Ok(Grant::Held(positive(left))),
            [Value::Int(token), Value::Int(left)] => Ok(Grant::Granted {
                token: token.unsigned_abs(),
                valid_until: valid_until(sent, positive(left).min(ttl)),
            }),
            _ => Err(unexpected("lock", &reply)),
        }
    }

    /// Until when it is ours now; `None` if it is not ours any more.
    pub(super) async fn extend(
        &self,
        name: &str,
        owner: &str,
        ttl: Duration,
    ) -> Result<Option<Instant>> {
        let lock = self.keys.of_lock(name).lock;
        let sent = monotonic_now();
        let millis = millis(ttl);
        match self.run(&EXTEND, &[&lock], &[owner.as_bytes(), millis.as_bytes()]).await? {
            // No longer than was asked for: a server whose clock was put back means to keep it longer,
            // and does not if that is put right.
            Value::Int(left) if left > 0 => Ok(Some(valid_until(sent, positive(left).min(ttl)))),
            Value::Int(_) => Ok(None),
            other => Err(unexpected("lock", &other)),
        }
    }

    /// Returns `true` if it was still ours.
    pub(super) async fn release(&self, name: &str, owner: &str) -> Result<bool> {
        let lock = self.keys.of_lock(name).lock;
        self.flag(&RELEASE, &[&lock], &[owner.as_bytes()]).await
    }

    /// Raises the fence to a token that other servers agreed on. Returns `true` if the lock is still ours.
    pub(super) async fn raise(
        &self,
        name: &str,
        owner: &str,
        token: u64,
        ttl: Duration,
    ) -> Result<bool> {
        let LockKeys { lock, fence } = self.keys.of_lock(name);
        let (token, fence_ttl) = (token.to_string(), millis(self.fence_ttl.max(ttl)));
        let arguments = [owner.as_bytes(), token.as_bytes(), fence_ttl.as_bytes()];
        self.flag(&RAISE_FENCE, &[&lock, &fence], &arguments).await
    }

    /// Writes a value beside the lock, if it is still ours.
    pub(super) async fn write(
        &self,
        name: &str,
        owner: &str,
        key: &[u8],
        value: Option<&[u8]>,
        ttl: Option<Duration>,
    ) -> Result<bool> {
        let lock = self.keys.of_lock(name).lock;
        let value = value.filter(|_| ttl != Some(Duration::ZERO));
        let ttl = ttl.map(millis);
        let mark: &[u8] = if value.is_some() { b"1" } else { b"0" };
        let mut arguments = vec![owner.as_bytes(), mark, value.unwrap_or_default()];
        arguments.extend(ttl.as_ref().map(String::as_bytes));
        self.flag(&SET_FENCED, &[&lock, key], &arguments).await
    }

    async fn flag(&self, script: &Script, keys: &[&[u8]], arguments: &[&[u8]]) -> Result<bool> {
        match self.run(script, keys, arguments).await? {
            Value::Int(flag) => Ok(flag > 0),
            other => Err(unexpected("lock", &other)),
        }
    }

    async fn run(&self, script: &Script, keys: &[&[u8]], arguments: &[&[u8]]) -> Result<Value> {
        let time = self.time.unwrap_or(self.client.timeout());
        let ran = self.client.run_within(script, keys, arguments, time).await;
        ran.map_err(|failure: Failure| failure.into_error("lock"))
    }
}

fn positive(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
