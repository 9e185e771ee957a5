//! [`Throttle::hit_many`]: independent hits on many keys, asked together.

use tracing::Instrument;

use super::backend_call::{AskedKey, Unasked};
use super::begun::BegunHit;
use super::span::record_failure;
use super::{Mode, Throttle};
use crate::backend::{Answers, Backend};
use crate::decision::Decision;
use crate::error::{BackendError, Effect, Error, ErrorKind};
use crate::hit_options::HitOptions;
use crate::join::join_all;
use crate::key::{Key, KeyParts, ToKey};
use crate::step::Step;
use crate::strategy::Op;
use crate::timer::Deadline;

/// The most keys that the backend is asked for at once. Others must get through in between, and an answer
/// must come within the deadline of a hit.
const AT_ONCE: usize = 120;

impl Throttle {
    /// Counts a hit of the default cost on each key, and answers for each, in their order.
    ///
    /// The hits are independent: some may pass and others not. A backend on a server is asked for many at
    /// a time, which takes little longer than asking for one. A key that comes twice is hit twice.
    ///
    /// ```
    /// use traffik::{InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mails = Throttle::builder("doc:hit_many").rate("1/h").backend(InMemory::new()).build()?;
    /// let receivers = ["alice", "bob", "alice"];
    /// let mut send = Vec::new();
    /// for (receiver, decision) in receivers.iter().zip(mails.hit_many(receivers).await) {
    ///     if decision?.is_allowed() {
    ///         send.push(*receiver);
    ///     }
    /// }
    /// assert_eq!(send, ["alice", "bob"]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Of each hit as for [`hit`](Self::hit). The deadline is that of 120 hits, which are asked together; what is
    /// answered by then counts. When the store answers none of them, it is not asked for the others, and the
    /// error policy decides about them too.
    ///
    /// # Cancel safety
    ///
    /// When dropped, any of the hits may have been counted or not.
    #[must_use = "a hit may be denied"]
    pub async fn hit_many<K: ToKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<Decision, Error>> {
        self.hit_many_with(keys, HitOptions::new()).await
    }

