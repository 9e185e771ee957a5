//! [`Client`]: sends one command within a time limit, and retries where that is safe.

use std::time::Duration;

use redis::{Cmd, Value};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::failure::{Failure, Remedy};
use super::in_flight::InFlight;
use super::route::Route;
use super::scripts::Script;
use super::servers::Servers;
use super::session::Session;
use crate::backend::Result;
use crate::clock::monotonic_now;
use crate::error::{Effect, ErrorKind};
use crate::random;

/// Backoff while a cluster changes.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Client {
    servers: Servers,
    timeout: Duration,
    /// For each server.
    max_in_flight: usize,
    /// Calls that wait for a connection. Those of a server that has none must not count against the
    /// calls of another, which are counted with their connection.
    unconnected: InFlight,
}

impl Client {
    pub(super) fn new(servers: Servers, timeout: Duration, max_in_flight: usize) -> Self {
        Self { servers, timeout, max_in_flight, unconnected: InFlight::default() }
    }

    pub(super) fn servers(&self) -> &Servers {
        &self.servers
    }

    /// Returns the longest time that a call takes.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns the most calls that one server is asked at the same time.
    pub(super) fn max_in_flight(&self) -> usize {
        self.max_in_flight
    }

    /// Returns a route to each server that keys are written to.
    pub(super) async fn masters(&self, operation: &'static str) -> Result<Vec<Route>> {
        let deadline = monotonic_now() + self.timeout;
        let masters = timeout_at(deadline, self.servers.masters()).await;
        masters
            .unwrap_or_else(|_elapsed| Err(unsent()))
            .map_err(|error| error.into_error(operation))
    }

    /// Sends a command about a key and waits for its answer.
    pub(super) async fn call(
        &self,
        operation: &'static str,
        key: &[u8],
        cmd: &Cmd,
    ) -> Result<Value> {
        self.call_on(operation, cmd, self.servers.route(key)).await
    }

    /// Sends a command that way and waits for its answer.
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

    /// As [`run`](Self::run), with its own timeout.
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
        self.persist(&cmd, Some(&with_source), self.route_of(keys), deadline).await
    }

    /// Returns the way of a script. All its keys are of one slot.
    pub(super) fn route_of(&self, keys: &[&[u8]]) -> Route {
        keys.first().map(|key| self.servers.route(key)).unwrap_or_default()
    }

    /// Tries until the command has run, may have run, or can not.
    async fn persist(
        &self,
        cmd: &Cmd,
        with_source: Option<&(dyn Fn() -> Cmd + Sync)>,
        natural: Route,
        deadline: Instant,
    ) -> Result<Value, Failure> {
        let mut route = natural.clone();
        let mut source = None;
        let mut longest_pause = SHORTEST_PAUSE;
        let mut last: Option<Failure> = None;
        loop {
            let cmd = source.as_ref().unwrap_or(cmd);
            let failure = match self.attempt(cmd, &route, deadline).await {
                Ok(reply) => return Ok(reply),
                // What was said before tells more than that the time is over.
                Err(failure) if failure.is_unsent() => return Err(last.unwrap_or(failure)),
                Err(failure) => failure,
            };
            match (&failure.remedy, with_source) {
                (Remedy::WithSource, Some(with_source)) if source.is_none() => {
                    source = Some(with_source());
                    continue;
                }
                (Remedy::Redirected(next), _) => {
                    route = next.route();
                    // ASK is true only now: later the node may take over the slot a second time, and
                    // would make a key that is elsewhere. Of the others the first is followed at once.
                    if next.is_asking {
                        continue;
                    }
                    if longest_pause == SHORTEST_PAUSE {
                        longest_pause *= 2;
                        continue;
                    }
                }
                (Remedy::Later, _) => route = natural.clone(),
                (Remedy::Reconnected, _) => {}
                (Remedy::None | Remedy::WithSource, _) => return Err(failure),
            }
            let pause = SHORTEST_PAUSE / 2 + random::up_to(longest_pause);
            longest_pause = (longest_pause * 2).min(LONGEST_PAUSE);
            let next = monotonic_now() + pause;
            if next >= deadline {
                return Err(failure);
            }
            last = Some(failure);
            sleep_until(next).await;
        }
    }

    async fn attempt(&self, cmd: &Cmd, route: &Route, deadline: Instant) -> Result<Value, Failure> {
        let mut session = self.session(route, deadline).await?;
        let _place = session.enter(1, self.max_in_flight).await?;
        let outcome = session.call(cmd, route.is_asking(), deadline).await;
        outcome.map_err(|failure| self.servers.judge(&session, failure))
    }

    async fn session(&self, route: &Route, deadline: Instant) -> Result<Session, Failure> {
        if let Some(session) = self.servers.up(route) {
            return Ok(session);
        }
        let _place = self.unconnected.enter(1, self.max_in_flight).await?;
        let session = timeout_at(deadline, self.servers.session(route)).await;
        session.unwrap_or_else(|_elapsed| Err(unsent()))
    }
}

/// The time was over before anything was sent.
fn unsent() -> Failure {
    Failure::new(ErrorKind::Timeout, Effect::NotApplied)
}
