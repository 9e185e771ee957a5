//! Decisions from `get` and `compare_and_set`, for a store that has nothing better.

use std::time::Duration;

use super::{Backend, Counter, Result};
use crate::decision::Decision;
use crate::error::{BackendError, ErrorKind};
use crate::jitter;
use crate::key::Key;
use crate::strategy::{Step, Write};

/// Enough that 64 tasks on one key all get through; the caller's deadline usually ends it before.
const MAX_ATTEMPTS: u32 = 256;
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

pub(super) async fn apply<B: Backend + ?Sized>(
    backend: &B,
    key: &Key<'_>,
    step: &Step<'_>,
) -> Result<Decision> {
    let name = backend.settings().name();
    for attempt in 0..MAX_ATTEMPTS {
        if attempt > 0 {
            let most = Duration::from_micros(50 << attempt.min(10)).min(LONGEST_PAUSE);
            tokio::time::sleep(jitter::up_to(most)).await;
        }
        let stored = backend.get(key).await?;
        let outcome = step.decide(stored.as_deref(), backend.clock().now());
        let written = match &outcome.write {
            None => true,
            Some(Write::Put { value, keep_for }) => {
                let keep_for = Some(*keep_for);
                backend.compare_and_set(key, stored.as_deref(), Some(value), keep_for).await?
            }
            Some(Write::Delete) => {
                backend.compare_and_set(key, stored.as_deref(), None, None).await?
            }
        };
        if !written {
            continue;
        }
        return match outcome.corrupt {
            None => Ok(outcome.decision),
            Some(corrupt) => {
                backend.settings().increase(Counter::Corrupt);
                Err(BackendError::new(name, "apply", ErrorKind::Corrupt).with_cause(corrupt))
            }
        };
    }
    backend.settings().increase(Counter::Contended);
    Err(BackendError::new(name, "apply", ErrorKind::Contended))
}
