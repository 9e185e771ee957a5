//! Checks at initialization: whether the servers are ready, and settings of theirs that the operator
//! should know of.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{join, join_all, select_ok};
use futures_util::stream::FuturesUnordered;
use redis::{ConnectionAddr, Value};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};

use super::client::Client;
use super::failure::Failure;
use super::keys::Keys;
use super::scripts::GREET;
use super::{RedisInner, config_errors, failed};
use crate::backend::Result;
use crate::clock::monotonic_now;
use crate::error::{BackendError, Effect, ErrorKind};

const OPERATION: &str = "initialize";
/// Between two looks at a server that is not ready.
const PAUSE: Duration = Duration::from_millis(50);
/// The least time for one look.
const LOOK: Duration = Duration::from_millis(500);
/// From a client that has not authenticated, a server takes no command of more than 10 words, and closes
/// the connection instead of asking for it.
const MOST_KEYS: usize = 3;
/// How long a minority of the masters of locks is waited for.
const MINORITY: Duration = Duration::from_secs(1);

/// Servers that are looked at before they are used.
pub(super) struct StartupCheck {
    pub(super) client: Arc<Client>,
    /// The ports that the user named.
    ports: Vec<ConnectionAddr>,
}

/// Why a server is not ready.
struct NotReady {
    failure: Failure,
    is_read_only: bool,
}

impl StartupCheck {
    pub(super) fn new(client: Arc<Client>, ports: Vec<ConnectionAddr>) -> Self {
        Self { client, ports }
    }

    /// Waits until it decides; it may still be loading its data. A mistake in the configuration is an
    /// error at once, but for a replica: in a failover a server may be one for a moment.
    async fn wait_until_ready(&self, keys: &Keys, deadline: Instant) -> Result<()> {
        let mut is_first = true;
        let mut last: Option<NotReady> = None;
        loop {
            let Err(mut refusal) = self.look(keys, deadline).await else { return Ok(()) };
            // What it said before says more than that its time is over.
            if refusal.failure.kind() == ErrorKind::Timeout {
                refusal = last.take().unwrap_or(refusal);
            }
            let is_over = monotonic_now() + PAUSE >= deadline;
            let mistake = match refusal.failure.kind() {
                _ if refusal.is_read_only => is_over.then_some(config_errors::REPLICA),
                ErrorKind::Unavailable | ErrorKind::Timeout if is_first || is_over => {
                    let looks = self.ports.iter().map(config_errors::of_port);
                    join_all(looks).await.into_iter().flatten().next()
                }
                _ => None,
            };
            is_first = false;
            if let Some(problem) = mistake {
                refusal.failure = refusal.failure.misconfigured(problem);
            }
            if is_over || refusal.failure.kind().bypasses_policy() {
                return Err(refusal.failure.into_error(OPERATION));
            }
            last = Some(refusal);
            sleep(PAUSE).await;
        }
    }

    /// Looks once whether it decides. Not by a PING: that is answered also by a server that is loading or
    /// refuses us. Of a cluster any master is enough: one that does not answer must not keep a service
    /// from starting.
    async fn look(&self, keys: &Keys, deadline: Instant) -> Result<(), NotReady> {
        let keys = keys.of_startup();
        let left = deadline.saturating_duration_since(monotonic_now());
        let time = self.client.timeout().max(LOOK).min(left);
        let groups = self.client.servers().group(&keys);
        let looks = groups.iter().map(|group| {
            let keys: Vec<&[u8]> =
                group.iter().take(MOST_KEYS).map(|index| keys[*index].as_slice()).collect();
            Box::pin(async move { self.decides(&keys, time).await })
        });
        select_ok(looks).await.map(drop)
    }

    async fn decides(&self, keys: &[&[u8]], time: Duration) -> Result<(), NotReady> {
        let failure = match self.client.run_within(&GREET, keys, &[b"0"], time).await {
            Ok(Value::Int(0)) => {
                // What a replica says to this makes the client connect anew: that may lead to another
                // server by now.
                if self.client.run_within(&GREET, keys, &[b"1"], PAUSE).await.is_ok() {
                    return Ok(());
                }
                let failure = Failure::new(ErrorKind::Unavailable, Effect::NotApplied);
                let failure = failure.with_message(config_errors::REPLICA);
                return Err(NotReady { failure, is_read_only: true });
            }
            Ok(_) => return Ok(()),
            Err(failure) => failure,
        };
        Err(NotReady { failure, is_read_only: false })
    }

