//! Several scripts at once, those of one server in one write.

use futures_util::future::join_all;
use redis::{Pipeline, Value};
use tokio::time::Instant;

use super::client::Client;
use super::failure::{Failure, Retry};
use super::scripts::Script;
use super::session::Session;
use crate::clock::monotonic_now;
use crate::error::{Effect, ErrorKind};

/// A script to run, on one key or more of one slot.
#[derive(Debug)]
pub(super) struct ScriptCall<'a> {
    pub(super) script: &'a Script,
    pub(super) keys: Vec<&'a [u8]>,
    pub(super) arguments: Vec<&'a [u8]>,
}

/// What became of a call; `None` as long as it may be tried again.
type CallOutcome = Option<Result<Value, Failure>>;

impl Client {
    /// Runs scripts, on no more keys than may be in flight. Returns the outcome of each, in their
    /// order.
    pub(super) async fn run_each(&self, calls: &[ScriptCall<'_>]) -> Vec<Result<Value, Failure>> {
        let deadline = monotonic_now() + self.timeout();
        let mut outcomes: Vec<CallOutcome> = calls.iter().map(|_| None).collect();
        let all: Vec<usize> = (0..calls.len()).collect();
        let unknown = self.write_all(calls, all, &mut outcomes, deadline).await;
        if !unknown.is_empty() {
            // The source of each script once; then the server knows them.
            let mut first: Vec<usize> = Vec::new();
            for index in &unknown {
                if !first
                    .iter()
                    .any(|known| std::ptr::eq(calls[*known].script, calls[*index].script))
                {
                    first.push(*index);
                }
            }
            self.run_singly(calls, &first, &mut outcomes, deadline).await;
            let others = unknown.into_iter().filter(|index| !first.contains(index)).collect();
            self.write_all(calls, others, &mut outcomes, deadline).await;
        }
        let left = outcomes.iter().enumerate().filter(|(_, outcome)| outcome.is_none());
        let left: Vec<usize> = left.map(|(index, _)| index).collect();
        self.run_singly(calls, &left, &mut outcomes, deadline).await;
        outcomes.into_iter().flatten().collect()
    }

    /// Writes the calls of those numbers, and returns those whose script a server does not know. Others that
    /// may be tried again, and those of servers without a connection, have no outcome then.
    async fn write_all(
        &self,
        calls: &[ScriptCall<'_>],
        numbers: Vec<usize>,
        outcomes: &mut [CallOutcome],
        deadline: Instant,
    ) -> Vec<usize> {
        let mut groups: Vec<(Session, Vec<usize>)> = Vec::new();
        for number in numbers {
            let route = self.route_of(&calls[number].keys);
            let Some(session) = self.servers().up(&route) else { continue };
            match groups.iter_mut().find(|(known, _)| known.is_same(&session)) {
                Some((_, group)) => group.push(number),
                None => groups.push((session, vec![number])),
            }
        }
        let written = groups.iter().map(|(session, group)| async move {
            let mut pipeline = Pipeline::with_capacity(group.len());
            for number in group {
                let ScriptCall { script, keys, arguments } = &calls[*number];
                pipeline.add_command(script.by_hash(keys, arguments));
            }
            let mut session = session.clone();
            let keys = group.iter().map(|number| calls[*number].keys.len()).sum();
            let _places = session.enter(keys, self.max_in_flight()).await?;
            session.call_all(&pipeline, group.len(), deadline).await
        });
        let replies = join_all(written).await;
        let mut unknown = Vec::new();
        for ((session, group), replies) in groups.iter().zip(replies) {
            let replies: Vec<Result<Value, Failure>> = match replies {
                Ok(replies) if replies.len() == group.len() => replies
                    .into_iter()
                    .map(|reply| reply.extract_error().map_err(Failure::of))
                    .collect(),
                Ok(_) => {
                    let failure = Failure::new(ErrorKind::Other, Effect::Ambiguous);
                    let failure = failure.with_message("not as many replies as commands");
                    group.iter().map(|_| Err(failure.clone())).collect()
                }
                Err(failure) => group.iter().map(|_| Err(failure.clone())).collect(),
            };
            for (number, reply) in group.iter().zip(replies) {
                match reply.map_err(|failure| self.servers().judge(session, failure)) {
                    Err(failure) if failure.retry == Retry::WithSource => unknown.push(*number),
                    Err(failure) if failure.retry != Retry::No => {}
                    outcome => outcomes[*number] = Some(outcome),
                }
            }
        }
        unknown
    }

    /// Runs the calls of those numbers, each by itself to its end.
    async fn run_singly(
        &self,
        calls: &[ScriptCall<'_>],
        numbers: &[usize],
        outcomes: &mut [CallOutcome],
        deadline: Instant,
    ) {
        let time = deadline.saturating_duration_since(monotonic_now());
        let mut running = Vec::with_capacity(numbers.len());
        for number in numbers {
            let ScriptCall { script, keys, arguments } = &calls[*number];
            running.push(self.run_within(script, keys, arguments, time));
        }
        for (number, outcome) in numbers.iter().zip(join_all(running).await) {
            outcomes[*number] = Some(outcome);
        }
    }
}
