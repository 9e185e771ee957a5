//! Asks several servers the same thing at once, so that a silent one does not hold up the result.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::{Cmd, Value};
use tokio::time::timeout_at;

use super::failure::Failure;
use super::session::Session;
use super::supervisor::Supervised;
use crate::clock::monotonic_now;
use crate::error::{Effect, ErrorKind};

/// After the first reply: a server that has not replied by then has no vote.
const FOR_THE_OTHERS: Duration = Duration::from_millis(50);

/// Asks all servers at once, each for at most `time`, and returns the answer that most of them give; of
/// several that are equally frequent the first. It waits no longer than until the majority agrees, or for
/// a moment after the first answer.
pub(super) async fn most_frequent<T: PartialEq>(
    links: &[Arc<Supervised>],
    cmd: &Cmd,
    time: Duration,
    read: impl Fn(&Session, Value) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut asked: FuturesUnordered<_> =
        links.iter().map(|link| ask(link, cmd, time, &read)).collect();
    let mut votes: Vec<(T, usize)> = Vec::new();
    let mut failure = None;
    // Each ends in its own time, so this is no bound until there is an answer.
    let mut end = monotonic_now() + time + time;
    while let Ok(Some(answer)) = timeout_at(end, asked.next()).await {
        match answer {
            Ok(answer) => {
                if votes.is_empty() {
                    end = monotonic_now() + FOR_THE_OTHERS;
                }
                if vote(&mut votes, answer) > links.len() / 2 {
                    break;
                }
            }
            Err(error) => keep(&mut failure, error),
        }
    }
    // Of equals `max_by_key` returns the last.
    let most = votes.into_iter().rev().max_by_key(|(_, count)| *count);
    most.map(|(answer, _)| answer).ok_or_else(|| {
        failure.unwrap_or_else(|| Failure::new(ErrorKind::Timeout, Effect::NotApplied))
    })
}

async fn ask<T>(
    link: &Supervised,
    cmd: &Cmd,
    time: Duration,
    read: impl Fn(&Session, Value) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let deadline = monotonic_now() + time;
    let Ok(session) = timeout_at(deadline, link.session()).await else {
        return Err(Failure::new(ErrorKind::Timeout, Effect::NotApplied));
    };
    let mut session = session?;
    let reply = session.call(cmd, false, deadline).await.map_err(Failure::not_applied)?;
    read(&session, reply)
}

/// Counts an answer. Returns how many have given it.
fn vote<T: PartialEq>(votes: &mut Vec<(T, usize)>, answer: T) -> usize {
    if let Some((_, count)) = votes.iter_mut().find(|(known, _)| *known == answer) {
        *count += 1;
        return *count;
    }
    votes.push((answer, 1));
    1
}

/// Keeps of several failures the one that says most: that only the user can help.
fn keep(kept: &mut Option<Failure>, failure: Failure) {
    if !kept.as_ref().is_some_and(Failure::is_misconfiguration) {
        *kept = Some(failure);
    }
}
