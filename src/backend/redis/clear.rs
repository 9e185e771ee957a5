//! Removing all states and values of a namespace, in small steps, so that others hardly wait.

use redis::Value;

use super::primitives::unexpected;
use super::route::{Node, Route};
use super::{Inner, NAME};
use crate::backend::Result;
use crate::error::BackendError;

/// Keys that a server looks at in one step: some hundred microseconds.
const SCANNED: usize = 500;

impl Inner {
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

    async fn clear_on(&self, server: &Route) -> Result<()> {
        let pattern = self.keys.pattern();
        let mut cursor = b"0".to_vec();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCANNED);
            let reply = self.client.call_on("clear", &scan, server.clone()).await?;
            let (next, keys) = page(reply)?;
            self.unlink(&keys).await?;
            if next == b"0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    async fn unlink(&self, keys: &[Vec<u8>]) -> Result<()> {
        let groups = self.client.servers().group(keys);
        let removed = groups.iter().map(|group| {
            let mut unlink = redis::cmd("UNLINK");
            for index in group {
                unlink.arg(&keys[*index]);
            }
            let key = &keys[group[0]];
            async move { self.client.call("clear", key, &unlink).await }
        });
        let replies = futures_util::future::join_all(removed).await;
        replies.into_iter().collect::<Result<Vec<_>>>().map(drop)
    }
}

fn not_cleared(error: BackendError, node: &Node) -> BackendError {
    BackendError::new(NAME, "clear", error.kind())
        .with_effect(error.effect())
        .with_message(format!("node {}:{} is not cleared: {error}", node.host, node.port))
        .with_cause(error)
}

/// The cursor of the next page and the keys of this one.
fn page(reply: Value) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
    let page: (Vec<u8>, Vec<Vec<u8>>) = redis::from_redis_value(reply)
        .map_err(|error| unexpected("clear", &Value::SimpleString(error.to_string())))?;
    Ok(page)
}
