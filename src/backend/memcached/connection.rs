//! One connection: sends a command and reads its reply.
//!
//! The client lives for one command. It has a read buffer, in which nothing must be left for the next one;
//! that it has read all of a reply, and that no more came in, is checked by the stream under it.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;

use memcache_async::ascii::Protocol;
use tokio::time::{Instant, Sleep, sleep_until};

use super::gets_command::gets_many;
use super::protocol::{Command, Reply};
use super::reply::NoReply;
use super::store_command::store_many;
use super::stream::{GuardedStream, Socket};
use crate::clock::monotonic_now;

/// Belongs to the runtime in which it was made: its socket and its timer live there.
#[derive(Debug)]
pub(super) struct ServerConnection {
    socket: Socket,
    outgoing: Vec<u8>,
    /// Rings at or before the end of a call, and is set again only when it rang: one timer for many
    /// calls, since setting one takes a lock that all tasks share.
    alarm: Pin<Box<Sleep>>,
    /// When the last answer came.
    answered: Option<Instant>,
}

/// A call that failed. The connection must be thrown away: the next reply on it may be that of this call.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) failure: CallFailure,
    /// Whether a byte of the command was sent.
    pub(super) sent: bool,
}

#[derive(Debug)]
pub(super) enum CallFailure {
    /// There is no connection.
    Unreachable(io::Error),
    /// No answer within the time of the call.
    TimedOut,
    Io(io::Error),
    NoReply(NoReply),
    /// What listens there is no Memcached server.
    OtherProtocol,
}

impl ServerConnection {
    /// Made within a runtime.
    pub(super) fn new(socket: Socket) -> Self {
        let alarm = Box::pin(sleep_until(monotonic_now()));
        Self { socket, outgoing: Vec::new(), alarm, answered: None }
    }

    pub(super) fn answered(&self) -> Option<Instant> {
        self.answered
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
    ) -> Result<Reply, Failed> {
        let Self { socket, outgoing, alarm, answered } = self;
        if alarm.deadline() > deadline {
            alarm.as_mut().reset(deadline);
        }
        let mut stream = GuardedStream::new(socket, outgoing, command);
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
        let answer = conclude(answer, stream).map_err(|failure| Failed { failure, sent })?;
        *answered = Some(monotonic_now());
        Ok(answer)
    }
}

/// Boxed are the commands that are seldom needed: all calls would carry them.
async fn ask(stream: &mut GuardedStream<'_>, command: &Command<'_>) -> io::Result<Reply> {
    match *command {
        Command::GetsMany(keys) => gets_many(stream, keys).await,
        Command::StoreMany(items) => Box::pin(store_many(stream, items)).await,
        Command::Version => {
            Box::pin(Protocol::new(stream).version()).await.map(|_version| Reply::Done)
        }
        Command::GetMany(keys) => {
            Box::pin(Protocol::new(stream).get_multi(keys)).await.map(Reply::Found)
        }
        Command::Gets(key) => Protocol::new(stream)
            .gets_cas(key)
            .await
            .map(|(value, version)| Reply::Value(value, version)),
        Command::Add { key, value, exptime } => {
            Protocol::new(stream).add(key, value, exptime).await.map(|()| Reply::Done)
        }
        Command::Cas { key, value, version, exptime } => Protocol::new(stream)
            .cas(key, value, version, exptime)
            .await
            .map(|stored| if stored { Reply::Done } else { Reply::Changed }),
        Command::FlushAll => Box::pin(Protocol::new(stream).flush()).await.map(|()| Reply::Done),
    }
}

/// Classifies the outcome of a call; `None` when its time was over.
fn conclude(
    answer: Option<io::Result<Reply>>,
    stream: GuardedStream<'_>,
) -> Result<Reply, CallFailure> {
    const GARBLED: CallFailure =
        CallFailure::NoReply(NoReply::Garbled("an answer that the client does not understand"));
    let answer = answer.ok_or(CallFailure::TimedOut)?;
    let reply = stream.into_reply();
    let is_whole = reply.is_whole();
    match (reply.into_no_answer(), answer) {
        (Some(no_answer), _) => Err(CallFailure::NoReply(no_answer)),
        (None, Ok(answer)) if is_whole => Ok(answer),
        (None, Err(error)) if is_whole => normalized(&error).ok_or(GARBLED),
        (None, Err(error)) if error.kind() != io::ErrorKind::InvalidData => {
            Err(CallFailure::Io(error))
        }
        (None, _) => Err(GARBLED),
    }
}