    /// Counts a hit on each key as [`hit_many`](Self::hit_many) does, all with the same cost or rates.
    ///
    /// ```
    /// use traffik::{HitOptions, InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let rows = Throttle::builder("doc:hit_many_with").rate("9/h").backend(InMemory::new()).build()?;
    /// let decisions = rows.hit_many_with(["alice", "bob"], HitOptions::new().cost(5)).await;
    /// for decision in decisions {
    ///     assert_eq!(decision?.remaining(), 4);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Of each hit as for [`hit_with`](Self::hit_with), and else as for [`hit_many`](Self::hit_many).
    ///
    /// # Cancel safety
    ///
    /// As for [`hit_many`](Self::hit_many).
    #[must_use = "a hit may be denied"]
    pub async fn hit_many_with<K: ToKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
        options: HitOptions,
    ) -> Vec<Result<Decision, Error>> {
        let keys: Vec<K> = keys.into_iter().collect();
        let mut decisions = Vec::with_capacity(keys.len());
        let brought = match self.brought_by(&options) {
            Ok(brought) => brought,
            Err(_) => {
                // The same for each of them.
                let errors = keys.iter().filter_map(|_| self.brought_by(&options).err());
                decisions.extend(errors.map(Err));
                return decisions;
            }
        };
        let step = self.step_of(&options, brought.as_deref(), Op::Take);
        let (mut outage, mode) = (None, self.mode());
        for (number, keys) in keys.chunks(AT_ONCE).enumerate() {
            if number > 0 {
                // In memory there is no other await at which others get through.
                tokio::task::yield_now().await;
            }
            let batch = Box::pin(self.hit_batch(keys, &step, &mut outage, mode)).await;
            decisions.extend(batch.into_iter().map(|decision| match &brought {
                None => decision,
                Some(brought) => decision.map(|decision| self.with_brought(decision, brought)),
            }));
        }
        decisions
    }

    /// Hits as many keys as are asked for at once; of the backend if there is no outage.
    async fn hit_batch<K: ToKey>(
        &self,
        keys: &[K],
        step: &Step<'_>,
        outage: &mut Option<BackendError>,
        mode: Mode,
    ) -> Vec<Result<Decision, Error>> {
        let mut decisions = Vec::with_capacity(keys.len());
        // In memory one after the other is as fast.
        if self.inner.prepared.is_some() || mode == Mode::Off {
            for key in keys {
                decisions.push(self.run(key, step, self.begin_in(mode)).await);
            }
            return decisions;
        }
        let hit = self.begin_in(mode);
        let keys: Vec<KeyParts<'_>> = keys.iter().map(ToKey::to_key).collect();
        let mut rooms: Vec<_> = keys.iter().map(|_| None).collect();
        let asked = keys.iter().zip(&mut rooms);
        let asked = asked.map(|(key, room)| AskedKey::new(key, room, step));
        let backend = match self.backend() {
            Ok(backend) => backend,
            Err(_) => {
                let missing = || self.backend().map(|_| Decision::allow());
                let decided = asked.map(|asked| match asked {
                    Err(unasked) => {
                        let decision = unasked.into_decision();
                        decision.map(|decision| self.end(hit, None, step, decision))
                    }
                    Ok(_) => missing(),
                });
                decisions.extend(decided);
                return decisions;
            }
        };
        let (backend, asked): (_, Vec<_>) = (&**backend, asked.collect());
        let steps = asked.iter().filter_map(|asked| asked.as_ref().ok());
        let steps: Vec<_> =
            steps.map(|asked| (Key::new(&self.inner.name, asked.stored), *step)).collect();
        let deadline = self.deadline();
        let mut outcomes = self.ask_many(backend, &steps, outage, deadline).await.into_iter();
        // A handler that waits is asked for all at the same time.
        let decided = asked.iter().map(|asked| {
            let outcome = asked.map(|asked| (asked, outcomes.next()));
            async move {
                match outcome {
                    Err(unasked) => unasked.into_decision(),
                    Ok((asked, Some(outcome))) => {
                        self.decide(backend, asked, step, outcome, hit).await
                    }
                    Ok((_, None)) => unreachable!("there is an outcome for each question"),
                }
            }
        });
        let mut decisions = join_all(decided).await;
        if self.is_penalized(hit) {
            let question = (step.op(), hit);
            decisions = self.penalize(backend, &asked, question, decisions, deadline).await;
        }
        let ended = decisions.into_iter().zip(&asked).map(|(decision, asked)| {
            let key = asked.as_ref().ok().map(|asked| asked.stored);
            decision.map(|decision| self.end(hit, key, step, decision))
        });
        ended.collect()
    }

    /// Counts all denials before a key is blocked, so that one that comes often is blocked once.
    async fn penalize(
        &self,
        backend: &dyn Backend,
        asked: &[Result<AskedKey<'_>, Unasked>],
        question: (Op, BegunHit),
        decisions: Vec<Result<Decision, Error>>,
        deadline: Deadline,
    ) -> Vec<Result<Decision, Error>> {
        let counted = decisions.into_iter().zip(asked).map(|(decision, asked)| {
            let blocking = match (&decision, asked) {
                (Ok(decision), Ok(AskedKey { stored, .. })) => {
                    let blocking = self.count_denial(backend, stored, question, decision);
                    blocking.map(|blocking| (blocking, *stored))
                }
                _ => None,
            };
            (decision, blocking)
        });
        let counted: Vec<_> = counted.collect();
        let blocked = counted.into_iter().map(|(decision, blocking)| async move {
            match (decision, blocking) {
                (Ok(decision), Some((blocking, key))) => {
                    let deadline = Some(deadline);
                    Ok(self.block_for_penalty(blocking, backend, key, decision, deadline).await)
                }
                (decision, _) => decision,
            }
        });
        join_all(blocked).await
    }

    /// Asks the backend, if there is no outage; notes one if all fail.
    async fn ask_many(
        &self,
        backend: &dyn Backend,
        steps: &[(Key<'_>, Step<'_>)],
        outage: &mut Option<BackendError>,
        deadline: Deadline,
    ) -> Vec<Result<Decision, BackendError>> {
        if let Some(error) = outage {
            return steps.iter().map(|_| Err(error.shared())).collect();
        }
        let name = backend.core().name();
        let (answers, span) = (Answers::new(steps.len()), self.call_span(name, "apply_many"));
        let answered = async {
            backend.apply_many(steps, &answers).instrument(span.clone()).await;
            Ok(())
        };
        // What was answered by then counts, whatever became of the others.
        match deadline.bound(name, "apply_many", answered).await {
            Ok(()) => answers.fail_the_rest(name, "apply_many"),
            Err(error) => answers.fail(&error),
        }
        let outcomes: Vec<_> = answers.into_answers().flatten().collect();
        if let Some(Err(error)) = outcomes.iter().find(|outcome| outcome.is_err()) {
            record_failure(&span, error);
        }
        // Of the store itself, so that the others would fail as these did.
        let failed = |outcome: &Result<_, BackendError>| {
            let kind = outcome.as_ref().map_err(BackendError::kind);
            matches!(kind, Err(ErrorKind::Unavailable | ErrorKind::Timeout))
        };
        if let Some(Err(error)) = outcomes.first().filter(|_| outcomes.iter().all(failed)) {
            *outage = Some(error.shared().with_effect(Effect::NotApplied));
        }
        outcomes
    }
}
