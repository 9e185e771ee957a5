//! Redlock: a lock on a majority of independent masters.
//!
//! Every master is asked at the same time, each with its own short timeout, so one that stalls does
//! not hold up the others. See
//! <https://redis.io/docs/latest/develop/use/patterns/distributed-locks/#the-redlock-algorithm>. The
//! masters must not be replicas of one another, and must keep their data over a restart or stay away for
//! the longest TTL.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use super::failed;
use super::master::{Acquired, Acquisition, Master, Place, Traces, Wanted};
use super::node::{Grant, LockNode};
use crate::backend::Result;
use crate::clock::monotonic_now;
use crate::error::{BackendError, Effect, ErrorKind};
use crate::lock::valid_until;

#[derive(Debug)]
pub(super) struct Quorum {
    masters: Vec<Master>,
}

/// The time of one server's answer.
fn time_of_one(ttl: Duration) -> Duration {
    (ttl / 20).clamp(Duration::from_millis(5), LONGEST_ANSWER)
}

const LONGEST_ANSWER: Duration = Duration::from_millis(50);

/// What the masters said.
#[derive(Debug, Default)]
struct Votes {
    granted: usize,
    /// The largest token of those that granted.
    token: u64,
    /// The longest that another's lock lasts, of those that did not.
    held: Option<Duration>,
    failed: usize,
    error: Option<BackendError>,
}

impl Quorum {
    /// Of at least 3 masters, an odd number.
    pub(super) fn new(nodes: impl IntoIterator<Item = LockNode>) -> Self {
        // The longest of these timeouts: a release that waits longer only frees the lock more surely.
        let nodes = nodes.into_iter().map(|node| node.within(LONGEST_ANSWER));
        Self { masters: nodes.map(Master::new).collect() }
    }

    pub(super) fn masters(&self) -> &[Master] {
        &self.masters
    }

    fn majority(&self) -> usize {
        self.masters.len() / 2 + 1
    }

    /// Returns the masters to ask: without the silent ones, if the others can be a majority. What a silent
    /// server gets, it does when it goes on, and then it has to be released there.
    fn answering(&self) -> Vec<usize> {
        let all = 0..self.masters.len();
        let awake = |index: &usize| !self.masters[*index].releaser.is_silent();
        let answering: Vec<usize> = all.clone().filter(awake).collect();
        if answering.len() >= self.majority() { answering } else { all.collect() }
    }

    pub(super) async fn acquire(&self, wanted: &Wanted) -> Result<Acquired> {
        let until = valid_until(monotonic_now(), wanted.ttl);
        let asked = self.answering();
        let skipped = self.masters.len() - asked.len();
        let mut traces = Traces::new(&self.masters, asked, wanted, None);
        let votes = self.vote(wanted, &mut traces).await;
        if votes.granted >= self.majority() && monotonic_now() < until {
            let fence = self.agree_on(wanted, traces.places(), votes.token).await;
            // Who is slow to agree may have used up its time.
            if monotonic_now() < until {
                return Ok(Acquired::Taken(Acquisition {
                    fence,
                    valid_until: until,
                    places: traces.keep(),
                }));
            }
        }
        self.withdraw(wanted, &mut traces).await;
        match votes.error {
            // Too few can grant it, so waiting for another holder is not what helps.
            Some(error) if skipped + votes.failed >= self.majority() => {
                let nothing_left = traces.places().is_empty();
                Err(if nothing_left { error } else { error.with_effect(Effect::Ambiguous) })
            }
            // Or it was granted too late.
            _ => Ok(Acquired::Held(votes.held)),
        }
    }

    async fn vote(&self, wanted: &Wanted, traces: &mut Traces<'_>) -> Votes {
        let Wanted { name, owner, ttl, .. } = wanted;
        let places = traces.places().iter().map(|place| place.master);
        let mut asked: FuturesUnordered<_> = places
            .map(|master| {
                let node = self.masters[master].node.within(time_of_one(*ttl));
                async move { (master, node.acquire(name, owner, *ttl).await) }
            })
            .collect();
        let mut votes = Votes::default();
        // Who answers after a majority has granted it does not matter.
        while votes.granted < self.majority()
            && let Some((master, answer)) = asked.next().await
        {
            match answer {
                Ok(Grant::Granted { token, .. }) => {
                    traces.granted(master);
                    votes.granted += 1;
                    votes.token = votes.token.max(token);
                }
                Ok(Grant::Held(left)) => {
                    traces.none_on(master);
                    votes.held = votes.held.max(Some(left));
                }
                Err(error) => {
                    if error.effect() == Effect::NotApplied {
                        traces.none_on(master);
                    }
                    votes.failed += 1;
                    votes.error = Some(error);
                }
            }
        }
        votes
    }

