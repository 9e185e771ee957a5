//! Seeing what throttles do: [`Observer`]s and their [`Event`]s, who is denied most, and metrics.
//!
//! An observer is told of each decision of a throttle, and of what else an operator wants to know:
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! use traffik::observe::{Event, Observer};
//! use traffik::{InMemory, Throttle};
//!
//! #[derive(Debug, Default)]
//! struct Denials(AtomicU64);
//!
//! impl Observer for Denials {
//!     fn on_event(&self, event: &Event<'_>) {
//!         if let Event::Decision(decision) = event
//!             // In shadow mode see `shadowed`: there nobody is denied.
//!             && decision.denial.is_some()
//!         {
//!             self.0.fetch_add(1, Ordering::Relaxed);
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let denials = Arc::new(Denials::default());
//! let api = Throttle::builder("api")
//!     .rate("1/min")
//!     .observer(Arc::clone(&denials))
//!     .backend(InMemory::new())
//!     .build()?;
//! let _ = api.hit_many(["alice", "bob", "alice"]).await;
//! assert_eq!(denials.0.load(Ordering::Relaxed), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # What is seen
//!
//! * **Each hit once**, when it is decided, by whatever verb: [`hit`], [`hit_with`], [`enforce`], [`reserve`],
//!   [`take_up_to`], [`acquire`], [`try_acquire`], each of [`hit_many`], each of [`all`], and those of the layers. So
//!   are hits of which nobody is asked, for an exempt key or while the throttle is off; in a layer a rule that is off
//!   makes no hit.
//! * Of [`acquire`] the decision by which the caller passes or is turned away, not the questions in between. One whose
//!   turn is reserved is allowed when that is done, and may still be given up.
//! * Of [`all`] the entries that were asked, when all are decided. One that passed, and counts for nothing since
//!   another was denied, is [withdrawn](DecisionMade::withdrawn). Of one that passes in spite of a mistake, since its
//!   throttle turns nobody away, the log tells, and no event.
//! * A peek is not a hit, and neither are [`charge`], [`settle`] and [`refund`]: there is no [`Event::Decision`] of
//!   them. A hit that ends in an error has none either.
//! * **Each failure of a backend** that a throttle is told, whatever was asked for: [`Event::BackendFailed`]. What a
//!   [fallback](crate::decorator::Failover) decides is none: such a decision is
//!   [decided by the fallback](crate::DecidedBy::Fallback).
//! * **Each change of a circuit breaker**, in their order: [`Event::CircuitChanged`], by the throttle whose builder made
//!   it, and by [`Resilience::observer`](crate::decorator::Resilience::observer) of one that several share.
//!
//! An observer is called in the task of the hit, before its caller is told, outside of all locks of a store. What goes on
//! when its caller goes away (`all` and `acquire` on a server) tells it in a task of its own. An outgoing request that
//! waits for the end of a block asks more than once, and each time is a hit. Callers that wait in line for the same key
//! wait for it, and no deadline ends it: let it be short, and hand on to a task of your own what is not. Changes of a
//! circuit are told one after the other by whoever is at it, perhaps after the call has ended that caused one.
//!
//! No event has a key, unless [`observe_raw_keys`](crate::ThrottleBuilder::observe_raw_keys) is set. To find out who
//! is denied most, [`track_denied`](crate::ThrottleBuilder::track_denied) keeps digests, and
//! [`Throttle::top_denied`] lists them.
//!
//! # Metrics
//!
//! With the feature `metrics` the observer `Metrics` counts by the facade of the crate `metrics`. The example
//! `observability` has a Prometheus endpoint, and a dashboard for Grafana.
//!
//! An outage is seen by hits that are decided by the fallback where there is one, else by the policy, and by a circuit
//! that is not closed. Alert on these, and where the policy is to raise errors on [`Event::BackendFailed`] too: such a
//! hit has no decision. Failures of the backend are told only where no fallback decides.
//!
//! # Spans
//!
//! Each call of a store is in a span `backend_call` of `tracing` at debug level, with the throttle, the backend, the
//! operation, and when it is over the `decision` and by whom it was `decided_by`, where it asked for one, or of a failure
//! its `error`, `kind` and `effect`. No key is in it. Memory has none.
//!
//! Each denial by the limits is an event at trace level, in memory too, with the throttle, the limit, the decision, and
//! *the key*, so turn it on where keys may be logged. Failures of hits that the error policy decides, or may raise, are
//! warned of at most once a second for each throttle; those that a fallback decides, for each
//! [`Failover`](crate::decorator::Failover). Those of other calls are returned, and not logged.
//!
//! # What it costs
//!
//! A throttle that nobody observes has hits as fast as ever. One that is observed leaves the fast path in memory, and
//! reads the time twice.
//!
//! [`hit`]: crate::Throttle::hit
//! [`hit_with`]: crate::Throttle::hit_with
//! [`enforce`]: crate::Throttle::enforce
//! [`reserve`]: crate::Throttle::reserve
//! [`take_up_to`]: crate::Throttle::take_up_to
//! [`acquire`]: crate::Throttle::acquire
//! [`try_acquire`]: crate::Throttle::try_acquire
//! [`hit_many`]: crate::Throttle::hit_many
//! [`all`]: crate::all
//! [`charge`]: crate::Throttle::charge
//! [`settle`]: crate::Throttle::settle
//! [`refund`]: crate::Throttle::refund
//! [`Throttle::top_denied`]: crate::Throttle::top_denied

mod event;
#[cfg(feature = "metrics")]
mod labels;
#[cfg(feature = "metrics")]
mod metrics;
mod observers;
mod space_saving;
mod top_denied;

use std::fmt;
use std::sync::Arc;

#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub use self::metrics::Metrics;
pub use event::{
    BackendFailed, CircuitChanged, CircuitState, DecisionMade, Event, NearLimit, Overflowed,
};
pub(crate) use observers::Observers;
pub(crate) use top_denied::DeniedSketch;
pub use top_denied::{DeniedDigest, DeniedKey, TrackDenied};

/// Is told what throttles and decorators do; see the [module](self).
///
/// It must not wait: it runs in the task of a hit. One that panics is told of further events; its panics are logged, at
/// most once a second, and no hit is changed by them. An [`Arc`] of an observer is one, to be shared by several throttles.
pub trait Observer: Send + Sync + fmt::Debug + 'static {
    /// Is told of an event.
    fn on_event(&self, event: &Event<'_>);
}

impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn on_event(&self, event: &Event<'_>) {
        (**self).on_event(event);
    }
}

impl<O: Observer + ?Sized> Observer for Box<O> {
    fn on_event(&self, event: &Event<'_>) {
        (**self).on_event(event);
    }
}
