//! Decisions on the server: by a script, or by reads and writes for a user's own strategy.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use redis::Value;
use tokio::time::timeout;

use super::connection::own_error;
use super::decide::{self, HitOutcome, ScriptRefusal};
use super::equal_hits::{OneScript, Plan, equal_hits, rounds, scripts};
use super::failure::Failure;
use super::pipeline::ScriptCall;
use super::{RedisInner, failed, primitives};
use crate::backend::by_key::by_key;
use crate::backend::{Answers, Result, optimistic};
use crate::decision::Decision;
use crate::error::{BackendError, Effect, ErrorKind};
use crate::key::Key;
use crate::step::Step;
use crate::strategy::Op;

/// The time of a hit on a server that was a replica when it was last looked at.
const TRY_OF_REPLICA: Duration = Duration::from_millis(25);
/// The most keys that a server is asked for in one write: others wait until all are decided.
const AT_ONCE: usize = 128;
/// The most keys of one script. Its own cost, about that of a decision, is then a small part.
pub(super) const KEYS_OF_SCRIPT: usize = 32;

impl RedisInner {
    /// Decides one step.
    pub(super) async fn decide(&self, key: &Key<'_>, step: &Step<'_>) -> Result<Decision> {
        let Some(replica) = self.replica() else {
            let outcome = self.apply(key, step, self.client.timeout()).await;
            return outcome.map_err(|error| self.or_replica(error));
        };
        // It may be a primary by now. But the throttle's deadline must not come first, for then the error
        // policy would decide.
        let outcome = self.apply(key, step, TRY_OF_REPLICA);
        match timeout(2 * TRY_OF_REPLICA, outcome).await {
            Ok(outcome) => outcome.map_err(|error| self.or_replica(error)),
            // By a user's own strategy, in the midst of its reads and writes.
            Err(_elapsed) => Err(replica.with_effect(Effect::Ambiguous)),
        }
    }

    /// Decides several steps, each by itself.
    pub(super) async fn decide_many(&self, steps: &[(Key<'_>, Step<'_>)], answers: &Answers) {
        let at_once = self.client.max_in_flight().min(AT_ONCE);
        for hits in equal_hits(steps).chunks(at_once) {
            let (Some(first), Some(last)) = (hits.first(), hits.last()) else { continue };
            let (start, end) = (first.start, last.end);
            let requests: Option<Vec<_>> = hits
                .iter()
                .map(|equal| decide::Request::new(&steps[equal.start].1, self.given_time()))
                .collect();
            match requests {
                Some(requests) if self.replica().is_none() => {
                    let plan = Plan { steps, hits, requests: &requests };
                    self.run_scripts(plan, &|index, answer| answers.put(index, answer)).await;
                }
                _ => {
                    let put = |index: usize, answer| answers.put(start + index, answer);
                    self.decide_each(&steps[start..end], at_once, &put).await;
                }
            }
        }
    }

    /// Decides several steps by themselves, some by reads and writes, or with little time. Those of one key are
    /// decided one after the other.
    async fn decide_each(
        &self,
        steps: &[(Key<'_>, Step<'_>)],
        at_once: usize,
        put: &(dyn Fn(usize, Result<Decision>) + Sync),
    ) {
        let asked = by_key(steps).into_iter().map(|of_key| async move {
            for index in of_key {
                let (key, step) = &steps[index];
                put(index, self.decide(key, step).await);
            }
        });
        // Made before they are run: the compiler cannot see that a lazy one may be sent.
        let asked: Vec<_> = asked.collect();
        stream::iter(asked).buffer_unordered(at_once).collect::<()>().await;
    }

