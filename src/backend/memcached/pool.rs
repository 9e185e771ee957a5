//! The connections of one runtime to one node.
//!
//! A connection comes back to its pool only after an answer that was read to its end. A call that was
//! dropped or failed takes its connection with it: else the next caller would read its reply.
//!
//! A server may have fewer connections to give than a pool wants. It then refuses a new one, or leaves it
//! without an answer. While others are open that is no failure: the place in the pool is withheld, so that
//! callers wait for an open connection, and given back after a while to try again. (The pool's own `resize`
//! would not do: it takes back no place that is not filled, so callers would go on trying for one.)
//!
//! A node that was cut off without a word leaves a pool of connections that look alive, and each would cost a
//! caller its time. So a connection that breaks, or that stays without an answer, speaks for all that have
//! said nothing since it was asked: those that are idle are closed with it.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use deadpool::managed::{
    Manager, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult,
};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::address::Address;
use super::connection::{CallFailure, Failed, ServerConnection};
use super::protocol::{Command, Reply};
use super::reply::NoReply;
use super::{NAME, errors};
use crate::backend::Result;
use crate::clock::monotonic_now;
use crate::error::{BackendError, ErrorKind};

/// A server that refused a connection is asked for another one after that long.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// The part of a call's time after which a missing answer is a sign that the connection is dead, also if the
/// caller went away. One that goes away sooner says nothing about the server.
const SUSPICIOUS: u32 = 4;

#[derive(Debug)]
pub(super) struct Pool {
    places: deadpool::managed::Pool<Dialer>,
    /// How long an answer may take before its connection is thought to be dead.
    patience: Duration,
    withheld: Mutex<Withheld>,
    /// Whether places are withheld.
    crowded: AtomicBool,
}

#[derive(Debug, Default)]
struct Withheld {
    places: Vec<Object<Dialer>>,
    ask_again: Option<Instant>,
    /// Why the last place could not be filled; `None` when one was since.
    reason: Option<BackendError>,
}

/// A connection out of its pool. Dropped with a command in flight, it is closed.
#[derive(Debug)]
pub(super) struct Pooled<'a> {
    pool: &'a Pool,
    closed: &'a AtomicBool,
    place: Option<Object<Dialer>>,
    intact: bool,
    /// Since when an answer is waited for.
    asked: Option<Instant>,
}

impl Pool {
    pub(super) fn new(address: Address, size: usize, command_timeout: Duration) -> Self {
        let dialer = Dialer { address, timeout: command_timeout / 2, alive: Arc::default() };
        // The last one used is the one most likely to be alive.
        let pool = deadpool::managed::Pool::builder(dialer).max_size(size);
        let pool = pool.queue_mode(QueueMode::Lifo).build();
        Self {
            places: pool.expect("a pool without timeouts needs no runtime"),
            patience: command_timeout / SUSPICIOUS,
            withheld: Mutex::default(),
            crowded: AtomicBool::new(false),
        }
    }

    /// Closes what is not in use.
    pub(super) fn close_idle(&self) {
        drop(self.places.retain(|_, _| false));
    }

    /// A connection that nobody else uses, for a call until `deadline`.
    pub(super) async fn get<'a>(
        &'a self,
        operation: &'static str,
        closed: &'a AtomicBool,
        deadline: Instant,
    ) -> Result<Pooled<'a>> {
        let place = timeout_at(deadline, self.open_place(operation)).await;
        let place = place.map_err(|_elapsed| self.none_in_time(operation))??;
        // One that comes with the end of the call is of no use.
        if monotonic_now() >= deadline {
            return Err(self.none_in_time(operation));
        }
        Ok(Pooled { pool: self, closed, place: Some(place), intact: false, asked: None })
    }

    /// Closes what is idle and has answered nothing since then.
    fn distrust(&self, since: Instant) {
        let closed = self.places.retain(|place, _| place.has_answered_since(since));
        if !closed.removed.is_empty() {
            debug!(
                backend = NAME,
                connections = closed.removed.len(),
                "closed beside one that is dead"
            );
        }
    }

    /// No connection was to be had: because all are in use, or because the server gives none.
    fn none_in_time(&self, operation: &'static str) -> BackendError {
        match &self.withheld.lock().reason {
            Some(reason) => reason.shared(),
            None => errors::overloaded(operation),
        }
    }

    /// A place with an open connection.
    async fn open_place(&self, operation: &'static str) -> Result<Object<Dialer>> {
        loop {
            self.want_more_again();
            let mut place = match self.places.get().await {
                Ok(place) => place,
                Err(PoolError::Backend(never)) => match never {},
                Err(_closed) => return Err(errors::closed(operation)),
            };
            let failed = match &mut *place {
                PoolEntry::Refused(failed) => failed.take(),
                PoolEntry::Open { .. } => {
                    if Object::metrics(&place).recycle_count == 0 {
                        // There is room, perhaps for more than one.
                        self.give_back(1);
                        self.forget_reason();
                    }
                    return Ok(place);
                }
            };
            let failed = failed.expect("a refused place is looked at once");
            self.withhold(place, failed.into_backend_error(operation, false))?;
        }
    }

    /// Withholds a place that could not be filled, to wait for a connection that is open, or may be soon.
    /// With none there is an error.
    fn withhold(&self, place: Object<Dialer>, error: BackendError) -> Result<()> {
        let is_alone = self.places.manager().alive.load(Ordering::Acquire) == 0;
        if is_alone || error.kind() == ErrorKind::Misconfigured {
            // For those who still wait for a place when their time is over.
            self.withheld.lock().reason = Some(error.shared());
            drop(Object::take(place));
            // Nobody may wait for a connection when there is none.
            self.give_back(usize::MAX);
            return Err(error);
        }
        let mut withheld = self.withheld.lock();
        withheld.places.push(place);
        withheld.reason = Some(error);
        withheld.ask_again = Some(monotonic_now() + ASK_AGAIN);
        self.crowded.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Forgets why no connection was to be had, for one is, and none is refused meanwhile.
    fn forget_reason(&self) {
        let mut withheld = self.withheld.lock();
        if withheld.places.is_empty() {
            withheld.reason = None;
        }
    }

    fn want_more_again(&self) {
        if !self.crowded.load(Ordering::Relaxed) {
            return;
        }
        let now = monotonic_now();
        {
            let mut withheld = self.withheld.lock();
            if withheld.ask_again.is_some_and(|instant| instant > now) {
                return;
            }
            withheld.ask_again = Some(now + ASK_AGAIN);
        }
        self.give_back(1);
    }

    /// Lets callers try to fill so many places again.
    fn give_back(&self, most: usize) {
        if !self.crowded.load(Ordering::Relaxed) {
            return;
        }
        let mut withheld = self.withheld.lock();
        let kept = withheld.places.len().saturating_sub(most);
        let places = withheld.places.split_off(kept);
        self.crowded.store(kept > 0, Ordering::Relaxed);
        drop(withheld);
        places.into_iter().map(Object::take).for_each(drop);
    }
}