    /// With the server's name and the time that it had.
    fn describe(&self, what: &str, error: BackendError, time: Duration) -> BackendError {
        let server = self.client.servers();
        let said = error.to_string();
        let said = said.strip_prefix("redis: initialize: ").unwrap_or(&said);
        let message = if error.kind().bypasses_policy() {
            format!("{what}{server:?}: {said}")
        } else {
            format!("{what}{server:?} was not ready within {time:?}: {said}")
        };
        failed(OPERATION, error.kind())
            .with_effect(Effect::NotApplied)
            .with_message(message)
            .with_cause(error)
    }
}

impl RedisInner {
    /// Looks at all servers, and waits for those that are starting.
    pub(super) async fn wait_until_ready(&self) -> Result<()> {
        self.wait_ready_within(self.initialize_timeout).await
    }

    /// Asks once whether the servers decide. A lifespan that began without them looks by this at what
    /// `initialize` would have looked at.
    pub(super) async fn check(&self) -> Result<()> {
        let time = self.client.timeout();
        if !self.is_checked.load(Ordering::Relaxed) {
            return self.wait_ready_within(time.max(LOOK)).await;
        }
        let looked = self.own.look(&self.keys, monotonic_now() + time).await;
        looked.map_err(|refusal| refusal.failure.into_error("ready"))
    }

    async fn wait_ready_within(&self, time: Duration) -> Result<()> {
        let deadline = monotonic_now() + time;
        let own = async {
            let ready = self.own.wait_until_ready(&self.keys, deadline).await;
            ready.map_err(|error| self.own.describe("", error, time))
        };
        let (own, of_locks) = join(own, self.wait_for_masters(deadline, time)).await;
        // A replica's own refusal of a write may be that of a failover, so hits alone do not tell.
        let text = own.as_ref().err().map(ToString::to_string);
        *self.replica.lock() = text.filter(|text| text.contains(config_errors::REPLICA));
        own.and(of_locks)?;
        self.is_checked.store(true, Ordering::Relaxed);
        self.warn_of_eviction().await;
        Ok(())
    }

    /// The masters that keep the locks: a majority is enough, as it is later, but none may be wrong.
    async fn wait_for_masters(&self, deadline: Instant, time: Duration) -> Result<()> {
        let masters = &self.lock_masters;
        let (mut ready, mut last, mut until) = (0, None, deadline);
        let mut checked: FuturesUnordered<_> =
            masters
                .iter()
                .map(|master| async move {
                    (master, master.wait_until_ready(&self.keys, deadline).await)
                })
                .collect();
        let majority = masters.len() / 2 + 1;
        while let Ok(Some((master, outcome))) = timeout_at(until, checked.next()).await {
            let Err(error) = outcome else {
                ready += 1;
                if ready == majority {
                    until = until.min(monotonic_now() + MINORITY);
                }
                continue;
            };
            let error = master.describe("lock_type: ", error, time);
            if error.kind().bypasses_policy() {
                return Err(error);
            }
            last = Some(error);
        }
        if ready < masters.len() {
            warn!(ready, of = masters.len(), "not all masters of the locks are ready");
        }
        if masters.is_empty() || ready >= majority {
            return Ok(());
        }
        let error = last.unwrap_or_else(|| failed(OPERATION, ErrorKind::Timeout));
        let message = format!("only {ready} of {} masters of the locks are ready", masters.len());
        Err(failed(OPERATION, ErrorKind::Unavailable)
            .with_message(format!("{message}: {error}"))
            .with_cause(error))
    }

    /// A server that evicts keys when its memory is full forgets counters: limits start over.
    async fn warn_of_eviction(&self) {
        let mut cmd = redis::cmd("INFO");
        cmd.arg("memory");
        let masters = self.client.masters("initialize").await.unwrap_or_default();
        let asked =
            masters.into_iter().map(|master| self.client.call_on("initialize", &cmd, master));
        let mut reports = Vec::new();
        for reply in futures_util::future::join_all(asked).await {
            match reply {
                Ok(reply) => reports.extend(text(reply)),
                Err(error) => debug!(%error, "the eviction policy is not known"),
            }
        }
        let policies = reports.iter().flat_map(|report| report.lines());
        let policies = policies.filter_map(|line| line.strip_prefix("maxmemory_policy:"));
        let mut policies = policies.map(str::trim);
        if let Some(policy) = policies.find(|policy| *policy != "noeviction") {
            warn!(
                source = ?self.client.servers(),
                policy,
                "the server may evict counters and locks when its memory is full; set \
                 maxmemory-policy to noeviction"
            );
        }
    }
}

fn text(reply: Value) -> Option<String> {
    match reply {
        Value::BulkString(text) => Some(String::from_utf8_lossy(&text).into_owned()),
        Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}
