//! [`Source`]: the origin of connections, a URL, a factory or a connection of the user's.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use redis::{ConnectionAddr, RedisResult};

use super::connect::Connect;
use super::connection::Connection;
use super::direct::{DirectServer, info};
use super::failure::Failure;
use super::route::NodeAddress;
#[cfg(feature = "redis-sentinel")]
use super::sentinel::Sentinels;
use super::session::Session;
use crate::error::BuildError;

type Making = Pin<Box<dyn Future<Output = RedisResult<Connection>> + Send>>;
type Factory = Arc<dyn Fn() -> Making + Send + Sync>;

/// Where connections come from.
#[derive(Clone)]
pub(super) enum Source {
    /// One server.
    Server(DirectServer),
    /// The user's own function.
    Factory(Factory),
    /// A connection of the user's that reconnects by itself.
    Given(Connection),
    #[cfg(feature = "redis-sentinel")]
    Sentinels(Arc<Sentinels>),
}

impl Source {
    pub(super) fn server(url: &str) -> Result<Self, BuildError> {
        DirectServer::new(info(url)?).map(Self::Server)
    }

    pub(super) fn factory<C, F>(make: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        C: Into<Connection>,
        F: Future<Output = RedisResult<C>> + Send + 'static,
    {
        Self::Factory(Arc::new(move || {
            let making = make();
            Box::pin(async move { making.await.map(Into::into) })
        }))
    }

    #[cfg(feature = "redis-sentinel")]
    fn sentinels(&self) -> Option<&Sentinels> {
        match self {
            Self::Sentinels(sentinels) => Some(sentinels),
            Self::Server(_) | Self::Factory(_) | Self::Given(_) => None,
        }
    }
}

#[async_trait]
impl Connect for Source {
    async fn connect(&self) -> Result<Session, Failure> {
        let made = match self {
            Self::Server(server) => return server.connect().await,
            Self::Factory(make) => make().await.map_err(Failure::unconnected)?,
            Self::Given(connection) => connection.clone(),
            #[cfg(feature = "redis-sentinel")]
            Self::Sentinels(sentinels) => return sentinels.connect().await,
        };
        Ok(Session::new(made, None))
    }

    fn ports(&self) -> Vec<ConnectionAddr> {
        match self {
            Self::Server(server) => server.ports(),
            Self::Factory(_) | Self::Given(_) => Vec::new(),
            #[cfg(feature = "redis-sentinel")]
            Self::Sentinels(sentinels) => sentinels.ports(),
        }
    }

    async fn has_moved(&self, address: Option<&NodeAddress>) -> bool {
        match self {
            #[cfg(feature = "redis-sentinel")]
            // No sentinel answers: the master that we know is the best guess.
            Self::Sentinels(sentinels) => {
                sentinels.master().await.is_ok_and(|master| Some(&master) != address)
            }
            Self::Server(_) | Self::Factory(_) | Self::Given(_) => {
                let _ = address;
                false
            }
        }
    }

    #[cfg(feature = "redis-sentinel")]
    fn open(&self) {
        self.sentinels().into_iter().for_each(Sentinels::open);
    }

    #[cfg(feature = "redis-sentinel")]
    fn stop_tasks(&self) {
        self.sentinels().into_iter().for_each(Sentinels::stop_tasks);
    }

    #[cfg(feature = "redis-sentinel")]
    fn close(&self) {
        self.sentinels().into_iter().for_each(Sentinels::close);
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(server) => server.fmt(f),
            Self::Factory(_) => f.write_str("a factory"),
            Self::Given(connection) => connection.fmt(f),
            #[cfg(feature = "redis-sentinel")]
            Self::Sentinels(sentinels) => sentinels.fmt(f),
        }
    }
}
