//! [`Connection`]: a multiplexed connection, of any kind that a factory may return.

use std::fmt;

use redis::aio::{ConnectionLike, ConnectionManager, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisResult, Value};

use super::failure::{Failure, Remedy};

/// A connection of the `redis` crate that many tasks may use at the same time.
///
/// A factory returns one, or whatever turns into one: a [`MultiplexedConnection`] or a
/// [`ConnectionManager`].
#[derive(Clone)]
pub struct Connection(Kind);

#[derive(Clone)]
enum Kind {
    Multiplexed(MultiplexedConnection),
    Managed(ConnectionManager),
}

impl Connection {
    /// Sends one command and waits for its reply. Cancel safe: the command may run all the same, and
    /// nobody else gets its reply.
    pub(super) async fn send(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        let reply = match &mut self.0 {
            Kind::Multiplexed(connection) => connection.send_packed_command(cmd).await?,
            Kind::Managed(connection) => connection.req_packed_command(cmd).await?,
        };
        own_error(reply)
    }

    /// Sends one command after an `ASKING`, both in one write, so that nothing comes between them.
    pub(super) async fn send_asking(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("ASKING").add_command(cmd.clone());
        let replies = self.send_all(&pipeline, 2).await?;
        own_error(replies.into_iter().next_back().unwrap_or(Value::Nil))
    }

    /// Sends so many commands in one write. Returns the reply to each, which may be an error.
    pub(super) async fn send_all(
        &mut self,
        commands: &Pipeline,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        match &mut self.0 {
            Kind::Multiplexed(connection) => {
                connection.send_packed_commands(commands, 0, count).await
            }
            Kind::Managed(connection) => connection.req_packed_commands(commands, 0, count).await,
        }
    }
}

/// Returns a reply, or the error that it is.
///
/// Errors inside a reply are those of a script's keys. One that leads to another server, or that ends by itself,
/// is of the whole: a script that met it wrote nothing, so it may run again. Any other concerns its key.
pub(super) fn own_error(reply: Value) -> RedisResult<Value> {
    let whole = match &reply {
        Value::ServerError(error) => Some(error),
        Value::Array(replies) => replies.iter().find_map(|reply| match reply {
            Value::ServerError(error) => {
                let failure = Failure::of(error.clone().into());
                (failure.remedy != Remedy::None).then_some(error)
            }
            _ => None,
        }),
        _ => None,
    };
    match whole {
        Some(error) => Err(error.clone().into()),
        None => Ok(reply),
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

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The crate's own form may hold addresses with credentials.
        f.write_str(match self.0 {
            Kind::Multiplexed(_) => "Connection(multiplexed)",
            Kind::Managed(_) => "Connection(managed)",
        })
    }
}
