//! The nodes: which one has an item, and the connections to each.
//!
//! A socket and its timer work only while the runtime in which they were made runs, so each runtime has
//! pools of its own, which end with it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::runtime::{Handle, Id};
use tokio::sync::oneshot;

use super::address::Address;
use super::errors;
use super::keys::stable_hash;
use super::pool::Pool;
use super::protocol::{Answer, Command};
use crate::backend::Result;
use crate::background;
use crate::clock::monotonic_now;

pub(super) struct Nodes {
    nodes: Vec<Node>,
    call_timeout: Duration,
    pool_minsize: usize,
    pool_size: usize,
    pools: Arc<RwLock<Runtimes>>,
    closed: AtomicBool,
}

struct Node {
    address: Address,
    /// Of the address: the same in every process.
    hash: u64,
}

type Runtimes = HashMap<Id, Pools, ahash::RandomState>;

/// The pools of one runtime, one for each node.
struct Pools {
    pools: Arc<[Pool]>,
    /// Ends the task that waits for the runtime's end.
    _ends: oneshot::Sender<()>,
}

impl Nodes {
    /// `addresses` is not empty.
    pub(super) fn new(
        addresses: Vec<Address>,
        call_timeout: Duration,
        pool_minsize: usize,
        pool_size: usize,
    ) -> Self {
        let node = |address: Address| {
            let hash = stable_hash(address.to_string().as_bytes());
            Node { address, hash }
        };
        Self {
            nodes: addresses.into_iter().map(node).collect(),
            call_timeout,
            pool_minsize,
            pool_size,
            pools: Arc::default(),
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
        for pools in self.pools.read().values() {
            pools.pools.iter().for_each(Pool::close_idle);
        }
    }

    /// Asks a node for its version, over as many connections as are kept at least.
    pub(super) async fn warm_up(&self, node: usize, operation: &'static str) -> Result<()> {
        self.call(node, operation, Command::Version).await?;
        let pools = self.here(operation)?;
        let deadline = monotonic_now() + self.call_timeout;
        let mut warm = Vec::new();
        while warm.len() < self.pool_minsize {
            let mut pooled = pools[node].get(operation, &self.closed, deadline).await?;
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
    ) -> Result<Answer> {
        let pools = self.here(operation)?;
        let deadline = monotonic_now() + self.call_timeout;
        // Each connection of the pool may turn out to be dead.
        for _ in 0..=self.pool_size {
            let mut pooled = pools[node].get(operation, &self.closed, deadline).await?;
            let failed = match pooled.execute(&command, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            let harmless = !failed.sent || command.is_read();
            // Nothing happened, and the connection was an old one: that alone is tried again.
            if !(harmless && pooled.used && failed.is_of_the_connection()) {
                return Err(failed.into_backend_error(operation, !command.is_read()));
            }
        }
        Err(errors::unreachable(operation, io::ErrorKind::NotConnected.into()))
    }

    /// The pools of the runtime in which it is called.
    fn here(&self, operation: &'static str) -> Result<Arc<[Pool]>> {
        let runtime = Handle::try_current().map_err(|_| errors::no_runtime(operation))?;
        if let Some(pools) = self.pools.read().get(&runtime.id()) {
            return Ok(Arc::clone(&pools.pools));
        }
        Ok(self.begin(runtime.id()))
    }

    /// Makes pools for a runtime that has none.
    #[cold]
    fn begin(&self, runtime: Id) -> Arc<[Pool]> {
        let (ends, ended) = oneshot::channel::<()>();
        let pools = match self.pools.write().entry(runtime) {
            // Another thread of the runtime was faster.
            Entry::Occupied(there) => return Arc::clone(&there.get().pools),
            Entry::Vacant(free) => {
                let pools = self.nodes.iter().map(|node| self.pool(node)).collect();
                Arc::clone(&free.insert(Pools { pools, _ends: ends }).pools)
            }
        };
        let forget = Forget { runtimes: Arc::downgrade(&self.pools), runtime };
        background::start_detached(async move {
            // Only to be dropped: with the runtime, or when the backend is.
            let _forget = forget;
            let _ = ended.await;
        });
        pools
    }

    fn pool(&self, node: &Node) -> Pool {
        Pool::new(node.address.clone(), self.pool_size, self.call_timeout)
    }
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.nodes.iter().map(|node| node.address.to_string())).finish()
    }
}

/// Forgets the pools of a runtime when it ends.
struct Forget {
    runtimes: Weak<RwLock<Runtimes>>,
    runtime: Id,
}

impl Drop for Forget {
    fn drop(&mut self) {
        let Some(runtimes) = self.runtimes.upgrade() else { return };
        // Sockets are closed after the lock is given back.
        let pools = runtimes.write().remove(&self.runtime);
        drop(pools);
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

    #[test]
    fn the_pools_of_a_runtime_end_with_it() {
        let nodes = nodes(&[1]);
        let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
        for _ in 0..3 {
            let (one, other) = (runtime(), runtime());
            for runtime in [&one, &other] {
                let _inside = runtime.enter();
                assert_eq!(nodes.here("get").unwrap().len(), 1);
                assert_eq!(nodes.here("get").unwrap().len(), 1);
            }
            assert_eq!(nodes.pools.read().len(), 2);
            drop((one, other));
            assert_eq!(nodes.pools.read().len(), 0);
        }
        let error = nodes.here("get").unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Misconfigured, "{error}");
    }
}
