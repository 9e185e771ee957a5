//! [`Throttle::acquire`]: waits for its turn.

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Throttle;
use super::line::Place;
use super::permit::{Permit, PermitDrop};
use crate::background;
use crate::clock::monotonic_now;
use crate::decision::{Decision, Outcome};
use crate::error::Error;
use crate::key::{OwnedKey, ToKey};
use crate::step::Step;
use crate::strategy::{Limit, Op};

/// The longest wait that is asked of a store: a hundred years.
const FOREVER: Duration = Duration::from_secs(36_525 * 86_400);

/// A hit that waits for its turn; see [`Throttle::acquire`]. Await it.
#[must_use = "it does nothing until it is awaited"]
pub struct Acquire<'a> {
    throttle: &'a Throttle,
    key: Result<OwnedKey, Error>,
    cost: u32,
    deadline: Option<Instant>,
    most_waiters: usize,
}

impl Throttle {
    /// Waits until a hit passes, in the order in which callers come.
    pub fn acquire(&self, key: impl ToKey) -> Acquire<'_> {
        let key = OwnedKey::new(&key).map_err(Error::from);
        let cost = self.inner.cost;
        Acquire { throttle: self, key, cost, deadline: None, most_waiters: usize::MAX }
    }
}

impl<'a> Acquire<'a> {
    /// Sets the units that are taken. Defaults to the throttle's default cost.
    pub const fn cost(mut self, units: u32) -> Self {
        self.cost = units;
        self
    }

    /// Sets the longest wait. Defaults to none. If the turn comes later, the hit is denied at once.
    pub fn timeout(self, timeout: Duration) -> Self {
        let deadline = monotonic_now().checked_add(timeout);
        Self { deadline, ..self }
    }

    /// Sets the instant at which a wait ends at the latest.
    pub const fn deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets how many callers may wait for the key in this process; with this one more the hit is an error at
    /// once. Defaults to no bound.
    pub const fn max_waiters(mut self, waiters: usize) -> Self {
        self.most_waiters = waiters;
        self
    }

    async fn reserve(self) -> Result<Permit, Error> {
        let Self { throttle, key, cost, deadline, most_waiters } = self;
        let (key, limits) = (key?, &throttle.inner.limits);
        throttle.require(limits, Op::Reserve { within: FOREVER })?;
        let saves = saved_by(limits, cost);
        let line = throttle.inner.lines.join(key.encoded(), most_waiters, saves);
        let place = line.map_err(|waiters| Error::TooManyWaiters {
            throttle: throttle.inner.name.to_string(),
            waiters,
        })?;
        let decision = ask(throttle, &key, cost, deadline, &place).await?;
        let answered = monotonic_now();
        let wait = match decision.outcome() {
            Outcome::Allowed => None,
            Outcome::Denied { retry_after } if decision.is_reserved() => Some(retry_after),
            _ => return Err(Error::Denied(Box::new(decision))),
        };
        // Whoever gives up while it waits gives its units back.
        let permit = Permit::of(throttle.clone(), key, decision).on_drop(PermitDrop::Refund);
        if let Some(wait) = wait {
            place.wait_until(answered + wait).await;
        }
        Ok(permit.on_drop(PermitDrop::Keep))
    }
}

/// Reserves at the store. The answer of a question whose caller goes away is still read, and given back.
async fn ask(
    throttle: &Throttle,
    key: &OwnedKey,
    cost: u32,
    deadline: Option<Instant>,
    place: &Place<'_>,
) -> Result<Decision, Error> {
    if throttle.inner.prepared.is_some() {
        return reserve_within(throttle, key, cost, deadline).await;
    }
    let (answer, answered) = oneshot::channel();
    let (owner, its_key, asking) = (throttle.clone(), key.clone(), place.asking());
    let question = async move {
        let _asking = asking.lock().await;
        let decision = reserve_within(&owner, &its_key, cost, deadline).await;
        if let Err(Ok(decision)) = answer.send(decision) {
            drop(Permit::of(owner, its_key, decision).on_drop(PermitDrop::Refund));
        }
    };
    if !background::start_detached(question) {
        return reserve_within(throttle, key, cost, deadline).await;
    }
    match answered.await {
        Ok(decision) => decision,
        // The runtime is shutting down.
        Err(_) => std::future::pending().await,
    }
}

async fn reserve_within(
    throttle: &Throttle,
    key: &OwnedKey,
    cost: u32,
    deadline: Option<Instant>,
) -> Result<Decision, Error> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(monotonic_now()));
    let within = left.unwrap_or(FOREVER).min(FOREVER);
    let step = Step::of_apart(&throttle.inner.limits, cost, Op::Reserve { within });
    throttle.run(key, &step).await
}

/// By how much others pass sooner, at the least, without a hit of that cost.
fn saved_by(limits: &[Limit], cost: u32) -> Duration {
    let of = |limit: &Limit| {
        let (rate, cost) = (limit.rate(), u128::from(cost));
        let micros = cost * u128::from(rate.period_micros()) / u128::from(rate.limit().max(1));
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    };
    let limits = limits.iter().filter(|limit| !limit.rate().is_unlimited());
    limits.map(of).min().unwrap_or_default()
}

impl<'a> IntoFuture for Acquire<'a> {
    type Output = Result<Permit, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.reserve())
    }
}

impl fmt::Debug for Acquire<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire")
            .field("throttle", &self.throttle.name())
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}
