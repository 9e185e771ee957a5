//! Removing all states and values of a namespace, in small steps, so that others hardly wait.

use redis::{Cmd, Value};

use super::Inner;
use super::connection::{Node, Route};
use super::primitives::unexpected;
use crate::backend::Result;

/// Keys that a server looks at in one step: some hundred microseconds.
const SCANNED: usize = 500;

impl Inner {
    pub(super) async fn clear(&self) -> Result<()> {
        let is_cluster = self.client.is_cluster("clear").await?;
        let servers = if is_cluster {
            self.masters().await?.into_iter().map(Route::Node).collect()
        } else {
            vec![Route::Natural]
        };
        for server in servers {
            self.clear_on(&server, is_cluster).await?;
        }
        Ok(())
    }

    async fn clear_on(&self, server: &Route, is_cluster: bool) -> Result<()> {
        let pattern = self.keys.pattern();
        let mut cursor = b"0".to_vec();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCANNED);
            let reply = self.client.call_on("clear", &scan, server.clone()).await?;
            let (next, keys) = page(reply)?;
            self.unlink(&keys, is_cluster).await?;
            if next == b"0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    async fn unlink(&self, keys: &[Vec<u8>], is_cluster: bool) -> Result<()> {
        let groups = super::slots::group(keys, is_cluster);
        let removed = groups.iter().map(|group| {
            let mut unlink = redis::cmd("UNLINK");
            for index in group {
                unlink.arg(&keys[*index]);
            }
            async move { self.client.call("clear", &unlink).await }
        });
        let replies = futures_util::future::join_all(removed).await;
        replies.into_iter().collect::<Result<Vec<_>>>().map(drop)
    }

    /// The servers of a cluster that keys are written to.
    async fn masters(&self) -> Result<Vec<Node>> {
        let mut slots: Cmd = redis::cmd("CLUSTER");
        slots.arg("SLOTS");
        let reply = self.client.call("clear", &slots).await?;
        let Value::Array(ranges) = &reply else { return Err(unexpected("clear", &reply)) };
        let mut masters: Vec<Node> = ranges.iter().filter_map(master).collect();
        if masters.is_empty() {
            return Err(unexpected("clear", &reply));
        }
        masters.sort();
        masters.dedup();
        Ok(masters)
    }
}

/// The cursor of the next page and the keys of this one.
fn page(reply: Value) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
    let page: (Vec<u8>, Vec<Vec<u8>>) = redis::from_redis_value(reply)
        .map_err(|error| unexpected("clear", &Value::SimpleString(error.to_string())))?;
    Ok(page)
}

/// Of a range: its first slot, its last, its master, its replicas.
fn master(range: &Value) -> Option<Node> {
    let Value::Array(range) = range else { return None };
    let Value::Array(master) = range.get(2)? else { return None };
    match &master[..] {
        [Value::BulkString(host), Value::Int(port), ..] => Some(Node {
            host: String::from_utf8(host.clone()).ok()?,
            port: u16::try_from(*port).ok()?,
        }),
        _ => None,
    }
}
