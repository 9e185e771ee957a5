//! One connection: sends a command and reads its answer.
//!
//! The client lives for one command. It has a read buffer, in which nothing must be left for the next one;
//! that it has read all of a reply, and that no more came in, is checked by the stream under it.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;

use memcache_async::ascii::Protocol;
use tokio::time::{Instant, Sleep, sleep_until};

use super::gets::gets_many;
use super::protocol::{Answer, Command};
use super::reply::NoAnswer;
use super::stream::{Guarded, Socket};
use crate::clock::monotonic_now;

/// Belongs to the runtime in which it was made: its socket and its timer live there.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    outgoing: Vec<u8>,
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
    /// There is no connection.
    Unreachable(io::Error),
    /// No answer within the time of the call.
    TimedOut,
    Io(io::Error),
    NoAnswer(NoAnswer),
}

impl Connection {
    /// Made within a runtime.
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, outgoing: Vec::new(), alarm: Box::pin(sleep_until(monotonic_now())) }
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.socket.is_quiet()
    }

    /// Sends a command and reads its answer. When dropped before it is done, the connection must be
    /// thrown away, as after an error.
    pub(super) async fn execute(
        &mut self,
        command: &Command<'_>,
        deadline: Instant,
    ) -> Result<Answer, Failed> {
        let Self { socket, outgoing, alarm } = self;
        if alarm.deadline() > deadline {
            alarm.as_mut().reset(deadline);
        }
        let mut stream = Guarded::new(socket, outgoing, command);
        let answer = {
            let mut answer = pin!(ask(&mut stream, command));
            poll_fn(|cx| {
                if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                    return Poll::Ready(Some(answer));
                }
                while alarm.as_mut().poll(cx).is_ready() {
                    if monotonic_now() >= deadline {
                        return Poll::Ready(None);
                    }
                    alarm.as_mut().reset(deadline);
                }
                Poll::Pending
            })
            .await
        };
        let sent = stream.was_sent();
        conclude(answer, stream).map_err(|failure| Failed { failure, sent })
    }
}

/// Boxed are the commands that are seldom needed: all calls would carry them.
async fn ask(stream: &mut Guarded<'_>, command: &Command<'_>) -> io::Result<Answer> {
    match *command {
        Command::GetsMany(keys) => gets_many(stream, keys).await,
        Command::Version => {
            Box::pin(Protocol::new(stream).version()).await.map(|_version| Answer::Done)
        }
        Command::GetMany(keys) => {
            Box::pin(Protocol::new(stream).get_multi(keys)).await.map(Answer::Found)
        }
        Command::Gets(key) => Protocol::new(stream)
            .gets_cas(key)
            .await
            .map(|(value, version)| Answer::Value(value, version)),
        Command::Add { key, value, exptime } => {
            Protocol::new(stream).add(key, value, exptime).await.map(|()| Answer::Done)
        }
        Command::Cas { key, value, version, exptime } => Protocol::new(stream)
            .cas(key, value, version, exptime)
            .await
            .map(|stored| if stored { Answer::Done } else { Answer::Changed }),
        Command::FlushAll => Box::pin(Protocol::new(stream).flush()).await.map(|()| Answer::Done),
    }
}

/// What came of a call; `None` when its time was over.
fn conclude(answer: Option<io::Result<Answer>>, stream: Guarded<'_>) -> Result<Answer, Failure> {
    const GARBLED: Failure =
        Failure::NoAnswer(NoAnswer::Garbled("an answer that the client does not understand"));
    let answer = answer.ok_or(Failure::TimedOut)?;
    let reply = stream.into_reply();
    let is_whole = reply.is_whole();
    match (reply.into_no_answer(), answer) {
        (Some(no_answer), _) => Err(Failure::NoAnswer(no_answer)),
        (None, Ok(answer)) if is_whole => Ok(answer),
        (None, Err(error)) if is_whole => understood(&error).ok_or(GARBLED),
        (None, Err(error)) if error.kind() != io::ErrorKind::InvalidData => Err(Failure::Io(error)),
        (None, _) => Err(GARBLED),
    }
}

/// The answers that the client takes for errors.
fn understood(error: &io::Error) -> Option<Answer> {
    match error.kind() {
        io::ErrorKind::NotFound => Some(Answer::Missing),
        io::ErrorKind::AlreadyExists => Some(Answer::Changed),
        // To `cas`; the client expects another spelling.
        io::ErrorKind::Other if error.to_string().starts_with("NOT_FOUND") => Some(Answer::Missing),
        _ => None,
    }
}
