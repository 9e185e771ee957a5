//! The nodes: which one has an item, and calls to each.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::address::Address;
use super::errors;
use super::keys::stable_hash;
use super::per_runtime::{PerRuntime, Runtimes};
use super::pool::Pool;
use super::protocol::{Command, Reply};
use crate::backend::Result;
use crate::clock::monotonic_now;
use crate::error::Effect;

pub(super) struct Nodes {
    nodes: Vec<Node>,
    command_timeout: Duration,
    pool_minsize: usize,
    pool_size: usize,
    locals: Runtimes,
    closed: AtomicBool,
}

struct Node {
    address: Address,
    /// Of the address: the same in every process.
    hash: u64,
}

impl Nodes {
    /// `addresses` is not empty.
    pub(super) fn new(
        addresses: Vec<Address>,
        command_timeout: Duration,
        pool_minsize: usize,
        pool_size: usize,
    ) -> Self {
        let node = |address: Address| {
            let hash = stable_hash(address.to_string().as_bytes());
            Node { address, hash }
        };
        Self {
            nodes: addresses.into_iter().map(node).collect(),
            command_timeout,
            pool_minsize,
            pool_size,
            locals: Runtimes::default(),
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn address(&self, node: usize) -> &Address {
        &self.nodes[node].address
    }

    /// The node of an item, by rendezvous hashing: one node less moves only the items that it had.
    pub(super) fn index_of(&self, name: &str) -> usize {
        if self.nodes.len() == 1 {
            return 0;
        }
        let hash = stable_hash(name.as_bytes());
        let score = |index: &usize| mix(hash ^ self.nodes[*index].hash);
        (0..self.nodes.len()).max_by_key(score).unwrap_or_default()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn open(&self) {
        self.closed.store(false, Ordering::Release);
    }

    /// Connections in use are closed when they come back. A lock can still be released, by a connection
    /// of its own; all else asks [`is_closed`](Self::is_closed) before.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.locals.for_each(|local| local.pools.iter().for_each(Pool::close_idle));
    }

    /// Asks a node for its version, over as many connections as are kept at least.
    pub(super) async fn warm_up(&self, node: usize, operation: &'static str) -> Result<()> {
        self.call(node, operation, Command::Version).await?;
        let local = self.here(operation)?;
        let deadline = monotonic_now() + self.command_timeout;
        let mut warm = Vec::new();
        while warm.len() < self.pool_minsize {
            let mut pooled = local.pools[node].get(operation, &self.closed, deadline).await?;
            pooled.keep();
            warm.push(pooled);
        }
        Ok(())
    }

    /// Sends a command to a node and waits for its answer, within the time of a call.
    ///
    /// When dropped, the connection is closed; the command may be carried out or not.
    pub(super) async fn call(
        &self,
        node: usize,
        operation: &'static str,
        command: Command<'_>,
    ) -> Result<Reply> {
        let local = self.here(operation)?;
        let deadline = monotonic_now() + self.command_timeout;
        // Each connection of the pool may turn out to be dead.
        for _ in 0..=self.pool_size {
            let mut pooled = local.pools[node].get(operation, &self.closed, deadline).await?;
            let failed = match pooled.execute(&command, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            let harmless = !failed.sent || command.is_read();
            // Nothing happened, and the connection was an old one: that alone is tried again.
            if !(harmless && pooled.was_used() && failed.is_of_the_connection()) {
                // Of several items those before a refusal may be written.
                let is_partial = failed.sent && matches!(command, Command::StoreMany(_));
                let error = failed.into_backend_error(operation, !command.is_read());
                return Err(match is_partial {
                    true => error.with_effect(Effect::Ambiguous),
                    false => error,
                });
            }
        }
        Err(errors::unreachable(operation, io::ErrorKind::NotConnected.into()))
    }

    /// Returns what belongs to the runtime in which it is called.
    pub(super) fn here(&self, operation: &'static str) -> Result<Arc<PerRuntime>> {
        let pool =
            |node: &Node| Pool::new(node.address.clone(), self.pool_size, self.command_timeout);
        self.locals.here(operation, || self.nodes.iter().map(pool).collect())
    }
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.nodes.iter().map(|node| node.address.to_string())).finish()
    }
}

/// Spreads a number over all its bits.
fn mix(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ports: &[u16]) -> Nodes {
        let address = |port: &u16| Address::Tcp { host: "cache".into(), port: *port };
        Nodes::new(ports.iter().map(address).collect(), Duration::from_secs(1), 0, 1)
    }

    #[test]
    fn items_spread_evenly_and_stay_where_they_are() {
        let (three, other_order, two) = (nodes(&[1, 2, 3]), nodes(&[3, 1, 2]), nodes(&[1, 2]));
        let mut counts = [0; 3];
        for number in 0..3000 {
            let name = format!("n/t/api/{number}");
            let index = three.index_of(&name);
            counts[index] += 1;
            assert_eq!(other_order.index_of(&name), [1, 2, 0][index], "the order is no matter");
            if index < 2 {
                assert_eq!(two.index_of(&name), index, "a lost node moves only its own");
            }
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
