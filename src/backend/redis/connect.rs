//! [`Connect`]: makes the connections of a [`Supervised`](super::supervisor::Supervised).

use std::fmt;

use async_trait::async_trait;
use redis::ConnectionAddr;

use super::failure::Failure;
use super::route::NodeAddress;
use super::session::Session;

/// Makes connections to one server, or to the one that is in charge now.
#[async_trait]
pub(super) trait Connect: fmt::Debug + Send + Sync + 'static {
    /// Makes a connection, in a time that the caller bounds.
    async fn connect(&self) -> Result<Session, Failure>;

    /// Returns the ports that the user named.
    fn ports(&self) -> Vec<ConnectionAddr>;

    /// Returns `true` if connections lead to another server now than to `address`. `false` where nobody
    /// can be asked.
    async fn has_moved(&self, address: Option<&NodeAddress>) -> bool {
        let _ = address;
        false
    }

    /// Opens again what [`close`](Self::close) closed.
    fn open(&self) {}

    /// Stops the background tasks that it needs.
    fn stop_tasks(&self) {}

    /// Closes the connections that it needs.
    fn close(&self) {}
}
