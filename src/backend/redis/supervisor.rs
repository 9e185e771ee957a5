//! [`Supervised`]: a connection to one server that is replaced when it fails.
//!
//! A task makes the connection, watches it, and makes the next one when it is lost; callers never wait
//! for more than one attempt. A connection that has gone silent is found by a probe: at once when a call
//! ends without an answer, whatever the call's own deadline was, and within some seconds when nobody
//! calls.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, info};

use super::backoff::Backoff;
use super::connect::Connect;
use super::failure::Failure;
use super::session::Session;
use crate::background::{Home, Task};
use crate::clock::monotonic_now;
use crate::error::{Effect, ErrorKind};
use crate::random;

/// How often an idle connection is probed.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// The longest wait for the answer to a probe, however long connecting may take.
const LONGEST_PROBE: Duration = Duration::from_secs(1);
/// After a call that ended without an answer: in this time another may be answered, which counts like
/// a probe. It also bounds the probes of a connection whose callers are all impatient.
const BEFORE_PROBE: Duration = Duration::from_millis(20);

pub(super) struct Supervised {
    shared: Arc<Supervision>,
    supervisor: Task,
}

struct Supervision {
    source: Box<dyn Connect>,
    connect_timeout: Duration,
    status: watch::Sender<LinkStatus>,
    /// Notified when a connection was lost.
    on_loss: Arc<Notify>,
}

#[derive(Clone, Debug)]
enum LinkStatus {
    /// Nobody has asked for a connection, or it is being made.
    Connecting,
    /// There is a connection; if it is lost, the supervisor is about to replace it.
    Up(Session),
    /// The last attempt failed; the next comes after a pause.
    Down(Failure),
    Closed,
}

impl LinkStatus {
    fn up(&self) -> Option<&Session> {
        match self {
            Self::Up(session) if !session.is_lost() => Some(session),
            _ => None,
        }
    }

    /// Returns `true` while nothing is known but that an attempt is under way.
    fn is_unsettled(&self) -> bool {
        match self {
            Self::Connecting => true,
            Self::Up(session) => session.is_lost(),
            Self::Down(_) | Self::Closed => false,
        }
    }
}

impl Supervised {
    pub(super) fn new(source: impl Connect, connect_timeout: Duration) -> Self {
        Self::notifying(source, connect_timeout, Arc::default())
    }

    /// Makes a link that notifies somebody when a connection is lost.
    pub(super) fn notifying(
        source: impl Connect,
        connect_timeout: Duration,
        on_loss: Arc<Notify>,
    ) -> Self {
        let status = watch::Sender::new(LinkStatus::Connecting);
        let source = Box::new(source);
        let shared = Supervision { source, connect_timeout, status, on_loss };
        Self { shared: Arc::new(shared), supervisor: Task::new() }
    }

    /// Returns the connection, if there is one now.
    pub(super) fn up(&self) -> Option<Session> {
        let session = self.shared.status.borrow().up().cloned()?;
        if session.is_doubted() {
            // Somebody must look, also after `stop_tasks` or when the supervisor's runtime is gone.
            self.start();
        }
        Some(session)
    }

    /// Returns the connection; waits for the attempt under way if there is one. Between two attempts it
    /// fails at once, as the last one failed. The caller bounds the time.
    pub(super) async fn session(&self) -> Result<Session, Failure> {
        if let Some(session) = self.up() {
            return Ok(session);
        }
        self.start();
        let mut status = self.shared.status.subscribe();
        let settled = status.wait_for(|status| !status.is_unsettled()).await;
        match settled.as_deref() {
            Ok(LinkStatus::Up(session)) => Ok(session.clone()),
            Ok(LinkStatus::Down(failure)) => Err(failure.clone()),
            Ok(LinkStatus::Closed | LinkStatus::Connecting) | Err(_) => {
                Err(Failure::new(ErrorKind::Closed, Effect::NotApplied))
            }
        }
    }

    /// Starts the supervisor, also again if it was stopped or ended together with its runtime.
    pub(super) fn start(&self) {
        let shared = &self.shared;
        self.supervisor.start_on(Home::Steady, || {
            shared.status.send_if_modified(|status| {
                let restarts = matches!(status, LinkStatus::Down(_) | LinkStatus::Up(_));
                if restarts {
                    *status = LinkStatus::Connecting;
                }
                restarts
            });
            supervise(Arc::clone(shared))
        });
    }

