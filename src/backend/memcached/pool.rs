//! The connections of one runtime to one node.
//!
//! A connection comes back to its pool only after an answer that was read to its end. A call that was
//! dropped or failed takes its connection with it: else the next caller would read its reply.
//!
//! A server may have fewer connections to give than a pool wants. It then refuses a new one, or leaves it
//! without an answer. While others are open that is no failure: the pool wants one less, waits for an
//! open one, and tries for more again after a while.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::address::Address;
use super::connection::{Connection, Failed};
use super::errors;
use super::protocol::{Answer, Command};
use crate::backend::Result;
use crate::clock::monotonic_now;
use crate::error::{BackendError, ErrorKind};

/// A server that refused a connection is asked for another one after that long.
const ASK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Pool {
    address: Address,
    /// For making a connection: half of a call.
    timeout: Duration,
    permits: Semaphore,
    state: Mutex<State>,
    /// Whether permits are withheld.
    crowded: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// The last one used is the one most likely to be alive.
    idle: Vec<Connection>,
    /// With those that are in use.
    open: usize,
    /// Those that are being made, which may be open soon.
    dialing: usize,
    /// Permits that are kept back, since the server would not have one more connection.
    withheld: usize,
    ask_again: Option<Instant>,
}

/// A connection out of its pool. Dropped with a command in flight, it is closed.
#[derive(Debug)]
pub(super) struct Pooled<'a> {
    pool: &'a Pool,
    closed: &'a AtomicBool,
    connection: Option<Connection>,
    /// It has served a call before, and may have been closed since.
    pub(super) used: bool,
    intact: bool,
    /// Given back after the connection.
    _permit: SemaphorePermit<'a>,
}

impl Pool {
    pub(super) fn new(address: Address, size: usize, call_timeout: Duration) -> Self {
        Self {
            address,
            timeout: call_timeout / 2,
            permits: Semaphore::new(size),
            state: Mutex::default(),
            crowded: AtomicBool::new(false),
        }
    }

    /// Closes what is not in use.
    pub(super) fn close_idle(&self) {
        let idle = {
            let mut state = self.state.lock();
            state.open -= state.idle.len();
            std::mem::take(&mut state.idle)
        };
        drop(idle);
    }

    /// A connection that nobody else uses, for a call until `deadline`.
    pub(super) async fn get<'a>(
        &'a self,
        operation: &'static str,
        closed: &'a AtomicBool,
        deadline: Instant,
    ) -> Result<Pooled<'a>> {
        loop {
            self.want_more_again();
            let permit = match self.permits.try_acquire() {
                Ok(permit) => permit,
                Err(_) => self.wait(operation, deadline).await?,
            };
            let idle = self.idle();
            let used = idle.is_some();
            let connection = match idle {
                Some(connection) => connection,
                None => match Box::pin(self.dial(operation, deadline)).await {
                    Ok(connection) => connection,
                    Err(error) if self.wants_less(&error) => {
                        permit.forget();
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            let connection = Some(connection);
            return Ok(Pooled {
                pool: self,
                closed,
                connection,
                used,
                intact: false,
                _permit: permit,
            });
        }
    }

    async fn wait(
        &self,
        operation: &'static str,
        deadline: Instant,
    ) -> Result<SemaphorePermit<'_>> {
        let permit = timeout_at(deadline, self.permits.acquire()).await;
        let permit = permit.map_err(|_elapsed| errors::overloaded(operation))?;
        // One that comes with the end of the call is of no use.
        if monotonic_now() >= deadline {
            return Err(errors::overloaded(operation));
        }
        permit.map_err(|_closed| errors::closed(operation))
    }

    /// An open connection that is not in use, and not closed by the other end as far as is known.
    fn idle(&self) -> Option<Connection> {
        loop {
            let connection = self.state.lock().idle.pop()?;
            if connection.is_quiet() {
                return Some(connection);
            }
            self.one_is_closed();
        }
    }

    /// Makes a connection. It counts as open only when the server answers on it: one that takes no more
    /// may accept it all the same.
    async fn dial(&self, operation: &'static str, deadline: Instant) -> Result<Connection> {
        let dialing = Dialing::begin(self);
        let deadline = deadline.min(monotonic_now() + self.timeout);
        let socket = timeout_at(deadline, self.address.connect()).await;
        let socket = socket.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
        let socket = socket.map_err(|error| errors::unreachable(operation, error))?;
        let mut connection = Connection::new(socket);
        let greeted = connection.execute(&Command::Version, deadline).await;
        greeted.map_err(|failed| failed.into_backend_error(operation, false))?;
        self.one_is_open();
        drop(dialing);
        Ok(connection)
    }

    /// After a failure to connect: whether to wait for one of those that are open, or may be soon.
    fn wants_less(&self, error: &BackendError) -> bool {
        let mut state = self.state.lock();
        if state.is_empty() || error.kind() == ErrorKind::Misconfigured {
            return false;
        }
        state.withheld += 1;
        state.ask_again = Some(monotonic_now() + ASK_AGAIN);
        self.crowded.store(true, Ordering::Relaxed);
        true
    }

    fn want_more_again(&self) {
        if !self.crowded.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state.lock();
        let now = monotonic_now();
        if state.withheld == 0 {
            self.crowded.store(false, Ordering::Relaxed);
        } else if state.ask_again.is_none_or(|instant| instant <= now) {
            state.ask_again = Some(now + ASK_AGAIN);
            state.withheld -= 1;
            self.permits.add_permits(1);
        }
    }

    fn one_is_open(&self) {
        let mut state = self.state.lock();
        state.open += 1;
        if state.withheld > 0 {
            // There is room again, perhaps for more than one.
            state.withheld -= 1;
            self.permits.add_permits(1);
        }
    }

    fn one_is_closed(&self) {
        let mut state = self.state.lock();
        state.open -= 1;
        self.let_go(&mut state);
    }

    /// With none left, nobody may wait for one.
    fn let_go(&self, state: &mut State) {
        if state.is_empty() {
            self.permits.add_permits(std::mem::take(&mut state.withheld));
        }
    }
}

impl State {
    /// Whether there is no connection, nor one in the making.
    const fn is_empty(&self) -> bool {
        self.open + self.dialing == 0
    }
}

/// Counts a connection that is being made.
struct Dialing<'a>(&'a Pool);

impl<'a> Dialing<'a> {
    fn begin(pool: &'a Pool) -> Self {
        pool.state.lock().dialing += 1;
        Self(pool)
    }
}

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.dialing -= 1;
        self.0.let_go(&mut state);
    }
}

impl Pooled<'_> {
    /// Nothing is in flight: it may serve others.
    pub(super) fn keep(&mut self) {
        self.intact = true;
    }

    /// Sends a command and waits for its answer. After that the connection may serve others.
    pub(super) async fn execute(
        &mut self,
        command: &Command<'_>,
        deadline: Instant,
    ) -> Result<Answer, Failed> {
        let connection = self.connection.as_mut().expect("taken only when dropped");
        let answer = connection.execute(command, deadline).await?;
        self.keep();
        Ok(answer)
    }
}

impl Drop for Pooled<'_> {
    fn drop(&mut self) {
        let keep = self.intact && !self.closed.load(Ordering::Acquire);
        let connection = self.connection.take().expect("taken only here");
        if keep {
            self.pool.state.lock().idle.push(connection);
        } else {
            drop(connection);
            self.pool.one_is_closed();
        }
    }
}
