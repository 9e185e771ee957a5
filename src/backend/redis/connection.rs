//! [`Connection`]: what the backend sends its commands on, whichever kind it is.

use std::fmt;

use redis::aio::{ConnectionLike, ConnectionManager, MultiplexedConnection};
use redis::{Cmd, RedisResult, Value};

/// A connection of the `redis` crate that many tasks may use at the same time.
///
/// A factory returns one, or whatever turns into one: a [`MultiplexedConnection`], a
/// [`ConnectionManager`], or with the feature `redis-cluster` a cluster's connection.
#[derive(Clone)]
pub struct Connection(Kind);

#[derive(Clone)]
enum Kind {
    Multiplexed(MultiplexedConnection),
    Managed(ConnectionManager),
    #[cfg(feature = "redis-cluster")]
    Cluster(redis::cluster_async::ClusterConnection),
}

/// To which server a command goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Route {
    /// The one that the connection takes by itself: for a cluster by the command's key.
    #[default]
    Natural,
    /// That node of a cluster.
    Node(Node),
    /// That node, which is about to take the key over, and must be told that we know.
    Asking(Node),
}

/// The address of a cluster's node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Node {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Connection {
    /// Sends one command and waits for its reply. Cancel safe: the command may run all the same, and
    /// nobody else gets its reply.
    pub(super) async fn send(&mut self, cmd: &Cmd, route: &Route) -> RedisResult<Value> {
        let reply = match (&mut self.0, route) {
            (Kind::Multiplexed(connection), _) => connection.send_packed_command(cmd).await?,
            (Kind::Managed(connection), _) => connection.req_packed_command(cmd).await?,
            #[cfg(feature = "redis-cluster")]
            (Kind::Cluster(connection), Route::Natural) => {
                connection.req_packed_command(cmd).await?
            }
            #[cfg(feature = "redis-cluster")]
            (Kind::Cluster(connection), Route::Node(node)) => {
                let route = redis::cluster_routing::RoutingInfo::SingleNode(node.routing());
                connection.route_command(cmd.clone(), route).await?
            }
            #[cfg(feature = "redis-cluster")]
            (Kind::Cluster(connection), Route::Asking(node)) => {
                // Both in one write on one connection, so nothing comes between them.
                let mut pipeline = redis::pipe();
                pipeline.cmd("ASKING").add_command(cmd.clone());
                let replies = connection.route_pipeline(pipeline, 0, 2, node.routing()).await?;
                replies.into_iter().next_back().unwrap_or(Value::Nil)
            }
        };
        reply.extract_error()
    }

    /// Whether several servers stand behind it.
    pub(super) fn is_cluster(&self) -> bool {
        match self.0 {
            Kind::Multiplexed(_) | Kind::Managed(_) => false,
            #[cfg(feature = "redis-cluster")]
            Kind::Cluster(_) => true,
        }
    }
}

#[cfg(feature = "redis-cluster")]
impl Node {
    fn routing(&self) -> redis::cluster_routing::SingleNodeRoutingInfo {
        let Self { host, port } = self.clone();
        redis::cluster_routing::SingleNodeRoutingInfo::ByAddress { host, port }
    }
}

impl Node {
    /// Reads `host:port`, as in a redirection.
    pub(super) fn parse(address: &str) -> Option<Self> {
        let (host, port) = address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Some(Self { host: host.to_owned(), port: port.parse().ok()? })
    }
}

impl From<MultiplexedConnection> for Connection {
    fn from(connection: MultiplexedConnection) -> Self {
        Self(Kind::Multiplexed(connection))
    }
}

impl From<ConnectionManager> for Connection {
    fn from(connection: ConnectionManager) -> Self {
        Self(Kind::Managed(connection))
    }
}

#[cfg(feature = "redis-cluster")]
impl From<redis::cluster_async::ClusterConnection> for Connection {
    fn from(connection: redis::cluster_async::ClusterConnection) -> Self {
        Self(Kind::Cluster(connection))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The crate's own form may hold addresses with credentials.
        f.write_str(match self.0 {
            Kind::Multiplexed(_) => "Connection(multiplexed)",
            Kind::Managed(_) => "Connection(managed)",
            #[cfg(feature = "redis-cluster")]
            Kind::Cluster(_) => "Connection(cluster)",
        })
    }
}
