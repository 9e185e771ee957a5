//! [`Session`]: one connection for as long as it lasts, and its unanswered calls.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::{Cmd, Pipeline, RedisResult, Value};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use super::connection::Connection;
use super::failure::Failure;
use super::in_flight::{InFlight, InFlightCall};
use super::route::NodeAddress;
use crate::background;
use crate::clock::monotonic_now;
use crate::error::{Effect, ErrorKind};

/// How long nothing may be answered before the connection is doubted, where a call is so patient.
const PATIENCE: Duration = Duration::from_millis(100);

/// One connection, shared by all calls until it is lost.
#[derive(Clone, Debug)]
pub(super) struct Session {
    connection: Connection,
    health: Arc<Health>,
}

#[derive(Debug)]
struct Health {
    address: Option<NodeAddress>,
    in_flight: InFlight,
    /// Answers so far, to any call.
    answers: AtomicU64,
    /// A call had no answer, and nothing else was answered meanwhile.
    is_doubted: AtomicBool,
    is_lost: AtomicBool,
    /// Wakes the supervisor, when the connection is doubted or lost.
    changed: Notify,
    /// Ends the guard of [`lose_with_the_runtime`].
    _ends: oneshot::Sender<()>,
}

impl Session {
    /// Wraps a new connection to that address, where it is known.
    pub(super) fn new(connection: Connection, address: Option<NodeAddress>) -> Self {
        let (ends, ended) = oneshot::channel();
        let health = Arc::new(Health {
            address,
            in_flight: InFlight::default(),
            answers: AtomicU64::new(0),
            is_doubted: AtomicBool::new(false),
            is_lost: AtomicBool::new(false),
            changed: Notify::new(),
            _ends: ends,
        });
        lose_with_the_runtime(Arc::downgrade(&health), ended);
        Self { connection, health }
    }

    pub(super) fn address(&self) -> Option<&NodeAddress> {
        self.health.address.as_ref()
    }

    /// Returns whether it is the same connection.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.health, &other.health)
    }

    /// Counts so many calls in flight on this connection, unless there are then more than the bound.
    pub(super) async fn enter(&self, count: usize, most: usize) -> Result<InFlightCall, Failure> {
        self.health.in_flight.enter(count, most).await
    }

    /// Returns the number of answers so far.
    pub(super) fn answers(&self) -> u64 {
        self.health.answers()
    }

    /// Returns `true` once a call had no answer for a while, until [`take_doubt`](Self::take_doubt).
    pub(super) fn is_doubted(&self) -> bool {
        self.health.is_doubted.load(Ordering::Relaxed)
    }

    pub(super) fn take_doubt(&self) -> bool {
        self.health.is_doubted.swap(false, Ordering::Relaxed)
    }

    pub(super) fn is_lost(&self) -> bool {
        self.health.is_lost.load(Ordering::Relaxed)
    }

    /// Gives the connection up: the next call gets another. Calls under way go on.
    pub(super) fn lose(&self) {
        self.health.lose();
    }

    /// Waits until the connection is doubted or lost.
    pub(super) async fn changed(&self) {
        self.health.changed.notified().await;
    }

    /// Sends a command, after an `ASKING` if so, and waits for its answer until the deadline.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the command may run all the same. The connection is doubted as at the deadline.
    pub(super) async fn call(
        &mut self,
        cmd: &Cmd,
        is_asking: bool,
        deadline: Instant,
    ) -> Result<Value, Failure> {
        let Self { connection, health } = self;
        let sent = async {
            if is_asking { connection.send_asking(cmd).await } else { connection.send(cmd).await }
        };
        health.watch(sent, deadline).await
    }

    /// Sends so many commands in one write, and waits for all answers until the deadline. An answer may be
    /// an error.
    ///
    /// # Cancel safety
    ///
    /// As for [`call`](Self::call).
    pub(super) async fn call_all(
        &mut self,
        commands: &Pipeline,
        count: usize,
        deadline: Instant,
    ) -> Result<Vec<Value>, Failure> {
        let Self { connection, health } = self;
        health.watch(connection.send_all(commands, count), deadline).await
    }
}

/// Gives the connection up when the runtime ends on which it was made: what drives it ends there too, and
/// a call would only find out by failing.
fn lose_with_the_runtime(health: Weak<Health>, ended: oneshot::Receiver<()>) {
    struct Guard(Weak<Health>);

    impl Drop for Guard {
        fn drop(&mut self) {
            if let Some(health) = self.0.upgrade() {
                health.lose();
            }
        }
    }

    let guard = Guard(health);
    background::start_detached(async move {
        let _guard = guard;
        let _ = ended.await;
    });
}

impl Health {
    /// Waits for what was sent until the deadline, and doubts the connection if nothing is answered.
    async fn watch<T>(
        &self,
        sent: impl Future<Output = RedisResult<T>>,
        deadline: Instant,
    ) -> Result<T, Failure> {
        let mut call = Call::begin(self);
        let mut sent = pin!(sent);
        let soon = deadline.min(monotonic_now() + PATIENCE);
        let outcome = match timeout_at(soon, &mut sent).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => {
                call.looks_silent();
                let Ok(outcome) = timeout_at(deadline, sent).await else {
                    return Err(Failure::new(ErrorKind::Timeout, Effect::Ambiguous));
                };
                outcome
            }
        };
        call.is_over = true;
        let failure = match outcome {
            Ok(reply) => {
                self.answered();
                return Ok(reply);
            }
            Err(error) => Failure::of(error),
        };
        if failure.is_connection_lost {
            self.lose();
        } else {
            self.answered();
        }
        Err(failure)
    }

    fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    fn doubt(&self) {
        if !self.is_doubted.swap(true, Ordering::Relaxed) {
            self.changed.notify_one();
        }
    }

    fn lose(&self) {
        if !self.is_lost.swap(true, Ordering::Relaxed) {
            self.changed.notify_one();
        }
    }
}

/// A command in flight. However soon its caller gives up: if nothing at all was answered since it was
/// sent, the connection may be silent, and the supervisor looks.
struct Call<'a> {
    health: &'a Health,
    answers_before: u64,
    is_over: bool,
}

impl<'a> Call<'a> {
    fn begin(health: &'a Health) -> Self {
        Self { health, answers_before: health.answers(), is_over: false }
    }

    /// Doubts the connection, unless anything at all was answered since.
    fn looks_silent(&self) {
        if self.health.answers() == self.answers_before {
            self.health.doubt();
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.looks_silent();
        }
    }
}
