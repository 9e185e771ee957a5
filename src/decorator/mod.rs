//! Decorators: backends around backends, which add what to do when a store is slow, down or asked too often.
//!
//! Each is a [`Backend`](crate::Backend) and goes around any other. They compose; [`Resilience`] puts them in the right order, and
//! [`ThrottleBuilder`](crate::ThrottleBuilder) has a line for each.
//!
//! | decorator | when |
//! | --- | --- |
//! | [`CircuitBreaker`] | always on a server: hits do not wait for a store that is down, and do not storm it |
//! | [`Failover`] | a service must go on limiting while its store is away, each process by itself |
//! | [`Retry`] | for a backend of your own, or where a moment's refusal should not be seen |
//! | [`DenyCache`] | always on a server that others can flood: a key that is denied costs it nothing |
//! | [`Coalesce`] | on Redis, for keys that many tasks of a process hit at once |
//!
//! In memory none is of use, and none costs a hit anything: they hand on its fast path.
//!
//! ```
//! use traffik::{InMemory, Throttle};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let redis = InMemory::new();
//! let api = Throttle::builder("api")
//!     .rate("100/min")
//!     .backend(redis)
//!     .fallback(InMemory::new())
//!     .build()?;
//! assert!(api.hit("alice").await?.is_allowed());
//! # Ok(())
//! # }
//! ```
//!
//! # One for all throttles
//!
//! The lines of the builder give *each* throttle decorators of its own: a breaker each, which each finds out for
//! itself that the store is down, and a lifespan of the store that does not know of the fallback. That suits one
//! throttle or two. A service with several builds the decorated backend once, by [`Resilience::around`] or by the
//! constructors here, begins its lifespan, and gives clones to the throttles. They then share the circuit, and
//! [`all`](crate::all) decides about several of them in one step.
//!
//! Begin one lifespan, that of the decorated backend, and close nothing past it: of several lifespans of one store only
//! the last to end closes, and a decorator that does not see it goes on. A deny cache then answers with what it
//! remembers for up to its `max_age`, and a fallback stays open.
//!
//! # Time
//!
//! The deadline of a hit lies outside of all of them, 250 ms by default. Inside of it the primary of a failover has
//! 100 ms, so that the fallback is asked in time; within that no retry begins later than 100 ms after the first
//! question; and a call that is given up counts for the breaker if the store was silent for 50 ms. Where hits share
//! questions, one may wait for two of them, so for twice the primary's time. The lines of a throttle's builder make
//! these shorter for a short deadline.
//!
//! Of decorators that throttles share nobody knows the deadlines. With a deadline below the primary's time, or twice
//! that, the policy decides hits for which the fallback would have been asked, until the breaker is open; with one below
//! the breaker's 50 ms it never opens for a store that is silent, unless the store gives up by itself. Where there is a
//! fallback, a throttle with such a deadline is warned of in the log when it is built.
//!
//! # What does not fit
//!
//! A second fallback is refused, and so is a breaker around a fallback, which would see no failure. Others are not, so do
//! not add lines to a throttle whose backend has them already:
//!
//! * A retry around a breaker asks an open circuit again, and each hit waits for the pauses in between. Around another
//!   retry it asks up to three times as often.
//! * A breaker around a breaker takes the refusals of that for failures, and is back only after its own pause too.
//! * A deny cache around a deny cache remembers what that recalls for another [`max_age`](DenyCacheOptions::max_age).

mod breaker;
mod coalesce;
mod deny_cache;
mod failover;
mod forward;
mod part;
mod resilience;
mod retry;

pub use breaker::{CircuitBreaker, CircuitBreakerOptions, CircuitInfo, CircuitState};
pub use coalesce::{Coalesce, CoalesceInfo};
pub use deny_cache::{DenyCache, DenyCacheInfo, DenyCacheOptions};
pub use failover::{Failover, FailoverOptions};
pub use resilience::Resilience;
pub use retry::{Retry, RetryOptions};
