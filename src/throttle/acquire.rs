//! [`Throttle::acquire`]: waits for its turn.

use std::fmt;
use std::future::IntoFuture;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::backend_call::AskedKey;
use super::permit::{Permit, PermitDrop, Unclaimed};
use super::{Mode, Throttle};
use crate::background;
use crate::clock::monotonic_now;
use crate::decision::{Decision, Denial, Outcome};
use crate::error::{BackendError, Effect, Error, ErrorKind};
use crate::key::{Key, OwnedKey, ToKey};
use crate::step::Step;
use crate::strategy::meter::Demand;
use crate::strategy::{Limit, Op};
use crate::timer;

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
    ///
    /// Await what it returns, after setting a [`cost`](Acquire::cost), a [`timeout`](Acquire::timeout) or
    /// [`max_waiters`](Acquire::max_waiters). It ends with a [`Permit`], whose units are counted.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use traffik::{Error, InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mails = Throttle::builder("mails").rate("500/s burst 1").backend(InMemory::new()).build()?;
    /// for _ in 0..3 {
    ///     mails.acquire("smtp").await?.commit();
    ///     // ... send one ...
    /// }
    /// match mails.acquire("smtp").cost(1).timeout(Duration::from_secs(2)).await {
    ///     Ok(permit) => permit.commit(),
    ///     Err(Error::Denied(decision)) => println!("too late: {decision}"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// * **Buckets reserve.** The store is asked once: the units are taken in advance if their turn comes in
    ///   time, and the caller sleeps until it does. So a hit and a peek see what is reserved as used, and a
    ///   turn is never taken by another. A caller that goes away while it waits gives its units back, and
    ///   those behind it in this process move up.
    /// * **Windows and a user's own strategies** cannot lend from what comes. Of the callers in this process
    ///   one asks at a time, again when the store has said that it may pass. Between processes no order is
    ///   promised.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`] at once if the turn comes after the timeout, if the cost can never pass, if the key is
    /// [blocked](Self::block), or if the error policy or a full memory denies. [`Error::TimedOut`] after the
    /// timeout, for a window strategy and a caller that is still behind others. [`Error::TooManyWaiters`]. An error outside of a tokio runtime with
    /// its time driver, on each backend. And as for [`hit`](Self::hit).
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any await. What was reserved is given back: in memory at once, on a server by a task
    /// of the runtime, if the server answers.
    pub fn acquire(&self, key: impl ToKey) -> Acquire<'_> {
        let key = OwnedKey::new(&key).map_err(Error::from);
        let cost = self.inner.cost;
        Acquire { throttle: self, key, cost, deadline: None, most_waiters: usize::MAX }
    }
}

impl Throttle {
    /// Takes units if they pass now, without waiting and without a runtime. In memory only.
    ///
    /// ```
    /// use traffik::{Error, InMemory, Throttle};
    ///
    /// let frames = Throttle::builder("frames").rate("60/s burst 1").backend(InMemory::new()).build()?;
    /// frames.try_acquire("camera", 1)?.commit();
    /// assert!(matches!(frames.try_acquire("camera", 1), Err(Error::Denied(_))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Denied`] with the decision. [`Error::MustAwait`] on a backend that has to be awaited, with nothing
    /// done, and where an error handler would. And as for [`hit`](Self::hit).
    pub fn try_acquire(&self, key: impl ToKey, units: u32) -> Result<Permit, Error> {
        let owned = OwnedKey::new(&key)?;
        let demand = (Demand::of(units), Op::Take);
        let decision = match self.try_prepared(&owned, demand) {
            Some(inline) => inline.into(),
            None => match self.try_several(&owned, demand) {
                Some(decision) => decision,
                None => self.decide_at_once(&owned, units)?,
            },
        };
        if decision.is_denied() {
            return Err(Error::Denied(Box::new(decision)));
        }
        Ok(Permit::of(self.clone(), owned, decision))
    }

