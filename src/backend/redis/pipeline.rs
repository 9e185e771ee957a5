//! Several scripts at once, those of one server in one write.

use futures_util::future::{join, join_all};
use redis::{Pipeline, Value};
use tokio::time::Instant;

use super::client::Client;
use super::connection::own_error;
use super::failure::{Failure, Remedy};
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

/// Takes the outcome of the call of that number.
pub(super) type OnOutcome<'a> = &'a (dyn Fn(usize, Result<Value, Failure>) + Sync);

impl Client {
    /// Runs scripts, on no more keys than may be in flight. Gives the outcome of each as soon as it is known:
    /// no server waits for another.
    pub(super) async fn run_each(&self, calls: &[ScriptCall<'_>], on_outcome: OnOutcome<'_>) {
        let deadline = monotonic_now() + self.timeout();
        let mut groups: Vec<(Session, Vec<usize>)> = Vec::new();
        let mut apart = Vec::new();
        for (number, call) in calls.iter().enumerate() {
            let Some(session) = self.servers().up(&self.route_of(&call.keys)) else {
                apart.push(number);
                continue;
            };
            match groups.iter_mut().find(|(known, _)| known.is_same(&session)) {
                Some((_, group)) => group.push(number),
                None => groups.push((session, vec![number])),
            }
        }
        let grouped = groups.iter().map(|(session, numbers)| async move {
            let server = ServerCalls { client: self, session, calls, deadline, on_outcome };
            server.run(numbers).await;
        });
        let apart = self.run_singly(calls, &apart, deadline, on_outcome);
        join(join_all(grouped), apart).await;
    }

    /// Runs the calls of those numbers, each by itself to its end.
    async fn run_singly(
        &self,
        calls: &[ScriptCall<'_>],
        numbers: &[usize],
        deadline: Instant,
        on_outcome: OnOutcome<'_>,
    ) {
        let time = deadline.saturating_duration_since(monotonic_now());
        let running = numbers.iter().map(|number| async move {
            let ScriptCall { script, keys, arguments } = &calls[*number];
            on_outcome(*number, self.run_within(script, keys, arguments, time).await);
        });
        join_all(running).await;
    }
}

/// The calls of one server.
struct ServerCalls<'a> {
    client: &'a Client,
    session: &'a Session,
    calls: &'a [ScriptCall<'a>],
    deadline: Instant,
    on_outcome: OnOutcome<'a>,
}

/// Calls by their numbers.
#[derive(Default)]
struct Again {
    /// Whose script the server does not know.
    unknown: Vec<usize>,
    /// Others that may be tried again.
    others: Vec<usize>,
}

impl ServerCalls<'_> {
    async fn run(&self, numbers: &[usize]) {
        let Again { unknown, mut others } = self.write(numbers).await;
        if !unknown.is_empty() {
            // The source of each script once; then the server knows them.
            let script_of = |number: &usize| std::ptr::from_ref(self.calls[*number].script);
            let mut first: Vec<usize> = Vec::new();
            for number in &unknown {
                if !first.iter().any(|known| script_of(known) == script_of(number)) {
                    first.push(*number);
                }
            }
            self.run_singly(&first).await;
            let rest: Vec<usize> =
                unknown.into_iter().filter(|number| !first.contains(number)).collect();
            let again = self.write(&rest).await;
            others.extend(again.unknown.into_iter().chain(again.others));
        }
        self.run_singly(&others).await;
    }

    /// Writes calls, and returns those that have no outcome yet.
    async fn write(&self, numbers: &[usize]) -> Again {
        let mut again = Again::default();
        if numbers.is_empty() {
            return again;
        }
        let replies = match self.replies(numbers).await {
            Ok(replies) if replies.len() == numbers.len() => {
                replies.into_iter().map(|reply| own_error(reply).map_err(Failure::of)).collect()
            }
            Ok(_) => {
                let failure = Failure::new(ErrorKind::Other, Effect::Ambiguous);
                vec![Err(failure.with_message("not as many replies as commands")); numbers.len()]
            }
            Err(failure) => vec![Err(failure); numbers.len()],
        };
        for (number, reply) in numbers.iter().zip(replies) {
            let servers = self.client.servers();
            match reply.map_err(|failure| servers.judge(self.session, failure)) {
                Err(failure) if failure.remedy == Remedy::WithSource => again.unknown.push(*number),
                Err(failure) if failure.remedy != Remedy::None => again.others.push(*number),
                outcome => (self.on_outcome)(*number, outcome),
            }
        }
        again
    }

    async fn replies(&self, numbers: &[usize]) -> Result<Vec<Value>, Failure> {
        let mut pipeline = Pipeline::with_capacity(numbers.len());
        for number in numbers {
            let ScriptCall { script, keys, arguments } = &self.calls[*number];
            pipeline.add_command(script.by_hash(keys, arguments));
        }
        let mut session = self.session.clone();
        let keys = numbers.iter().map(|number| self.calls[*number].keys.len()).sum();
        let _places = session.enter(keys, self.client.max_in_flight()).await?;
        session.call_all(&pipeline, numbers.len(), self.deadline).await
    }

    async fn run_singly(&self, numbers: &[usize]) {
        self.client.run_singly(self.calls, numbers, self.deadline, self.on_outcome).await;
    }
}
