//! Operations on all nodes at the same time, and which nodes answer.

use std::future::Future;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tracing::warn;

use super::protocol::Command;
use super::{Memcached, MemcachedInner, NAME, errors};
use crate::backend::Result;
use crate::error::{BackendError, ErrorKind};

impl Memcached {
    /// Asks every node whether it answers now, each within the time of a call.
    ///
    /// In the order of the builder: the node's address, and what went wrong if it does not answer. Hits on
    /// the keys of such a node fail, and those of the others do not.
    /// [`ready`](crate::Backend::ready) fails only when
    /// no node answers, or one is misconfigured.
    ///
    /// ```no_run
    /// # async fn example(backend: traffik::Memcached) {
    /// for (node, answered) in backend.nodes().await {
    ///     if let Err(error) = answered {
    ///         eprintln!("{node}: {error}");
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// It changes nothing, so it may be dropped.
    pub async fn nodes(&self) -> Vec<(String, Result<()>)> {
        self.inner.ask_nodes("ready").await
    }
}

impl MemcachedInner {
    /// Connects to all nodes. One that does not answer may do so later: it is no failure while others do.
    pub(super) async fn warm_up(self: &Arc<Self>) -> Result<()> {
        const OPERATION: &str = "initialize";
        let warm_up =
            |inner: Arc<Self>, node| async move { inner.nodes.warm_up(node, OPERATION).await };
        let failed = failed(self.each_node(OPERATION, warm_up).await);
        self.check(OPERATION, &failed)?;
        if !failed.is_empty() {
            let error = errors::of_nodes(OPERATION, &failed, self.nodes.len());
            warn!(backend = NAME, %error, "hits on the keys of a node that does not answer fail");
        }
        Ok(())
    }

    pub(super) async fn ready(self: &Arc<Self>) -> Result<()> {
        self.check("ready", &failed(self.ask_nodes("ready").await))
    }

    pub(super) async fn ask_nodes(
        self: &Arc<Self>,
        operation: &'static str,
    ) -> Vec<(String, Result<()>)> {
        let ask = move |inner: Arc<Self>, node| async move {
            inner.nodes.call(node, operation, Command::Version).await.map(drop)
        };
        self.each_node(operation, ask).await
    }

    /// Does something on all nodes at the same time. The error names those on which it failed; on the
    /// others it is done.
    pub(super) async fn on_all_nodes<F: Future<Output = Result<()>> + Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        work: impl Fn(Arc<Self>, usize) -> F,
    ) -> Result<()> {
        let failed = failed(self.each_node(operation, work).await);
        if failed.is_empty() {
            return Ok(());
        }
        Err(errors::of_nodes(operation, &failed, self.nodes.len()))
    }

    /// Fails when no node is left, or one is misconfigured.
    fn check(&self, operation: &'static str, failed: &[(String, BackendError)]) -> Result<()> {
        let nodes = self.nodes.len();
        let misconfigured =
            failed.iter().any(|(_, error)| error.kind() == ErrorKind::Misconfigured);
        if failed.len() < nodes && !misconfigured {
            return Ok(());
        }
        Err(errors::of_nodes(operation, failed, nodes))
    }

    /// Returns the result of each node with its address, in their order.
    async fn each_node<F: Future<Output = Result<()>> + Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        work: impl Fn(Arc<Self>, usize) -> F,
    ) -> Vec<(String, Result<()>)> {
        let failed = |error: fn(_) -> _| {
            let address = |node| self.nodes.address(node).to_string();
            (0..self.nodes.len()).map(|node| (address(node), Err(error(operation)))).collect()
        };
        if Handle::try_current().is_err() {
            return failed(errors::no_runtime);
        }
        let mut results: Vec<(String, Result<()>)> = failed(errors::runtime_is_gone);
        let mut tasks = JoinSet::new();
        for node in 0..self.nodes.len() {
            let work = work(Arc::clone(self), node);
            tasks.spawn(async move { (node, work.await) });
        }
        while let Some(Ok((node, result))) = tasks.join_next().await {
            results[node].1 = result;
        }
        results
    }
}

fn failed(results: Vec<(String, Result<()>)>) -> Vec<(String, BackendError)> {
    results.into_iter().filter_map(|(node, result)| Some((node, result.err()?))).collect()
}
