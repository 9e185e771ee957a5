//! Exact, fast, embeddable rate limiting for async services.
//!
//! A [`Throttle`] has a name, one or more [`Rate`]s, a [`Strategy`] and an error policy. It asks a
//! [`Backend`] whether a key may pass, and gives a [`Decision`].
//!
//! ```
//! use traffik::{InMemory, LifespanExt, Outcome, Throttle};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = InMemory::new();
//! let life = backend.lifespan().await?; // starts the background cleanup
//!
//! let throttle = Throttle::builder("api:items")
//!     .rate("100/min burst 150")
//!     .backend(backend)
//!     .build()?;
//!
//! let decision = throttle.hit("alice").await?;
//! match decision.outcome() {
//!     Outcome::Allowed => println!("200, {} remaining", decision.remaining()),
//!     Outcome::Denied { retry_after } => {
//!         println!("429, Retry-After: {}", retry_after.as_secs_f64().ceil());
//!     }
//!     Outcome::Never => println!("403: this limit is 0, or the cost above the burst"),
//! }
//! assert_eq!(decision.remaining(), 149);
//!
//! life.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What a limit is
//!
//! A limit is a **rate** and a strategy that keeps it. A rate is a number of units in a period, such as
//! `100/min`; with a bucket it also has a **burst**, the units that can pass at once after a pause, such
//! as `100/min burst 150`. A **hit** costs one unit, or as many as you say: let the cost be what the work
//! costs you, such as rows of an export. Each **key** has its own count, and each throttle its own keys.
//!
//! To choose them, begin with what your service can bear: the rate is what a client may do for hours, the burst
//! what it may do in the first second after a pause. A burst equal to the limit, the default, suits most
//! APIs. For work that hurts at once, such as sending a message, choose a small one. If clients may
//! spend their quota at any time of the day, use a fixed window of a day instead.
//!
//! # Guarantees
//!
//! * A denied hit consumes nothing.
//! * A hit of cost `c` passes exactly when `c` hits of cost 1 at that instant would all pass; over
//!   several limits it is all or nothing.
//! * The wait of [`Outcome::Denied`] is the least one: after it, the same hit passes if nobody else
//!   came. A cost that can never pass is [`Outcome::Never`] instead.
//! * A clock that steps back grants nothing extra and takes nothing away.
//! * A changed limit or burst acts at once on what was counted. A changed period or strategy begins anew.
//! * Integers only: every answer is exact, for limits up to `u32::MAX` and periods of 1 ms to 366 days.
//!
//! # Branch on the outcome
//!
//! [`Decision::outcome`] has the three ways that a hit can go. A limit of 0, and a cost above the burst,
//! are denied without a wait, so code that looks for a wait alone would let them pass:
//!
//! ```
//! use traffik::{HitOptions, InMemory, Outcome, Throttle};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = InMemory::new();
//! let closed = Throttle::builder("beta").rate("0/day").backend(backend.clone()).build()?;
//! assert_eq!(closed.hit("alice").await?.outcome(), Outcome::Never);
//!
//! let small = Throttle::builder("export").rate("10/h burst 20").backend(backend).build()?;
//! let large = small.hit_with("alice", HitOptions::new().cost(21)).await?;
//! assert_eq!(large.outcome(), Outcome::Never);
//! # Ok(())
//! # }
//! ```
//!
//! Or use [`Throttle::enforce`], which returns a denial as an error. An `Ok` of [`Throttle::hit`] is not a
//! yes: a denied hit is an `Ok` too, with its decision.
//!
//! # Take first, and narrow limits first
//!
//! * **Hit, then do the work.** Of fifty callers that [`peek`](Throttle::peek) at the same time each is
//!   told that there is room. A hit takes its unit in the same step. To count failures only, hit before
//!   the attempt and [`refund`](Throttle::refund) when it succeeds, or reserve a [`Permit`].
//! * **Limits that belong together go into one throttle.** They are all or nothing, in one step.
//! * **Of several throttles, or of several keys, ask by [`all`]**: all pass and are counted, or none is. Where that
//!   is not one step (see there), it asks in order, so put the narrow one first, such as the client's before the
//!   service's. Throttles that are hit one after the other each count what they let pass, also when the next one
//!   denies.
//!
//! # Costs, plans and what is left for others
//!
//! [`HitOptions`] gives one hit a cost, units that it leaves to others, and its own rates: instead of
//! the throttle's ([`replace_rates`](HitOptions::replace_rates)), or added to them
//! ([`add_rates`](HitOptions::add_rates)). A decision over several limits names the one that matters
//! most, and has [each one's own answer](Decision::answers).
//!
//! [`Throttle::hit_many`] hits many keys, each by itself, in few questions to the store.
//!
//! # Costs known afterwards
//!
//! The tokens of a language model and the bytes of an answer are known when the work is done.
//! [`Throttle::reserve`] takes an estimate and returns a [`Permit`]; [`settle`](Permit::settle) replaces it by
//! what was used, in one step: the rest comes back, or what is missing is charged, also beyond the limit.
//! A permit that is dropped keeps its units used, since the work may have happened, unless it is told to
//! [give them back](PermitDrop::Refund). Estimate high where too much does harm, low where idle capacity does.
//!
//! [`Throttle::charge`] counts what has happened without asking, and [`Throttle::take_up_to`] takes as many
//! units as there are. To count failures alone, reserve a unit before the attempt and refund it when that
//! succeeds: see the example `login`.
//!
//! # Waiting
//!
//! [`Throttle::acquire`] waits until a hit passes, for workers that send as fast as they may. With bucket
//! strategies it reserves its turn: the store is asked once, callers leave in order, and no other process takes
//! the turn. Set a [`timeout`](Acquire::timeout) where somebody waits for the answer: a turn that comes too late
//! is refused at once. A server that must answer should not wait at all: hit, and tell the client when to come
//! back.
//!
//! With the feature `stream`, `Throttle::throttle_stream` and `Throttle::throttle_sink` do so for each item of a
//! stream or a sink, `throttle_reader` and `throttle_writer` for each byte.
//!
//! [`Throttle::try_acquire`] takes or is denied, without waiting and without a runtime, in memory.
//!
//! # HTTP
//!
//! With the feature `http`, a tower layer limits the requests of a service: whose request it is, also behind proxies;
//! several throttles that count together; what a client is told in header fields; and which responses are charged.
//! The features `axum` and `tonic` know those frameworks, and `http-client` limits what goes out. See
#![cfg_attr(feature = "http", doc = "[`http`].")]
#![cfg_attr(not(feature = "http"), doc = "the module `http`.")]
//!
//! # Blocking and looking up
//!
//! [`Throttle::block`] denies every hit on a key for a while, in all processes that share the store, and
//! [`unblock`](Throttle::unblock) ends that; the counts stay as they are. A [`Penalty`] does it by a rule, for keys
//! that go on though they are denied. [`Throttle::inspect`] says what is known of a key, and
//! [`reset`](Throttle::reset) forgets it. The example `admin` does so from the command line, by the names under
//! which Redis and Memcached store things.
//!
//! # Trying limits before you enforce them
//!
//! A new limit is a guess. Start its throttle in [`Mode::Shadow`]: each hit is asked and counted, none is denied, and
//! [`Decision::shadowed`] says which would have been. Once the guess has proved right, [`Throttle::set_mode`] enforces
//! it, at run time and for all clones; [`Mode::Off`] takes a limit out of the way, and asks nobody. A throttle in shadow
//! is asked beside others by [`all()`] and in an HTTP layer without touching them.
//!
//! # Seeing what happens
//!
//! An [`Observer`](observe::Observer) is told of each decision, of failures, and of limits that run low: see
//! [`observe`]. With the feature `metrics`, `observe::Metrics` is one that counts for Prometheus and others; the example
//! `observability` has a dashboard. [`Throttle::top_denied`] says who is denied most, in bounded memory. Calls of a
//! store are in spans of `tracing`, and its failures are logged at most once a second. None of these says a key, unless you
//! ask for it by a method that has `raw_keys` in its name; only the level `trace` logs keys.
//!
//! # Which strategy
//!
#![doc = include_str!("../docs/tables/strategies.md")]
//!
//! # Which backend
//!
//! Begin with [`InMemory`]: it is exact, costs well under a microsecond a hit, and is what tests use. Its
//! counts are those of one process, and end with it, unless it has a
//! [`snapshot_file`](backend::InMemoryBuilder::snapshot_file).
//!
//! Take `Redis` when several processes share a limit, or when it must survive the loss of a machine. A hit is one round
//! trip, exact over any number of processes, by the server's time.
//!
//! Take `Memcached` if you run it already and can bear that its counts start over when a server restarts or
//! evicts. A hit is two round trips, or one if it is denied; hits on one key at once share them.
//!
#![doc = include_str!("../docs/tables/backends.md")]
//!
//! [`guide`] has a page on each.
//!
//! # When the backend fails
//!
//! A throttle fails closed by default: it denies, for a second. Where a customer turned away is worse than an
//! unlimited minute, let it fail open by [`OnError::Allow`].
//!
#![doc = include_str!("../docs/tables/policies.md")]
//!
//! No policy opens what is closed: a limit of 0, and a cost above the burst, are [`Outcome::Never`] without
//! the store too (but for `Raise`, which returns the error). A decision says in
//! [`decided_by`](Decision::decided_by) that a policy made it. Every hit ends within its
//! deadline, 250 ms by default, plus the limit of the error handler if there is one. A mistake of the
//! program or its operator, such as a closed backend or a wrong password, is always an `Err`.
//!
//! To go on limiting while the store is away, give it a fallback: [`ThrottleBuilder::fallback`] for one throttle,
//! [`Resilience`](decorator::Resilience) for all of a service. A circuit breaker finds out that the store fails or is
//! silent, so that hits do not wait for it, and memory decides meanwhile, each process by itself; decisions then say
//! [`DecidedBy::Fallback`]. The policy decides where both fail. The module [`decorator`] says which to use when.
//!
//! Whoever goes on though they are denied costs the store as much as others do, unless a
//! [`DenyCache`](decorator::DenyCache) answers them: [`ThrottleBuilder::deny_cache`]. Where many tasks hit one key of a
//! Redis at once, a [`Coalesce`](decorator::Coalesce) lets them share a question: [`ThrottleBuilder::coalesce`].
//!
//! A backend on a server is used inside of a tokio runtime with its time driver. Elsewhere each call is a
//! clear error, or the end of the process if that was built with `panic = "abort"`.
//!
//! A lifespan fails to begin if its store cannot be reached. A service that must start all the same begins with
//! [`Start::Degraded`](lifespan::Start::Degraded): the backend goes on connecting, and the error policy
//! decides until then.
//!
//! # Names, keys and namespaces
//!
//! * A throttle's **name** says what is limited (`"api:items"`), its **key** who is. Two throttles of
//!   the same name on one backend share what they count in limits of the same period and strategy, so give them the
//!   same rates. Else one with a higher limit forgets sooner what both have counted, and the lower limit then holds
//!   for nobody; or its hits keep out those of the lower one.
//! * A key is opaque bytes in up to four parts: `hit(("tenant-7", user_id))`. Parts are never joined
//!   to one text, so no two keys meet that differ in a part or its place. A key may have any length.
//!   [`Exempt`] is never limited. A missing key is not exempt, unless you wrap it in [`ExemptIfNone`].
//! * Only bytes count, not types: an address and a text of the same four bytes are one key. Where keys of
//!   several kinds meet in one throttle, say which: `("user", name)` and `("address", address)`.
//! * A backend's **namespace** separates applications on one store: use one for each application and
//!   environment, such as `shop:prod`. The end of the last lifespan of a backend that is not persistent
//!   clears the whole namespace: the default in memory, unless it has a `snapshot_file`, and not on Redis and Memcached.
//!
//! # Locks
//!
//! A backend has locks too, for work that only one may do at a time: [`Locks::lock`] returns a guard, and
//! dropping it releases the lock. On a server a lock has a TTL, so a holder that was paused for longer
//! still runs while another has it. Give the guard's [`fencing_token`](LockGuard::fencing_token) to what
//! you protect.
//!
//! # Testing your service
//!
//! Let the service take its backend, as an `Arc<dyn Backend>` or by building its throttles from one, and
//! give each test its own [`InMemory`], whose [`ManualClock`] the test moves. Throttles that
//! are built without a backend ask the one that is current in their task; see
//! [`ambient::with_backend`]. That suits tests and not servers: a task that is spawned, as servers do for
//! each connection, does not inherit it.
//!
//! # Features
//!
#![doc = include_str!("../docs/tables/features.md")]
//!
//! None is on by default.
//!
#![cfg_attr(not(feature = "redis"), doc = "[`Redis`]: guide::redis")]
#![cfg_attr(not(feature = "memcached"), doc = "[`Memcached`]: guide::memcached")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod ambient;
pub mod backend;
mod background;
pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
mod decision;
pub mod decorator;
mod error;
mod excerpt;
#[cfg(any(test, traffik_fuzz))]
#[doc(hidden)]
pub mod fuzz;
pub mod guide;
mod hit_options;
#[cfg(feature = "http")]
#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
pub mod http;
mod join;
pub mod key;
pub mod lifespan;
pub mod lock;
pub mod observe;
mod on_drop;
mod on_error;
mod random;
mod rate;
pub mod step;
pub mod strategy;
mod sync;
mod throttle;
mod timer;
mod turns;
mod unwind;

