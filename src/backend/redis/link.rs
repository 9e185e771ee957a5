//! [`Link`]: one connection that is replaced when it fails.
//!
//! A task makes the connection, watches it, and makes the next one when it is lost; callers never wait
//! for more than one attempt. The task looks after an idle connection too: a server's idle timeout or a
//! silent death of the network is found by a probe and not by a user's hit.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::connection::{Connection, Route};
use super::failure::Failure;
use super::pauses::Pauses;
use super::source::{Made, Source};
use crate::background::Task;
use crate::error::{Effect, ErrorKind};
use crate::random;

/// So many calls without an answer, one after the other, and the connection is given up.
const MOST_MISSED: u32 = 3;
/// How often a connection is looked after.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// So many probes without a missed answer, and those before are forgotten.
const QUIET_PROBES: u32 = 10;

pub(super) struct Link {
    shared: Arc<Shared>,
    supervisor: Task,
}

struct Shared {
    source: Source,
    connect_timeout: Duration,
    probe_timeout: Duration,
    status: watch::Sender<Status>,
    /// Wakes the supervisor: the connection of its generation is of no more use.
    lost: Notify,
    /// Calls in a row that got no answer.
    missed: AtomicU32,
    /// Answers so far, of any call.
    answers: AtomicU64,
    /// Connections so far.
    generations: AtomicU64,
}

#[derive(Clone, Debug)]
enum Status {
    /// Nobody has asked for a connection, or it is being made.
    Connecting,
    Up(Line),
    /// The last attempt failed; the next comes after a pause.
    Down(Failure),
    Closed,
}

/// A connection, and which one of those that came one after the other.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) connection: Connection,
    generation: u64,
}

/// What is left to be said of a connection after a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    generation: u64,
    pub(super) is_cluster: bool,
}

impl Line {
    pub(super) fn mark(&self) -> Mark {
        Mark { generation: self.generation, is_cluster: self.connection.is_cluster() }
    }
}

impl Link {
    pub(super) fn new(source: Source, connect_timeout: Duration, probe_timeout: Duration) -> Self {
        let shared = Shared {
            source,
            connect_timeout,
            probe_timeout,
            status: watch::Sender::new(Status::Connecting),
            lost: Notify::new(),
            missed: AtomicU32::new(0),
            answers: AtomicU64::new(0),
            generations: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared), supervisor: Task::new() }
    }

    /// The connection, if there is one now.
    pub(super) fn up(&self) -> Option<Line> {
        match &*self.shared.status.borrow() {
            Status::Up(line) => Some(line.clone()),
            _ => None,
        }
    }

    /// The connection; waits for the attempt under way if there is one. Between two attempts it fails
    /// at once, as the last one failed. The caller bounds the time.
    pub(super) async fn line(&self) -> Result<Line, Failure> {
        if let Some(line) = self.up() {
            return Ok(line);
        }
        self.supervise();
        let mut status = self.shared.status.subscribe();
        let settled = status.wait_for(|status| !matches!(status, Status::Connecting)).await;
        match settled.as_deref() {
            Ok(Status::Up(line)) => Ok(line.clone()),
            Ok(Status::Down(failure)) => Err(failure.clone()),
            Ok(Status::Closed | Status::Connecting) | Err(_) => {
                Err(Failure::new(ErrorKind::Closed, Effect::NotApplied))
            }
        }
    }

    /// Starts the supervisor, also again if it ended together with the runtime that it ran on.
    fn supervise(&self) {
        let shared = &self.shared;
        self.supervisor.start(|| {
            shared.status.send_if_modified(|status| {
                let restarts = matches!(status, Status::Down(_) | Status::Up(_));
                if restarts {
                    *status = Status::Connecting;
                }
                restarts
            });
            supervise(Arc::clone(shared))
        });
    }

    /// How many answers there were so far.
    pub(super) fn answers(&self) -> u64 {
        self.shared.answers.load(Ordering::Relaxed)
    }

    /// A call was answered.
    pub(super) fn answered(&self, line: Mark) {
        self.shared.answered(line);
    }

    /// A call that began when there were `answers_before` got no answer in its time.
    pub(super) fn missed(&self, line: Mark, answers_before: u64) {
        self.shared.missed(line, answers_before);
    }

    /// The connection is of no more use: the next call gets another.
    pub(super) fn lost(&self, line: Mark) {
        self.shared.lost(line.generation);
    }

    /// Opens a link that was closed.
    pub(super) fn open(&self) {
        self.shared.status.send_if_modified(|status| {
            let closed = matches!(status, Status::Closed);
            if closed {
                *status = Status::Connecting;
            }
            closed
        });
    }

    /// Stops the task in the background. The connection stays; if it is lost, the next call starts the
    /// task again.
    pub(super) fn rest(&self) {
        self.supervisor.stop();
    }

    /// Lets go of the connection, without waiting.
    pub(super) fn close(&self) {
        self.supervisor.stop();
        self.shared.status.send_replace(Status::Closed);
    }
}

