//! The stream under the client: one packet a command, bounded replies, and whether anything was sent.
//!
//! The client writes a command in pieces and trusts every length that it reads. Here the pieces are
//! gathered until it flushes, and a reply is looked at before it is handed on.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// The most bytes of a value, which is what a server takes by default.
pub(super) const MAX_VALUE: usize = 1024 * 1024;
/// Above the longest line of the protocol: a key of 250 bytes and four numbers.
const MAX_LINE: usize = 512;

#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// Calls the same method on either kind of stream.
macro_rules! either {
    ($socket:expr, $stream:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($stream) => $call,
            #[cfg(unix)]
            Socket::Unix($stream) => $call,
        }
    };
}

/// What a connection knows of its stream, which the client keeps to itself.
#[derive(Debug)]
pub(super) struct Link {
    /// Locked for one poll at a time, and never by two.
    socket: Mutex<Socket>,
    /// Whether a byte of the present command was sent.
    sent: AtomicBool,
    /// Bytes that the present reply may still have.
    budget: AtomicUsize,
}

impl Link {
    pub(super) fn new(socket: Socket) -> Arc<Self> {
        Arc::new(Self {
            socket: Mutex::new(socket),
            sent: AtomicBool::new(false),
            budget: AtomicUsize::new(0),
        })
    }

    /// A command begins, whose reply has at most that many values.
    pub(super) fn begin(&self, values: usize) {
        self.sent.store(false, Ordering::Relaxed);
        let most = values.saturating_mul(MAX_VALUE + MAX_LINE).saturating_add(MAX_LINE);
        self.budget.store(most, Ordering::Relaxed);
    }

    pub(super) fn was_sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether nothing came in and the other end is there, as far as this end was told.
    pub(super) fn is_quiet(&self) -> bool {
        let read = either!(&*self.socket.lock(), stream => stream.try_read(&mut [0]));
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// The stream that the client reads and writes.
#[derive(Debug)]
pub(super) struct Wire {
    link: Arc<Link>,
    /// The command, until the client flushes.
    command: Vec<u8>,
    /// How much of it was sent.
    sent: usize,
    reply: Reply,
}

impl Wire {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link, command: Vec::new(), sent: 0, reply: Reply::default() }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { link, reply, .. } = &mut *self;
        let before = buffer.filled().len();
        ready!(either!(&mut *link.socket.lock(), stream => {
            Pin::new(stream).poll_read(cx, buffer)
        }))?;
        let read = &buffer.filled()[before..];
        let left = link.budget.load(Ordering::Relaxed).checked_sub(read.len());
        let left = left.ok_or_else(|| refused("a reply that is too long"))?;
        link.budget.store(left, Ordering::Relaxed);
        reply.pass(read)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.command.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { link, command, sent, .. } = &mut *self;
        while *sent < command.len() {
            let written = ready!(either!(&mut *link.socket.lock(), stream => {
                Pin::new(stream).poll_write(cx, &command[*sent..])
            }))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            link.sent.store(true, Ordering::Relaxed);
            *sent += written;
        }
        command.clear();
        command.shrink_to(MAX_LINE * 4);
        *sent = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Dropping the socket closes it.
        Poll::Ready(Ok(()))
    }
}

/// Where a reply stands: in a line, or in the bytes of a value that a line announced.
#[derive(Debug, Default)]
struct Reply {
    line: Vec<u8>,
    value: usize,
}

impl Reply {
    /// Refuses a line or a value that is too long, before anything is allocated for it.
    fn pass(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.value > 0 {
                let skipped = self.value.min(bytes.len());
                self.value -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let (part, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
            if self.line.len() + part.len() > MAX_LINE {
                return Err(refused("a line that is too long"));
            }
            self.line.extend_from_slice(part);
            bytes = rest;
            if end.is_some() {
                self.value = announced(&self.line)?;
                self.line.clear();
            }
        }
        Ok(())
    }
}

/// How many bytes follow a line: those of a value and its line end, or none.
fn announced(line: &[u8]) -> io::Result<usize> {
    if !line.starts_with(b"VALUE ") {
        return Ok(0);
    }
    let length = line.trim_ascii_end().split(|byte| *byte == b' ').nth(3);
    let length: Option<usize> =
        length.and_then(|length| std::str::from_utf8(length).ok()?.parse().ok());
    match length {
        Some(length) if length <= MAX_VALUE => Ok(length + 2),
        _ => Err(refused("a value that is too long")),
    }
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server sent {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn passes(reply: &[u8], chunk: usize) -> bool {
        let mut state = Reply::default();
        reply.chunks(chunk.max(1)).all(|bytes| state.pass(bytes).is_ok())
    }

    #[test]
    fn f31_no_length_of_a_server_is_trusted() {
        for chunk in [1, 2, 7, 4096] {
            assert!(passes(b"VALUE a 0 7 1\r\n\r\nVALUE\r\nEND\r\nSTORED\r\n", chunk));
            assert!(passes(b"VALUE a 0 0\r\n\r\nEND\r\n", chunk));
            for bad in ["1048577", "18446744073709551615", "-1", "", "99999999999999999999999"] {
                assert!(!passes(format!("VALUE a 0 {bad}\r\n").as_bytes(), chunk), "{bad}");
            }
            assert!(!passes(b"VALUE a\r\n", chunk));
            assert!(!passes(&[b'x'; MAX_LINE + 1], chunk));
        }
    }

    proptest! {
        #[test]
        fn f31_no_reply_makes_it_panic(reply: Vec<u8>, chunk in 1usize..20) {
            passes(&reply, chunk);
            passes(&[b"VALUE ", &reply[..]].concat(), chunk);
        }
    }
}
