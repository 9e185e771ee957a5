//! The nodes, and a pool of connections to each.
//!
//! A connection comes back to its pool only after an answer that was read to its end. A call that was
//! dropped or failed takes its connection with it: else the next caller would read its reply.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool::managed::{
    Manager, Metrics, Object, Pool, PoolError, QueueMode, RecycleError, RecycleResult,
};
use tokio::time::timeout_at;
use tracing::warn;

use super::address::Address;
use super::connection::{Answer, Command, Connection, said};
use super::errors::{self, Failed};
use super::keys::stable_hash;
use super::wire::Link;
use crate::backend::Result;
use crate::clock::monotonic_now;

pub(super) struct Nodes {
    nodes: Vec<Node>,
    call_timeout: Duration,
    least_connections: usize,
    most_connections: usize,
    closed: AtomicBool,
}

struct Node {
    address: Address,
    /// Of the address: the same in every process.
    hash: u64,
    pool: Pool<Dialer>,
}

impl Nodes {
    /// `addresses` is not empty.
    pub(super) fn new(
        addresses: Vec<Address>,
        call_timeout: Duration,
        least_connections: usize,
        most_connections: usize,
    ) -> Self {
        let node = |address: Address| {
            let hash = stable_hash(address.to_string().as_bytes());
            let dialer = Dialer { address: address.clone(), timeout: call_timeout / 2 };
            let pool = Pool::builder(dialer).max_size(most_connections);
            // The last one used is the one most likely to be alive.
            let pool = pool.queue_mode(QueueMode::Lifo).build();
            Node { address, hash, pool: pool.expect("a pool without timeouts needs no runtime") }
        };
        Self {
            nodes: addresses.into_iter().map(node).collect(),
            call_timeout,
            least_connections,
            most_connections,
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.nodes.iter().map(|node| &node.address)
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
        for node in &self.nodes {
            node.pool.retain(|_, _| false);
        }
    }

    /// Asks every node for its version, over as many connections as are kept at least. One node that
    /// answers is enough: the keys of the others are for the error policy, and must not keep a process
    /// from starting.
    pub(super) async fn warm_up(&self, operation: &'static str) -> Result<()> {
        let mut failed = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            match self.warm_up_node(index, operation).await {
                Ok(()) => {}
                Err(error) if error.kind().is_programmer_error() => return Err(error),
                Err(error) => failed.push((&node.address, error)),
            }
        }
        if failed.len() == self.nodes.len()
            && let Some((_, error)) = failed.pop()
        {
            return Err(error);
        }
        for (node, error) in failed {
            warn!(%node, %error, "a node does not answer; the error policy decides for its keys");
        }
        Ok(())
    }

    async fn warm_up_node(&self, index: usize, operation: &'static str) -> Result<()> {
        self.call(index, operation, Command::Version).await?;
        let deadline = monotonic_now() + self.call_timeout;
        let mut warm = Vec::new();
        while warm.len() < self.least_connections {
            let borrowed = timeout_at(deadline, self.borrow(&self.nodes[index], operation)).await;
            let mut borrowed = borrowed.map_err(|_| errors::timed_out(operation, false))??;
            borrowed.intact = true;
            warm.push(borrowed);
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
        let node = &self.nodes[node];
        let deadline = monotonic_now() + self.call_timeout;
        // Each connection of the pool may turn out to be dead.
        for _ in 0..=self.most_connections {
            let borrowed = timeout_at(deadline, self.borrow(node, operation)).await;
            let mut borrowed = borrowed.map_err(|_elapsed| errors::overloaded(operation))??;
            let connection = borrowed.connection();
            let used = connection.was_used();
            let answer = connection.execute(&command, deadline).await;
            let ambiguous = connection.link().was_sent() && !command.is_read();
            let error = match answer {
                Some(Ok(answer)) => {
                    borrowed.intact = true;
                    return Ok(answer);
                }
                Some(Err(error)) => error,
                None => return Err(errors::timed_out(operation, ambiguous)),
            };
            // Nothing happened, and the connection was an old one: that alone is tried again.
            if ambiguous || !used || !is_of_the_connection(&error) {
                return Err(Failed { error, ambiguous }.into_backend_error(operation));
            }
        }
        Err(errors::unreachable(operation, io::ErrorKind::NotConnected.into()))
    }

    async fn borrow(&self, node: &Node, operation: &'static str) -> Result<Borrowed<'_>> {
        match node.pool.get().await {
            Ok(object) => {
                Ok(Borrowed { object: Some(object), closed: &self.closed, intact: false })
            }
            Err(PoolError::Backend(error)) => Err(errors::unreachable(operation, error)),
            Err(_) => Err(errors::closed(operation)),
        }
    }
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.addresses().map(ToString::to_string)).finish()
    }
}

/// Whether another connection may do better.
fn is_of_the_connection(error: &io::Error) -> bool {
    error.kind() != io::ErrorKind::InvalidData && said(error).is_none()
}

/// Spreads a number over all its bits.
fn mix(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A connection out of the pool. Dropped with a command in flight, it is closed.
struct Borrowed<'a> {
    object: Option<Object<Dialer>>,
    closed: &'a AtomicBool,
    intact: bool,
}

impl Borrowed<'_> {
    fn connection(&mut self) -> &mut Connection {
        self.object.as_mut().expect("taken only when dropped")
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let keep = self.intact && !self.closed.load(Ordering::Acquire);
        if let Some(object) = self.object.take().filter(|_| !keep) {
            drop(Object::take(object));
        }
    }
}

/// Makes connections for a pool.
struct Dialer {
    address: Address,
    timeout: Duration,
}

impl Manager for Dialer {
    type Type = Connection;
    type Error = io::Error;

    async fn create(&self) -> io::Result<Connection> {
        let deadline = monotonic_now() + self.timeout;
        let socket = timeout_at(deadline, Box::pin(self.address.connect())).await;
        let socket = socket.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Connection::new(Link::new(socket)))
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<io::Error> {
        if connection.link().is_quiet() {
            Ok(())
        } else {
            Err(RecycleError::message("closed by the other end"))
        }
    }
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
