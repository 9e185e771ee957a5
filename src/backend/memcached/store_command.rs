//! `add` and `cas` of several items in one write, which the client does not have.
//!
//! It waits for the answer to each before it sends the next. So this is written here, as
//! [`gets_command`](super::gets_command) is, and the stream has checked the reply when it gets here.

use std::io::{self, Write};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::protocol::{Reply, StoreOutcome, StoredItem};
use super::stream::GuardedStream;

/// Writes items, each if it is as it was.
pub(super) async fn store_many(
    stream: &mut GuardedStream<'_>,
    items: &[StoredItem<'_>],
) -> io::Result<Reply> {
    let mut line = Vec::with_capacity(320);
    for StoredItem { key, value, version, exptime } in items {
        line.clear();
        let length = value.len();
        match version {
            Some(version) => write!(line, "cas {key} 0 {exptime} {length} {version}\r\n")?,
            None => write!(line, "add {key} 0 {exptime} {length}\r\n")?,
        }
        stream.write_all(&line).await?;
        stream.write_all(value).await?;
        stream.write_all(b"\r\n").await?;
    }
    stream.flush().await?;
    let mut reply = Vec::with_capacity(16 * items.len());
    while !stream.reply().is_whole() {
        if stream.read_buf(&mut reply).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let lines = reply.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let outcomes: Option<Vec<_>> = lines.take(items.len()).map(StoreOutcome::read).collect();
    outcomes.map(Reply::Stored).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::super::stream::Socket;
    use super::*;
    use crate::backend::memcached::protocol::Command;

    #[tokio::test]
    async fn all_go_in_one_write_and_each_has_its_answer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let expected = b"cas a 0 5 2 7\r\nxy\r\nadd b 0 0 4\r\n\r\nz!\r\n";
            let mut sent = vec![0; expected.len()];
            stream.read_exact(&mut sent).await.unwrap();
            assert_eq!(sent, expected);
            stream.write_all(b"EXISTS\r\nSTORED\r\n").await.unwrap();
        });
        let items = [
            StoredItem { key: "a", value: b"xy", version: Some(7), exptime: 5 },
            StoredItem { key: "b", value: b"\r\nz!", version: None, exptime: 0 },
        ];
        let mut socket = Socket::Tcp(tokio::net::TcpStream::connect(address).await.unwrap());
        let (mut outgoing, command) = (Vec::new(), Command::StoreMany(&items));
        let mut stream = GuardedStream::new(&mut socket, &mut outgoing, &command);
        let reply = store_many(&mut stream, &items).await.unwrap();
        assert_eq!(reply, Reply::Stored(vec![StoreOutcome::Changed, StoreOutcome::Done]));
        server.await.unwrap();
    }
}
