//! One connection: sends a command and reads its answer.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::protocol::{Answer, Command, NoAnswer, Reply};
use crate::clock::monotonic_now;

/// Read at once.
const CHUNK: usize = 4096;
/// What a connection keeps of a buffer that has grown.
const KEEP: usize = 4 * CHUNK;

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

/// Belongs to the runtime in which it was made: its socket and its timer live there.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    chunk: Box<[u8]>,
    /// Rings at or before the end of a call, and is set again only when it rang: one timer for many
    /// calls, since setting one takes a lock that all tasks share.
    alarm: Pin<Box<Sleep>>,
}

/// A call that failed. The connection must be thrown away: the next reply on it may be that of this call.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) failure: Failure,
    /// Whether a byte of the command was sent.
    pub(super) sent: bool,
}

#[derive(Debug)]
pub(super) enum Failure {
    /// No answer within the time of the call.
    TimedOut,
    Io(io::Error),
    NoAnswer(NoAnswer),
}

impl Connection {
    /// Made within a runtime.
    pub(super) fn new(socket: Socket) -> Self {
        Self {
            socket,
            outgoing: Vec::new(),
            incoming: Vec::new(),
            chunk: vec![0; CHUNK].into(),
            alarm: Box::pin(sleep_until(monotonic_now())),
        }
    }

    /// Whether nothing came in and the other end is there, as far as this end was told.
    pub(super) fn is_quiet(&self) -> bool {
        let read = either!(&self.socket, stream => stream.try_read(&mut [0]));
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a command and reads its answer. When dropped before it is done, the connection must be
    /// thrown away, as after an error.
    pub(super) async fn execute(
        &mut self,
        command: &Command<'_>,
        deadline: Instant,
    ) -> Result<Answer, Failed> {
        self.begin(command, deadline);
        let mut reply = Reply::to(command);
        let mut sent = 0;
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(answer) = self.poll_exchange(cx, &mut sent, &mut reply) {
                return Poll::Ready(answer);
            }
            while self.alarm.as_mut().poll(cx).is_ready() {
                if monotonic_now() >= deadline {
                    return Poll::Ready(Err(Failure::TimedOut));
                }
                self.alarm.as_mut().reset(deadline);
            }
            Poll::Pending
        })
        .await;
        outcome.map_err(|failure| Failed { failure, sent: sent > 0 })
    }

    fn begin(&mut self, command: &Command<'_>, deadline: Instant) {
        self.incoming.clear();
        self.incoming.shrink_to(KEEP);
        self.outgoing.clear();
        self.outgoing.shrink_to(KEEP);
        command.encode(&mut self.outgoing);
        if self.alarm.deadline() > deadline {
            self.alarm.as_mut().reset(deadline);
        }
    }

    fn poll_exchange(
        &mut self,
        cx: &mut Context<'_>,
        sent: &mut usize,
        reply: &mut Reply<'_>,
    ) -> Poll<Result<Answer, Failure>> {
        while *sent < self.outgoing.len() {
            let rest = &self.outgoing[*sent..];
            let written =
                ready!(either!(&mut self.socket, stream => Pin::new(stream).poll_write(cx, rest)));
            match written.map_err(Failure::Io)? {
                0 => return Poll::Ready(Err(Failure::Io(io::ErrorKind::WriteZero.into()))),
                written => *sent += written,
            }
        }
        loop {
            let mut chunk = ReadBuf::new(&mut self.chunk);
            ready!(either!(&mut self.socket, stream => {
                Pin::new(stream).poll_read(cx, &mut chunk)
            }))
            .map_err(Failure::Io)?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Err(Failure::Io(io::ErrorKind::UnexpectedEof.into())));
            }
            self.incoming.extend_from_slice(chunk.filled());
            if let Some(answer) = reply.read(&self.incoming).map_err(Failure::NoAnswer)? {
                return Poll::Ready(Ok(answer));
            }
        }
    }
}
