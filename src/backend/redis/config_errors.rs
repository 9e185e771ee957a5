//! Configuration mistakes that look like an outage. Retrying helps none of them, and no error policy may
//! hide them.

use std::time::Duration;

use redis::{ConnectionAddr, RedisError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The time for a look at a port.
const LOOK: Duration = Duration::from_millis(500);

pub(super) const NO_CLUSTER_CLIENT: &str = "the server is one of a cluster; name the cluster's nodes with \
                                            cluster(...), feature redis-cluster";
pub(super) const REPLICA: &str = "the server is a replica, which only reads; give the address of the \
                                  primary, or let sentinels name it with sentinels(...)";
const NO_PASSWORD: &str = "the server asks for a password; give it in the url";
const WRONG_PASSWORD: &str = "the server refuses the user and the password of the url, or wants none; correct \
                              them, or leave them out";
const NO_SENTINEL: &str =
    "the server is no sentinel; give it with url(...), or name the sentinels' ports";
/// Valkey says the same of a node of a cluster, which has its number of databases from another setting.
const NO_DATABASE: &str = "the server has no such database as the url names; use a number below its setting \
                           `databases`, mostly 0 to 15; for a cluster name the nodes with cluster(...), \
                           feature redis-cluster, and no database";
const CLUSTER_DATABASE: &str = "the server is one of a cluster, which has no database but 0; name the \
                                cluster's nodes with cluster(...), feature redis-cluster, and no database";
const NO_CLUSTER: &str = "the server is not one of a cluster; give it with url(...)";
const OTHER_PROTOCOL: &str = "the server does not speak the Redis protocol: is it a port for HTTP? For one \
                              that speaks TLS use rediss://";
const NO_TLS: &str =
    "the port does not speak TLS; use redis:// for it, or name the server's port for TLS";
const TLS: &str = "the port speaks TLS; use rediss:// for it, feature redis-rustls";

/// Returns what a server that was reached says about a mistake; at any time.
pub(super) fn said(error: &RedisError) -> Option<&'static str> {
    match (error.kind(), error.code()) {
        (redis::ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS")) => {
            return Some(WRONG_PASSWORD);
        }
        (_, Some("NOAUTH")) => return Some(NO_PASSWORD),
        _ => {}
    }
    let detail = error.detail()?;
    let table = [
        ("DB index is out of range", NO_DATABASE),
        ("SELECT is not allowed in cluster mode", CLUSTER_DATABASE),
        ("cluster support disabled", NO_CLUSTER),
        ("unknown command 'SENTINEL'", NO_SENTINEL),
        // In place of NOAUTH, to a command of many words.
        ("unauthenticated multibulk", NO_PASSWORD),
        ("unauthenticated bulk", NO_PASSWORD),
    ];
    table.into_iter().find_map(|(text, problem)| detail.contains(text).then_some(problem))
}

/// Returns what a connection that could not be made says.
pub(super) fn of_connecting(error: &RedisError) -> Option<&'static str> {
    if let Some(problem) = said(error) {
        return Some(problem);
    }
    let text = error.to_string();
    if text.contains("InvalidContentType") {
        return Some(NO_TLS);
    }
    // Only of a connection that is being made: later it may be damage on the way. And a reply that ends
    // too early is one that was cut.
    let is_parse_error = error.kind() == redis::ErrorKind::Parse || text.contains("Parse error at");
    (is_parse_error && !text.contains("end of input")).then_some(OTHER_PROTOCOL)
}

/// Looks at a port that cannot be talked to: whether it speaks TLS where that is not asked for, or the
/// reverse. Each then waits for the other, or cuts the connection.
pub(super) async fn of_port(address: &ConnectionAddr) -> Option<&'static str> {
    // The head of a handshake that nobody understands: who speaks TLS answers with an alert.
    const HELLO: [u8; 10] = [0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0];
    let speaks_tls = |reply: &[u8]| matches!(reply, [0x15 | 0x16, 3, ..]);
    let speaks_plain = |reply: &[u8]| matches!(reply, [b'+' | b'-', ..]);
    match address {
        ConnectionAddr::Tcp(host, port) => {
            let reply = exchange(host, *port, &HELLO).await?;
            speaks_tls(&reply).then_some(TLS)
        }
        ConnectionAddr::TcpTls { host, port, .. } => {
            let reply = exchange(host, *port, b"PING\r\n").await?;
            speaks_plain(&reply).then_some(NO_TLS)
        }
        _ => None,
    }
}

/// The first bytes of the answer.
async fn exchange(host: &str, port: u16, request: &[u8]) -> Option<Vec<u8>> {
    let exchanging = async {
        let mut stream = TcpStream::connect((host, port)).await.ok()?;
        stream.write_all(request).await.ok()?;
        let mut reply = vec![0; 16];
        let length = stream.read(&mut reply).await.ok()?;
        reply.truncate(length);
        Some(reply)
    };
    timeout(LOOK, exchanging).await.ok().flatten()
}