/// The answers that the client takes for errors.
fn normalized(error: &io::Error) -> Option<Reply> {
    match error.kind() {
        io::ErrorKind::NotFound => Some(Reply::Missing),
        io::ErrorKind::AlreadyExists => Some(Reply::Changed),
        // To `cas`; the client expects another spelling.
        io::ErrorKind::Other if error.to_string().starts_with("NOT_FOUND") => Some(Reply::Missing),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const GETS: Command<'_> = Command::Gets("a");
    const FIND: Command<'_> = Command::GetMany(&["a", "b"]);
    const TWO: Command<'_> = Command::GetsMany(&["a", "b"]);
    const ADD: Command<'_> = Command::Add { key: "a", value: b"x", exptime: 7 };
    const CAS: Command<'_> = Command::Cas { key: "a", value: b"x", version: 9, exptime: 7 };

    async fn pair() -> (ServerConnection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (ServerConnection::new(Socket::Tcp(stream)), listener.accept().await.unwrap().0)
    }

    /// Returns the outcome of a command to which the server says that, and no more if that is no whole
    /// line; and what it was sent in one piece.
    async fn exchange(
        connection: &mut ServerConnection,
        server: &mut TcpStream,
        command: Command<'_>,
        reply: &str,
    ) -> (Result<Reply, Failed>, String) {
        let deadline = monotonic_now() + Duration::from_secs(30);
        let serve = async {
            let mut sent = [0; 512];
            let length = server.read(&mut sent).await.unwrap();
            server.write_all(reply.as_bytes()).await.unwrap();
            if !reply.ends_with('\n') {
                server.shutdown().await.unwrap();
            }
            String::from_utf8(sent[..length].to_vec()).unwrap()
        };
        tokio::join!(connection.execute(&command, deadline), serve)
    }

    #[tokio::test]
    async fn one_connection_serves_all_commands_one_packet_each() {
        let (mut connection, mut server) = pair().await;
        let value = || Some((b"END\r\n".to_vec(), 7));
        let found = [("b".to_owned(), b"\r\n".to_vec())].into_iter().collect();
        let values = Reply::Values(vec![None, value()]);
        for (command, sent, reply, expected) in [
            (Command::Version, "version\r\n", "VERSION 1\r\n", Reply::Done),
            (GETS, "gets a\r\n", "END\r\n", Reply::Missing),
            (GETS, "gets a\r\n", "VALUE a 0 1 7\r\nx\r\nEND\r\n", Reply::Value(b"x".into(), 7)),
            (FIND, "get a b\r\n", "VALUE b 0 2\r\n\r\n\r\nEND\r\n", Reply::Found(found)),
            (TWO, "gets a b\r\n", "VALUE b 0 5 7\r\nEND\r\n\r\nEND\r\n", values),
            (ADD, "add a 0 7 1\r\nx\r\n", "STORED\r\n", Reply::Done),
            (ADD, "add a 0 7 1\r\nx\r\n", "NOT_STORED\r\n", Reply::Changed),
            (CAS, "cas a 0 7 1 9\r\nx\r\n", "STORED\r\n", Reply::Done),
            (CAS, "cas a 0 7 1 9\r\nx\r\n", "EXISTS\r\n", Reply::Changed),
            (CAS, "cas a 0 7 1 9\r\nx\r\n", "NOT_FOUND\r\n", Reply::Missing),
            (Command::FlushAll, "flush_all\r\n", "OK\r\n", Reply::Done),
        ] {
            let (answer, was_sent) = exchange(&mut connection, &mut server, command, reply).await;
            assert_eq!((answer.unwrap(), &*was_sent), (expected, sent), "{reply}");
        }
    }

    #[tokio::test]
    async fn what_the_client_would_take_for_an_answer_is_none_if_it_does_not_fit() {
        let garbled =
            |failure: &CallFailure| matches!(failure, CallFailure::NoReply(NoReply::Garbled(_)));
        let refused =
            |failure: &CallFailure| matches!(failure, CallFailure::NoReply(NoReply::Refused(_)));
        let cut = |failure: &CallFailure| matches!(failure, CallFailure::Io(_));
        type Kind = fn(&CallFailure) -> bool;
        for (command, reply, kind) in [
            (ADD, "END\r\n", garbled as Kind),
            (ADD, "EXISTS\r\n", garbled),
            (ADD, "STORED\r\nSTORED\r\n", garbled),
            (CAS, "NOT_STORED\r\n", garbled),
            (GETS, "VALUE b 0 1 7\r\nx\r\nEND\r\n", garbled),
            (GETS, "VALUE a 0 1 7\r\nx\r\nSTORED\r\n", garbled),
            (GETS, "VALUE a 0 1 7\r\nx\r\nEND\r\nEND\r\n", garbled),
            (GETS, "VALUE a \u{e9} 1 7\r\nx\r\nEND\r\n", garbled),
            (GETS, "VALUE a 0 1 7\r\nx\r\nSERVER_ERROR out of memory\r\n", refused),
            (FIND, "SERVER_ERROR out of memory\r\n", refused),
            (TWO, "ERROR Too many open connections\r\n", refused),
            (CAS, "SERVER_ERROR out of memory\r\n", refused),
            (Command::Version, "CLIENT_ERROR unauthenticated\r\n", refused),
            (GETS, "VALUE a 0 1 7\r\nx", cut),
            (TWO, "VALUE a 0 1 7\r\nx", cut),
            (CAS, "STOR", cut),
        ] {
            let (mut connection, mut server) = pair().await;
            let (answer, _sent) = exchange(&mut connection, &mut server, command, reply).await;
            let failed = answer.expect_err(reply);
            assert!(failed.sent && kind(&failed.failure), "{reply}: {failed:?}");
        }
    }
}
