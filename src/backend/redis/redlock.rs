//! Redlock: a lock on a majority of independent masters.
//!
//! Every master is asked at the same time, each with a short time of its own, so one that stalls does
//! not hold up the others. See
//! <https://redis.io/docs/latest/develop/use/patterns/distributed-locks/#the-redlock-algorithm>. The
//! masters must not be replicas of one another, and must keep their data over a restart or stay away for
//! the longest TTL.

use std::future::ready;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::NAME;
use super::lock::{Answer, Released, Taken, valid_until};
use super::node::LockNode;
use crate::backend::Result;
use crate::clock::monotonic_now;
use crate::error::{BackendError, Effect, ErrorKind};

#[derive(Debug)]
pub(super) struct Quorum {
    nodes: Vec<LockNode>,
}

/// The time of one server's answer.
fn time_of_one(ttl: Duration) -> Duration {
    (ttl / 20).clamp(Duration::from_millis(5), Duration::from_millis(50))
}

/// What the masters said.
#[derive(Debug, Default)]
struct Votes {
    granted: usize,
    /// The largest token of those that granted.
    token: u64,
    /// The longest that another's lock lasts, of those that did not.
    held: Option<Duration>,
    error: Option<BackendError>,
}

impl Quorum {
    /// Of at least 3 masters, an odd number.
    pub(super) fn new(nodes: Vec<LockNode>) -> Self {
        Self { nodes }
    }

    fn majority(&self) -> usize {
        self.nodes.len() / 2 + 1
    }

    pub(super) async fn acquire(&self, name: &str, owner: &str, ttl: Duration) -> Result<Answer> {
        let sent = monotonic_now();
        let until = valid_until(sent, ttl);
        let votes = self.vote(name, owner, ttl).await;
        if votes.granted >= self.majority() && monotonic_now() < until {
            let fence = self.agree_on(name, owner, ttl, votes.token).await;
            let fence = fence.filter(|_| monotonic_now() < until);
            return Ok(Answer::Taken(Taken { fence, valid_until: until }));
        }
        // Not on enough of them: let go on all, also on those that did not answer.
        let released = self.release_within(name, owner, time_of_one(ttl)).await;
        match (votes.held, votes.error) {
            // Too few can grant it, so waiting for another holder is not what helps.
            (None, Some(error)) if released.everywhere => Err(error),
            (None, Some(error)) => Err(error.with_effect(Effect::Ambiguous)),
            (Some(left), _) if released.everywhere => Ok(Answer::Held(left)),
            _ => Ok(Answer::Unsettled),
        }
    }

    async fn vote(&self, name: &str, owner: &str, ttl: Duration) -> Votes {
        let time = time_of_one(ttl);
        let nodes: Vec<LockNode> = self.nodes.iter().map(|node| node.within(time)).collect();
        let mut asked: FuturesUnordered<_> =
            nodes.iter().map(|node| node.acquire(name, owner, ttl)).collect();
        let mut votes = Votes::default();
        // Who answers after a majority has granted it does not matter.
        while votes.granted < self.majority()
            && let Some(answer) = asked.next().await
        {
            match answer {
                Ok(Answer::Taken(taken)) => {
                    votes.granted += 1;
                    votes.token = votes.token.max(taken.fence.unwrap_or(0));
                }
                Ok(Answer::Held(left)) => votes.held = votes.held.max(Some(left)),
                Ok(Answer::Unsettled) => {}
                Err(error) => votes.error = Some(error),
            }
        }
        votes
    }

    /// Writes the largest token back, so that whoever asks a majority next gets a larger one. `None`
    /// if it did not reach a majority.
    async fn agree_on(&self, name: &str, owner: &str, ttl: Duration, token: u64) -> Option<u64> {
        let nodes = self.nodes.iter().map(|node| node.within(time_of_one(ttl)));
        let nodes: Vec<LockNode> = nodes.collect();
        let mut asked: FuturesUnordered<_> =
            nodes.iter().map(|node| node.raise(name, owner, token)).collect();
        let mut raised = 0;
        while let Some(answer) = asked.next().await {
            raised += usize::from(answer.unwrap_or(false));
            if raised >= self.majority() {
                return Some(token);
            }
        }
        None
    }

    pub(super) async fn extend(
        &self,
        name: &str,
        owner: &str,
        ttl: Duration,
    ) -> Result<Option<Instant>> {
        let nodes = self.nodes.iter().map(|node| node.within(time_of_one(ttl)));
        let nodes: Vec<LockNode> = nodes.collect();
        let mut asked: FuturesUnordered<_> =
            nodes.iter().map(|node| node.extend(name, owner, ttl)).collect();
        let (mut ours, mut answered) = (Vec::new(), 0);
        while let Some(answer) = asked.next().await {
            answered += usize::from(answer.is_ok());
            ours.extend(answer.ok().flatten());
        }
        ours.sort_by(|a, b| b.cmp(a));
        if let Some(until) = ours.get(self.majority() - 1) {
            // As long as a majority has it.
            return Ok(Some(*until));
        }
        if answered >= self.majority() {
            return Ok(None);
        }
        Err(self.no_majority("extended"))
    }

    pub(super) async fn release(&self, name: &str, owner: &str) -> Released {
        // At leisure: who waits longer here only frees the lock more surely.
        self.release_within(name, owner, Duration::from_millis(50)).await
    }

    /// Lets go of it on every master. Waits for all: a command that nobody waits for any more may never
    /// be sent, and what one keeps, it keeps for the whole TTL.
    async fn release_within(&self, name: &str, owner: &str, time: Duration) -> Released {
        let nodes: Vec<LockNode> = self.nodes.iter().map(|node| node.within(time)).collect();
        let asked: FuturesUnordered<_> =
            nodes.iter().map(|node| node.release(name, owner)).collect();
        let answers: Vec<bool> = asked.filter_map(|ours| ready(ours.ok())).collect().await;
        let ours = answers.iter().filter(|ours| **ours).count();
        let was_ours = if ours >= self.majority() {
            Ok(true)
        } else if answers.len() >= self.majority() {
            Ok(false)
        } else {
            Err(self.no_majority("released"))
        };
        Released { was_ours, everywhere: answers.len() == self.nodes.len() }
    }

    fn no_majority(&self, what: &str) -> BackendError {
        BackendError::new(NAME, "lock", ErrorKind::Unavailable)
            .with_effect(Effect::Ambiguous)
            .with_message(format!("not {what} on a majority of {} masters", self.nodes.len()))
    }
}
