//! [`Throttle`]: a named limit, and the handle that a service holds.

mod acquire;
mod all;
mod at_once;
mod backend_call;
mod begun;
mod block;
mod brought;
mod builder;
#[cfg(any(feature = "http", feature = "stream"))]
mod bytes_at_once;
mod combined;
mod hit;
mod inspect;
#[cfg(any(feature = "http", feature = "stream"))]
mod item_slot;
mod line;
mod many;
mod mode;
mod penalty;
mod permit;
#[cfg(feature = "stream")]
mod reader;
mod refund;
mod run;
#[cfg(feature = "stream")]
mod sink;
mod span;
#[cfg(feature = "stream")]
mod stream;
mod together;
mod usage;
mod watch;
#[cfg(feature = "stream")]
mod writer;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use acquire::Acquire;
pub use all::{All, all};
pub use builder::{IntoRate, ThrottleBuilder};
pub use combined::CombinedDecision;
pub use inspect::{InspectedLimit, Inspection};
#[cfg(feature = "http")]
pub(crate) use item_slot::ItemSlot;
pub use mode::Mode;
pub(crate) use mode::ModeCell;
pub use penalty::Penalty;
pub use permit::{Permit, PermitDrop};
#[cfg(feature = "stream")]
pub use reader::ThrottledReader;
#[cfg(feature = "stream")]
pub use sink::{ThrottledSink, ThrottledSinkError};
#[cfg(feature = "stream")]
pub use stream::ThrottledStream;
#[cfg(feature = "stream")]
pub use writer::ThrottledWriter;

use self::line::Lines;
use self::penalty::Denials;
use self::watch::Watch;
use crate::backend::{Backend, Prepared};
use crate::decision::Decision;
use crate::on_error::{LogLimiter, OnError};
use crate::strategy::Limit;
use crate::turns::Turns;

/// A named limit: asks its backend whether a key may pass.
///
/// Cheap to clone, `Send`, `Sync` and not generic, so it sits in any application state.
///
/// ```
/// use traffik::{InMemory, Outcome, Throttle};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let throttle = Throttle::builder("api:items")
///     .rate("100/min")
///     .backend(InMemory::new())
///     .build()?;
///
/// let decision = throttle.hit("alice").await?;
/// assert_eq!(decision.outcome(), Outcome::Allowed);
/// assert_eq!(decision.remaining(), 99);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Throttle {
    inner: Arc<ThrottleInner>,
}

struct ThrottleInner {
    name: Arc<str>,
    /// Different for each throttle that this process builds, to bind denials to it.
    id: u64,
    /// A random number in this process of the name, what its limits are counted by, and the store if it
    /// has one of its own: to bind receipts to it.
    seed: u64,
    mode: ModeCell,
    /// At least one.
    limits: Box<[Limit]>,
    backend: Option<Arc<dyn Backend>>,
    /// Its fast path, if it has one.
    prepared: Option<Prepared>,
    on_error: Option<OnError>,
    deadline: Duration,
    min_retry_after: u64,
    cost: u32,
    log: LogLimiter,
    /// Those who have reserved their turn.
    lines: Lines,
    /// Those of whom one of each key asks at a time.
    turns: Turns,
    /// Of a penalty, who was denied.
    denials: Option<Denials>,
    watch: Option<Box<Watch>>,
}

impl Throttle {
    /// Default deadline of a hit. An error handler has its own limit on top of it.
    pub const DEFAULT_DEADLINE: Duration = Duration::from_millis(250);

    /// Starts a throttle called `name` (its uid): 1 to 128 bytes without control characters.
    ///
    /// Two throttles of the same name on one backend share what they count, and should have the same
    /// rates: each applies its own, so what one has counted may read as expired by the other. A name is
    /// configuration and never user input: a backend keeps what it knows of each name for its whole life.
    ///
    /// Build it and its backend once, when the program starts, and give clones to those who hit: clones are the same
    /// throttle. An in-memory backend or a fallback that is made for each request limits nothing, for each begins with
    /// nothing counted; and a circuit breaker that is never opens.
    pub fn builder(name: impl Into<String>) -> ThrottleBuilder {
        ThrottleBuilder::new(name.into())
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Returns the limits, in the order of the builder.
    #[must_use]
    pub fn limits(&self) -> &[Limit] {
        &self.inner.limits
    }

    /// Returns the limit that denied, or [would have](Decision::shadowed): one of this throttle's, or of the rates that
    /// the hit brought.
    ///
    /// `None` if the hit passed by itself, if no limit denied it, or if it was a hit of another throttle.
    #[must_use]
    pub fn denied_by<'a>(&'a self, decision: &'a Decision) -> Option<&'a Limit> {
        let index = decision.denied_by_or_shadowed()?;
        if !decision.is_bound_to(self.inner.id) {
            return None;
        }
        decision.brought().unwrap_or(&self.inner.limits).get(index)
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle")
            .field("name", &self.inner.name)
            .field("mode", &self.inner.mode)
            .field("limits", &self.inner.limits)
            .field("backend", &self.inner.backend)
            .field("on_error", &self.inner.on_error)
            .finish_non_exhaustive()
    }
}
