//! `gets` of several keys, which the client does not have.
//!
//! Its `gets_cas` reads one key, and its `get_multi` reads several without their versions. A decision with
//! [`track_keys`](super::MemcachedBuilder::track_keys) needs an item and its node's generation by one
//! command, and both versions. So this command alone is written here, on the stream on which the client
//! would write it. The stream has checked the reply when it gets here.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::protocol::Reply;
use super::reply::ValueHeader;
use super::stream::GuardedStream;

/// Reads the values and versions of keys.
pub(super) async fn gets_many(stream: &mut GuardedStream<'_>, keys: &[&str]) -> io::Result<Reply> {
    stream.write_all(b"gets").await?;
    for key in keys {
        stream.write_all(b" ").await?;
        stream.write_all(key.as_bytes()).await?;
    }
    stream.write_all(b"\r\n").await?;
    stream.flush().await?;
    let mut reply = Vec::with_capacity(512);
    while !stream.reply().is_whole() {
        if stream.read_buf(&mut reply).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    values(keys, &reply).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Returns what is in a whole reply.
fn values(keys: &[&str], mut reply: &[u8]) -> Option<Reply> {
    let mut values = vec![None; keys.len()];
    loop {
        let end = reply.iter().position(|byte| *byte == b'\n')?;
        let (line, rest) = reply.split_at(end + 1);
        let Some(header) = ValueHeader::read(line.trim_ascii_end()) else {
            return Some(Reply::Values(values));
        };
        let place = keys.iter().position(|key| key.as_bytes() == header.key)?;
        values[place] = Some((rest.get(..header.length)?.to_vec(), header.version?));
        reply = rest.get(header.length + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_in_the_order_of_the_keys() {
        let value = |text: &[u8], version| Some((text.to_vec(), version));
        for (bytes, expected) in [
            (&b"END\r\n"[..], vec![None, None]),
            (b"VALUE a 0 5 7\r\nx\r\nyz\r\nEND\r\n", vec![value(b"x\r\nyz", 7), None]),
            (b"VALUE b 0 0 8\r\n\r\nEND\r\n", vec![None, value(b"", 8)]),
            (
                b"VALUE a 0 1 7\r\nx\r\nVALUE b 9 5 8\r\nEND\r\n\r\nEND\r\n",
                vec![value(b"x", 7), value(b"END\r\n", 8)],
            ),
        ] {
            assert_eq!(values(&["a", "b"], bytes), Some(Reply::Values(expected)));
        }
    }
}
