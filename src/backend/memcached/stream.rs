//! The stream under the client, for one command: sends the command as one packet, checks the reply before
//! handing it on, and knows whether anything was sent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use super::protocol::Command;
use super::reply::ReplyCheck;

/// What is kept of a buffer that has grown.
const KEEP: usize = 16 * 1024;

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

impl Socket {
    /// Returns whether nothing came in and the other end is there, as far as this end was told.
    pub(super) fn is_quiet(&self) -> bool {
        let read = either!(self, stream => stream.try_read(&mut [0]));
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// A socket while it serves one command.
#[derive(Debug)]
pub(super) struct GuardedStream<'a> {
    socket: &'a mut Socket,
    /// The command, which the client writes in pieces, until it flushes.
    outgoing: &'a mut Vec<u8>,
    sent: usize,
    reply: ReplyCheck<'a>,
}

impl<'a> GuardedStream<'a> {
    pub(super) fn new(
        socket: &'a mut Socket,
        outgoing: &'a mut Vec<u8>,
        command: &'a Command<'a>,
    ) -> Self {
        outgoing.clear();
        outgoing.shrink_to(KEEP);
        Self { socket, outgoing, sent: 0, reply: ReplyCheck::to(command) }
    }

    /// Returns whether a byte of the command was sent.
    pub(super) fn was_sent(&self) -> bool {
        self.sent > 0
    }

    pub(super) fn reply(&self) -> &ReplyCheck<'a> {
        &self.reply
    }

    pub(super) fn into_reply(self) -> ReplyCheck<'a> {
        self.reply
    }
}

impl AsyncRead for GuardedStream<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { socket, reply, .. } = &mut *self;
        // There will be no more, so it would wait in vain.
        if reply.is_whole() {
            return Poll::Ready(Err(reply.refuse("less than the client wants")));
        }
        let before = buffer.filled().len();
        ready!(either!(&mut **socket, stream => Pin::new(stream).poll_read(cx, buffer)))?;
        Poll::Ready(reply.pass(&buffer.filled()[before..]))
    }
}

impl AsyncWrite for GuardedStream<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.outgoing.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, outgoing, sent, .. } = &mut *self;
        while *sent < outgoing.len() {
            let rest = &outgoing[*sent..];
            match ready!(either!(&mut **socket, stream => Pin::new(stream).poll_write(cx, rest)))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => *sent += written,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Dropping the socket closes it.
        Poll::Ready(Ok(()))
    }
}
