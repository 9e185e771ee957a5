//! Where connections come from, and the settings that a connection is made with.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::io::tcp::{TcpSettings, socket2};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisResult,
};

use super::connection::Connection;
use super::failure::Failure;
#[cfg(feature = "redis-sentinel")]
use super::link::Link;
use super::route::Node;
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
    Server(Client),
    /// The user's own function.
    Factory(Factory),
    /// A connection of the user's that cares for itself.
    Given(Connection),
    #[cfg(feature = "redis-sentinel")]
    Sentinels(Arc<Sentinels>),
}

impl Source {
    pub(super) fn server(url: &str) -> Result<Self, BuildError> {
        Self::of(info(url)?)
    }

    pub(super) fn of(info: ConnectionInfo) -> Result<Self, BuildError> {
        Client::open(info).map(Self::Server).map_err(|error| refuse(&error))
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

    /// Returns the ports that the user named.
    pub(super) fn ports(&self) -> Vec<ConnectionAddr> {
        match self {
            Self::Server(client) => vec![client.get_connection_info().addr().clone()],
            Self::Factory(_) | Self::Given(_) => Vec::new(),
            #[cfg(feature = "redis-sentinel")]
            Self::Sentinels(sentinels) => sentinels.links().flat_map(Link::ports).collect(),
        }
    }

    /// Makes a connection, in a time that the caller bounds.
    pub(super) async fn connect(&self) -> Result<Session, Failure> {
        let made = match self {
            Self::Server(client) => return connect(client).await,
            Self::Factory(make) => make().await.map_err(Failure::unconnected)?,
            Self::Given(connection) => connection.clone(),
            #[cfg(feature = "redis-sentinel")]
            Self::Sentinels(sentinels) => return sentinels.connect().await,
        };
        Ok(Session::new(made, None))
    }

    /// Returns `true` if connections lead to another server now than to `address`. `false` where nobody
    /// can be asked.
    pub(super) async fn has_moved(&self, address: Option<&Node>) -> bool {
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

    /// Opens again what `close` closed.
    pub(super) fn open(&self) {
        #[cfg(feature = "redis-sentinel")]
        self.sentinels().for_each(Link::open);
    }

    /// Stops the background tasks that it needs.
    pub(super) fn rest(&self) {
        #[cfg(feature = "redis-sentinel")]
        self.sentinels().for_each(Link::rest);
    }

    /// Closes the connections that it needs.
    pub(super) fn close(&self) {
        #[cfg(feature = "redis-sentinel")]
        self.sentinels().for_each(Link::close);
    }

    #[cfg(feature = "redis-sentinel")]
    fn sentinels(&self) -> impl Iterator<Item = &Link> {
        let sentinels = match self {
            Self::Sentinels(sentinels) => Some(sentinels.links()),
            Self::Server(_) | Self::Factory(_) | Self::Given(_) => None,
        };
        sentinels.into_iter().flatten()
    }
}

/// Returns the settings for another server that has the same credentials and the same TLS.
#[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
pub(super) fn elsewhere(info: &ConnectionInfo, node: &Node) -> ConnectionInfo {
    use redis::ConnectionAddr::{Tcp, TcpTls};
    let Node { host, port } = node.clone();
    let address = match info.addr().clone() {
        TcpTls { insecure, tls_params, .. } => TcpTls { host, port, insecure, tls_params },
        _ => Tcp(host, port),
    };
    info.clone().set_addr(address)
}

/// Returns the address of a server; `None` for a socket.
pub(super) fn address(info: &ConnectionInfo) -> Option<Node> {
    match info.addr() {
        redis::ConnectionAddr::Tcp(host, port)
        | redis::ConnectionAddr::TcpTls { host, port, .. } => {
            Some(Node { host: host.clone(), port: *port })
        }
        _ => None,
    }
}

/// Makes one connection, without timeouts of the client's: ours are kept outside of it.
pub(super) async fn connect(client: &Client) -> Result<Session, Failure> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let made = client.get_multiplexed_async_connection_with_config(&config).await;
    let connection = made.map_err(Failure::unconnected)?;
    Ok(Session::new(connection.into(), address(client.get_connection_info())))
}

/// Reads a URL. The error never repeats it, for it may hold a password.
pub(super) fn info(url: &str) -> Result<ConnectionInfo, BuildError> {
    if url.starts_with("rediss:") || url.starts_with("valkeys:") {
        prepare_tls()?;
    }
    let info = url.into_connection_info().map_err(|_unsafe_to_show| {
        BuildError::setting(
            "url",
            "is not one of redis://[user:password@]host[:port][/db], rediss://... or \
             unix:///path[?db=0] (the given one is not shown, it may hold a password)",
        )
    })?;
    Ok(info.set_tcp_settings(tcp_settings()))
}

#[cfg(feature = "redis-rustls")]
#[expect(clippy::unnecessary_wraps, reason = "the twin without the feature fails")]
fn prepare_tls() -> Result<(), BuildError> {
    // Without a provider the first connection would panic. If the program has chosen one already, its
    // choice stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(())
}

#[cfg(not(feature = "redis-rustls"))]
fn prepare_tls() -> Result<(), BuildError> {
    Err(BuildError::setting("url", "asks for TLS; enable the feature redis-rustls"))
}

/// A connection whose other end is gone without a word is found dead by the system in some seconds.
fn tcp_settings() -> TcpSettings {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(3));
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    let settings = settings.set_user_timeout(Duration::from_secs(5));
    settings
}

fn refuse(error: &redis::RedisError) -> BuildError {
    // The client's words for a wrong configuration name settings, not their values.
    BuildError::setting("url", format!("cannot be used: {}", error.category()))
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(client) => write!(f, "{}", client.get_connection_info().addr()),
            Self::Factory(_) => f.write_str("a factory"),
            Self::Given(connection) => connection.fmt(f),
            #[cfg(feature = "redis-sentinel")]
            Self::Sentinels(sentinels) => sentinels.fmt(f),
        }
    }
}