    /// Decides by a backend that does not wait, whatever has to do with the key.
    fn decide_at_once(&self, key: &OwnedKey, units: u32) -> Result<Decision, Error> {
        let must_await = || Error::MustAwait { throttle: self.inner.name.to_string() };
        let hit = self.begin();
        let step = Step::of_apart(&self.inner.limits, units, Op::Take);
        if hit.mode == Mode::Off {
            return Ok(self.end_off(hit, &step));
        }
        let (backend, parts, mut room) = (self.backend()?, key.to_key(), None);
        let decision = match AskedKey::new(&parts, &mut room, &step) {
            Err(unasked) => unasked.into_decision()?,
            Ok(asked) => {
                let stored = Key::new(&self.inner.name, asked.stored);
                let outcome = match &self.inner.prepared {
                    Some(prepared) => prepared.apply(asked.stored, &step),
                    None => backend.try_apply(&stored, &step).ok_or_else(must_await)?,
                };
                let cx = &mut Context::from_waker(Waker::noop());
                let decided = pin!(self.decide(&**backend, asked, &step, outcome, hit));
                let decision = match decided.poll(cx) {
                    Poll::Ready(decision) => decision?,
                    // By an error handler.
                    Poll::Pending => return Err(must_await()),
                };
                match self.count_denial(&**backend, asked.stored, (step.op(), hit), &decision) {
                    None => decision,
                    Some(blocking) => {
                        let key = asked.stored;
                        let denied = decision.clone();
                        let blocked =
                            pin!(self.block_for_penalty(blocking, &**backend, key, decision, None));
                        match blocked.poll(cx) {
                            Poll::Ready(blocked) => blocked,
                            // A block that has to be awaited is not set.
                            Poll::Pending => denied,
                        }
                    }
                }
            }
        };
        Ok(self.end_owned(hit, key, &step, decision))
    }
}

impl<'a> Acquire<'a> {
    /// Sets the units that are taken. Defaults to the throttle's default cost.
    pub const fn cost(mut self, units: u32) -> Self {
        self.cost = units;
        self
    }

    /// Sets the longest wait, from now. Defaults to none. If the turn comes later, the hit is denied at once.
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

    pub(crate) async fn run(self) -> Result<Permit, Error> {
        match self.throttle.mode() {
            Mode::Enforce => {}
            milder => return self.pass_in(milder).await,
        }
        // Before anything is taken whose turn could not be waited for.
        timer::require(self.throttle.backend()?.core().name(), "acquire")?;
        let reserves = Op::Reserve { within: FOREVER };
        let mut limits = self.throttle.inner.limits.iter();
        if limits.all(|limit| limit.strategy().supports(reserves)) {
            self.reserve().await
        } else {
            self.ask_again().await
        }
    }

    /// Takes its units if there are enough, and passes at once in any case: in a mode that makes nobody wait.
    async fn pass_in(self, mode: Mode) -> Result<Permit, Error> {
        let Self { throttle, key, cost, .. } = self;
        let (key, hit) = (key?, throttle.begin_in(mode));
        if hit.mode == Mode::Off {
            let step = Step::of_apart(&throttle.inner.limits, cost, Op::Take);
            let decision = throttle.end_off(hit, &step);
            return Ok(Permit::of(throttle.clone(), key, decision));
        }
        let question = move |throttle: Throttle, key: OwnedKey| async move {
            let step = Step::of_apart(&throttle.inner.limits, cost, Op::Take);
            throttle.run_patiently(&key, &step, hit).await
        };
        let decision = ask(throttle, &key, None, question).await?;
        let step = Step::of_apart(&throttle.inner.limits, cost, Op::Take);
        let decision = throttle.end_owned(hit, &key, &step, decision);
        Ok(Permit::of(throttle.clone(), key, decision))
    }

    /// Takes its units in advance, and waits for their turn: the store is asked once.
    async fn reserve(self) -> Result<Permit, Error> {
        let Self { throttle, key, cost, deadline, most_waiters } = self;
        let (key, limits) = (key?, &throttle.inner.limits);
        let saves = saved_by(limits, cost);
        let line = throttle.inner.lines.join(key.encoded(), most_waiters, saves);
        let place = line.map_err(|waiters| too_many(throttle, waiters))?;
        let hit = throttle.begin_in(Mode::Enforce);
        let question = move |throttle: Throttle, key: OwnedKey| async move {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(monotonic_now()));
            let within = left.unwrap_or(FOREVER).min(FOREVER);
            let step = Step::of_apart(&throttle.inner.limits, cost, Op::Reserve { within });
            throttle.run_patiently(&key, &step, hit).await
        };
        let decision = ask(throttle, &key, Some(place.asking()), question).await?;
        let answered = monotonic_now();
        let step = Step::of_apart(limits, cost, Op::Take);
        let decision = throttle.end_owned(hit, &key, &step, decision);
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