    /// Opens a link that was closed.
    pub(super) fn open(&self) {
        self.shared.source.open();
        self.shared.status.send_if_modified(|status| {
            let closed = matches!(status, LinkStatus::Closed);
            if closed {
                *status = LinkStatus::Connecting;
            }
            closed
        });
    }

    /// Returns the ports that the user named.
    #[cfg(feature = "redis-sentinel")]
    pub(super) fn ports(&self) -> Vec<redis::ConnectionAddr> {
        self.shared.source.ports()
    }

    /// Stops the background task. The connection stays; if it is doubted or lost, the next call starts
    /// the task again.
    pub(super) fn stop_tasks(&self) {
        self.supervisor.stop();
        self.shared.source.stop_tasks();
    }

    /// Closes the connection, without waiting.
    pub(super) fn close(&self) {
        self.supervisor.stop();
        self.shared.status.send_replace(LinkStatus::Closed);
        self.shared.source.close();
    }
}

impl Supervision {
    /// Sets the status, unless the link was closed meanwhile. Returns `true` if it was not.
    fn set(&self, next: LinkStatus) -> bool {
        let mut open = true;
        self.status.send_if_modified(|status| {
            open = !matches!(status, LinkStatus::Closed);
            if open {
                *status = next;
            }
            open
        });
        open
    }

    async fn connect(&self) -> Result<Session, Failure> {
        match timeout(self.connect_timeout, self.source.connect()).await {
            Ok(made) => made,
            Err(_elapsed) => {
                let message = format!(
                    "no connection within {:?}; if the server is far away, and does not hang, raise connect_timeout",
                    self.connect_timeout
                );
                let failure = Failure::new(ErrorKind::Unavailable, Effect::NotApplied);
                Err(failure.with_message(message))
            }
        }
    }

    /// Watches a connection until it is lost.
    async fn watch(&self, session: &Session) {
        let mut answers = session.answers();
        let mut next_look = next_look();
        while !session.is_lost() {
            let is_due = timeout_at(next_look, session.changed()).await.is_err();
            if !is_due || session.answers() == answers {
                self.probe(session).await;
            }
            if is_due {
                if self.has_moved(session).await {
                    info!(source = ?self.source, "the sentinels name another master");
                    session.lose();
                }
                answers = session.answers();
                next_look = self::next_look();
            }
        }
    }

    /// Gives the connection up if it is silent: if two questions in a row have no answer in their time.
    /// A call of somebody's that had none is the first of them.
    async fn probe(&self, session: &Session) {
        let mut is_doubted = session.take_doubt();
        if is_doubted {
            let answers = session.answers();
            sleep(BEFORE_PROBE).await;
            if session.answers() != answers {
                return;
            }
        }
        while !session.is_lost() {
            let answers = session.answers();
            let deadline = monotonic_now() + self.connect_timeout.min(LONGEST_PROBE);
            let asked = session.clone().call(&redis::cmd("PING"), false, deadline).await;
            // Whatever it says: it was the server that said it.
            if asked.is_ok() || session.answers() != answers {
                return;
            }
            if is_doubted {
                debug!(source = ?self.source, "replacing a connection that does not answer");
                session.lose();
            }
            is_doubted = true;
        }
    }

    async fn has_moved(&self, session: &Session) -> bool {
        let moved = self.source.has_moved(session.address());
        timeout(self.connect_timeout, moved).await.unwrap_or(false)
    }
}

fn next_look() -> Instant {
    monotonic_now() + PROBE_EVERY - random::up_to(PROBE_EVERY / 4)
}

/// Keeps a connection up until the link is closed or dropped.
async fn supervise(shared: Arc<Supervision>) {
    let mut backoff = Backoff::new();
    loop {
        let next = match shared.connect().await {
            Ok(session) => {
                if !shared.set(LinkStatus::Up(session.clone())) {
                    return;
                }
                backoff.connected(&shared.source);
                shared.watch(&session).await;
                shared.on_loss.notify_one();
                LinkStatus::Connecting
            }
            Err(failure) => LinkStatus::Down(failure),
        };
        let pause = match &next {
            LinkStatus::Down(failure) => backoff.next(&shared.source, Some(failure)),
            _ if backoff.lived_long() => Duration::ZERO,
            _ => backoff.next(&shared.source, None),
        };
        if !shared.set(next) {
            return;
        }
        if !pause.is_zero() {
            sleep(pause).await;
            if !shared.set(LinkStatus::Connecting) {
                return;
            }
        }
    }
}

impl fmt::Debug for Supervised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.shared.source, f)
    }
}