#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use ::redis;
#[cfg(feature = "memcached")]
#[cfg_attr(docsrs, doc(cfg(feature = "memcached")))]
pub use backend::memcached::Memcached;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use backend::redis::Redis;
pub use backend::{Backend, HasCore, InMemory, Locks, Ttl, Values};
pub use clock::{Clock, ManualClock, SystemClock, Timestamp, WallClock};
pub use decision::{
    Allowed, DecidedBy, Decision, Denial, LimitAnswer, Outcome, Receipt, Shadowed, Taken,
};
pub use error::{BackendError, BuildError, Effect, Error, ErrorKind, RestoreError};
pub use hit_options::HitOptions;
pub use key::{Exempt, ExemptIfNone, Key, KeyError, ToKey};
pub use lifespan::{Lifespan, LifespanExt};
pub use lock::{LockError, LockGuard, LockOptions};
pub use on_error::{ErrorHandler, FailureContext, OnError};
pub use rate::{Rate, RateError};
pub use strategy::{
    FixedWindow, Gcra, LeakyBucket, Limit, SlidingWindowCounter, SlidingWindowLog, Strategy,
    TokenBucket,
};
pub use throttle::{
    Acquire, All, CombinedDecision, InspectedLimit, Inspection, IntoRate, Mode, Penalty, Permit,
    PermitDrop, Throttle, ThrottleBuilder, all,
};
#[cfg(feature = "stream")]
#[cfg_attr(docsrs, doc(cfg(feature = "stream")))]
pub use throttle::{
    ThrottledReader, ThrottledSink, ThrottledSinkError, ThrottledStream, ThrottledWriter,
};
