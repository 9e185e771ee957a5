//! [`Client`]: one command and its answer, within a time, with what may safely be tried again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::{Cmd, RedisResult, Value};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::connection::Route;
use super::failure::{Failure, Retry};
use super::link::{Link, Mark};
use super::mistakes;
use super::scripts::Script;
use crate::backend::Result;
use crate::clock::monotonic_now;
use crate::error::{Effect, ErrorKind};
use crate::random;

/// A call that is given up sooner says nothing about the connection.
const PATIENCE: Duration = Duration::from_millis(50);
/// Pauses while a cluster changes.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Client {
    link: Link,
    timeout: Duration,
    max_in_flight: usize,
    in_flight: AtomicUsize,
}

impl Client {
    pub(super) fn new(link: Link, timeout: Duration, max_in_flight: usize) -> Self {
        Self { link, timeout, max_in_flight, in_flight: AtomicUsize::new(0) }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// The longest that a call takes.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether several servers stand behind it, so that a command's keys must be of one slot. Connects
    /// to know it.
    pub(super) async fn is_cluster(&self, operation: &'static str) -> Result<bool> {
        match timeout(self.timeout, self.link.line()).await {
            Ok(line) => line.map(|line| line.connection.is_cluster()),
            Err(_elapsed) => Err(Failure::new(ErrorKind::Timeout, Effect::NotApplied)),
        }
        .map_err(|failure| failure.into_error(operation))
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn call(&self, operation: &'static str, cmd: &Cmd) -> Result<Value> {
        self.call_on(operation, cmd, Route::Natural).await
    }

    /// Sends a command to one server of a cluster.
    pub(super) async fn call_on(
        &self,
        operation: &'static str,
        cmd: &Cmd,
        route: Route,
    ) -> Result<Value> {
        let deadline = monotonic_now() + self.timeout;
        self.persist(cmd, None, route, deadline)
            .await
            .map_err(|failure| failure.into_error(operation))
    }

    /// Runs a script. If the server does not know it, the source is sent once.
    pub(super) async fn run(
        &self,
        operation: &'static str,
        script: &Script,
        keys: &[&[u8]],
        arguments: &[&[u8]],
    ) -> Result<Value> {
        self.run_within(script, keys, arguments, self.timeout)
            .await
            .map_err(|failure| failure.into_error(operation))
    }

    /// As [`run`](Self::run), with a time of its own.
    pub(super) async fn run_within(
        &self,
        script: &Script,
        keys: &[&[u8]],
        arguments: &[&[u8]],
        time: Duration,
    ) -> Result<Value, Failure> {
        let deadline = monotonic_now() + time;
        let cmd = script.by_hash(keys, arguments);
        let with_source = || script.by_source(keys, arguments);
        self.persist(&cmd, Some(&with_source), Route::Natural, deadline).await
    }

    /// Tries until the command has run, may have run, or can not.
    async fn persist(
        &self,
        cmd: &Cmd,
        with_source: Option<&(dyn Fn() -> Cmd + Sync)>,
        mut route: Route,
        deadline: Instant,
    ) -> Result<Value, Failure> {
        let _place = match self.enter() {
            Ok(place) => place,
            Err(failure) => {
                // Who tries again at once must not keep the others from going on.
                tokio::task::yield_now().await;
                return Err(failure);
            }
        };
        let mut source = None;
        let mut longest_pause = SHORTEST_PAUSE;
        loop {
            let cmd = source.as_ref().unwrap_or(cmd);
            let failure = match self.attempt(cmd, &route, deadline).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            match (&failure.retry, with_source) {
                (Retry::WithSource, Some(with_source)) if source.is_none() => {
                    source = Some(with_source());
                    continue;
                }
                (Retry::On(next), _) => {
                    route = next.clone();
                    // ASK is true only now: later the node may take over the slot a second time, and
                    // would make a key that is elsewhere. Of the others the first is followed at once.
                    if matches!(route, Route::Asking(_)) {
                        continue;
                    }
                    if longest_pause == SHORTEST_PAUSE {
                        longest_pause *= 2;
                        continue;
                    }
                }
                (Retry::Later, _) => route = Route::Natural,
                (Retry::Reconnected, _) => {}
                (Retry::No | Retry::WithSource, _) => return Err(failure),
            }
            let pause = SHORTEST_PAUSE / 2 + random::up_to(longest_pause);
            longest_pause = (longest_pause * 2).min(LONGEST_PAUSE);
            let next = monotonic_now() + pause;
            if next >= deadline {
                return Err(failure);
            }
            sleep_until(next).await;
        }
    }

    async fn attempt(&self, cmd: &Cmd, route: &Route, deadline: Instant) -> Result<Value, Failure> {
        let mut line = match self.link.up() {
            Some(line) => line,
            None => match timeout_at(deadline, self.link.line()).await {
                Ok(line) => line?,
                // Nothing was sent.
                Err(_elapsed) => {
                    return Err(Failure::new(ErrorKind::Timeout, Effect::NotApplied));
                }
            },
        };
        let call = Call::begin(&self.link, line.mark());
        match timeout_at(deadline, line.connection.send(cmd, route)).await {
            Ok(outcome) => {
                call.end();
                self.judge(line.mark(), outcome)
            }
            Err(_elapsed) => Err(Failure::new(ErrorKind::Timeout, Effect::Ambiguous)),
        }
    }

    fn judge(&self, line: Mark, outcome: RedisResult<Value>) -> Result<Value, Failure> {
        let error = match outcome {
            Ok(reply) => {
                self.link.answered(line);
                return Ok(reply);
            }
            Err(error) => error,
        };
        let mut failure = Failure::of(error);
        let is_cluster = line.is_cluster;
        if failure.is_connection_lost {
            if is_cluster {
                // One of its servers; the others go on. Unless that happens again and again.
                self.link.missed(line, self.link.answers());
            } else {
                self.link.lost(line);
            }
            return Err(failure);
        }
        self.link.answered(line);
        match failure.retry {
            Retry::Reconnected if is_cluster => failure.retry = Retry::Later,
            Retry::Reconnected => self.link.lost(line),
            Retry::On(_) if !is_cluster => {
                failure = failure.misconfigured(mistakes::NO_CLUSTER_CLIENT);
            }
            _ => {}
        }
        Err(failure)
    }

    fn enter(&self) -> Result<Place<'_>, Failure> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let place = Place(&self.in_flight);
        if before < self.max_in_flight {
            return Ok(place);
        }
        let failure = Failure::new(ErrorKind::Overloaded, Effect::NotApplied);
        Err(failure.with_message(format!(
            "{before} calls wait for their answers; max_in_flight is {}",
            self.max_in_flight
        )))
    }
}

/// A place among the calls that wait for their answers.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A command under way. Dropped before its answer came, because its time was over or the caller went
/// away, it tells the link.
struct Call<'a> {
    link: &'a Link,
    line: Mark,
    start: Instant,
    answers_before: u64,
    answered: bool,
}

impl<'a> Call<'a> {
    fn begin(link: &'a Link, line: Mark) -> Self {
        Self { link, line, start: monotonic_now(), answers_before: link.answers(), answered: false }
    }

    fn end(mut self) {
        self.answered = true;
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.answered && self.start.elapsed() >= PATIENCE {
            self.link.missed(self.line, self.answers_before);
        }
    }
}
