//! One connection: the commands that are used, and what their answers mean.
//!
//! Only commands with a reply. The client's `set`, `delete` and `append` have none, so their errors
//! would be lost; all that is written goes by `add` and `cas`.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use memcache_async::ascii::Protocol;
use tokio::time::{Instant, Sleep, sleep_until};

use super::wire::{Link, Wire};
use crate::clock::monotonic_now;

pub(super) struct Connection {
    client: Protocol<Wire>,
    link: Arc<Link>,
    /// Rings at or before the end of a call, and is set again only when it rang: one timer for many
    /// calls, since setting one takes a lock that all tasks share.
    alarm: Pin<Box<Sleep>>,
    /// Whether it has served a command.
    used: bool,
}

/// A command. Its keys were made by [`keys`](super::keys), so they need no checking here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Command<'a> {
    Version,
    Gets(&'a str),
    GetMany(&'a [String]),
    Add {
        key: &'a str,
        value: &'a [u8],
        exptime: u32,
    },
    Cas {
        key: &'a str,
        value: &'a [u8],
        version: u64,
        exptime: u32,
    },
    /// By one.
    Incr(&'a str),
    FlushAll,
}

/// An answer.
#[derive(Debug)]
pub(super) enum Answer {
    Done,
    /// A value and its version.
    Value(Vec<u8>, u64),
    Values(HashMap<String, Vec<u8>>),
    Number(u64),
    /// There is no such item.
    Missing,
    /// There is one (for `add`), or it was changed (for `cas`).
    Changed,
    /// The item is not a number.
    NotANumber,
}

impl Command<'_> {
    /// Whether it changes nothing, so that no failure of it leaves a doubt.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::Version | Self::Gets(_) | Self::GetMany(_))
    }

    fn values(&self) -> usize {
        match self {
            Self::Gets(_) => 1,
            Self::GetMany(keys) => keys.len(),
            _ => 0,
        }
    }
}

impl Connection {
    /// Made within a runtime.
    pub(super) fn new(link: Arc<Link>) -> Self {
        let client = Protocol::new(Wire::new(Arc::clone(&link)));
        Self { client, link, alarm: Box::pin(sleep_until(monotonic_now())), used: false }
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(super) fn was_used(&self) -> bool {
        self.used
    }

    /// Sends a command and reads its answer; `None` when the time is over. After that or an error, or
    /// when dropped before it is done, the connection must be thrown away: the next reply on it may be
    /// that of this command.
    pub(super) async fn execute(
        &mut self,
        command: &Command<'_>,
        deadline: Instant,
    ) -> Option<io::Result<Answer>> {
        self.link.begin(command.values());
        self.used = true;
        let Self { client, alarm, .. } = self;
        if alarm.deadline() > deadline {
            alarm.as_mut().reset(deadline);
        }
        let mut answer = pin!(ask(client, command));
        poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(Some(answer.or_else(understood)));
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
    }
}

async fn ask(client: &mut Protocol<Wire>, command: &Command<'_>) -> io::Result<Answer> {
    match *command {
        Command::Version => Box::pin(client.version()).await.map(|_version| Answer::Done),
        Command::Gets(key) => {
            client.gets_cas(key).await.map(|(value, version)| Answer::Value(value, version))
        }
        Command::GetMany(keys) => Box::pin(client.get_multi(keys)).await.map(Answer::Values),
        Command::Add { key, value, exptime } => {
            client.add(key, value, exptime).await.map(|()| Answer::Done)
        }
        Command::Cas { key, value, version, exptime } => client
            .cas(key, value, version, exptime)
            .await
            .map(|stored| if stored { Answer::Done } else { Answer::Changed }),
        Command::Incr(key) => client.increment(key, 1).await.map(Answer::Number),
        Command::FlushAll => Box::pin(client.flush()).await.map(|()| Answer::Done),
    }
}

/// The answers that the client takes for errors.
fn understood(error: io::Error) -> io::Result<Answer> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(Answer::Missing),
        io::ErrorKind::AlreadyExists => Ok(Answer::Changed),
        _ => match said(&error).as_deref() {
            // To `cas`; the client expects another spelling.
            Some(text) if text.starts_with("NOT_FOUND") => Ok(Answer::Missing),
            // One line, read to its end: the connection is none the worse.
            Some(text) if text.contains("non-numeric") => Ok(Answer::NotANumber),
            _ => Err(error),
        },
    }
}

/// The line with which the server refused; `None` if the error is not of its making.
pub(super) fn said(error: &io::Error) -> Option<String> {
    let text = error.get_ref()?.to_string();
    (error.kind() == io::ErrorKind::Other && text.ends_with('\n')).then_some(text)
}
