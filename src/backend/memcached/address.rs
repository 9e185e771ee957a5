//! The address of a server: a host and a port, or a unix socket.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use super::stream::Socket;

pub(super) const DEFAULT_PORT: u16 = 11211;
/// An idle connection is probed after that long: before a firewall forgets it.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Bytes that nobody acknowledges end a connection after that long.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl Address {
    /// Reads `memcached://host`, `memcached://host:port` and `memcached+unix:///path`. The error says
    /// what would be right, and not what was given: there may be a password in it.
    pub(super) fn parse(url: &str) -> Result<Self, &'static str> {
        const SHAPE: &str =
            "is not memcached://host, memcached://host:port or memcached+unix:///path";
        if let Some(path) = url.strip_prefix("memcached+unix://") {
            let absolute = path.starts_with('/') && path.len() > 1 && cfg!(unix);
            return if absolute { Ok(Self::Unix(path.into())) } else { Err(SHAPE) };
        }
        let authority = url.strip_prefix("memcached://").ok_or(SHAPE)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains('@') {
            return Err("has credentials; the text protocol of Memcached knows none");
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or(SHAPE)?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map_err(|_| SHAPE)?
            }
            None if port.is_empty() => DEFAULT_PORT,
            _ => return Err(SHAPE),
        };
        Self::tcp(host, port).ok_or(SHAPE)
    }

    /// `None` for what cannot be a host.
    pub(super) fn tcp(host: &str, port: u16) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:%-".contains(&byte);
        let fits = (1..=255).contains(&host.len()) && host.bytes().all(plain);
        fits.then(|| Self::Tcp { host: host.to_ascii_lowercase(), port })
    }

    pub(super) async fn connect(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                // Without it an answer may wait for 40 ms.
                stream.set_nodelay(true)?;
                let socket = SockRef::from(&stream);
                socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
                #[cfg(any(target_os = "linux", target_os = "android"))]
                socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
                Ok(Socket::Tcp(stream))
            }
            #[cfg(unix)]
            Self::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path).await?)),
            #[cfg(not(unix))]
            Self::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_urls() {
        for (url, expected) in [
            ("memcached://cache", "cache:11211"),
            ("memcached://Cache.example:1/", "cache.example:1"),
            ("memcached://10.0.0.1:65535", "10.0.0.1:65535"),
            ("memcached://[::1]", "[::1]:11211"),
            ("memcached://[fe80::1%eth0]:7", "[fe80::1%eth0]:7"),
            ("memcached+unix:///run/memcached.sock", "/run/memcached.sock"),
        ] {
            assert_eq!(Address::parse(url).unwrap().to_string(), expected);
        }
        for url in [
            "",
            "cache",
            "memcached://",
            "memcached://:11211",
            "memcached://a:0x1",
            "memcached://a:+1",
            "memcached://a:65536",
            "memcached://a:",
            "memcached://a:1:2",
            "memcached://a b",
            "memcached://a/path",
            "memcached://[::1",
            "memcached://[::1]1",
            "memcached+unix://relative",
            "memcached+unix:///",
            "redis://a",
        ] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
        let refused = Address::parse("memcached://me:secret@a").unwrap_err();
        assert!(!refused.contains("secret"));
    }
}
