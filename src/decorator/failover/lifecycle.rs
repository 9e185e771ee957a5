//! The begin and the end of a failover: of both, where the fallback's are counted.

use std::pin::Pin;

use tracing::warn;

use super::Inner;
use crate::backend::Result;
use crate::join::join_all;
use crate::lifespan::{Lifespan, LifespanExt, LifespanOptions, Start};

type Work<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

impl Inner {
    /// Starts both at the same time. The primary alone says whether that fails.
    pub(super) async fn initialize(&self) -> Result<()> {
        let primary: Work<'_> = self.primary.initialize();
        let fallback: Work<'_> = Box::pin(self.open_fallback());
        join_all([fallback, primary].into_iter()).await.pop().unwrap_or(Ok(()))
    }

    /// Clears both; the fallback only if it is open nowhere else, for others count there, and not at the end of a
    /// lifespan if it keeps its counts.
    pub(super) async fn clear(&self) -> Result<()> {
        let primary: Work<'_> = self.primary.clear();
        let fallback: Work<'_> = Box::pin(async {
            let own = usize::from(self.fallback_life.lock().is_some());
            let fallback = self.fallback.core();
            let is_end = own > 0 && self.primary.core().lifespans().count() == 0;
            let keeps = is_end && fallback.is_persistent();
            match keeps || fallback.lifespans().count() > own {
                true => Ok(()),
                false => self.fallback.clear().await,
            }
        });
        first_error(join_all([primary, fallback].into_iter()).await)
    }

    /// Begins a lifespan of the fallback, unless there is one.
    async fn open_fallback(&self) -> Result<()> {
        if self.fallback_life.lock().is_some() {
            return Ok(());
        }
        // One that is away must not keep a service from starting.
        let options = LifespanOptions::new().start(Start::Degraded);
        match self.fallback.lifespan_with(options).await {
            Ok(life) => self.keep_open(life),
            Err(error) => {
                let (backend, namespace) =
                    (self.fallback.core().name(), self.fallback.core().namespace());
                warn!(backend, namespace, %error, "the fallback could not be initialized");
            }
        }
        Ok(())
    }

    fn keep_open(&self, life: Lifespan) {
        let mut kept = self.fallback_life.lock();
        if kept.is_none() {
            *kept = Some(life);
            return;
        }
        // Another was faster, and keeps it open.
        drop(kept);
        life.stop();
    }

    /// Closes both, and returns the first error.
    pub(super) async fn close(&self) -> Result<()> {
        let primary: Work<'_> = self.primary.close();
        let fallback: Work<'_> = Box::pin(self.close_fallback());
        first_error(join_all([primary, fallback].into_iter()).await)
    }

    async fn close_fallback(&self) -> Result<()> {
        let life = self.fallback_life.lock().take();
        match life {
            Some(life) => life.close().await,
            None if self.fallback.core().lifespans().count() == 0 => self.fallback.close().await,
            // It is used elsewhere.
            None => Ok(()),
        }
    }

    pub(super) fn stop(&self) {
        self.primary.stop();
        let life = self.fallback_life.lock().take();
        if let Some(life) = life {
            life.stop();
        }
    }
}

fn first_error(results: Vec<Result<()>>) -> Result<()> {
    results.into_iter().find(Result::is_err).unwrap_or(Ok(()))
}