    /// Decides hits on several keys by one script, all or nothing; `None` if they are not all of one server and
    /// slot, or need more than a script.
    pub(super) async fn decide_all(
        &self,
        hits: &[(Key<'_>, Step<'_>)],
    ) -> Option<Result<Vec<Decision>>> {
        if hits.len() > KEYS_OF_SCRIPT || self.replica().is_some() {
            return None;
        }
        let requests = hits.iter().map(|(_, step)| decide::Request::new(step, self.given_time()));
        let requests = requests.collect::<Option<Vec<_>>>()?;
        let keys: Vec<Vec<u8>> = hits.iter().map(|(key, _)| self.keys.of(key)).collect();
        if self.client.servers().group(&keys).len() != 1 {
            return None;
        }
        let script = decide::Request::script_for_all(&requests);
        let names: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let arguments: Vec<&[u8]> = requests.iter().map(|request| &request.argument[..]).collect();
        let reply = match self.client.run("apply", script, &names, &arguments).await {
            Ok(reply) => reply,
            Err(error) => return Some(Err(self.or_replica(error))),
        };
        let decided = decide::read_all(hits.iter().map(|(_, step)| step), &reply);
        let bad = |bad| primitives::unexpected("apply", &reply).with_cause(bad);
        decided.map_err(bad).transpose()
    }

    async fn run_scripts(&self, plan: Plan<'_>, put: &(dyn Fn(usize, Result<Decision>) + Sync)) {
        let Plan { steps, hits, requests } = plan;
        let keys: Vec<Vec<u8>> =
            hits.iter().map(|equal| self.keys.of(&steps[equal.start].0)).collect();
        let groups = self.client.servers().group(&keys);
        let asked: Vec<OneScript<'_>> =
            groups.iter().flat_map(|group| scripts(group, hits, requests)).collect();
        for round in rounds(&asked, &keys) {
            let mut left = self.run_round(round, plan, &keys, put).await;
            while !left.is_empty() {
                left = self.run_round(&left, plan, &keys, put).await;
            }
        }
    }

