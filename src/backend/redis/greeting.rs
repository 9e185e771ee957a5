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
        let probe = crate::key::Key::value("traffik:ready");
        let mut answer = None;
        loop {
            // Not a PING: that is answered also by a server that is loading or refuses us.
            let error = match timeout_at(deadline, self.get(&probe)).await {
                Ok(Ok(_)) => break,
                Ok(Err(error)) if error.kind().is_programmer_error() => return Err(error),
                Ok(Err(error)) => error,
                // What the server said before tells more than that it was cut off.
                Err(_elapsed) => answer
                    .take()
                    .unwrap_or_else(|| BackendError::new(super::NAME, "get", ErrorKind::Timeout)),
            };
            if monotonic_now() + PAUSE >= deadline {
                return Err(self.unreachable(error));
            }
            answer = Some(error);
            sleep(PAUSE).await;
        }
        self.greeted.store(true, Ordering::Relaxed);
        self.warn_of_eviction().await;
        Ok(())
    }

    /// Asks the server once. A lifespan that began without it looks by this at what it missed.
    pub(super) async fn check(&self) -> Result<()> {
        self.get(&crate::key::Key::value("traffik:ready")).await?;
        if !self.greeted.swap(true, Ordering::Relaxed) {
            self.warn_of_eviction().await;
        }
        Ok(())
    }

    fn unreachable(&self, error: BackendError) -> BackendError {
        let message =
            format!("{:?} was not ready within {:?}", self.client.link(), self.initialize_timeout);
        BackendError::new(super::NAME, "initialize", error.kind())
            .with_effect(Effect::NotApplied)
            .with_message(format!("{message}: {error}"))
            .with_cause(error)
    }

    /// A server that evicts keys when its memory is full forgets counters: limits start afresh.
    async fn warn_of_eviction(&self) {
        let mut cmd = redis::cmd("INFO");
        cmd.arg("memory");
        let reports = match self.client.call("initialize", &cmd).await {
            Ok(reply) => texts(reply),
            Err(error) => {
                debug!(%error, "the eviction policy is not known");
                return;
            }
        };
        let policies = reports.iter().flat_map(|report| report.lines());
        let policies = policies.filter_map(|line| line.strip_prefix("maxmemory_policy:"));
        let mut policies = policies.map(str::trim);
        if let Some(policy) = policies.find(|policy| *policy != "noeviction") {
            warn!(
                source = ?self.client.link(),
                policy,
                "the server may evict counters and locks when its memory is full; set \
                 maxmemory-policy to noeviction"
            );
        }
    }
}

/// The text of a reply; of a cluster one for each server.
fn texts(reply: Value) -> Vec<String> {
    match reply {
        Value::BulkString(text) => vec![String::from_utf8_lossy(&text).into_owned()],
        Value::VerbatimString { text, .. } => vec![text],
        Value::Map(servers) => servers.into_iter().flat_map(|(_, text)| texts(text)).collect(),
        _ => Vec::new(),
    }
}