impl Pooled<'_> {
    /// Returns whether it has served a call before, and may have been closed since.
    pub(super) fn was_used(&self) -> bool {
        self.place.as_ref().is_some_and(|place| Object::metrics(place).recycle_count > 0)
    }

    /// Nothing is in flight: it may serve others.
    pub(super) fn keep(&mut self) {
        self.intact = true;
    }

    /// Sends a command and waits for its answer. After that the connection may serve others.
    pub(super) async fn execute(
        &mut self,
        command: &Command<'_>,
        deadline: Instant,
    ) -> Result<Reply, Failed> {
        let place = self.place.as_deref_mut().expect("taken only when dropped");
        let PoolEntry::Open { connection, .. } = place else {
            unreachable!("others are not handed out");
        };
        let asked = monotonic_now();
        self.asked = Some(asked);
        match connection.execute(command, deadline).await {
            Ok(answer) => {
                self.asked = None;
                self.keep();
                Ok(answer)
            }
            Err(failed) => {
                // One that is silent is judged when it is dropped, like one whose caller went away.
                if !matches!(failed.failure, CallFailure::TimedOut) {
                    self.asked = None;
                }
                if failed.is_of_the_connection() {
                    self.pool.distrust(asked);
                }
                Err(failed)
            }
        }
    }
}

impl Drop for Pooled<'_> {
    fn drop(&mut self) {
        let silent = |asked: &Instant| monotonic_now() >= *asked + self.pool.patience;
        if let Some(asked) = self.asked.filter(silent) {
            self.pool.distrust(asked);
        }
        let keep = self.intact && !self.closed.load(Ordering::Acquire);
        if let Some(place) = self.place.take().filter(|_| !keep) {
            drop(Object::take(place));
        }
    }
}

/// Fills the places of a pool.
#[derive(Debug)]
struct Dialer {
    address: Address,
    /// For making a connection: half of a call.
    timeout: Duration,
    /// Connections that are open or in the making.
    alive: Arc<AtomicUsize>,
}

/// What is in a place of the pool.
#[derive(Debug)]
enum PoolEntry {
    Open {
        connection: ServerConnection,
        _alive: Alive,
    },
    /// With the reason, until somebody was told.
    Refused(Option<Failed>),
}

impl PoolEntry {
    fn has_answered_since(&self, instant: Instant) -> bool {
        match self {
            Self::Open { connection, .. } => connection.answered().is_some_and(|it| it >= instant),
            // Only on its way to who is told.
            Self::Refused(_) => true,
        }
    }
}

/// Counts a connection while it is open or in the making.
#[derive(Debug)]
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Dialer {
    /// Makes a connection. It counts as open only when the server answers on it: one that takes no more
    /// may accept it all the same.
    async fn dial(&self) -> Result<ServerConnection, Failed> {
        let deadline = monotonic_now() + self.timeout;
        let socket = timeout_at(deadline, self.address.connect()).await;
        let socket = socket.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
        let unreachable = |error| Failed { failure: CallFailure::Unreachable(error), sent: false };
        let mut connection = ServerConnection::new(socket.map_err(unreachable)?);
        let greeted = connection.execute(&Command::Version, deadline).await;
        greeted.map_err(|mut failed| {
            // Later it would be damage on the way.
            if matches!(failed.failure, CallFailure::NoReply(NoReply::Garbled(_))) {
                failed.failure = CallFailure::OtherProtocol;
            }
            failed
        })?;
        Ok(connection)
    }
}

impl Manager for Dialer {
    type Type = PoolEntry;
    type Error = Infallible;

    async fn create(&self) -> Result<PoolEntry, Infallible> {
        let alive = Alive::new(&self.alive);
        Ok(match Box::pin(self.dial()).await {
            Ok(connection) => PoolEntry::Open { connection, _alive: alive },
            Err(failed) => PoolEntry::Refused(Some(failed)),
        })
    }

    async fn recycle(&self, place: &mut PoolEntry, _: &Metrics) -> RecycleResult<Infallible> {
        match place {
            PoolEntry::Open { connection, .. } if connection.is_quiet() => Ok(()),
            _ => Err(RecycleError::message("closed by the other end")),
        }
    }
}