    /// Runs scripts of which no two have a key in common. Returns those for the hits that were not decided.
    async fn run_round<'a>(
        &self,
        asked: &[OneScript<'a>],
        Plan { steps, hits, requests }: Plan<'_>,
        keys: &[Vec<u8>],
        put: &(dyn Fn(usize, Result<Decision>) + Sync),
    ) -> Vec<OneScript<'a>> {
        let left = Mutex::new(Vec::new());
        let times: Vec<String> = asked.iter().map(|script| script.times().to_string()).collect();
        let calls = asked.iter().zip(&times).map(|(script, times)| match script {
            OneScript::Each([index]) => ScriptCall {
                script: requests[*index].script(),
                keys: vec![&keys[*index]],
                arguments: vec![&requests[*index].argument],
            },
            OneScript::Each(group) => ScriptCall {
                script: decide::Request::script_for_each(
                    group.iter().map(|index| &requests[*index]),
                ),
                keys: group.iter().map(|index| &keys[*index][..]).collect(),
                arguments: group.iter().map(|index| &requests[*index].argument[..]).collect(),
            },
            OneScript::Times(index, _) => ScriptCall {
                script: requests[*index].script_for_times(),
                keys: vec![&keys[*index]],
                arguments: vec![&requests[*index].argument, times.as_bytes()],
            },
        });
        let on_outcome = |call: usize, outcome: Result<Value, Failure>| match &asked[call] {
            OneScript::Each(group) => {
                for (index, reply) in group.iter().zip(separate(group.len(), outcome)) {
                    let index = hits[*index].start;
                    let decision = self.read_reply(&steps[index].1, reply);
                    put(index, decision.map_err(|error| self.or_replica(error)));
                }
            }
            OneScript::Times(key, equal) => {
                let decisions = self.read_times(&steps[equal.start].1, equal.len(), outcome);
                let undecided = equal.start + decisions.len()..equal.end;
                for (index, decision) in equal.clone().zip(decisions) {
                    put(index, decision.map_err(|error| self.or_replica(error)));
                }
                if !undecided.is_empty() {
                    left.lock().push(OneScript::Times(*key, undecided));
                }
            }
        };
        self.client.run_each(&calls.collect::<Vec<_>>(), &on_outcome).await;
        left.into_inner()
    }

    /// Decides a step; by a script within that time.
    async fn apply(&self, key: &Key<'_>, step: &Step<'_>, time: Duration) -> Result<Decision> {
        let Some(request) = decide::Request::new(step, self.given_time()) else {
            // A user's own strategy has no script.
            return optimistic::apply(&self.core, self, key, step).await;
        };
        let (key, argument) = (self.keys.of(key), &request.argument);
        self.read_reply(
            step,
            self.client.run_within(request.script(), &[&key], &[argument], time).await,
        )
    }

    fn read_reply(&self, step: &Step<'_>, reply: Result<Value, Failure>) -> Result<Decision> {
        let reply = reply.map_err(|failure| failure.into_error("apply"))?;
        let decided = decide::read(step, &reply)
            .map_err(|bad| primitives::unexpected("apply", &reply).with_cause(bad))?;
        decided.map_err(|refusal| self.refused(step, refusal))
    }

    /// Reads the reply to so many equal hits, or to the first of them.
    fn read_times(
        &self,
        step: &Step<'_>,
        times: usize,
        reply: Result<Value, Failure>,
    ) -> Vec<Result<Decision>> {
        let outcomes = reply.and_then(|reply| {
            decide::read_times(step, times, reply).map_err(|bad| {
                Failure::new(ErrorKind::Other, Effect::Ambiguous).with_message(bad.to_string())
            })
        });
        let of_one = |outcome: HitOutcome| {
            let decided = outcome.map_err(|failure| failure.into_error("apply"))?;
            decided.map_err(|refusal| self.refused(step, refusal))
        };
        match outcomes {
            Ok(outcomes) => outcomes.into_iter().map(of_one).collect(),
            Err(failure) => (0..times).map(|_| Err(failure.clone().into_error("apply"))).collect(),
        }
    }

    fn refused(&self, step: &Step<'_>, refusal: ScriptRefusal) -> BackendError {
        match refusal {
            ScriptRefusal::Corrupt(cause) => {
                // Any other may have been, and the script does not say.
                let is_replaced = step.op() != Op::Peek && step.cost() > 0;
                optimistic::corrupt(&self.core, is_replaced).with_cause(cause)
            }
            ScriptRefusal::TooManyRates => optimistic::too_many_rates(&self.core),
        }
    }

    /// Before all is known to be right, a refusal may be no outage: a replica refuses each write, and only a
    /// look at it for some time tells that this is not a failover. Returns the error of a server that was
    /// one when it was last looked at.
    fn replica(&self) -> Option<BackendError> {
        if self.is_checked.load(Ordering::Relaxed) {
            return None;
        }
        let mistake = self.replica.lock().clone()?;
        Some(failed("apply", ErrorKind::Misconfigured).with_message(mistake))
    }

    /// Returns the error of a hit, or that the server is a replica if that is known. A refusal is retried
    /// until the time of the call is over, so on a busy machine a timeout is one, too.
    fn or_replica(&self, error: BackendError) -> BackendError {
        if !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) {
            return error;
        }
        match self.replica() {
            None => error,
            Some(replica) => replica.with_effect(error.effect()).with_cause(error),
        }
    }
}

/// Returns the reply of each key of a script on so many.
fn separate(keys: usize, outcome: Result<Value, Failure>) -> Vec<Result<Value, Failure>> {
    let failure = match outcome {
        Ok(reply) if keys == 1 => return vec![Ok(reply)],
        Ok(Value::Array(replies)) if replies.len() == keys => {
            let each = replies.into_iter().map(|reply| own_error(reply).map_err(Failure::of));
            return each.collect();
        }
        Ok(_) => Failure::new(ErrorKind::Other, Effect::Ambiguous)
            .with_message("not as many replies as keys"),
        Err(failure) => failure,
    };
    vec![Err(failure); keys]
}
