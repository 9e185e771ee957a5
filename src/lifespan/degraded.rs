//! A degraded start: a short wait for the store, then a task that goes on connecting.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::backend::Backend;
use crate::background::Task;
use crate::error::{BackendError, ErrorKind};
use crate::{random, timer};

/// The longest that the start waits for the store: enough for a healthy one to answer, and for a wrong
/// password to be refused.
const GRACE: Duration = Duration::from_millis(500);
/// Backoff between two questions to a store that does not answer.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest that one question takes. A backend's own timeouts are mostly shorter.
const LONGEST_QUESTION: Duration = Duration::from_secs(60);

/// Initializes the backend, or leaves that to `connecting` if the store does not answer.
pub(super) async fn initialize(
    backend: &Arc<dyn Backend>,
    connecting: &Task,
) -> Result<(), BackendError> {
    let name = backend.core().name();
    let deadline = timer::Deadline::after(GRACE);
    let failure = match deadline.bound(name, "initialize", backend.initialize()).await {
        Ok(()) => return Ok(()),
        Err(error) if error.kind().bypasses_policy() => return Err(error),
        Err(error) => error,
    };
    // Of an attempt that was cut short by our own deadline, the next one tells the cause.
    let error = (failure.kind() != ErrorKind::Timeout).then(|| failure.to_string());
    warn!(
        backend = name,
        namespace = backend.core().namespace(),
        error,
        "a lifespan began without its store; until it answers, a fallback or the error policy decides"
    );
    let backend = Arc::downgrade(backend);
    connecting.start(|| connect(backend));
    Ok(())
}

/// Asks the store until it answers, or the lifespan or the backend is closed. Does not open a backend
/// that was closed.
async fn connect(backend: Weak<dyn Backend>) {
    let mut pause = SHORTEST_PAUSE;
    let (mut reported, mut mistake_reported) = (false, false);
    loop {
        sleep(pause / 2 + random::up_to(pause / 2)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        let Some(backend) = backend.upgrade() else { return };
        let core = backend.core();
        let asked = timer::Deadline::after(LONGEST_QUESTION);
        let answer = asked.bound(core.name(), "ready", backend.ready()).await;
        let (name, namespace) = (core.name(), core.namespace());
        match answer {
            Ok(()) => {
                info!(backend = name, namespace, "the store answers now");
                return;
            }
            Err(error) if error.kind() == ErrorKind::Closed => return,
            Err(error) if error.kind().bypasses_policy() => {
                if !mistake_reported {
                    mistake_reported = true;
                    error!(
                        backend = name,
                        namespace,
                        %error,
                        "the backend of a lifespan that began without its store is misconfigured; \
                         each hit is an error"
                    );
                }
            }
            Err(error) if !reported => {
                reported = true;
                warn!(backend = name, namespace, %error, "the store does not answer; asking again");
            }
            Err(_) => {}
        }
    }
}