    /// Waits in a queue of which the first asks, and asks again when the store has said that it may pass.
    async fn ask_again(self) -> Result<Permit, Error> {
        let Self { throttle, key, cost, deadline, most_waiters } = self;
        let key = key?;
        let name = key.encoded();
        let ticket = throttle.inner.turns.join(&name, most_waiters);
        let ticket = ticket.map_err(|waiters| too_many(throttle, waiters))?;
        loop {
            let late = || Error::TimedOut { throttle: throttle.inner.name.to_string() };
            ticket.turn(deadline).await.ok_or_else(late)?;
            let hit = throttle.begin();
            if hit.mode != Mode::Enforce {
                let key = Ok(key);
                let waiter = Self { throttle, key, cost, deadline, most_waiters };
                return Box::pin(waiter.pass_in(hit.mode)).await;
            }
            let question = move |throttle: Throttle, key: OwnedKey| async move {
                let step = Step::of_apart(&throttle.inner.limits, cost, Op::Take);
                throttle.run_patiently(&key, &step, hit).await
            };
            let decision = ask(throttle, &key, None, question).await?;
            let turn = match (decision.outcome(), decision.denial()) {
                // A policy, or a full memory, decides at once.
                (Outcome::Denied { retry_after }, Some(Denial::Limited)) => {
                    Some(monotonic_now() + retry_after)
                }
                _ => None,
            };
            let is_late = |turn: &Instant| deadline.is_some_and(|deadline| *turn > deadline);
            let Some(turn) = turn.filter(|turn| !is_late(turn)) else {
                let step = Step::of_apart(&throttle.inner.limits, cost, Op::Take);
                let decision = throttle.end_owned(hit, &key, &step, decision);
                return match decision.is_denied() {
                    true => Err(Error::Denied(Box::new(decision))),
                    false => Ok(Permit::of(throttle.clone(), key, decision)),
                };
            };
            ticket.asks_at(turn);
            sleep_until(turn).await;
        }
    }
}

/// Asks the store, one after the other for those with the same lock. The answer of a question whose caller goes
/// away is still read, and given back.
async fn ask<F>(
    throttle: &Throttle,
    key: &OwnedKey,
    turn: Option<Arc<tokio::sync::Mutex<()>>>,
    question: impl FnOnce(Throttle, OwnedKey) -> F + Send + 'static,
) -> Result<Decision, Error>
where
    F: Future<Output = Result<Decision, Error>> + Send,
{
    // In memory there is no await at which a caller could go away.
    if throttle.inner.prepared.is_some() {
        return question(throttle.clone(), key.clone()).await;
    }
    let name = throttle.backend()?.core().name();
    let (throttle, key) = (throttle.clone(), key.clone());
    let answered = background::to_end(async move {
        // No longer than a question takes: the one before may stand on a runtime that nobody runs.
        let _turn = match &turn {
            Some(turn) => timeout(throttle.inner.deadline, turn.lock()).await.ok(),
            None => None,
        };
        let decision = question(throttle.clone(), key.clone()).await?;
        Ok::<_, Error>(Unclaimed::new(throttle, key, decision))
    });
    match answered.await.transpose()?.and_then(Unclaimed::claim) {
        Some(decision) => Ok(decision),
        None => Err(unanswered(name, "acquire")),
    }
}

/// The error of a question whose task ended before it.
pub(super) fn unanswered(backend: &'static str, operation: &'static str) -> Error {
    let message = "the question ended without an answer: a strategy panicked, or the runtime ended";
    let error = BackendError::new(backend, operation, ErrorKind::Other);
    error.with_effect(Effect::Ambiguous).with_message(message).into()
}

fn too_many(throttle: &Throttle, waiters: usize) -> Error {
    Error::TooManyWaiters { throttle: throttle.inner.name.to_string(), waiters }
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
        Box::pin(self.run())
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
