//! [`DirectServer`]: a server by its URL, with the settings of its connections.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use redis::io::tcp::{TcpSettings, socket2};
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use super::connect::Connect;
use super::failure::Failure;
use super::route::NodeAddress;
use super::session::Session;
use crate::error::BuildError;

/// One server, by the settings of its URL.
#[derive(Clone)]
pub(super) struct DirectServer(Client);

impl DirectServer {
    pub(super) fn new(info: ConnectionInfo) -> Result<Self, BuildError> {
        Client::open(info).map(Self).map_err(|error| refuse(&error))
    }

    /// Makes a server of settings that were taken from those of another one.
    #[cfg(feature = "redis-sentinel")]
    pub(super) fn beside(info: ConnectionInfo) -> Result<Self, Failure> {
        Client::open(info).map(Self).map_err(Failure::unconnected)
    }
}

#[async_trait]
impl Connect for DirectServer {
    /// Makes one connection, without timeouts of the client's: ours are kept outside of it.
    async fn connect(&self) -> Result<Session, Failure> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let made = self.0.get_multiplexed_async_connection_with_config(&config).await;
        let connection = made.map_err(Failure::unconnected)?;
        Ok(Session::new(connection.into(), address(self.0.get_connection_info())))
    }

    fn ports(&self) -> Vec<ConnectionAddr> {
        vec![self.0.get_connection_info().addr().clone()]
    }
}

impl fmt::Debug for DirectServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.get_connection_info().addr())
    }
}

/// Returns the settings for another server that has the same credentials and the same TLS.
#[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
pub(super) fn elsewhere(info: &ConnectionInfo, node: &NodeAddress) -> ConnectionInfo {
    use redis::ConnectionAddr::{Tcp, TcpTls};
    let NodeAddress { host, port } = node.clone();
    let address = match info.addr().clone() {
        TcpTls { insecure, tls_params, .. } => TcpTls { host, port, insecure, tls_params },
        _ => Tcp(host, port),
    };
    info.clone().set_addr(address)
}

/// Returns the address of a server; `None` for a socket.
pub(super) fn address(info: &ConnectionInfo) -> Option<NodeAddress> {
    match info.addr() {
        redis::ConnectionAddr::Tcp(host, port)
        | redis::ConnectionAddr::TcpTls { host, port, .. } => {
            Some(NodeAddress { host: host.clone(), port: *port })
        }
        _ => None,
    }
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
