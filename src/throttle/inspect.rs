//! [`Throttle::inspect`]: what is known of a key.

use std::sync::Arc;
use std::time::Duration;

use super::Throttle;
use crate::clock::Timestamp;
use crate::decision::LimitAnswer;
use crate::error::Error;
use crate::key::{self, Key, KeyParts, ToKey};
use crate::step::{KeyState, MAX_LIMITS, StatePart, Step};
use crate::strategy::{Limit, Op};

/// What is known of a key: its block, and each limit with its answer. See [`Throttle::inspect`].
#[derive(Clone, Debug)]
pub struct Inspection {
    blocked_for: Option<Duration>,
    limits: Vec<InspectedLimit>,
    others: Vec<StatePart>,
}

/// One limit of a key, as it stands now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InspectedLimit {
    /// The limit: one of the throttle's, or of a rate that a hit brought.
    pub limit: Limit,
    /// Whether a hit brought it.
    pub is_brought: bool,
    /// What it would answer to a hit that costs nothing: the units that remain, and when all are back.
    pub answer: LimitAnswer,
    /// How long ago it last counted something; `None` if it counts nothing now.
    pub changed: Option<Duration>,
}

impl Inspection {
    /// Returns how long the key is still blocked; `None` if it is not.
    #[must_use]
    pub const fn blocked_for(&self) -> Option<Duration> {
        self.blocked_for
    }

    /// Returns the throttle's limits, in its order, and then those that hits brought and that still count. Of an
    /// exempt key there is none.
    #[must_use]
    pub fn limits(&self) -> &[InspectedLimit] {
        &self.limits
    }

    /// Returns what else is stored of the key: of limits that the throttle does not have (any more), such as those
    /// of another throttle of the same name.
    #[must_use]
    pub fn others(&self) -> &[StatePart] {
        &self.others
    }
}

impl Throttle {
    /// Returns what is known of a key: whether it is blocked, and what each limit has left. For an operator, who
    /// looks a customer up; it changes nothing.
    ///
    /// It asks the store several times, within one deadline, so others may count in between.
    ///
    /// ```
    /// use traffik::{InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let api = Throttle::builder("api").rates(["9/min", "100/day"]).backend(InMemory::new()).build()?;
    /// assert!(api.hit("alice").await?.is_allowed());
    /// let alice = api.inspect("alice").await?;
    /// assert_eq!(alice.blocked_for(), None);
    /// for inspected in alice.limits() {
    ///     let left = inspected.answer.remaining();
    ///     println!("{}: {left} of {} left", inspected.limit.name(), inspected.answer.burst());
    /// }
    /// assert_eq!(alice.limits()[1].answer.remaining(), 99);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the backend fails, or what it has stored cannot be read. No policy applies.
    ///
    /// # Cancel safety
    ///
    /// It changes nothing, so it may be dropped.
    pub async fn inspect(&self, key: impl ToKey) -> Result<Inspection, Error> {
        Box::pin(self.inspect_key(&key.to_key())).await
    }

    async fn inspect_key(&self, parts: &KeyParts<'_>) -> Result<Inspection, Error> {
        let backend = self.backend()?;
        let mut room = None;
        let Some(parts) = parts.as_slice()? else {
            return self.inspection(&KeyState::empty(Timestamp::ZERO), &[], Vec::new());
        };
        let key = key::bounded(parts, &mut room);
        let stored_key = Key::new(&self.inner.name, key);
        let (deadline, state) = (self.deadline(), backend.inspect(&stored_key));
        let state = self.call((backend.core().name(), "inspect"), deadline, state).await;
        let state = state.inspect_err(|error| self.tell_failure(error))?;
        let brought = self.brought_parts(&state)?;
        let mut answers = Vec::with_capacity(self.inner.limits.len() + brought.len());
        for limits in [&self.inner.limits[..]].into_iter().chain(brought.chunks(MAX_LIMITS)) {
            // What each would answer to a hit that costs nothing.
            let step = Step::of_apart(limits, 0, Op::Peek);
            let decision = self.apply_by(&**backend, key, &step, Some(deadline)).await;
            let decision = decision.inspect_err(|error| self.tell_failure(error))?;
            answers.extend(decision.answers());
        }
        self.inspection(&state, &brought, answers)
    }

    /// The limits of the rates that hits brought and that still count.
    fn brought_parts(&self, state: &KeyState) -> Result<Vec<Limit>, Error> {
        let own = &self.inner.limits[0];
        let rates = state.parts().iter().filter(|part| part.strategy == own.strategy_id());
        let limits = rates.filter_map(|part| part.rate).map(|rate| {
            let limit = Limit::new(rate, Arc::clone(own.strategy()));
            limit.map(|limit| limit.brought_beside(own))
        });
        let limits: Result<_, _> = limits.collect();
        limits.map_err(|source| Error::Limit { throttle: self.inner.name.to_string(), source })
    }

    fn inspection(
        &self,
        state: &KeyState,
        brought: &[Limit],
        answers: Vec<LimitAnswer>,
    ) -> Result<Inspection, Error> {
        let since = |instant: Timestamp| state.read_at().saturating_duration_since(instant);
        let blocked_for =
            state.blocked_until().map(|until| until.saturating_duration_since(state.read_at()));
        let all = || self.inner.limits.iter().chain(brought);
        let limits = all().zip(answers).map(|(limit, answer)| InspectedLimit {
            limit: limit.clone(),
            is_brought: limit.is_per_hit(),
            answer,
            changed: state
                .parts()
                .iter()
                .find(|part| part.is_of(limit))
                .map(|part| since(part.changed_at)),
        });
        let limits = limits.collect();
        let others = state.parts().iter().filter(|part| !all().any(|limit| part.is_of(limit)));
        Ok(Inspection { blocked_for, limits, others: others.copied().collect() })
    }
}