impl Shared {
    fn answered(&self, line: Mark) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        // One node of a cluster may be silent while the others answer.
        if !line.is_cluster && self.missed.load(Ordering::Relaxed) > 0 {
            self.missed.store(0, Ordering::Relaxed);
        }
    }

    fn missed(&self, line: Mark, answers_before: u64) {
        let silent = self.answers.load(Ordering::Relaxed) == answers_before;
        if silent || line.is_cluster {
            let missed = self.missed.fetch_add(1, Ordering::Relaxed) + 1;
            if missed >= MOST_MISSED {
                debug!(source = ?self.source, missed, "replacing a connection that does not answer");
                self.lost(line.generation);
            }
        }
    }

    fn lost(&self, generation: u64) {
        let was_up = self.status.send_if_modified(|status| {
            let is_this = matches!(status, Status::Up(line) if line.generation == generation);
            if is_this {
                *status = Status::Connecting;
            }
            is_this
        });
        if was_up {
            self.lost.notify_one();
        }
    }

    /// Sets the status, unless the link was closed meanwhile; says whether it was not.
    fn set(&self, next: Status) -> bool {
        let mut open = true;
        self.status.send_if_modified(|status| {
            open = !matches!(status, Status::Closed);
            if open {
                *status = next;
            }
            open
        });
        open
    }

    async fn connect(&self) -> Result<Made, Failure> {
        match timeout(self.connect_timeout, self.source.connect()).await {
            Ok(made) => made.map_err(Failure::unconnected),
            Err(_elapsed) => {
                let message = format!(
                    "no connection within {:?}; raise connect_timeout if the server is far away",
                    self.connect_timeout
                );
                let failure = Failure::new(ErrorKind::Unavailable, Effect::NotApplied);
                Err(failure.with_message(message))
            }
        }
    }

    /// Looks after a connection until it is lost.
    async fn watch(&self, line: &Line, address: Option<&str>) {
        let mut lost = pin!(self.lost.notified());
        let mut recent = Recent::default();
        loop {
            let answers = self.answers.load(Ordering::Relaxed);
            let jitter = random::up_to(PROBE_EVERY / 4);
            if timeout(PROBE_EVERY - jitter, &mut lost).await.is_ok() {
                return;
            }
            recent.forget_old(&self.missed);
            let probed = pin!(self.probe(line, answers));
            if let Either::Left(_) = select(&mut lost, probed).await {
                return;
            }
            if self.source.may_move() && self.has_moved(address).await {
                info!(source = ?self.source, "the sentinels name another master");
                self.lost(line.generation);
            }
        }
    }

    /// Asks an idle connection for a sign of life.
    async fn probe(&self, line: &Line, answers_before: u64) {
        if self.answers.load(Ordering::Relaxed) != answers_before {
            return;
        }
        let ping = redis::cmd("PING");
        let mut connection = line.connection.clone();
        let asked = connection.send(&ping, &Route::Natural);
        match timeout(self.probe_timeout, asked).await {
            Ok(Ok(_pong)) => self.answered(line.mark()),
            Ok(Err(error)) => {
                if Failure::of(error).is_connection_lost {
                    self.lost(line.generation);
                }
            }
            Err(_elapsed) => self.missed(line.mark(), answers_before),
        }
    }

    async fn has_moved(&self, address: Option<&str>) -> bool {
        let moved = self.source.has_moved(address);
        timeout(self.connect_timeout, moved).await.unwrap_or(false)
    }
}

/// Keeps a connection up until the link is closed or dropped.
async fn supervise(shared: Arc<Shared>) {
    let mut pauses = Pauses::new();
    loop {
        let failure = match shared.connect().await {
            Ok(made) => {
                let generation = shared.generations.fetch_add(1, Ordering::Relaxed);
                shared.missed.store(0, Ordering::Relaxed);
                let line = Line { connection: made.connection, generation };
                if !shared.set(Status::Up(line.clone())) {
                    return;
                }
                pauses.connected(&shared.source);
                shared.watch(&line, made.address.as_deref()).await;
                if pauses.lived_long() {
                    continue;
                }
                None
            }
            Err(failure) => Some(failure),
        };
        let pause = pauses.next(&shared.source, failure.as_ref());
        if let Some(failure) = failure
            && !shared.set(Status::Down(failure))
        {
            return;
        }
        sleep(pause).await;
        if !shared.set(Status::Connecting) {
            return;
        }
    }
}

/// Forgets missed answers that nothing has followed for some probes. On a single connection any answer
/// does that; a cluster's healthy nodes must not speak for the one that is silent.
#[derive(Default)]
struct Recent {
    missed: u32,
    quiet: u32,
}

impl Recent {
    fn forget_old(&mut self, missed: &AtomicU32) {
        let now = missed.load(Ordering::Relaxed);
        self.quiet = if now == self.missed { self.quiet + 1 } else { 0 };
        self.missed = now;
        if self.quiet >= QUIET_PROBES {
            missed.store(0, Ordering::Relaxed);
            *self = Self::default();
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.shared.source, f)
    }
}
