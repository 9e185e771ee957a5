//! What is looked at once, when the backend is initialized: whether the server is there and what about
//! it the operator should know.

use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::Value;
use tokio::time::{sleep, timeout_at};
use tracing::{debug, warn};

use super::Inner;
use crate::backend::Result;
use crate::clock::monotonic_now;
use crate::error::{BackendError, Effect, ErrorKind};

/// Between two tries of a server that is not ready.
const PAUSE: Duration = Duration::from_millis(50);

impl Inner {
    /// Waits until the server answers; it may still be loading its data.
    pub(super) async fn greet(&self) -> Result<()> {
        let deadline = monotonic_now() + self.initialize_timeout;
        let mut last = None;
        loop {
            // Not a PING: that is answered also by a server that is loading or refuses us.
            let error = match timeout_at(deadline, self.reads()).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) if error.kind().is_programmer_error() => return Err(error),
                Ok(Err(error)) => error,
                // What the server said before says more.
                Err(_elapsed) => last
                    .unwrap_or_else(|| BackendError::new(super::NAME, "get", ErrorKind::Timeout)),
            };
            if monotonic_now() + PAUSE >= deadline {
                return Err(self.unreachable(error));
            }
            last = Some(error);
            sleep(PAUSE).await;
        }
        self.greeted.store(true, Ordering::Relaxed);
        self.warn_of_eviction().await;
        Ok(())
    }

    /// Asks the server once. A lifespan that began without it looks by this at what it missed.
    pub(super) async fn check(&self) -> Result<()> {
        self.reads().await?;
        if !self.greeted.swap(true, Ordering::Relaxed) {
            self.warn_of_eviction().await;
        }
        Ok(())
    }

    /// Reads from a server: of a cluster from any that answers, for one that does not must not keep a
    /// service from starting.
    pub(super) async fn reads(&self) -> Result<()> {
        let names: Vec<String> = match self.client.masters("get").await?.len() {
            1 => vec!["traffik:ready".into()],
            // Enough that some are of other masters than the rest.
            _ => (0..16).map(|number| format!("traffik:ready:{number}")).collect(),
        };
        let keys = names.iter().map(crate::key::Key::value);
        let read = keys.map(|key| Box::pin(async move { self.get(&key).await }));
        futures_util::future::select_ok(read).await.map(drop)
    }

    fn unreachable(&self, error: BackendError) -> BackendError {
        let message = format!(
            "{:?} was not ready within {:?}",
            self.client.servers(),
            self.initialize_timeout
        );
        BackendError::new(super::NAME, "initialize", error.kind())
            .with_effect(Effect::NotApplied)
            .with_message(format!("{message}: {error}"))
            .with_cause(error)
    }

    /// A server that evicts keys when its memory is full forgets counters: limits start afresh.
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
