//! Where connections come from, and the settings that a connection is made with.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::io::tcp::{TcpSettings, socket2};
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, RedisResult};

use super::connection::Connection;
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
    #[cfg(feature = "redis-cluster")]
    Cluster(Box<redis::cluster::ClusterClient>, Arc<str>),
    #[cfg(feature = "redis-sentinel")]
    Sentinel(Arc<tokio::sync::Mutex<redis::sentinel::SentinelClient>>, Arc<str>),
}

/// A new connection.
pub(super) struct Made {
    pub(super) connection: Connection,
    /// The address that sentinels named, to see later whether they name another.
    pub(super) address: Option<String>,
}

impl Source {
    pub(super) fn server(url: &str) -> Result<Self, BuildError> {
        Client::open(info(url)?).map(Self::Server).map_err(|error| refuse(&error))
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

    #[cfg(feature = "redis-cluster")]
    pub(super) fn cluster(urls: &[String], connect_timeout: Duration) -> Result<Self, BuildError> {
        if urls.is_empty() {
            return Err(BuildError::setting("cluster", "names no node; name at least one"));
        }
        let nodes = urls.iter().map(|url| info(url)).collect::<Result<Vec<_>, _>>()?;
        if nodes.iter().any(|node| node.redis_settings().db() != 0) {
            return Err(BuildError::setting(
                "cluster",
                "names a database in a url; a cluster has only database 0",
            ));
        }
        let names: Vec<String> = nodes.iter().map(|node| node.addr().to_string()).collect();
        // No retries: the client would also try again what may have run. Our own deadline ends each
        // call, so it needs none either.
        let client = redis::cluster::ClusterClientBuilder::new(nodes)
            .retries(0)
            .connection_timeout(connect_timeout)
            .overall_response_timeout(None)
            .tcp_settings(tcp_settings())
            .build()
            .map_err(|error| refuse(&error))?;
        Ok(Self::Cluster(Box::new(client), names.join(",").into()))
    }

    #[cfg(feature = "redis-sentinel")]
    pub(super) fn sentinels(urls: &[String], service: &str) -> Result<Self, BuildError> {
        use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};

        let first = urls.first().ok_or_else(|| {
            BuildError::setting("sentinels", "names no sentinel; name at least one, better three")
        })?;
        // As the URL of a server does: the credentials and the database are the service's. Sentinels
        // are asked with the same credentials.
        let first = info(first)?;
        let mut node = SentinelNodeConnectionInfo::default()
            .set_redis_connection_info(first.redis_settings().clone())
            .set_tcp_settings(tcp_settings());
        if matches!(first.addr(), redis::ConnectionAddr::TcpTls { .. }) {
            node = node.set_tls_mode(redis::TlsMode::Secure);
        }
        let mut sentinels = Vec::with_capacity(urls.len());
        for url in urls {
            let sentinel = info(url)?;
            let settings = sentinel.redis_settings().clone().set_db(0);
            sentinels.push(sentinel.set_redis_settings(settings));
        }
        let names: Vec<String> = sentinels.iter().map(|node| node.addr().to_string()).collect();
        let names = format!("{service} by {}", names.join(","));
        let client = SentinelClient::build(
            sentinels,
            String::from(service),
            Some(node),
            SentinelServerType::Master,
        )
        .map_err(|error| refuse(&error))?;
        Ok(Self::Sentinel(Arc::new(tokio::sync::Mutex::new(client)), names.into()))
    }

    /// Makes a connection, in a time that the caller bounds.
    pub(super) async fn connect(&self) -> RedisResult<Made> {
        let connection = match self {
            Self::Server(client) => connect(client).await?,
            Self::Factory(make) => make().await?,
            Self::Given(connection) => connection.clone(),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(client, _) => client.get_async_connection().await?.into(),
            #[cfg(feature = "redis-sentinel")]
            Self::Sentinel(sentinels, _) => {
                let client = sentinels.lock().await.async_get_client().await?;
                let address = client.get_connection_info().addr().to_string();
                return Ok(Made { connection: connect(&client).await?, address: Some(address) });
            }
        };
        Ok(Made { connection, address: None })
    }

    /// Whether connections lead somewhere else now than to `address`. False where nobody can be asked.
    pub(super) async fn has_moved(&self, address: Option<&str>) -> bool {
        match self {
            #[cfg(feature = "redis-sentinel")]
            Self::Sentinel(sentinels, _) => match sentinels.lock().await.async_get_client().await {
                Ok(client) => {
                    Some(client.get_connection_info().addr().to_string().as_str()) != address
                }
                // No sentinel answers: the master that we know is the best guess.
                Err(_) => false,
            },
            _ => {
                let _ = address;
                false
            }
        }
    }

    /// Whether sentinels tell where the server is.
    pub(super) fn may_move(&self) -> bool {
        match self {
            #[cfg(feature = "redis-sentinel")]
            Self::Sentinel(..) => true,
            _ => false,
        }
    }
}

/// One connection, without timeouts of the client's: ours are kept outside of it.
async fn connect(client: &Client) -> RedisResult<Connection> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await.map(Into::into)
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
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(_, nodes) => write!(f, "cluster {nodes}"),
            #[cfg(feature = "redis-sentinel")]
            Self::Sentinel(_, service) => write!(f, "service {service}"),
        }
    }
}
