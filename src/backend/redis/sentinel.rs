//! [`Sentinels`]: finds the master of a service, and connects to it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, ConnectionAddr, ConnectionInfo, Value};

use super::connect::Connect;
use super::direct::{DirectServer, elsewhere, info};
use super::failure::Failure;
use super::gather::most_frequent;
use super::route::NodeAddress;
use super::session::Session;
use super::supervisor::Supervised;
use crate::clock::monotonic_now;
use crate::error::{BuildError, Effect, ErrorKind};

/// The sentinels of a service. Each has its own connection, and all are asked at once: a silent one
/// costs nothing.
pub(super) struct Sentinels {
    links: Vec<Arc<Supervised>>,
    service: Box<str>,
    question: Cmd,
    /// What the master is connected with, but for the address.
    server: ConnectionInfo,
    timeout: Duration,
}

impl Sentinels {
    pub(super) fn new(
        urls: &[String],
        service: &str,
        timeout: Duration,
    ) -> Result<Self, BuildError> {
        // As the URL of a server does: the credentials and the database are the service's. Sentinels
        // are asked with the same credentials.
        let server = info(urls.first().ok_or_else(|| {
            BuildError::setting("sentinels", "names no sentinel; name at least one, better three")
        })?)?;
        let link = |url: &String| -> Result<_, BuildError> {
            let sentinel = info(url)?;
            let settings = sentinel.redis_settings().clone().set_db(0);
            let sentinel = DirectServer::new(sentinel.set_redis_settings(settings))?;
            Ok(Arc::new(Supervised::new(sentinel, timeout)))
        };
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
        Ok(Self {
            links: urls.iter().map(link).collect::<Result<_, _>>()?,
            service: service.into(),
            question,
            server,
            timeout,
        })
    }

    /// Returns the ports that the user named.
    pub(super) fn ports(&self) -> Vec<ConnectionAddr> {
        self.links.iter().flat_map(|link| link.ports()).collect()
    }

    pub(super) fn open(&self) {
        self.links.iter().for_each(|link| link.open());
    }

    pub(super) fn stop_tasks(&self) {
        self.links.iter().for_each(|link| link.stop_tasks());
    }

    pub(super) fn close(&self) {
        self.links.iter().for_each(|link| link.close());
    }

    /// Returns the master that most of the sentinels name.
    pub(super) async fn master(&self) -> Result<NodeAddress, Failure> {
        let named = most_frequent(&self.links, &self.question, self.timeout, read_address).await?;
        named.ok_or_else(|| {
            let message = format!("the sentinels know no service {:?}", self.service);
            Failure::new(ErrorKind::Misconfigured, Effect::NotApplied).with_message(message)
        })
    }

    /// Connects to the master, in a time that the caller bounds.
    pub(super) async fn connect(&self) -> Result<Session, Failure> {
        let node = self.master().await?;
        let mut session = DirectServer::beside(elsewhere(&self.server, &node))?.connect().await?;
        // Sentinels that have not heard of a failover yet name the old one, which may be a replica now.
        let deadline = monotonic_now() + self.timeout;
        let role = session.call(&redis::cmd("ROLE"), false, deadline).await;
        match role.map_err(Failure::not_applied)? {
            Value::Array(role) if matches!(role.first(), Some(first) if is_master(first)) => {
                Ok(session)
            }
            _ => {
                let message = format!(
                    "the sentinels name {}:{} as master, which is a replica",
                    node.host, node.port
                );
                Err(Failure::new(ErrorKind::Unavailable, Effect::NotApplied).with_message(message))
            }
        }
    }
}

fn is_master(role: &Value) -> bool {
    matches!(role, Value::BulkString(role) if role == b"master")
        || matches!(role, Value::SimpleString(role) if role == "master")
}

/// Host and port; `None` for a service that the sentinel does not know.
fn read_address(_sentinel: &Session, reply: Value) -> Result<Option<NodeAddress>, Failure> {
    redis::from_redis_value::<Option<(String, u16)>>(reply)
        .map(|address| address.map(|(host, port)| NodeAddress { host, port }))
        .map_err(|error| Failure::unconnected(error.into()))
}

impl fmt::Debug for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentinels: Vec<String> = self.links.iter().map(|link| format!("{link:?}")).collect();
        write!(f, "service {} by {}", self.service, sentinels.join(","))
    }
}