    /// Writes the largest token back, so that whoever asks a majority next gets a larger one. `None`
    /// if it did not reach a majority.
    async fn agree_on(&self, wanted: &Wanted, places: &[Place], token: u64) -> Option<u64> {
        let mut asked: FuturesUnordered<_> = places
            .iter()
            .map(|place| {
                let node = self.masters[place.master].node.within(time_of_one(wanted.ttl));
                async move { node.raise(&wanted.name, &wanted.owner, token, wanted.ttl).await }
            })
            .collect();
        let mut raised = 0;
        while let Some(answer) = asked.next().await {
            raised += usize::from(answer.unwrap_or(false));
            if raised >= self.majority() {
                return Some(token);
            }
        }
        None
    }

    /// Releases it at once where it was granted in vain, so that others can have it. What did not
    /// answer is left to the background.
    async fn withdraw(&self, wanted: &Wanted, traces: &mut Traces<'_>) {
        let granted = traces.places().iter().filter(|place| place.granted);
        let mut asked: FuturesUnordered<_> = granted
            .map(|place| {
                let master = place.master;
                let node = self.masters[master].node.within(time_of_one(wanted.ttl));
                async move { (master, node.release(&wanted.name, &wanted.owner).await) }
            })
            .collect();
        while let Some((master, released)) = asked.next().await {
            if released.is_ok() {
                traces.none_on(master);
            }
        }
    }

    pub(super) async fn extend(
        &self,
        wanted: &Wanted,
        places: &[Place],
        ttl: Duration,
    ) -> Result<Option<Instant>> {
        // A majority has the longest time, however short it is extended by: it may last for longer already.
        let mut asked: FuturesUnordered<_> = self
            .awake(places)
            .map(|(_, node)| async move {
                node.within(LONGEST_ANSWER).extend(&wanted.name, &wanted.owner, ttl).await
            })
            .collect();
        let soon = monotonic_now() + time_of_one(ttl);
        // Where it was refused it is not ours either.
        let mut not_ours = self.masters.len() - places.len();
        let mut ours = Vec::new();
        loop {
            // Once it is ours, others are waited for only for so long that not much of its time is lost.
            let next = match ours.len() < self.majority() {
                true => asked.next().await,
                false => timeout_at(soon, asked.next()).await.ok().flatten(),
            };
            let Some(answer) = next else { break };
            not_ours += usize::from(matches!(answer, Ok(None)));
            ours.extend(answer.ok().flatten());
        }
        ours.sort_by(|a, b| b.cmp(a));
        if let Some(until) = ours.get(self.majority() - 1) {
            // As long as a majority has it.
            return Ok(Some(*until));
        }
        if not_ours >= self.majority() {
            return Ok(None);
        }
        Err(self.no_majority("extended"))
    }

    /// Releases it on every master that may keep it; those that answered are taken off the places. Waits
    /// for all but the silent: a command that nobody waits for any more may never be sent, and what one
    /// keeps, it keeps for the whole TTL.
    pub(super) async fn release(&self, wanted: &Wanted, places: &mut Vec<Place>) -> Result<bool> {
        let mut asked: FuturesUnordered<_> = self
            .awake(places)
            .map(|(master, node)| async move {
                (master, node.release(&wanted.name, &wanted.owner).await)
            })
            .collect();
        let (mut ours, mut not_ours) = (0, self.masters.len() - places.len());
        let mut answered = Vec::new();
        while let Some((master, answer)) = asked.next().await {
            if let Ok(was_ours) = answer {
                ours += usize::from(was_ours);
                not_ours += usize::from(!was_ours);
                answered.push((master, was_ours));
            }
        }
        drop(asked);
        // "Not ours" of one that never said that it is may be true only for now.
        places.retain(|place| {
            let answer = answered.iter().find(|(master, _)| *master == place.master);
            answer.is_none_or(|(_, was_ours)| !was_ours && !place.granted)
        });
        match () {
            () if ours >= self.majority() => Ok(true),
            () if not_ours >= self.majority() => Ok(false),
            () => Err(self.no_majority("released")),
        }
    }

    /// The places whose masters answer, with their nodes.
    fn awake<'a>(&'a self, places: &'a [Place]) -> impl Iterator<Item = (usize, LockNode)> + 'a {
        let masters = places.iter().map(|place| (place.master, &self.masters[place.master]));
        masters
            .filter(|(_, master)| !master.releaser.is_silent())
            .map(|(index, master)| (index, master.node.clone()))
    }

    fn no_majority(&self, what: &str) -> BackendError {
        failed("lock", ErrorKind::Unavailable)
            .with_effect(Effect::Ambiguous)
            .with_message(format!("not {what} on a majority of {} masters", self.masters.len()))
    }
}
