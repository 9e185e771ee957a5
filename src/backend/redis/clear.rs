//! Removes all states and values of a namespace in small steps, so that other clients hardly wait.

use std::time::Duration;

use redis::{Cmd, Value};
use tokio::time::sleep;

use super::primitives::unexpected;
use super::route::{NodeAddress, Route};
use super::{RedisInner, failed};
use crate::backend::Result;
use crate::error::{BackendError, ErrorKind};
use crate::random;

/// How often a step is tried, and how often a server is begun with anew.
const MOST_TRIES: u32 = 5;
/// After a step that failed; doubles.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// Keys that a server looks at in one step: some hundred microseconds.
const SCANNED: usize = 500;

impl RedisInner {
    /// Clears all servers, side by side. One that fails does not keep the others from it, and the error
    /// names it.
    pub(super) async fn clear(&self) -> Result<()> {
        let masters = self.client.masters("clear").await?;
        let cleared = masters.iter().map(|master| self.clear_on(master));
        let outcomes = futures_util::future::join_all(cleared).await;
        let mut failed = outcomes.into_iter().zip(&masters).filter_map(|(outcome, master)| {
            let error = outcome.err()?;
            Some(match master {
                Route::Node(node) => not_cleared(error, node),
                _ => error,
            })
        });
        failed.next().map_or(Ok(()), Err)
    }

    /// Each step may be repeated, so a slow one or a lost connection does not end it.
    async fn clear_on(&self, server: &Route) -> Result<()> {
        let pattern = self.keys.pattern();
        let mut cursor = b"0".to_vec();
        let mut begun = 1;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCANNED);
            let reply = match self.repeat(&scan, server).await {
                // Another connection may lead to another server, to which the cursor means nothing.
                Ok((_, was_lost)) if was_lost && cursor != b"0" && begun < MOST_TRIES => {
                    (cursor, begun) = (b"0".to_vec(), begun + 1);
                    continue;
                }
                outcome => outcome?.0,
            };
            let (next, keys) = page(reply)?;
            self.unlink(&keys).await?;
            if next == b"0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Retries an idempotent command until it is answered. Returns whether the connection was lost
    /// meanwhile.
    async fn repeat(&self, cmd: &Cmd, server: &Route) -> Result<(Value, bool)> {
        let (mut pause, mut was_lost) = (SHORTEST_PAUSE, false);
        for _ in 1..MOST_TRIES {
            match self.client.call_on("clear", cmd, server.clone()).await {
                Ok(reply) => return Ok((reply, was_lost)),
                Err(error) if !passes(&error) => return Err(error),
                Err(error) => was_lost |= error.kind() == ErrorKind::Unavailable,
            }
            sleep(pause / 2 + random::up_to(pause / 2)).await;
            pause *= 2;
        }
        Ok((self.client.call_on("clear", cmd, server.clone()).await?, was_lost))
    }

    async fn unlink(&self, keys: &[Vec<u8>]) -> Result<()> {
        let groups = self.client.servers().group(keys);
        let removed = groups.iter().map(|group| {
            let mut unlink = redis::cmd("UNLINK");
            for index in group {
                unlink.arg(&keys[*index]);
            }
            let key = &keys[group[0]];
            async move { self.repeat(&unlink, &self.client.servers().route(key)).await }
        });
        let replies = futures_util::future::join_all(removed).await;
        replies.into_iter().collect::<Result<Vec<_>>>().map(drop)
    }
}

fn not_cleared(error: BackendError, node: &NodeAddress) -> BackendError {
    failed("clear", error.kind())
        .with_effect(error.effect())
        .with_message(format!("node {}:{} is not cleared: {error}", node.host, node.port))
        .with_cause(error)
}

/// Returns whether it may well be over at the next try.
fn passes(error: &BackendError) -> bool {
    matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable | ErrorKind::Overloaded)
}

/// The cursor of the next page and the keys of this one.
fn page(reply: Value) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
    let page: (Vec<u8>, Vec<Vec<u8>>) = redis::from_redis_value(reply)
        .map_err(|error| unexpected("clear", &Value::SimpleString(error.to_string())))?;
    Ok(page)
}
